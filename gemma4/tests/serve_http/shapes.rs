//! Every path answers in the form that its clients expect.

use serde_json::{Value, json};

use super::server::{Reply, Server};

const LINSPACE: &str = "Return evenly spaced numbers over a specified interval.";

fn question() -> Value {
    json!([{ "role": "user", "content": "What does numpy.linspace do?" }])
}

#[track_caller]
fn ok(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.header("x-request-id").unwrap().starts_with("req_"));
    assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
    reply.json()
}

#[test]
fn every_path_has_its_form() {
    let server = Server::start(&["--alias", "pocket"]);
    models(&server);
    tokens(&server);
    chat(&server);
    streams(&server);
    completions(&server);
    page(&server);
    metrics(&server);
}

fn models(server: &Server) {
    let list = ok(&server.get("/v1/models?client_version=0.99.0"));
    let model = &list["data"][0];
    assert_eq!(
        (&model["id"], &model["object"], &model["type"]),
        (&json!("pocket"), &json!("model"), &json!("model"))
    );
    assert_eq!(model["context_length"], 4096);
    let codex = &list["models"][0];
    assert_eq!((&codex["slug"], &codex["context_window"]), (&json!("pocket"), &json!(4096)));
    assert!(codex["base_instructions"].as_str().unwrap().len() > 100);
    assert_eq!(ok(&server.get("/v1/models/pocket"))["id"], "pocket");
    let other = server.get("/v1/models/other/name");
    assert_eq!((other.status, &other.json()["error"]["code"]), (404, &json!("model_not_found")));
    let health = ok(&server.get("/health"));
    assert_eq!((&health["status"], &health["model"]), (&json!("ok"), &json!("pocket")));
}

fn tokens(server: &Server) {
    let tokens = ok(&server.post("/tokenize", &json!({ "content": "numpy.linspace <turn|>" })));
    let ids = &tokens["tokens"];
    assert_eq!(ids.as_array().unwrap().len(), usize::try_from(tokens["count"].as_u64().unwrap()).unwrap());
    let text = ok(&server.post("/detokenize", &json!({ "tokens": ids })));
    assert_eq!(text["content"], "numpy.linspace <turn|>");
    let bos = ok(&server.post("/tokenize", &json!({ "prompt": "Hi" })));
    let none = ok(&server.post("/tokenize", &json!({ "prompt": "Hi", "add_special_tokens": false })));
    assert_eq!(bos["count"].as_u64().unwrap(), none["count"].as_u64().unwrap() + 1);
    let pieces = ok(&server.post("/tokenize", &json!({ "content": "Hi", "with_pieces": true })));
    assert!(pieces["tokens"][0]["piece"].is_string());
    let prompt = ok(&server.post("/apply-template", &json!({ "messages": question() })));
    assert!(
        prompt["prompt"]
            .as_str()
            .unwrap()
            .starts_with("<bos><|turn>user\nWhat does numpy.linspace do?<turn|>\n")
    );
    let counted = ok(&server.post("/tokenize", &json!({ "messages": question() })));
    assert_eq!(counted["count"], 20);
    let counted =
        ok(&server.post("/v1/messages/count_tokens", &json!({ "model": "m", "messages": question() })));
    assert_eq!(counted["input_tokens"], 20);
    let counted =
        ok(&server.post("/v1/responses/input_tokens", &json!({ "input": "What does numpy.linspace do?" })));
    assert_eq!(counted["input_tokens"], 20);
}

fn chat(server: &Server) {
    let body = json!({ "messages": question(), "temperature": 0, "seed": 1 });
    let answer = ok(&server.post("/v1/chat/completions", &body));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(
        answer["choices"],
        json!([{
            "index": 0, "finish_reason": "stop", "logprobs": null,
            "message": { "role": "assistant", "content": LINSPACE, "refusal": null },
        }])
    );
    let usage = &answer["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(20), &json!(13)));
    assert_eq!(usage["reuse"]["reason"], "no cached conversation begins like this one");
    assert!(answer["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);
    let again = ok(&server.post("/v1/chat/completions", &body));
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() >= 16, "{again}");
    let message = json!({ "max_tokens": 50, "messages": question(), "temperature": 0 });
    let message = ok(&server.post("/v1/messages", &message));
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(message["content"], json!([{ "type": "text", "text": LINSPACE }]));
    assert_eq!((&message["stop_reason"], &message["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    let response =
        json!({ "input": "What does numpy.linspace do?", "temperature": 0, "metadata": { "a": "b" } });
    let response = ok(&server.post("/v1/responses", &response));
    assert_eq!((&response["object"], &response["status"]), (&json!("response"), &json!("completed")));
    assert_eq!(response["output"][0]["content"][0]["text"], LINSPACE);
    assert_eq!((&response["metadata"]["a"], &response["error"]), (&json!("b"), &Value::Null));
}

fn streams(server: &Server) {
    let body = json!({ "messages": question(), "temperature": 0, "stream": true, "stream_options": { "include_usage": true } });
    let reply = server.post("/v1/chat/completions", &body);
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")));
    assert!(reply.body.ends_with("data: [DONE]\n\n"));
    let events = reply.events();
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, LINSPACE);
    assert!(events.len() > 8, "in pieces");
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 13);

    let body = json!({ "max_tokens": 50, "messages": question(), "temperature": 0, "stream": true });
    let reply = server.post("/v1/messages", &body);
    let named = |reply: &Reply| -> Vec<String> {
        reply.body.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
    };
    let mut names = named(&reply);
    names.dedup();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    assert!(reply.events().iter().zip(named(&reply)).all(|(event, name)| event["type"] == name.as_str()));

    let body = json!({ "input": "What does numpy.linspace do?", "temperature": 0, "stream": true });
    let reply = server.post("/v1/responses", &body);
    let mut names = named(&reply);
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let numbers: Vec<u64> =
        reply.events().iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{numbers:?}");
    assert_eq!(reply.events().last().unwrap()["response"]["output"][0]["content"][0]["text"], LINSPACE);
}

fn completions(server: &Server) {
    let body = json!({ "prompt": "import", "temperature": 0, "max_tokens": 4, "logprobs": 1 });
    let answer = ok(&server.post("/v1/completions", &body));
    let choice = &answer["choices"][0];
    assert_eq!((&answer["object"], &choice["finish_reason"]), (&json!("text_completion"), &json!("length")));
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), 4);
    assert_eq!(choice["logprobs"]["text_offset"][0], 0);
    let default = ok(&server.post("/v1/completions", &json!({ "prompt": [2, 5] })));
    assert!(default["usage"]["completion_tokens"].as_u64().unwrap() <= 16, "the vendor's limit");
}

fn page(server: &Server) {
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(page.body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert_ne!(server.get("/").header("content-security-policy"), Some(policy), "a new one each time");
    assert!(
        !page.body.contains("http://") && !page.body.contains("https://"),
        "nothing comes from elsewhere"
    );
    assert_eq!(server.get("/favicon.ico").status, 204);
}

fn metrics(server: &Server) {
    server.idle();
    let page = server.get("/metrics");
    assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(server.metric("gemma4_requests_total{route=\"/v1/chat/completions\",code=\"200\"}") >= 3.0);
    assert!(server.metric("gemma4_generated_tokens_total") > 50.0);
    assert!(server.metric("gemma4_reused_tokens_total") > 16.0);
    assert!(server.metric("gemma4_first_token_seconds_count") >= 8.0);
    assert_eq!(server.metric("gemma4_phase{phase=\"ready\"}"), 1.0);
    assert_eq!(server.metric("gemma4_requests_active"), 1.0, "this one");
}
