//! Tests on a vocabulary of a few hundred tokens, numbered unlike any real one.

mod hostile;
mod real;

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const PATH: &str = "some/file";

/// Ordinary tokens other than bytes, in the order of their ids.
const WORDS: [&str; 29] = [
    "▁",
    "\n",
    "h",
    "e",
    "l",
    "o",
    "<",
    "/",
    ">",
    "|",
    "t",
    "u",
    "r",
    "n",
    "é",
    "2",
    "▁▁",
    "▁▁▁▁",
    "\n\n",
    "he",
    "ll",
    "hell",
    "hello",
    "▁hello",
    "▁he",
    ">▁",
    "</",
    ">▁</",
    "\n\n\n\n",
];

const MERGES: [&str; 13] = [
    "\n\n \n\n",
    "▁▁ ▁▁",
    "\n \n",
    "▁ ▁",
    "h e",
    "l l",
    "he ll",
    "hell o",
    "▁ hello",
    "▁ he",
    "> ▁",
    "< /",
    ">▁ </",
];

/// Byte tokens first, then words, then control tokens with `<bos>` last.
fn small_tokens() -> Vec<String> {
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let words = WORDS.map(str::to_owned);
    let control = ["<eos>", "<pad>", "</s>"].map(str::to_owned);
    let marks = Marks::TEXTS.map(str::to_owned);
    bytes.chain(words).chain(control).chain(marks).chain(["<bos>".to_owned()]).collect()
}

/// Borrows what [`small_tokens`] owns. Types as converters write them: `</s>` is ordinary.
fn small_vocab(tokens: &[String]) -> Vocab<'_> {
    let kind = |token: &String| match token.as_str() {
        token if byte_of(token).is_some() => 6,
        "<bos>" | "<pad>" | "<|turn>" => 3,
        "<|channel>" | "<|\"|>" => 4,
        _ => 1,
    };
    Vocab {
        tokens: tokens.iter().map(String::as_str).collect(),
        types: tokens.iter().map(kind).collect(),
        merges: MERGES.to_vec(),
        ..Vocab::default()
    }
}

fn small() -> Tokenizer {
    Tokenizer::from_vocab(Path::new(PATH), small_vocab(&small_tokens())).unwrap()
}

/// The same vocabulary as a `tokenizer.json`, which also asks for `<bos>`, truncation and padding.
fn small_json() -> Value {
    let tokens = small_tokens();
    let (plain, marks) = tokens.split_at(256 + WORDS.len() + 3);
    let vocab: serde_json::Map<String, Value> =
        plain.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added: Vec<Value> = marks
        .iter()
        .enumerate()
        .map(|(index, token)| json!({"id": plain.len() + index, "content": token, "special": true}))
        .collect();
    let pairs: Vec<Value> = MERGES.iter().map(|merge| json!(merge.split(' ').collect::<Vec<_>>())).collect();
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Left", "pad_id": 0, "pad_token": "<pad>"},
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [tokens.len() - 1], "tokens": ["<bos>"]}},
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": pairs,
        },
    })
}

fn from_json(value: &Value) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_json(Path::new(PATH), value.to_string().as_bytes())
}

/// What tokens a text becomes, as the vocabulary spells them.
fn spelled(tokenizer: &Tokenizer, text: &str, special: Special) -> Vec<String> {
    let ids = tokenizer.encode(text, special).unwrap();
    ids.iter().map(|&id| tokenizer.piece(id).unwrap().to_owned()).collect()
}

/// The tokens of a text that is merged as one.
fn uncut(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.merge(&text.replace(' ', "▁"), &mut ids).unwrap();
    ids
}

/// Texts in which merges, their exceptions, bytes and marks are common.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        prop::sample::select(vec![
            " ", "  ", "▁", "\n", "\n\n\n", "hello", "he", "l", "o", ">", "</", "> </", "é", "日", "\u{0}",
            "2", "<|turn>", "<turn|>", "<bos>", "<|turn", "<0x41>",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(|c| c.to_string()),
    ];
    prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
}

#[test]
fn merges_the_best_pair_first_and_spells_unknown_characters_in_bytes() {
    let tokenizer = small();
    let cases: [(&str, &[&str]); 8] = [
        ("", &[]),
        ("hello hello", &["hello", "▁hello"]),
        ("   hello", &["▁▁", "▁hello"]),
        ("heo ▁he", &["he", "o", "▁▁", "he"]),
        ("\n\n\n\n\n", &["\n\n\n\n", "\n"]),
        ("n\n he", &["n", "\n", "▁he"]),
        (">  </ > </", &[">", "▁▁", "</", "▁", ">▁</"]),
        ("é日", &["é", "<0xE6>", "<0x97>", "<0xA5>"]),
    ];
    for (text, pieces) in cases {
        assert_eq!(spelled(&tokenizer, text, Special::Parse), pieces, "{text:?}");
    }
}

#[test]
fn a_vocabulary_that_merges_across_newlines_is_not_cut_there() {
    let mut tokens = small_tokens();
    tokens.extend(["n\n", "\nt", "n\nt"].map(str::to_owned));
    let mut vocab = small_vocab(&tokens);
    vocab.merges.extend(["n \n", "\n t", "n\n t"]);
    let tokenizer = Tokenizer::from_vocab(Path::new(PATH), vocab).unwrap();
    assert_eq!(spelled(&tokenizer, "n\nt\nt", Special::Parse), ["n\nt", "\nt"]);
}

#[test]
fn only_trusted_text_spells_control_tokens() {
    let tokenizer = small();
    let text = "<bos><|turn>hello<turn|><|turn";
    let parsed = ["<bos>", "<|turn>", "hello", "<turn|>", "<", "|", "t", "u", "r", "n"];
    assert_eq!(spelled(&tokenizer, text, Special::Parse), parsed);
    let ids = tokenizer.encode(text, Special::Literal).unwrap();
    assert!(ids.iter().all(|&id| !tokenizer.is_special(id)));
    assert_eq!(tokenizer.decode(&ids, Markup::Hide), text);
}

#[test]
fn f11_s23_a_prompt_has_one_bos_whatever_the_text_or_the_file_says() {
    for tokenizer in [small(), from_json(&small_json()).unwrap()] {
        let bos = tokenizer.bos();
        let hello = tokenizer.id("hello").unwrap();
        assert_eq!(tokenizer.encode("hello", Special::Parse).unwrap(), [hello]);
        for text in ["hello", "<bos>hello", "<bos><bos>hello"] {
            assert_eq!(tokenizer.encode_prompt(text, Special::Parse).unwrap(), [bos, hello], "{text}");
        }
        assert_eq!(tokenizer.with_bos(vec![]), [bos]);
        assert_eq!(tokenizer.with_bos(vec![hello, bos]), [bos, hello, bos]);
        let literal = tokenizer.encode_prompt("<bos>", Special::Literal).unwrap();
        assert_eq!(literal.iter().filter(|&&id| id == bos).count(), 1);
        assert_eq!(tokenizer.decode(&literal[1..], Markup::Hide), "<bos>");
    }
}

#[test]
fn f11_s23_marks_and_ends_are_found_by_their_text() {
    let tokenizer = small();
    let id = |text| tokenizer.id(text);
    let marks = tokenizer.marks();
    assert_eq!(marks.turn, id("<|turn>"));
    assert_eq!(marks.turn_end, id("<turn|>"));
    assert_eq!(marks.channel, id("<|channel>"));
    assert_eq!(marks.channel_end, id("<channel|>"));
    assert_eq!(marks.tool, id("<|tool>"));
    assert_eq!(marks.tool_end, id("<tool|>"));
    assert_eq!(marks.tool_call, id("<|tool_call>"));
    assert_eq!(marks.tool_call_end, id("<tool_call|>"));
    assert_eq!(marks.tool_response, id("<|tool_response>"));
    assert_eq!(marks.tool_response_end, id("<tool_response|>"));
    assert_eq!(marks.quote, id("<|\"|>"));
    assert_eq!(marks.think, id("<|think|>"));
    assert!(marks.think.is_some_and(|id| tokenizer.is_special(id)));

    let tag = id("</s>").unwrap();
    let ends = [id("<eos>"), marks.turn_end, marks.tool_response, Some(7)];
    // Nothing else ends an answer, such as 107: the end of a turn in older vocabularies, ordinary text here and in Gemma 4's.
    assert_eq!(tokenizer.end_ids(&[7, tag]), ends.into_iter().flatten().collect());
    assert!(!tokenizer.is_special(tag));
}

#[test]
fn a_vocabulary_without_marks_has_none() {
    let mut tokens = small_tokens();
    tokens.retain(|token| !Marks::TEXTS.contains(&token.as_str()));
    let tokenizer = Tokenizer::from_vocab(Path::new(PATH), small_vocab(&tokens)).unwrap();
    assert_eq!(tokenizer.marks(), &Marks::default());
    assert_eq!(tokenizer.end_ids(&[]), [tokenizer.id("<eos>").unwrap()].into());
}

#[test]
fn decoding_shows_or_hides_control_tokens_and_never_fails() {
    let tokenizer = small();
    let id = |text| tokenizer.id(text).unwrap();
    let ids = [id("<|turn>"), id("▁hello"), id("<0xE6>"), 123_456, id("<turn|>"), id("<0x41>")];
    assert_eq!(tokenizer.decode(&ids, Markup::Show), "<|turn> hello\u{fffd}<turn|>A");
    assert_eq!(tokenizer.decode(&ids, Markup::Hide), " hello\u{fffd}A");
    assert_eq!(tokenizer.token_bytes(id("<0xE6>")), Some(vec![0xe6]));
    assert_eq!(tokenizer.token_bytes(id(">▁</")), Some(b"> </".to_vec()));
    assert_eq!(tokenizer.token_bytes(u32::MAX), None);
    assert_eq!(tokenizer.piece(u32::MAX), None);
    assert_eq!(tokenizer.vocab_size(), small_tokens().len());
}

#[test]
fn a_stream_gives_a_character_with_its_last_byte() {
    let tokenizer = small();
    let id = |text| tokenizer.id(text).unwrap();
    let mut stream = Stream::new(Markup::Show);
    let mut push = |text| stream.push(&tokenizer, id(text));
    assert_eq!(push("<0xE6>"), "");
    assert_eq!(push("<0x97>"), "");
    assert_eq!(push("<0xA5>"), "日");
    assert_eq!(push("<0xE6>"), "");
    assert_eq!(push("he"), "\u{fffd}he");
    assert_eq!(push("<0xFF>"), "\u{fffd}");
    assert_eq!(push("<0xE6>"), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn added_words_are_whole_in_any_text_and_shown() {
    let mut file = small_json();
    let id = small_tokens().len();
    file["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": id, "content": "hell of", "special": false}));
    let tokenizer = from_json(&file).unwrap();
    for special in [Special::Parse, Special::Literal] {
        assert_eq!(spelled(&tokenizer, "hello hell of", special), ["hello", "▁", "hell of"]);
    }
    let ids = tokenizer.encode("hell of", Special::Literal).unwrap();
    assert_eq!(tokenizer.decode(&ids, Markup::Hide), "hell of");
}

#[test]
fn older_files_write_a_merge_as_one_string() {
    let mut file = small_json();
    file["model"]["merges"] = json!(MERGES);
    let tokenizer = from_json(&file).unwrap();
    assert_eq!(spelled(&tokenizer, "hello\n\n", Special::Parse), ["hello", "\n\n"]);
}

#[test]
fn a_stretch_that_no_context_holds_is_refused() {
    let tokenizer = small();
    let text = "l".repeat(STRETCH_BYTES + 1);
    assert!(matches!(
        tokenizer.encode(&text, Special::Parse),
        Err(EncodeError::Uncut { found }) if found == text.len()
    ));
    let spaced = " hello".repeat(STRETCH_BYTES / 4);
    assert_eq!(tokenizer.encode(&spaced, Special::Parse).unwrap().len(), STRETCH_BYTES / 4);
}

proptest! {
    #[test]
    fn cutting_a_text_changes_no_token(text in texts()) {
        let tokenizer = small();
        prop_assert_eq!(tokenizer.encode(&text, Special::Literal).unwrap(), uncut(&tokenizer, &text));
    }

    #[test]
    fn a_text_comes_back_with_spaces_for_its_space_marks(text in texts()) {
        let tokenizer = small();
        for special in [Special::Parse, Special::Literal] {
            let ids = tokenizer.encode(&text, special).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, Markup::Show), text.replace('▁', " "));
        }
    }

    #[test]
    fn a_stream_gives_what_decoding_gives(
        ids in prop::collection::vec(prop_oneof![0_u32..256, 0_u32..320], 0..80),
        hide: bool,
    ) {
        let tokenizer = small();
        let markup = if hide { Markup::Hide } else { Markup::Show };
        let mut stream = Stream::new(markup);
        let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        text.push_str(stream.finish());
        prop_assert_eq!(text, tokenizer.decode(&ids, markup));
    }

    #[test]
    fn both_file_formats_give_the_same_ids(text in texts()) {
        let (gguf, json) = (small(), from_json(&small_json()).unwrap());
        for special in [Special::Parse, Special::Literal] {
            prop_assert_eq!(gguf.encode(&text, special).unwrap(), json.encode(&text, special).unwrap());
        }
    }
}
