//! `tokenizer.json`, and what a tokenizer then does with text and ids.

use std::hint::black_box;
use std::path::Path;

use gemma4_core::tokenizer::{Markup, Special, Stream, Tokenizer};
use serde_json::{Value, json};

use crate::fuzz::{BadKey, Syntax, Target, keys, spoil};

const LABEL: &str = "fuzzed-tokenizer.json";

/// Tokens beside the byte tokens, in the order of their ids.
pub(super) const WORDS: [&str; 13] =
    ["▁", "\n", "h", "e", "l", "o", "é", "<", ">", "he", "ll", "hell", "hello"];
/// Pairs of tokens that join.
pub(super) const MERGES: [[&str; 2]; 4] = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]];
/// Control tokens.
pub(super) const CONTROL: [&str; 15] = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
    "<|think|>",
];

/// The tokens of a small vocabulary: byte tokens, words, control tokens.
pub(super) fn tokens() -> Vec<String> {
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    bytes.chain(WORDS.map(str::to_owned)).chain(CONTROL.map(str::to_owned)).collect()
}

/// `tokenizer.json`.
#[derive(Debug)]
pub(super) struct TokenizerJson;

fn sample() -> Value {
    let tokens = tokens();
    let (plain, control) = tokens.split_at(256 + WORDS.len());
    let vocab: serde_json::Map<String, Value> =
        plain.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added: Vec<Value> = control
        .iter()
        .enumerate()
        .map(|(index, token)| json!({"id": plain.len() + index, "content": token, "special": true}))
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer":
            {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": MERGES,
        },
    })
}

impl Target for TokenizerJson {
    fn name(&self) -> &'static str {
        "tokenizer"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Json
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let mut older = sample();
        older["model"]["merges"] = json!(MERGES.map(|[left, right]| format!("{left} {right}")));
        [sample(), older].map(|sample| sample.to_string().into_bytes()).to_vec()
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let mut words = keys(sample().to_string().as_bytes());
        words.retain(|word| !word.starts_with(b"<0x"));
        words.extend(CONTROL.map(|token| token.as_bytes().to_vec()));
        words
    }

    fn label(&self) -> &'static str {
        LABEL
    }

    fn inputs(&self) -> u64 {
        1_000
    }

    fn one_bad_key(&self) -> Vec<BadKey> {
        let bad = [json!({"x": []}), json!("x"), json!(-1), json!([{}])];
        let tokens = tokens();
        let mut spoiled = spoil(sample().to_string().as_bytes(), &bad);
        // In the vocabulary keys are data: the error names the vocabulary, and one of them is enough to try.
        spoiled.retain(|bad| bad.names[0] == "hello" || !tokens.contains(&bad.names[0]));
        for bad in spoiled.iter_mut().filter(|bad| bad.names[0] == "hello") {
            bad.names = vec!["vocab".to_owned()];
        }
        spoiled
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let tokenizer = Tokenizer::from_json(Path::new(LABEL), input).map_err(|error| error.to_string())?;
        exercise(&tokenizer);
        Ok(())
    }
}

/// Uses a tokenizer that was accepted, whatever it is like.
pub(super) fn exercise(tokenizer: &Tokenizer) {
    black_box((tokenizer.marks(), tokenizer.end_ids(&[u32::MAX]), tokenizer.specials().len()));
    for text in ["", "hello  hello\n\n", "<bos><|turn>é🙂\u{0}▁<0x41>"] {
        for special in [Special::Parse, Special::Literal] {
            // A vocabulary may lack what this text needs.
            let Ok(ids) = tokenizer.encode_prompt(text, special) else {
                continue;
            };
            assert!(ids.iter().all(|id| tokenizer.piece(*id).is_some()), "an id without a token");
            let mut stream = Stream::new(Markup::Show);
            let mut streamed: String = ids.iter().map(|id| stream.push(tokenizer, *id)).collect();
            streamed += stream.finish();
            assert_eq!(streamed, tokenizer.decode(&ids, Markup::Show));
        }
    }
    for id in [0, 255, 256, 270, 300, u32::MAX] {
        black_box((tokenizer.piece(id), tokenizer.token_bytes(id), tokenizer.is_special(id)));
    }
}
