//! Drafting with the model inside the program and its drafters.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use std::path::{Path, PathBuf};

use call::{fails, gemma4};
use serde_json::Value;

fn drafter(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pocket").join(name);
    path.to_str().unwrap().to_owned()
}

const PROMPT: &str = "What does numpy.linspace do?";

fn run(args: &[&str]) -> Value {
    let args = [&["run", "--backend", "cpu", "--json", "--seed", "3"], args, &[PROMPT]].concat();
    serde_json::from_str(&gemma4(&args, b"").text()).unwrap()
}

#[test]
fn an_answer_is_the_same_with_drafts_and_says_what_they_gave() {
    let (mtp, dflash) = (drafter("pocket-assistant-Q8_0.gguf"), drafter("pocket-dflash-Q8_0.gguf"));
    for sampling in [&["--greedy"][..], &["--temperature", "0.8"]] {
        let plain = run(sampling);
        assert!(plain["drafting"].is_null());
        for (args, source) in [
            (&["--draft", &dflash, "--draft-policy", "fixed"][..], "dflash"),
            (&["--draft", &mtp, "--draft-max", "2", "--draft-policy", "fixed"], "mtp"),
            (&["--draft-kind", "ngram", "--draft-policy", "fixed"], "ngram"),
            (&["--draft", &mtp, "--draft", &dflash], ""),
        ] {
            let drafted = run(&[sampling, args].concat());
            assert_eq!(drafted["content"], plain["content"], "{args:?}");
            assert_eq!(drafted["usage"], plain["usage"], "{args:?}");
            let drafting = &drafted["drafting"];
            assert!(drafting["tokens_a_step"].as_f64().unwrap() >= 1.0, "{drafting}");
            if source == "dflash" || source == "mtp" {
                let one = &drafting["sources"][source];
                assert!(one["rounds"].as_u64().unwrap() > 0, "{drafting}");
                assert!(one["tokens_a_round"].as_f64().unwrap() > 1.5, "{drafting}");
                assert!(one["draft_seconds_a_round"].as_f64().unwrap() > 0.0, "{drafting}");
            }
        }
    }
}

#[test]
fn a_drafter_that_is_none_ends_in_one_sentence() {
    let target = drafter("pocket-Q8_0.gguf");
    let none = PathBuf::from("nowhere").join("drafter.gguf");
    for (args, code, part) in [
        (&["--draft", none.to_str().unwrap()][..], 1, "drafter.gguf"),
        (&["--draft", &target], 1, "is no drafter"),
        (&["--draft-kind", "mtp"], 2, "--draft PATH"),
        (&["--draft-kind", "mtp", "--draft", &drafter("pocket-dflash-Q8_0.gguf")], 2, "no mtp drafter"),
        (&["--draft-max", "16"], 2, "1..=15"),
    ] {
        let args = [&["run", "--backend", "cpu"], args, &["Hi"]].concat();
        fails(&args, b"", code, part);
    }
}

#[test]
fn rounds_of_every_length_are_measured_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let plot = dir.path().join("speed.svg");
    let dflash = drafter("pocket-dflash-Q8_0.gguf");
    let args = [
        "bench",
        "--backend",
        "cpu",
        "--json",
        "--repeat",
        "1",
        "--prompt",
        "0",
        "--decode",
        "20",
        "--generate",
        "12",
        "--draft",
        &dflash,
        "--draft-lengths",
        "2,4",
        "--simulate-acceptance",
        "1",
        "--verify-rows",
        "4",
        "--plot",
        plot.to_str().unwrap(),
    ];
    let found: Value = serde_json::from_str(&gemma4(&args, b"").text()).unwrap();
    let rounds = found["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for (round, drafts) in rounds.iter().zip([2.0, 4.0]) {
        assert_eq!(round["drafts"].as_f64(), Some(drafts));
        assert_eq!(round["tokens_a_round"].as_f64(), Some(drafts + 1.0), "all were accepted");
        assert!(round["break_even"].as_f64().unwrap() <= 1.0);
    }
    assert_eq!(found["verify"][0]["rows"], 4);
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("dflash, context 20"), "{svg}");
}

#[test]
fn synthetic_drafters_are_measured_too() {
    for name in ["synthetic-mtp", "synthetic-dflash"] {
        let args = [
            "bench",
            "--backend",
            "cpu",
            "--json",
            "--repeat",
            "1",
            "--prompt",
            "0",
            "--decode",
            "0",
            "--generate",
            "4",
            "--draft",
            name,
            "--draft-lengths",
            "2",
            "--simulate-acceptance",
            "0.5",
        ];
        let outcome = gemma4(&args, b"");
        assert!(outcome.stderr.contains("its drafts are nonsense"), "{}", outcome.stderr);
        let found: Value = serde_json::from_slice(&outcome.stdout).unwrap();
        assert_eq!(found["rounds"].as_array().unwrap().len(), 1, "{name}");
    }
}
