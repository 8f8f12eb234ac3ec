//! Lines that `gemma4 serve --stdio` may be sent: no line panics or takes memory that it does not have itself, and what
//! is wrong with it is said in one sentence.
//!
//! A test binary of its own: the allocator counts for the whole process.

#[allow(dead_code, reason = "what a request asks for is used by the program")]
#[path = "../src/serve/stdio/request.rs"]
mod request;

use std::path::Path;

use gemma4_conformance::fuzz::{Budget, Syntax, Target, fuzz, keys, memory};

#[global_allocator]
static MEMORY: memory::Counter = memory::COUNTER;

struct Lines;

const SAMPLES: [&str; 6] = [
    r#"{"op":"generate","id":7,"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Hi"}]}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"think":true,"template_args":{"a":1},"seed":3,"temperature":0.5,"top_k":64,"top_p":0.9,"min_p":0.1,"repetition_penalty":1.1,"frequency_penalty":0.2,"presence_penalty":-0.2,"logit_bias":{"5":-1.5},"max_tokens":5,"stop_tokens":[1,2],"cache":"exact","logprobs":2,"deadline_ms":1000,"progress":true}"#,
    r#"{"op":"generate","id":"a","prompt":"import os\n","cache":"none"}"#,
    r#"{"op":"generate","id":-3,"tokens":[2,4294967295,0]}"#,
    r#"{"op":"cancel","of":7,"id":"b"}"#,
    r#"{"op":"save","id":1,"path":"/tmp/x","prompt":"import"}"#,
    r#"{"op":"status"}"#,
];

impl Target for Lines {
    fn name(&self) -> &'static str {
        "stdio"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Json
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        SAMPLES.map(|sample| sample.as_bytes().to_vec()).to_vec()
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let ops =
            ["generate", "cancel", "park", "unpark", "save", "restore", "forget", "status", "reuse", "op"];
        let mut words: Vec<Vec<u8>> = ops.map(|op| op.as_bytes().to_vec()).to_vec();
        words.extend(SAMPLES.iter().flat_map(|sample| keys(sample.as_bytes())));
        words
    }

    fn label(&self) -> &'static str {
        ""
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let (id, request) = request::parse(input);
        assert!(id.is_none_or(|id| id.is_string() || id.is_number()));
        let error = request.err();
        if let Some(error) = &error {
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
        error.map_or(Ok(()), Err)
    }
}

#[test]
fn no_line_does_any_harm() {
    let running = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stdio-running");
    let counts = fuzz(&Lines, 2, Budget::Inputs(20_000), &running).unwrap_or_else(|failure| {
        panic!("{}\ninput: {:?}", failure.finding, String::from_utf8_lossy(&failure.input))
    });
    assert!(counts.accepted > 100 && counts.refused > 1000, "{counts:?}");
}
