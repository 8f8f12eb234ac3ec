//! `gemma4 tokenize` with the model inside the program.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use call::{fails, gemma4};
use serde_json::{Value, json};

#[test]
fn text_becomes_ids_behind_bos() {
    assert_eq!(gemma4(&["tokenize", "Hello there"], b"").text(), "2 314 4458 2625\n");
    assert_eq!(gemma4(&["tokenize", "Hello", "there"], b"").text(), "2 314 4458 2625\n");
    assert_eq!(gemma4(&["tokenize", "--no-bos", "Hello there"], b"").text(), "314 4458 2625\n");
    assert_eq!(gemma4(&["tokenize", "--json", "-"], b"Hello there").text(), "[2,314,4458,2625]\n");
    assert_eq!(gemma4(&["tokenize"], b"Hello there").text(), "2 314 4458 2625\n");
}

#[test]
fn control_tokens_are_text_unless_asked_for() {
    assert_eq!(gemma4(&["tokenize", "--special", "<|turn>user"], b"").text(), "2 5 687\n");
    let literal = gemma4(&["tokenize", "<|turn>user"], b"").text();
    assert!(!literal.split_whitespace().any(|id| id == "5"), "{literal}");
    assert_eq!(gemma4(&["tokenize", "--decode", "2 5 687"], b"").text(), "user");
    assert_eq!(gemma4(&["tokenize", "--decode", "--special", "[2, 5, 687]"], b"").text(), "<bos><|turn>user");
}

#[test]
fn pieces_are_shown_as_the_vocabulary_spells_them() {
    let expected = "      2  \"<bos>\"\n    314  \"H\"\n   4458  \"ello\"\n   2625  \"▁there\"\n";
    assert_eq!(gemma4(&["tokenize", "--pieces", "Hello there"], b"").text(), expected);
    assert_eq!(gemma4(&["tokenize", "--pieces", "--decode", "2 314 4458 2625"], b"").text(), expected);
    let pieces: Value =
        serde_json::from_str(&gemma4(&["tokenize", "--pieces", "--json", "Hello"], b"").text()).unwrap();
    assert_eq!(pieces[2], json!({ "id": 4458, "piece": "ello" }));
}

#[test]
fn every_text_comes_back_byte_for_byte() {
    let texts = [
        "",
        "\n",
        "no line end",
        "two line ends\n\n",
        "  spaces \t tabs\r\n",
        "<bos><|turn>user\n</s>",
        "naïve 日本 🦀 \u{0} \u{7f}",
    ];
    for text in texts {
        for options in [&[][..], &["--no-bos", "--special"]] {
            let ids = gemma4(&[&["tokenize", "-"], options].concat(), text.as_bytes()).text();
            let back: Vec<&str> = options.iter().copied().filter(|&option| option != "--no-bos").collect();
            let decoded =
                gemma4(&[&["tokenize", "--decode", "-"], &back[..]].concat(), ids.as_bytes()).text();
            assert_eq!(decoded, text, "{options:?}: {ids}");
        }
    }
}

#[test]
fn bytes_of_a_cut_character_come_out_as_they_are() {
    let ids = gemma4(&["tokenize", "--no-bos", "🦀"], b"").text();
    let first = ids.split_whitespace().next().unwrap();
    let outcome = gemma4(&["tokenize", "--decode", first], b"");
    assert_eq!(outcome.stdout, "🦀".as_bytes()[..outcome.stdout.len()]);
    assert!(!outcome.stdout.is_empty());
}

#[test]
fn bad_input_is_one_sentence() {
    let rows: [(&[&str], &[u8], i32, &str); 8] = [
        (&["--decode", "abc"], b"", 2, "`abc` is no token of this model, expected a number from 0 to 8191"),
        (&["--decode", "1 8192"], b"", 2, "`8192` is no token"),
        (&["--decode", "-"], b"2 -1", 2, "`-1` is no token"),
        (&["--decode", "1.5"], b"", 2, "`1.5` is no token"),
        (&["-"], b"good \xff", 1, "stdin is not UTF-8 text: byte 5"),
        (&["--decode", "--no-bos", "1"], b"", 2, "cannot be used with"),
        (&["--nope"], b"", 2, "unexpected argument '--nope'"),
        (&["-m", "/nowhere/model.gguf", "a"], b"", 1, "cannot read /nowhere/model.gguf"),
    ];
    for (args, stdin, code, says) in rows {
        fails(&[&["tokenize"], args].concat(), stdin, code, says);
    }
}
