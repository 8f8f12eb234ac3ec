//! `gemma4 run` as a user sees it: the built program, its streams and its exit codes.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot start its program has failed")]

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const LINSPACE: &str = "Return evenly spaced numbers over a specified interval.\n";

fn gemma4(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma4"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // What tests say about answers holds for the processor, whatever GPU there is.
    if args.first() == Some(&"run") && !args.contains(&"--backend") {
        command.args(["--backend", "cpu"]);
    }
    command
}

fn piped(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = gemma4(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(args: &[&str]) -> Value {
    let output = gemma4(args).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_answer_is_all_of_stdout_and_one_line_of_stderr_counts() {
    let output = gemma4(&["run", "--temperature", "0", "What does numpy.linspace do?"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(stdout(&output), LINSPACE);
    let lines: Vec<&str> = stderr(&output).lines().collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("20 prompt tokens, ") && lines[0].contains("; 13 new tokens, "),
        "{lines:?}"
    );
}

#[test]
fn a_piped_prompt_is_answered_like_one_on_the_command_line() {
    assert_eq!(stdout(&piped(&["run", "--greedy"], b"What does numpy.linspace do?\n")), LINSPACE);
    assert_eq!(stdout(&piped(&["run", "--greedy", "-"], b"What does numpy.linspace do?")), LINSPACE);
    let both = piped(&["run", "--greedy", "--json", "What does"], b"numpy.linspace do?");
    let count = |output: &Output| {
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["usage"]["prompt_tokens"].clone()
    };
    let one = gemma4(&["run", "--greedy", "--json", "What does\n\nnumpy.linspace do?"]).output().unwrap();
    assert_eq!(count(&both), count(&one), "an empty line stands between the two");
}

#[test]
fn thoughts_go_to_stderr() {
    let output = gemma4(&["run", "--greedy", "--think", "What does numpy.argsort do?"]).output().unwrap();
    assert_eq!(stdout(&output), "Returns the indices that would sort an array.\n");
    assert!(
        stderr(&output).starts_with("thinking: The user asks about numpy.argsort."),
        "{}",
        stderr(&output)
    );
    assert!(!stderr(&output).contains('\x1b'), "no terminal, no styles");
}

#[test]
fn json_has_the_answer_its_parts_and_its_counts() {
    let json = json(&["run", "--json", "--greedy", "--seed", "11", "--think", "What does numpy.argsort do?"]);
    assert_eq!(json["content"], "Returns the indices that would sort an array.");
    assert!(json["reasoning"].as_str().unwrap().starts_with("The user asks about numpy.argsort."));
    assert_eq!(json["finish"], "stop");
    assert_eq!(json["seed"], 11);
    assert_eq!((&json["tool_calls"], &json["errors"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert_eq!(json["usage"]["reused_tokens"], 0);
    for (group, key) in [
        ("usage", "prompt_tokens"),
        ("usage", "completion_tokens"),
        ("timings", "prefill_seconds"),
        ("timings", "prefill_tokens_per_second"),
        ("timings", "decode_seconds"),
        ("timings", "decode_tokens_per_second"),
    ] {
        assert!(json[group][key].as_f64().unwrap() > 0.0, "{group}.{key}");
    }
}

#[test]
fn calls_of_tools_are_data_in_json_and_lines_in_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tools.json");
    let tools = r#"[{"type": "function", "function": {"name": "get_weather", "description": "Current weather of a city.",
        "parameters": {"type": "object", "required": ["city"],
            "properties": {"city": {"type": "string", "description": "Name of the city."}}}}}]"#;
    fs::write(&path, tools).unwrap();
    let line = ["run", "--greedy", "--tools", path.to_str().unwrap(), "What is the weather in Paris?"];
    assert_eq!(stdout(&gemma4(&line).output().unwrap()), "get_weather({\"city\":\"Paris\"})\n");
    let json = json(&[&line[..], &["--json"]].concat());
    assert_eq!(
        json["tool_calls"],
        serde_json::json!([{ "name": "get_weather", "arguments": { "city": "Paris" } }])
    );
    assert_eq!((&json["content"], &json["finish"]), (&Value::from(""), &Value::from("tool_calls")));
}

#[test]
fn a_raw_prompt_is_continued_without_a_template() {
    let prompt = "class Config:\n    def __init__(self, path):\n        ";
    let line = ["run", "--raw", "--greedy", "--max-tokens", "3", "--json", prompt];
    let json = json(&line);
    assert_eq!(json["finish"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 3);
    let output = gemma4(&["run", "--raw", "--greedy", "--max-tokens", "3", prompt]).output().unwrap();
    assert_eq!(stdout(&output).trim_end(), json["content"].as_str().unwrap().trim_end());
    assert!(stderr(&output).starts_with("Stopped at --max-tokens.\n"), "{}", stderr(&output));
    // Without the template's tokens.
    let asked = serde_json::from_slice::<Value>(
        &gemma4(&["run", "--raw", "--greedy", "--max-tokens", "1", "--json", "Hello!"])
            .output()
            .unwrap()
            .stdout,
    );
    assert!(asked.unwrap()["usage"]["prompt_tokens"].as_u64().unwrap() < 8);
}

#[test]
fn a_seed_repeats_an_answer_and_json_tells_it() {
    let line = ["run", "--temperature", "0.8", "--json", "--max-tokens", "12", "--raw", "import os\n"];
    let text = |json: &Value| json["content"].as_str().unwrap().to_owned();
    let first = json(&line);
    let seed = first["seed"].to_string();
    let again = json(&[&line[..], &["--seed", &seed]].concat());
    assert_eq!(text(&first), text(&again));
    let others: Vec<String> =
        ["1", "2", "3"].iter().map(|seed| text(&json(&[&line[..], &["--seed", seed]].concat()))).collect();
    assert!(others.iter().any(|other| *other != text(&first)), "the seed matters: {others:?}");
}

#[test]
fn what_cannot_be_done_is_said_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pocket = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/pocket/pocket-Q8_0.gguf")).unwrap();
    let text = file("text.gguf", b"hello\n");
    let cut = file("cut.gguf", &pocket[..3_000_000]);
    let mut other = pocket.clone();
    let at = other.windows(20).position(|bytes| bytes == b"general.architecture").unwrap();
    // The key, the type of its value (4 bytes), the length of the string (8 bytes).
    other[at + 32..at + 38].copy_from_slice(b"llama9");
    let other = file("other.gguf", &other);
    let no_list = file("tools.json", b"{}");
    let no_tool = file("tool.json", b"[1]");
    let long = "numpy ".repeat(100);
    for (code, line, parts) in [
        (1, vec!["--model", "/nowhere.gguf", "hi"], vec!["/nowhere.gguf", "No such file"]),
        (1, vec!["--model", &text, "hi"], vec!["text.gguf is not a model", "looks like text"]),
        (1, vec!["--model", &cut, "hi"], vec!["cut.gguf is damaged", "cut short"]),
        (1, vec!["--model", &other, "hi"], vec!["general.architecture", "expected gemma4"]),
        (1, vec!["--ctx", "40", &long], vec!["prompt has", "context 40", "--ctx"]),
        (1, vec!["--tools", "/nowhere.json", "hi"], vec!["/nowhere.json", "--tools", "No such file"]),
        (1, vec!["--tools", &no_list, "hi"], vec!["tools.json", "no JSON list"]),
        (1, vec!["--tools", &no_tool, "hi"], vec!["tool 0", "`function` is missing"]),
        // Also where there is an NVIDIA driver: its GPUs are hidden below.
        (1, vec!["--backend", "cuda", "hi"], vec!["--backend wgpu"]),
        (2, vec!["--backend", "abacus", "hi"], vec!["abacus", "--backend", "cpu"]),
        (2, vec!["--frobnicate", "hi"], vec!["--frobnicate"]),
        (2, vec!["--kv", "q9", "hi"], vec!["q9", "--kv", "q8_0"]),
        (2, vec!["--ctx", "0", "hi"], vec!["--ctx is 0", "1 to 4096"]),
        (2, vec!["--ctx", "-5", "hi"], vec!["-5", "--ctx"]),
        (2, vec!["--ctx", "99999", "hi"], vec!["--ctx is 99999", "1 to 4096"]),
        (2, vec!["--top-p", "3", "hi"], vec!["--top-p", "above 0, at most 1"]),
        (2, vec!["--max-tokens", "0", "hi"], vec!["--max-tokens"]),
        (2, vec!["--logit-bias", "9999=1", "hi"], vec!["--logit-bias", "9999", "8192"]),
        (2, vec!["--raw", "--think", "hi"], vec!["--raw", "--think"]),
        (2, vec![""], vec!["prompt is empty"]),
        (2, vec![], vec!["prompt is empty", "stdin"]),
    ] {
        let output =
            gemma4(&[&["run"], &line[..]].concat()).env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{line:?}: {said}");
        assert_eq!(stdout(&output), "", "{line:?}");
        let first = said.split("\n\n").next().unwrap();
        assert!(first.starts_with("error: "), "{line:?}: {said}");
        for part in parts {
            assert!(first.contains(part), "{line:?} does not say {part:?}: {said}");
        }
    }
    let output = piped(&["run"], b"caf\xe9");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no UTF-8 text: byte 3"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_with_what_there_is() {
    // Tokens 1, 6 and 14 end an answer.
    let endless = ["--logit-bias", "1=-100", "--logit-bias", "6=-100", "--logit-bias", "14=-100"];
    let line = [&["run", "--greedy"], &endless[..], &["What does numpy.linspace do?"]].concat();
    let mut child = gemma4(&line).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut begun = [0; 6];
    out.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"Return");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with('\n'));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).starts_with("Stopped.\n"), "{}", stderr(&output));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = gemma4(&["run", "--greedy", "What does numpy.linspace do?"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn without_a_command_there_is_help() {
    let output = gemma4(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    for part in ["Usage: gemma4", "run ", "Examples:"] {
        assert!(stderr(&output).contains(part), "{part}");
    }
}

#[test]
fn manual_pages_and_completions_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let pages = gemma4(&["man", "--dir", folder.path().to_str().unwrap()]).output().unwrap();
    assert!(pages.status.success(), "{}", stderr(&pages));
    let page = fs::read_to_string(folder.path().join("gemma4-run.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("temperature"));
    let page = gemma4(&["man"]).output().unwrap();
    assert!(stdout(&page).contains(".TH gemma4 1"));
    let script = gemma4(&["completions", "bash"]).output().unwrap();
    assert!(stdout(&script).contains("complete -F _gemma4"));
}
