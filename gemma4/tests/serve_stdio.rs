//! `gemma4 serve --stdio` as a program that embeds it sees it: the built program, its lines, and its end.
#![cfg(all(feature = "pocket", feature = "serve", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot talk to its program has failed")]

mod binary {
    pub(crate) mod call;
}

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use binary::call::gemma4;
use serde_json::{Value, json};

/// How long anything may take before a test is stuck.
const STUCK: Duration = Duration::from_mins(2);

const LINSPACE: &str = "What does numpy.linspace do?";

/// A server and the lines that it wrote.
struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    next: u64,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Where a test failed, the program would outlive it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gemma4"))
            .args(["serve", "--stdio", "--backend", "cpu", "--ctx", "2048"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // A program that was killed may have been in the middle of a line.
                let Ok(line) = line else { return };
                let Ok(value) = serde_json::from_str(&line) else { return };
                if send.send(value).is_err() {
                    return;
                }
            }
        });
        let mut server = Self { child, stdin, lines, next: 0 };
        let ready = server.line();
        assert_eq!((&ready["event"], &ready["context"]), (&json!("ready"), &json!(2048)));
        server
    }

    fn line(&mut self) -> Value {
        self.lines.recv_timeout(STUCK).unwrap_or_else(|_| {
            drop(self.child.kill());
            let mut text = String::new();
            drop(self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut text)));
            panic!("no line came; stderr: {text}")
        })
    }

    fn raw(&mut self, line: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line).unwrap();
        stdin.write_all(b"\n").unwrap();
    }

    /// Sends a request under an id of its own.
    fn send(&mut self, mut request: Value) -> Value {
        self.next += 1;
        let id = json!(self.next);
        request["id"] = id.clone();
        self.raw(request.to_string().as_bytes());
        id
    }

    /// The next line with this id and one of these events; others are skipped.
    fn wait(&mut self, id: &Value, events: &[&str]) -> Value {
        loop {
            let line = self.line();
            if line["id"] == *id && events.iter().any(|event| line["event"] == *event) {
                return line;
            }
        }
    }

    fn ask(&mut self, request: Value) -> Value {
        let id = self.send(request);
        self.wait(&id, &["finished", "done", "status", "error"])
    }

    fn say(&mut self, text: &str) -> Value {
        let messages = json!([{ "role": "user", "content": text }]);
        self.ask(json!({ "op": "generate", "messages": messages, "temperature": 0 }))
    }

    fn status(&mut self) -> Value {
        self.ask(json!({ "op": "status" }))
    }

    /// Closes stdin and waits for the end; the exit code and what was written to stderr.
    fn end(mut self) -> (i32, String) {
        drop(self.stdin.take());
        self.ended()
    }

    fn ended(&mut self) -> (i32, String) {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), text)
    }

    /// A number of `/proc/<pid>/status`, such as `Threads` or `VmRSS`.
    fn proc(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }
}

#[test]
fn a_dialogue_is_answered_as_run_answers_it_and_stdin_ends_the_program() {
    let run = gemma4(&["run", "--greedy", "--json", LINSPACE], b"").text();
    let run: Value = serde_json::from_str(&run).unwrap();
    let mut server = Server::start(&[]);
    let messages = json!([{ "role": "user", "content": LINSPACE }]);
    let id = server.send(json!({ "op": "generate", "messages": messages, "temperature": 0, "logprobs": 2 }));
    let (mut content, mut tokens) = (String::new(), 0);
    let finished = loop {
        let line = server.line();
        assert_eq!(line["id"], id);
        match line["event"].as_str().unwrap() {
            "started" => assert_eq!(line["reuse_end"]["kind"], "new_conversation"),
            "token" => {
                tokens += 1;
                assert_eq!(line["top"][0], json!([line["token"], line["logprob"]]), "greedy");
                assert_eq!(line["top"].as_array().unwrap().len(), 2);
            }
            "delta" => content += line["content"].as_str().unwrap(),
            "finished" => break line,
            other => panic!("{other}"),
        }
    };
    assert_eq!((&finished["content"], &finished["finish"]), (&run["content"], &json!("stop")));
    assert_eq!(finished["content"], content.as_str());
    assert_eq!(finished["usage"]["completion_tokens"], tokens);
    assert_eq!(finished["usage"]["prompt_tokens"], run["usage"]["prompt_tokens"]);

    // The same as text and as tokens goes on from what is kept.
    let again = server.say(LINSPACE);
    assert_eq!(again["content"], run["content"]);
    assert_eq!(again["usage"]["reused_tokens"], run["usage"]["prompt_tokens"].as_u64().unwrap() - 1);
    let plain = server.ask(json!({ "op": "generate", "prompt": "import", "max_tokens": 3, "seed": 5 }));
    assert_eq!((&plain["finish"], &plain["seed"]), (&json!("length"), &json!(5)));
    let same = server.ask(json!({ "op": "generate", "prompt": "import", "max_tokens": 3, "seed": 5 }));
    assert_eq!(plain["content"], same["content"]);

    // What was asked before stdin ended is answered.
    server.send(json!({ "op": "generate", "messages": messages, "temperature": 0, "cache": "none" }));
    drop(server.stdin.take());
    let last = std::iter::from_fn(|| server.lines.recv_timeout(STUCK).ok()).last().unwrap();
    assert_eq!((&last["event"], &last["content"]), (&json!("finished"), &run["content"]));
    assert_eq!(server.ended(), (0, String::new()));
}

#[test]
fn a_tool_is_called() {
    let mut server = Server::start(&[]);
    let tool = json!({ "type": "function", "function": {
        "name": "get_weather", "description": "Get the current weather in a city.",
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] },
    }});
    let messages = json!([{ "role": "user", "content": "What is the weather in Paris?" }]);
    let answer =
        server.ask(json!({ "op": "generate", "messages": messages, "tools": [tool], "temperature": 0 }));
    assert_eq!(answer["finish"], "tool_calls", "{answer}");
    assert_eq!(answer["tool_calls"][0]["name"], "get_weather", "{answer}");
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn hostile_lines_are_answered_and_others_go_on() {
    let mut server = Server::start(&["--parallel", "2"]);
    let messages = json!([{ "role": "user", "content": LINSPACE }]);
    let id =
        server.send(json!({ "op": "generate", "messages": messages, "temperature": 0, "cache": "none" }));
    let deep = "[".repeat(1 << 20);
    let lines: [&[u8]; 9] = [
        b"nonsense",
        b"\xff\xfe{}",
        b"{\"op\":\"generate\"}",
        b"{\"op\":\"generate\",\"id\":\"a\",\"tokens\":[]}",
        b"{\"op\":\"generate\",\"id\":\"a\",\"tokens\":[4294967295]}",
        b"{\"op\":\"generate\",\"id\":\"a\",\"prompt\":\"x\",\"logit_bias\":{\"99999999\":1}}",
        b"{\"op\":\"restore\",\"path\":\"/dev/null\"}",
        b"{\"op\":\"cancel\",\"of\":\"nobody\"}",
        deep.as_bytes(),
    ];
    for line in lines {
        server.raw(line);
    }
    server.raw(&vec![b'x'; (64 << 20) + 1]);
    let (mut errors, mut answer) = (0, None);
    while errors < 10 || answer.is_none() {
        let line = server.line();
        match line["event"].as_str().unwrap() {
            "error" => {
                errors += 1;
                let message = line["message"].as_str().unwrap();
                assert!(!message.is_empty() && !message.contains('\n') && message.len() < 300, "{message}");
                assert!(["bad_request", "failed"].contains(&line["code"].as_str().unwrap()), "{line}");
            }
            "finished" => answer = Some(line),
            _ => {}
        }
    }
    let answer = answer.unwrap();
    assert_eq!((&answer["id"], &answer["finish"]), (&id, &json!("stop")));
    let tokens: Vec<u32> = vec![5; 3000];
    let error = server.ask(json!({ "op": "generate", "tokens": tokens }));
    assert_eq!(error["code"], "too_long", "{error}");
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn requests_are_cancelled_parked_saved_and_restored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.kept");
    let mut server = Server::start(&[]);
    let long = json!({ "op": "generate", "tokens": [2, 3, 4], "seed": 1, "max_tokens": 2000,
                       "logit_bias": { "1": -100, "106": -100 } });
    let id = server.send(long);
    server.wait(&id, &["token"]);
    let of = server.send(json!({ "op": "cancel", "of": id }));
    server.wait(&of, &["done"]);
    assert_eq!(server.wait(&id, &["finished"])["finish"], "cancelled");
    let messages = json!([{ "role": "user", "content": LINSPACE }]);
    let late = json!({ "op": "generate", "messages": messages, "deadline_ms": 0 });
    assert_eq!(server.ask(late)["finish"], "deadline");

    // What is shorter than some tokens is not worth main memory.
    let system = "You answer questions about numpy and scipy. You are brief and correct, and say so if you do not know.";
    let messages = json!([{ "role": "system", "content": system }, { "role": "user", "content": LINSPACE }]);
    let talk = json!({ "op": "generate", "messages": messages, "temperature": 0 });
    let answer = server.ask(talk.clone());
    let saved = server.ask(json!({ "op": "save", "path": path, "messages": messages }));
    assert_eq!(
        (&saved["event"], &saved["tokens"]),
        (&json!("done"), &answer["usage"]["prompt_tokens"]),
        "{saved}"
    );
    assert_eq!(server.ask(json!({ "op": "forget" }))["event"], "done");
    assert_eq!(server.status()["pages"]["global"]["used"], 0);
    assert_eq!(server.ask(json!({ "op": "restore", "path": path }))["tokens"], saved["tokens"]);

    let before = server.proc("VmRSS");
    assert_eq!(server.ask(json!({ "op": "park" }))["event"], "done");
    let status = server.status();
    assert_eq!(status["phase"], "parked");
    assert!(server.proc("VmRSS") < before, "{} kB before, {} after", before, server.proc("VmRSS"));
    assert_eq!(server.ask(json!({ "op": "unpark" }))["event"], "done");
    let again = server.ask(talk);
    assert_eq!(again["content"], answer["content"]);
    assert_eq!(again["usage"]["reused_tokens"], saved["tokens"].as_u64().unwrap() - 1);

    let id =
        server.send(json!({ "op": "generate", "messages": messages, "temperature": 0, "cache": "none" }));
    server.wait(&id, &["started"]);
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(server.wait(&id, &["finished"])["content"], answer["content"], "what runs is finished");
    assert_eq!(server.ended(), (0, String::new()));
}

#[test]
fn a_process_that_is_killed_while_it_writes_loses_nothing_that_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--cache-dir", dir.path().to_str().unwrap()];
    let disk = |server: &mut Server| server.status()["kept"]["disk"]["conversations"].as_u64().unwrap();
    let mut committed = 0;
    // A conversation as its tokens, that grows from round to round.
    let mut talk: Vec<u64> = vec![2];
    let mut used = 0;
    for round in 0..8_u64 {
        let mut server = Server::start(&args);
        let found = disk(&mut server);
        assert!(found >= committed, "round {round}: {found} of {committed} conversations");
        talk.extend((0..90).map(|n| 300 + (round * 131 + n * 17) % 1000));
        let answer = server.ask(json!({ "op": "generate", "tokens": talk, "max_tokens": 4 }));
        let reused = answer["usage"]["reused_tokens"].as_u64().unwrap();
        assert!(reused >= used, "round {round}: {reused} of {used} tokens");
        // Wait until this turn is committed; then begin others and kill it somewhere in their writes.
        let start = Instant::now();
        while disk(&mut server) <= found && start.elapsed() < STUCK {
            std::thread::sleep(Duration::from_millis(5));
        }
        committed = disk(&mut server);
        used = answer["usage"]["prompt_tokens"].as_u64().unwrap();
        for n in 0..4_u64 {
            let tokens: Vec<u64> = (0..60).map(|at| 300 + (round * 70 + n * 11 + at * 7) % 1000).collect();
            server.send(json!({ "op": "generate", "tokens": tokens, "max_tokens": 2 }));
        }
        std::thread::sleep(Duration::from_millis(40 + 90 * round));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        let mut text = String::new();
        server.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "", "round {round}: nothing is damaged");
    }
    assert!(committed >= 8);
    let server = Server::start(&args);
    assert_eq!(server.end(), (0, String::new()));
    assert!(files(dir.path()).iter().all(|name| Path::new(name).extension() != Some("part".as_ref())));
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path.display().to_string()] })
        .collect()
}

#[test]
fn a_folder_is_for_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let server = Server::start(&["--cache-dir", path]);
    binary::call::fails(
        &["serve", "--stdio", "--backend", "cpu", "--cache-dir", path],
        b"",
        1,
        "in use by another",
    );
    assert_eq!(server.end(), (0, String::new()));
}

#[test]
fn memory_threads_and_pages_stay_flat_over_a_thousand_requests() {
    let mut server =
        Server::start(&["--parallel", "8", "--queue", "64", "--windows", "8", "--pool", "16384"]);
    let mut seen = Vec::new();
    for round in 0..25_u64 {
        let ids: Vec<Value> = (0..40_u64)
            .map(|n| {
                let tokens = [2, 10 + round, 100 + n, 7 + n * round % 50, 200 + n];
                server.send(json!({ "op": "generate", "tokens": tokens, "max_tokens": 2 }))
            })
            .collect();
        let mut left = ids.len();
        while left > 0 {
            let line = server.line();
            assert_ne!(line["event"], "error", "{line}");
            left -= usize::from(line["event"] == "finished");
        }
        let status = server.status();
        let pages = status["pages"]["global"]["used"].as_u64().unwrap();
        seen.push((server.proc("Threads"), server.proc("VmRSS"), pages));
    }
    // The first rounds fill what is kept.
    let (early, last) = (seen[5], seen[24]);
    assert!(last.0 <= early.0, "threads: {seen:?}");
    assert!(last.1 <= early.1 + 4096, "kB: {seen:?}");
    assert!(last.2 <= early.2, "pages: {seen:?}");
    assert_eq!(server.end(), (0, String::new()));
}
