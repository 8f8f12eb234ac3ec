//! `gemma4 bench` with the model inside the program.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use call::{fails, gemma4};
use serde_json::{Value, json};

fn bench(args: &[&str]) -> Value {
    let args = [&["bench", "--json", "--repeat", "1"], args].concat();
    serde_json::from_str(&gemma4(&args, b"").text()).unwrap()
}

#[test]
fn every_length_and_context_is_measured() {
    let args =
        ["--prompt", "5,40", "--decode", "0,12", "--generate", "3", "--chunk", "16", "--bandwidth", "10"];
    let found = bench(&args);
    assert_eq!(found["device"]["backend"], "cpu");
    assert_eq!((&found["context"], &found["chunk"]), (&json!(40), &json!(16)));
    assert_eq!((&found["load"]["copied"], &found["load"]["bytes"]), (&json!(false), &json!(26_250_752)));
    let tokens = |list: &str, key: &str| -> Vec<u64> {
        found[list].as_array().unwrap().iter().map(|run| run[key].as_u64().unwrap()).collect()
    };
    assert_eq!(tokens("prefill", "tokens"), [5, 40]);
    assert_eq!((tokens("decode", "context"), tokens("decode", "tokens")), (vec![0, 12], vec![3, 3]));
    for run in found["decode"].as_array().unwrap() {
        let number = |key: &str| run[key].as_f64().unwrap();
        assert!(number("tokens_per_second") > 0.0);
        let rate = number("step_bytes") * number("tokens_per_second") * 1e-9;
        assert!((rate / number("gigabytes_per_second") - 1.0).abs() < 1e-9, "{run}");
        assert!((number("share") * 10.0 / rate - 1.0).abs() < 1e-9, "{run}");
        assert!(run["waiting_tokens_per_second"].is_null(), "the reference always waits");
    }
    // 12 tokens of 4 local layers of 2 heads of 256 and 2 global ones of one head of 512, 2 bytes each.
    let bytes = tokens("decode", "step_bytes");
    assert_eq!(bytes[1] - bytes[0], 12 * (8192 + 4096));
    assert!(found["profile"].is_null());
}

#[test]
fn text_has_the_device_and_a_line_for_each_run() {
    let args = ["bench", "--prompt", "4", "--decode", "0", "--generate", "2", "--repeat", "2", "--profile"];
    let text = gemma4(&args, b"").text();
    for part in
        ["(built-in pocket model)", "the processor", "weights stay in the file", "no profile: this device"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().filter(|line| line.starts_with("         ")).count(), 2, "{text}");
}

#[test]
fn measurements_are_lines_and_lines_in_a_chart() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("speed.svg");
    let line = ["bench", "--prompt", "4,9", "--decode", "0,8", "--generate", "2", "--repeat", "1", "--csv"];
    let text =
        gemma4(&[&line[..], &["--verify-rows", "3", "--plot", plot.to_str().unwrap()]].concat(), b"").text();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{text}");
    let kinds: Vec<&str> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(kinds, ["prefill", "prefill", "decode", "decode", "control", "verify", "verify"], "{text}");
    let place = rows[0].iter().position(|name| *name == "tokens_per_second").unwrap();
    assert!(rows[1..].iter().all(|row| row[place].parse::<f64>().unwrap() > 0.0), "{text}");
    let svg = std::fs::read_to_string(plot).unwrap();
    assert_eq!(svg.matches("<g ").count(), 3, "{svg}");
    fails(&["bench", "--csv", "--json"], b"", 2, "cannot be used with");
}

#[test]
fn what_does_not_fit_is_left_out_or_refused() {
    let found = bench(&["--ctx", "100", "--prompt", "8", "--generate", "2"]);
    let contexts: Vec<&Value> =
        found["decode"].as_array().unwrap().iter().map(|run| &run["context"]).collect();
    assert_eq!((contexts, &found["context"]), (vec![&json!(0)], &json!(100)));
    let rows: [(&[&str], &str); 7] = [
        (&["--prompt", "4097"], "--prompt is 4097, expected at most 4096 tokens"),
        (
            &["--decode", "4090", "--generate", "7"],
            "--decode is 4090 and --generate 7, expected at most 4096",
        ),
        (&["--prompt", "0", "--generate", "0"], "nothing is to be measured"),
        (&["--chunk", "0"], "expected 1 to 8192"),
        (&["--repeat", "0"], "0 is not in 1..=1000"),
        (&["--bandwidth", "-3"], "--bandwidth"),
        (&["--prompt", "many"], "invalid value 'many'"),
    ];
    for (args, says) in rows {
        fails(&[&["bench"], args].concat(), b"", 2, says);
    }
}
