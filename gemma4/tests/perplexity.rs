//! `gemma4 perplexity` with the model inside the program.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use call::{fails, gemma4};
use serde_json::Value;

const TEXT: &str = "def linspace(start, stop, num=50):\n    \"\"\"Return evenly spaced numbers over an interval.\"\"\"\n    \
                    step = (stop - start) / (num - 1)\n    return [start + i * step for i in range(num)]\n";

fn json(args: &[&str], stdin: &[u8]) -> Value {
    serde_json::from_str(&gemma4(&[&["perplexity", "--json"], args].concat(), stdin).text()).unwrap()
}

/// Minus the logprob of the last of `tokens` behind the others.
fn loss_of_last(tokens: &[u32]) -> f64 {
    let (target, before) = tokens.split_last().unwrap();
    let before: Vec<String> = before.iter().map(u32::to_string).collect();
    let args = ["logits", "--json", "--top", "8192", "--tokens", &before.join(",")];
    let found: Value = serde_json::from_str(&gemma4(&args, b"").text()).unwrap();
    let top = found["top"].as_array().unwrap();
    -top.iter().find(|entry| entry["id"] == *target).unwrap()["logprob"].as_f64().unwrap()
}

#[test]
fn the_loss_is_that_of_the_second_half_of_each_window_behind_bos() {
    let ids = gemma4(&["tokenize", "-"], TEXT.as_bytes()).text();
    let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
    for window in [4, 7, 8] {
        let mut losses = Vec::new();
        for tokens in ids.chunks_exact(window).take(4) {
            let tokens = [&ids[..1], &tokens[1..]].concat();
            losses.extend((window / 2..window - 1).map(|position| loss_of_last(&tokens[..position + 2])));
        }
        let windows = ids.len() / window;
        let text = gemma4(&["tokenize", "--decode", "-"], &join(&ids[..4 * window])).text();
        let ctx = window.to_string();
        let found = json(&["-", "--ctx", &ctx], text.as_bytes());
        assert!(windows > 4, "the text is long enough");
        assert_eq!(found["windows"], 4, "{found}");
        assert_eq!(found["predictions"], losses.len(), "{found}");
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        let loss = found["loss"].as_f64().unwrap();
        // Rows have the same bits in any company: what is left is the rounding of the logarithms and of the sum.
        assert!((loss - mean).abs() <= 1e-12 * losses.len() as f64, "{loss}, not {mean}");
        assert!((found["ppl"].as_f64().unwrap() - mean.exp()).abs() <= 1e-9 * mean.exp(), "{found}");
        let square: f64 = losses.iter().map(|loss| (loss - mean).powi(2)).sum();
        let error = (square / (losses.len() * (losses.len() - 1)) as f64).sqrt();
        assert!((found["loss_error"].as_f64().unwrap() - error).abs() <= 1e-9, "{found}");
    }
}

fn join(ids: &[u32]) -> Vec<u8> {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ").into_bytes()
}

#[test]
fn files_and_every_type_of_cache_are_read() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), TEXT).unwrap();
    let path = file.path().to_str().unwrap();
    let mut seen = Vec::new();
    for kv in ["f32", "f16", "q8_0", "q4_0", "tq3_0", "q8_0,tq3_0"] {
        let found = json(&[path, "--ctx", "32", "--kv", kv], b"");
        let (k, v) = kv.split_once(',').unwrap_or((kv, kv));
        assert_eq!(found["kv"], format!("{k},{v}"));
        let ppl = found["ppl"].as_f64().unwrap();
        assert!((2.0..100.0).contains(&ppl) && !seen.contains(&ppl), "{kv}: {ppl}");
        seen.push(ppl);
    }
    let printed = gemma4(&["perplexity", path, "--ctx", "32", "--kv", "f32"], b"").text();
    assert!(printed.starts_with(&format!("perplexity  {:.4} ± ", seen[0])), "{printed}");
}

#[test]
fn bad_input_is_one_sentence() {
    let rows: [(&[&str], &[u8], i32, &str); 8] = [
        (&["-"], b"short", 1, "tokens, <bos> included, expected at least one window of 512"),
        (&["-"], b"", 1, "the text has 1 tokens"),
        (&["-", "--ctx", "3"], b"text", 2, "--ctx is 3, expected at least 4"),
        (&["-", "--ctx", "5000"], b"text", 2, "--ctx is 5000, expected 1 to 4096"),
        (&["-"], b"\xc3(", 1, "stdin is not UTF-8 text: byte 0"),
        (&["/nowhere/text"], b"", 1, "cannot read /nowhere/text"),
        (&[], b"", 2, "the following required arguments were not provided"),
        (&["-", "--kv", "f16,"], b"text", 2, "`` is not a type of KV cache"),
    ];
    for (args, stdin, code, says) in rows {
        fails(&[&["perplexity"], args].concat(), stdin, code, says);
    }
}
