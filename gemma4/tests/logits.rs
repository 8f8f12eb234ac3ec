//! `gemma4 logits` with the model inside the program.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use call::{fails, gemma4};
use serde_json::Value;

fn json(args: &[&str], stdin: &[u8]) -> Value {
    serde_json::from_str(&gemma4(&[&["logits", "--json"], args].concat(), stdin).text()).unwrap()
}

#[test]
fn logprobs_of_all_tokens_sum_to_one_and_fall() {
    let found = json(&["--tokens", "2,314,4458", "--top", "8192"], b"");
    assert_eq!((&found["position"], &found["token"]), (&2.into(), &4458.into()));
    let top = found["top"].as_array().unwrap();
    assert_eq!(top.len(), 8192);
    let logprobs: Vec<f64> = top.iter().map(|entry| entry["logprob"].as_f64().unwrap()).collect();
    assert!((logprobs.iter().map(|p| p.exp()).sum::<f64>() - 1.0).abs() <= 1e-9);
    assert!(logprobs.is_sorted_by(|a, b| a >= b));
    // Soft-capped: no logit leaves ±30.
    assert!(top.iter().all(|entry| entry["logit"].as_f64().unwrap().abs() <= 30.0));
}

#[test]
fn a_position_has_the_same_logits_whatever_follows() {
    let all = json(&["--tokens", "2 314 4458 2625", "--all", "--top", "3"], b"");
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 4);
    for (tokens, entry) in ["2", "2,314", "2,314,4458", "2,314,4458,2625"].iter().zip(all) {
        assert_eq!(&json(&["--tokens", tokens, "--top", "3"], b""), entry);
    }
}

#[test]
fn text_is_taken_behind_bos_and_stdin_is_read() {
    let expected = json(&["--tokens", "2,314,4458,2625"], b"");
    assert_eq!(json(&["--text", "Hello there"], b""), expected);
    assert_eq!(json(&["--text", "-"], b"Hello there"), expected);
    assert_eq!(json(&["--tokens", "-"], b"[2,314,4458,2625]\n"), expected);
    assert_eq!(expected["top"].as_array().unwrap().len(), 10);
    let table = gemma4(&["logits", "--text", "Hello there", "--top", "2"], b"").text();
    assert_eq!(table.lines().count(), 3, "{table}");
}

#[test]
fn the_type_of_the_cache_matters_a_little() {
    let best =
        |kv: &str| json(&["--text", "import numpy as", "--kv", kv, "--top", "1"], b"")["top"][0].clone();
    let (exact, small) = (best("f32"), best("q8_0"));
    let difference = (exact["logit"].as_f64().unwrap() - small["logit"].as_f64().unwrap()).abs();
    assert!(difference > 0.0 && difference <= 0.5, "{exact} and {small}");
}

#[test]
fn bad_input_is_one_sentence() {
    let long = vec!["2"; 4097].join(",");
    let rows: [(&[&str], i32, &str); 8] = [
        (&[], 2, "the following required arguments were not provided"),
        (&["--tokens", "2", "--text", "a"], 2, "cannot be used with"),
        (&["--tokens", "2,8192"], 2, "`8192` is no token of this model, expected a number from 0 to 8191"),
        (&["--tokens", "two"], 2, "`two` is no token"),
        (&["--tokens", " "], 2, "--tokens is empty"),
        (&["--tokens", &long], 2, "4097 tokens are given, expected at most 4096"),
        (&["--tokens", "2", "--top", "many"], 2, "invalid value 'many'"),
        (&["--tokens", "2", "--kv", "q7"], 2, "`q7` is not a type of KV cache"),
    ];
    for (args, code, says) in rows {
        fails(&[&["logits"], args].concat(), b"", code, says);
    }
}
