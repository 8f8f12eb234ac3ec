//! Who is not answered, and how the server ends.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Server, command, read};

fn hi() -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hi" }], "max_tokens": 2, "temperature": 0 })
}

#[test]
fn a_key_is_asked_for_everywhere_but_at_the_door() {
    let mut start = command(&["--port", "0", "--log", "json"]);
    let server = Server::of(start.env("GEMMA4_API_KEY", "sesame"));
    let body = hi().to_string();
    let ask = |header: (&str, &str)| server.ask("POST", "/v1/chat/completions", &[header], body.as_bytes());
    for header in [("authorization", "Bearer sesame"), ("x-api-key", "sesame")] {
        assert_eq!(ask(header).status, 200, "{header:?}");
    }
    for header in
        [("authorization", "Bearer wrong"), ("x-api-key", ""), ("authorization", "sesame"), ("x", "y")]
    {
        let reply = ask(header);
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (401, &json!("invalid_api_key")),
            "{header:?}"
        );
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    for path in ["/v1/models", "/metrics", "/v1/nothing"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    let anthropic = server.post("/v1/messages", &hi());
    assert_eq!((anthropic.status, &anthropic.json()["type"]), (401, &json!("error")));
    assert_eq!(anthropic.json()["error"]["type"], "authentication_error");
    assert_eq!((server.get("/").status, server.get("/health").status), (200, 200));
}

#[test]
fn other_hosts_origins_paths_and_methods_are_refused() {
    let server = Server::start(&["--cors", "https://app.example", "--max-body", "1"]);
    let ask = |headers: &[(&str, &str)]| server.ask("GET", "/v1/models", headers, b"");
    assert_eq!(ask(&[("host", "evil.example")]).json()["error"]["code"], "wrong_host");
    assert_eq!(ask(&[("host", "localhost")]).status, 200);
    assert_eq!(ask(&[("origin", "https://evil.example")]).json()["error"]["code"], "wrong_origin");
    let allowed = ask(&[("origin", "https://app.example")]);
    assert_eq!(
        (allowed.status, allowed.header("access-control-allow-origin")),
        (200, Some("https://app.example"))
    );
    let asked = [
        ("origin", "https://app.example"),
        ("access-control-request-headers", "x-stainless-os, authorization"),
    ];
    let preflight = server.ask("OPTIONS", "/v1/chat/completions", &asked, b"");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-headers"), Some("x-stainless-os, authorization"));
    let unknown = server.get("/v1/embeddings");
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("unknown_url")));
    let method = server.get("/v1/chat/completions");
    assert_eq!((method.status, &method.json()["error"]["code"]), (405, &json!("wrong_method")));
    let large = vec![b' '; (1 << 20) + 1];
    let reply = server.ask("POST", "/v1/chat/completions", &[], &large);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &json!("request_too_large")));
}

#[test]
fn errors_name_the_key_and_have_the_form_of_the_vendor() {
    let server = Server::start(&[]);
    let with = |key: &str, value: Value| {
        let mut body = hi();
        body[key] = value;
        body
    };
    for (path, body, param, says) in [
        (
            "/v1/chat/completions",
            with("temperature", json!("warm")),
            "temperature",
            "is \"warm\", expected a number",
        ),
        ("/v1/chat/completions", with("n", json!(99)), "n", "is 99, expected a whole number from 1 to 16"),
        ("/v1/chat/completions", with("tools", json!([{}])), "tools[0].function", "is missing"),
        (
            "/v1/chat/completions",
            with("tool_choice", json!("maybe")),
            "tool_choice",
            "is \"maybe\", expected \"auto\"",
        ),
        (
            "/v1/chat/completions",
            with(
                "response_format",
                json!({ "type": "json_schema", "json_schema": { "schema": { "type": "x" } } }),
            ),
            "response_format.json_schema.schema",
            "x",
        ),
        ("/v1/completions", json!({}), "prompt", "is missing"),
        (
            "/v1/responses",
            json!({ "input": [{ "type": "image" }] }),
            "input[0].type",
            "is \"image\", expected",
        ),
        ("/tokenize", json!({ "content": 4 }), "content", "is 4, expected a string"),
    ] {
        let reply = server.post(path, &body);
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, &error["type"], &error["param"]),
            (400, &json!("invalid_request_error"), &json!(param))
        );
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    let long = json!({ "messages": [{ "role": "user", "content": "x ".repeat(9000) }] });
    let reply = server.post("/v1/chat/completions", &long);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    let reply = server.post("/v1/messages", &hi());
    assert_eq!(reply.status, 200, "{reply:?}");
    let reply = server.post("/v1/messages", &json!({ "messages": [] }));
    let error = json!({ "type": "error", "error": {
        "type": "invalid_request_error", "message": "`max_tokens` is missing, expected the most tokens of the answer" } });
    assert_eq!((reply.status, reply.json()), (400, error));
}

#[test]
fn a_wrong_command_line_is_said_before_anything_is_loaded() {
    for (args, says) in [
        (
            &["--host", "0.0.0.0"][..],
            "--host 0.0.0.0 lets other machines ask, so a key is needed: set GEMMA4_API_KEY",
        ),
        (&["--unix", "/tmp/x", "--port", "1"], "--unix"),
        (&["--max-body", "0"], "--max-body"),
        (&["--request-timeout", "soon"], "soon"),
        (&["--api-key", "ä"], "visible ASCII"),
    ] {
        let output = command(args).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(says), "{args:?}: {stderr}");
    }
    let first = Server::start(&[]);
    let port = first.socket().port().to_string();
    let output = command(&["--port", &port]).stderr(Stdio::piped()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("cannot listen on 127.0.0.1") && stderr.contains("--port"), "{stderr}");
}

#[test]
fn an_answer_may_not_take_longer_than_allowed() {
    let server = Server::start(&["--request-timeout", "2s"]);
    let reply = server.post("/v1/chat/completions", &json!({
        "messages": [{ "role": "user", "content": "Hi" }], "logit_bias": { "1": -100, "6": -100, "14": -100 } }));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (504, &json!("timeout")));
    server.idle();
    assert_eq!(server.post("/v1/chat/completions", &hi()).status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::start(&["--parallel", "1", "--queue", "0", "--request-timeout", "10s"]);
    let endless = json!({
        "messages": [{ "role": "user", "content": "Hi" }], "stream": true, "max_tokens": 2000,
        "logit_bias": { "1": -100, "6": -100, "14": -100 } });
    let mut busy = server.connect();
    let body = endless.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    busy.write_all(head.as_bytes()).unwrap();
    busy.read_exact(&mut [0; 300]).unwrap();
    let reply = server.post("/v1/chat/completions", &hi());
    assert_eq!(
        (reply.status, &reply.json()["error"]["type"]),
        (429, &json!("rate_limit_error")),
        "{reply:?}"
    );
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    drop(busy);
    server.idle();
    assert_eq!(server.post("/v1/chat/completions", &hi()).status, 200);
}

#[test]
fn logs_have_the_counts_and_no_word_of_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut start = command(&["--port", "0", "--log", "json", "--api-key", "sesame"]);
    let server = Server::of(start.stderr(std::fs::File::create(&path).unwrap()));
    let body = json!({ "messages": [{ "role": "user", "content": "What does numpy.linspace do? xyzzy" }], "max_tokens": 4 });
    let headers = [("x-api-key", "sesame")];
    for stream in [false, true] {
        let mut body = body.clone();
        body["stream"] = stream.into();
        let reply =
            server.ask("POST", "/v1/chat/completions?token=plugh", &headers, body.to_string().as_bytes());
        assert_eq!(reply.status, 200);
    }
    assert_eq!(server.ask("POST", "/v1/messages/xyzzy", &headers, b"xyzzy").status, 404);
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": "xyzzy" })).status, 401);
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            ["xyzzy", "plugh", "sesame", "linspace", "spaced"].iter().all(|word| !text.contains(word)),
            "{text}"
        );
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let asked = || lines().into_iter().filter(|line| line["method"] == "POST").collect::<Vec<Value>>();
    while asked().len() < 4 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let asked = asked();
    let routes: Vec<&Value> = asked.iter().map(|line| &line["route"]).collect();
    assert_eq!(routes, ["/v1/chat/completions", "/v1/chat/completions", "other", "/v1/completions"]);
    for line in &asked[..2] {
        assert_eq!(
            (&line["status"], &line["generated_tokens"], &line["finish"]),
            (&json!(200), &json!(4), &json!("length"))
        );
        assert!(
            line["first_token_ms"].as_f64().unwrap() > 0.0
                && line["id"].as_str().unwrap().starts_with("req_")
        );
    }
    assert_eq!((&asked[3]["status"], &asked[3]["error"]), (&json!(401), &json!("invalid_api_key")));
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_server_when_its_answers_are_complete() {
    let mut server = Server::start(&[]);
    let mut stream = server.connect();
    let body = json!({ "messages": [{ "role": "user", "content": "What does numpy.linspace do?" }], "temperature": 0,
        "stream": true, "max_tokens": 300, "logit_bias": { "1": -100, "6": -100, "14": -100 } })
    .to_string();
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut begun = [0; 400];
    stream.read_exact(&mut begun).unwrap();
    let killed = Command::new("kill").args(["-TERM", &server.pid().to_string()]).status().unwrap();
    assert!(killed.success());
    let reply = read(&mut begun.chain(stream));
    assert!(reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
    let finish =
        reply.events().iter().find_map(|e| e["choices"][0]["finish_reason"].as_str().map(str::to_owned));
    assert_eq!(finish.as_deref(), Some("length"), "the answer came to its end");
    assert_eq!(server.ended(), Some(0));
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gemma4.sock");
    let mut server = Server::of(&mut command(&["--unix", path.to_str().unwrap()]));
    assert_eq!(server.address, format!("unix:{}", path.display()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let ask = || {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: anything\r\nconnection: close\r\n\r\n").unwrap();
        read(&mut stream)
    };
    while ask().status != 200 {
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &server.pid().to_string()]).status().unwrap();
    assert_eq!(server.ended(), Some(0));
    assert!(!path.exists(), "it is removed");
}
