//! Files that are wrong: one error that names file and key, no panic.

use super::*;
use crate::gguf::value::Value as Field;
use crate::gguf::write::Writer;
use crate::tensor::Bytes;

/// The error as a user reads it.
fn refused(result: Result<Tokenizer, ModelError>) -> String {
    let message = result.expect_err("the file is wrong").to_string();
    assert!(message.contains(PATH), "{message}");
    assert!(message.len() < 400, "{message}");
    message
}

fn refused_json(change: impl FnOnce(&mut Value)) -> String {
    let mut file = small_json();
    change(&mut file);
    refused(from_json(&file))
}

fn refused_vocab(change: impl FnOnce(&mut Vocab<'_>)) -> String {
    let tokens = small_tokens();
    let mut vocab = small_vocab(&tokens);
    change(&mut vocab);
    refused(Tokenizer::from_vocab(Path::new(PATH), vocab))
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn what_is_no_tokenizer_json_is_refused() {
    for bytes in
        [&b""[..], b"\xff\xfe", b"GGUF\x03", b"[]", b"null", b"{\"model\":", b"{\"model\":1,\"model\":2}"]
    {
        refused(Tokenizer::from_json(Path::new(PATH), bytes));
    }
    says(&refused(Tokenizer::from_json(Path::new(PATH), b"{}")), &["`model` is missing"]);
    for deep in ["[", "{\"a\":"] {
        let nested = deep.repeat(1_000_000);
        refused(Tokenizer::from_json(Path::new(PATH), nested.as_bytes()));
        refused(Tokenizer::from_json(Path::new(PATH), format!("{{\"model\":{nested}").as_bytes()));
    }
    let list = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for key in ["normalizer", "model", "added_tokens"] {
        let file =
            format!("{{\"model\":{{}},\"{key}\":{list}}}").replacen("\"model\":{},\"model\"", "\"model\"", 1);
        refused(Tokenizer::from_json(Path::new(PATH), file.as_bytes()));
    }
    let file = format!("{{\"model\":{{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{list}}}}}");
    refused(Tokenizer::from_json(Path::new(PATH), file.as_bytes()));
}

#[test]
fn tokenizers_of_another_kind_are_refused() {
    let refuse = |pointer: &str, value: Value| {
        refused_json(|file| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            file.pointer_mut(parent).unwrap()[key] = value;
        })
    };
    says(&refuse("/model/type", json!("WordPiece")), &["`model.type` is \"WordPiece\"", "expected \"BPE\""]);
    says(&refuse("/model/type", json!("Unigram")), &["`model.type` is \"Unigram\""]);
    says(&refuse("/model/type", json!(null)), &["`model.type` is null"]);
    says(&refuse("/model/byte_fallback", json!(false)), &["`model.byte_fallback` is false"]);
    says(&refuse("/model/ignore_merges", json!(true)), &["`model.ignore_merges` is true"]);
    says(&refuse("/model/continuing_subword_prefix", json!("##")), &["\"##\""]);
    says(&refuse("/model/end_of_word_suffix", json!("</w>")), &["\"</w>\""]);
    says(&refuse("/normalizer", json!(null)), &["`normalizer` is null"]);
    says(&refuse("/normalizer", json!({"type": "NFKC"})), &["`normalizer`", "NFKC"]);
    says(&refuse("/normalizer", json!("x".repeat(1 << 20))), &["`normalizer`", "xxx..."]);
    says(&refuse("/pre_tokenizer", json!({"type": "ByteLevel"})), &["`pre_tokenizer`", "ByteLevel"]);
}

#[test]
fn a_sequence_of_the_one_replacement_is_the_replacement() {
    let mut file = small_json();
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [file["normalizer"].clone()]});
    assert!(from_json(&file).is_ok());
}

#[test]
fn odd_vocabularies_are_refused() {
    let vocab = |change: fn(&mut serde_json::Map<String, Value>)| {
        refused_json(|file| change(file["model"]["vocab"].as_object_mut().unwrap()))
    };
    for id in [json!(u64::MAX), json!(u32::MAX), json!(1 << 20)] {
        let message = refused_json(|file| file["model"]["vocab"]["hello"] = id.clone());
        says(&message, &["`model.vocab` is `hello`", &id.to_string(), "ids below"]);
    }
    for id in [json!(-1), json!(1.5), json!("1"), json!(null), json!([])] {
        let message = refused_json(|file| file["model"]["vocab"]["hello"] = id);
        says(&message, &["`model.vocab` is unreadable", "line 1 column"]);
    }
    says(&vocab(|vocab| vocab["hello"] = json!(5)), &["`model.vocab`", "as 5, a second time"]);
    says(&vocab(|vocab| drop(vocab.shift_remove("<0x7F>"))), &["`model.vocab` is without `<0x7F>`"]);
    says(
        &vocab(|vocab| drop(vocab.shift_remove("hell"))),
        &["`model.merges`", "`he` with `ll` at 6", "`hell`"],
    );
    says(
        &vocab(|vocab| drop(vocab.insert("x".repeat(1 << 20), json!(900)))),
        &["1048576 bytes", "at most 1024"],
    );
    let text = small_json().to_string();
    let twice = text.replacen("\"hello\":", "\"hello\":901,\"hello\":", 1);
    assert_ne!(text, twice);
    says(&refused(Tokenizer::from_json(Path::new(PATH), twice.as_bytes())), &["`hello` twice", "901"]);
    says(&refused_json(|file| file["model"]["vocab"] = json!([])), &["`model.vocab`"]);
    says(&refused_json(|file| file["model"]["vocab"] = json!({})), &["`model.vocab`", "`<0x00>`"]);
    says(
        &refused_json(|file| drop(file["model"].as_object_mut().unwrap().remove("vocab"))),
        &["`model.vocab` is missing"],
    );
}

#[test]
fn ids_may_have_gaps() {
    let mut file = small_json();
    file["model"]["vocab"]["word"] = json!(5000);
    let tokenizer = from_json(&file).unwrap();
    assert_eq!(tokenizer.vocab_size(), 5001);
    assert_eq!(tokenizer.piece(4999), None);
    assert_eq!(tokenizer.id("word"), Some(5000));
    assert_eq!(tokenizer.decode(&[4999, 5000], Markup::Show), "word");
}

#[test]
fn odd_merges_are_refused() {
    let merges = |merges: Value| refused_json(|file| file["model"]["merges"] = merges);
    says(&merges(json!([["he", "xyz"]])), &["`model.merges`", "`he` with `xyz` at 0", "`xyz` is no token"]);
    says(&merges(json!([["hello", "hello"]])), &["`hellohello` is no token"]);
    says(&merges(json!([["<0x41>", "h"]])), &["`<0x41>` is no token of text"]);
    says(&merges(json!([["", "h"]])), &["`` is no token"]);
    says(&merges(json!([["<|turn>", "h"]])), &["`<|turn>` is no token of text"]);
    for merges_of in
        [json!(["h"]), json!([["h"]]), json!(["h e l"]), json!([["h", "e", "l"]]), json!([1]), json!({})]
    {
        says(&merges(merges_of), &["`model.merges` is unreadable"]);
    }
    let long = "h".repeat(1 << 20);
    says(&merges(json!([[long, "e"]])), &["hhh..."]);
}

#[test]
fn odd_added_tokens_are_refused() {
    let add = |token: Value| refused_json(|file| file["added_tokens"].as_array_mut().unwrap().push(token));
    says(
        &add(json!({"id": 3, "content": "hello"})),
        &["`added_tokens` is `hello` as 3", "278 as in `model.vocab`"],
    );
    says(&add(json!({"id": 3, "content": "new"})), &["as 3, a second time"]);
    says(
        &add(json!({"id": 900, "content": "<|turn>"})),
        &["`added_tokens`", "`<|turn>` as 900, a second time"],
    );
    says(&add(json!({"id": 300, "content": "new"})), &["`added_tokens`", "`new` as 300, a second time"]);
    says(&add(json!({"id": u64::MAX, "content": "new"})), &["ids below"]);
    says(&add(json!({"id": 900, "content": "new", "lstrip": true})), &["`new` with `lstrip` true"]);
    says(&add(json!({"content": "new"})), &["`added_tokens` is unreadable", "missing field `id`"]);
    says(&refused_json(|file| file["added_tokens"] = json!([])), &["`added_tokens` is missing", "<bos>"]);
    let many = |file: &mut Value| {
        let added = file["added_tokens"].as_array_mut().unwrap();
        added.extend((0..3000).map(|n| json!({"id": 1000 + n, "content": format!("{n:01000}")})));
    };
    says(&refused_json(many), &["bytes together"]);
}

#[test]
fn contradictory_gguf_fields_are_refused() {
    says(&refused_vocab(|vocab| vocab.tokens.clear()), &["tokenizer.ggml."]);
    says(&refused_vocab(|vocab| vocab.types.truncate(5)), &["`tokenizer.ggml.token_type` is an array of"]);
    says(&refused_vocab(|vocab| vocab.types[9] = 99), &["`tokenizer.ggml.token_type` is 99 at 9"]);
    says(&refused_vocab(|vocab| vocab.types[9] = -1), &["-1 at 9"]);
    says(
        &refused_vocab(|vocab| vocab.bos = Some(301)),
        &["`tokenizer.ggml.bos_token_id` is 301", "301 tokens"],
    );
    says(&refused_vocab(|vocab| vocab.eos = Some(u32::MAX)), &["`tokenizer.ggml.eos_token_id`"]);
    says(&refused_vocab(|vocab| vocab.pad = Some(u32::MAX)), &["`tokenizer.ggml.padding_token_id`"]);
    says(&refused_vocab(|vocab| vocab.tokens[3] = ""), &["`tokenizer.ggml.tokens` is without `<0x03>`"]);
    says(&refused_vocab(|vocab| vocab.tokens[300] = "<0x03>"), &["`<0x03>` twice, as 3 and 300"]);
    for merge in ["he", "", " ", "h ", " e", "h e l", "h  e"] {
        says(&refused_vocab(|vocab| vocab.merges.push(merge)), &["`tokenizer.ggml.merges`", "at 13"]);
    }
    says(&refused_vocab(|vocab| vocab.merges.push("h h")), &["`h` with `h` at 13", "`hh` is no token"]);
}

#[test]
fn a_gguf_file_without_types_or_special_ids_is_fine() {
    let tokens = small_tokens();
    let vocab = Vocab { types: vec![], ..small_vocab(&tokens) };
    let tokenizer = Tokenizer::from_vocab(Path::new(PATH), vocab).unwrap();
    assert_eq!(tokenizer.specials(), small().specials());
}

/// A GGUF file of the small vocabulary, changed.
fn from_gguf(change: impl FnOnce(&mut Writer)) -> Result<Tokenizer, ModelError> {
    let tokens = small_tokens();
    let vocab = small_vocab(&tokens);
    let mut writer = Writer::new();
    writer
        .set("tokenizer.ggml.model", "gemma4")
        .set("tokenizer.ggml.tokens", Field::strings(&vocab.tokens))
        .set("tokenizer.ggml.token_type", &vocab.types[..])
        .set("tokenizer.ggml.merges", Field::strings(&vocab.merges))
        .set("tokenizer.ggml.add_bos_token", false);
    change(&mut writer);
    let bytes = Bytes::from_owner(writer.to_vec([[0_u8; 0]; 0]).unwrap());
    Tokenizer::from_gguf(&Gguf::from_bytes(Path::new(PATH), &bytes).unwrap())
}

#[test]
fn gguf_files_are_read_whoever_made_them() {
    let hello = small().encode_prompt(" hello\n", Special::Parse).unwrap();
    let plain: fn(&mut Writer) = |_| {};
    let ollama: fn(&mut Writer) = |writer| {
        writer.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.pre", "gemma4");
    };
    let odd_types: fn(&mut Writer) = |writer| {
        writer.set("tokenizer.ggml.eos_token_id", 5_i64).set("tokenizer.ggml.scores", "none");
    };
    for change in [plain, ollama, odd_types] {
        let tokenizer = from_gguf(change).unwrap();
        assert_eq!(tokenizer.encode_prompt(" hello\n", Special::Parse).unwrap(), hello);
    }
}

#[test]
fn gguf_files_without_merges_of_this_kind_are_refused() {
    let refuse = |key: &str, value: Field| {
        refused(from_gguf(|writer| {
            writer.set(key, value);
        }))
    };
    for model in ["gpt2", "bert", ""] {
        says(
            &refuse("tokenizer.ggml.model", model.into()),
            &["`tokenizer.ggml.model` is", "expected `gemma4`"],
        );
    }
    says(&refuse("tokenizer.ggml.model", 4_u32.into()), &["`tokenizer.ggml.model` is 4"]);
    says(&refuse("tokenizer.ggml.tokens", "x".into()), &["`tokenizer.ggml.tokens` is"]);
    says(&refuse("tokenizer.ggml.merges", (&[1_i32][..]).into()), &["`tokenizer.ggml.merges` is"]);
    says(&refuse("tokenizer.ggml.token_type", (&[1.5_f32][..]).into()), &["`tokenizer.ggml.token_type` is"]);
    says(
        &refuse("tokenizer.ggml.padding_token_id", (-1_i32).into()),
        &["`tokenizer.ggml.padding_token_id` is -1"],
    );

    let bare = |model: &str| {
        let mut writer = Writer::new();
        writer.set("tokenizer.ggml.model", model).set("tokenizer.ggml.tokens", Field::strings(&["a"]));
        let bytes = Bytes::from_owner(writer.to_vec([[0_u8; 0]; 0]).unwrap());
        refused(Tokenizer::from_gguf(&Gguf::from_bytes(Path::new(PATH), &bytes).unwrap()))
    };
    says(&bare("llama"), &["`tokenizer.ggml.model` is \"llama\""]);
    says(&bare("gemma4"), &["`tokenizer.ggml.merges` is missing"]);
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
        cut: prop::sample::Index,
        truncate: bool,
    ) {
        let mut bytes = small_json().to_string().into_bytes();
        for (index, byte, digit) in edits {
            let at = index.index(bytes.len());
            bytes[at] = if digit { b'0' + byte % 10 } else { byte };
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(tokenizer) = Tokenizer::from_json(Path::new(PATH), &bytes) {
            let ids = tokenizer.encode_prompt("hello </ <|turn> 日\n\n", Special::Parse).unwrap();
            tokenizer.decode(&ids, Markup::Show);
        }
    }

    #[test]
    fn shuffled_fields_never_panic(
        tokens in prop::collection::vec("[a-c▁<>0x|é]{0,6}", 0..20),
        types in prop::collection::vec(0..8_i32, 0..300),
        merges in prop::collection::vec("[a-c▁]{0,2} [a-c▁]{0,2}", 0..20),
        bos: Option<u32>,
    ) {
        let all: Vec<String> = small_tokens().into_iter().chain(tokens).collect();
        let mut vocab = small_vocab(&all);
        if !types.is_empty() {
            vocab.types = types.iter().copied().cycle().take(all.len()).collect();
        }
        vocab.merges.extend(merges.iter().map(String::as_str));
        vocab.bos = bos;
        if let Ok(tokenizer) = Tokenizer::from_vocab(Path::new(PATH), vocab) {
            tokenizer.encode_prompt("abc▁ <0x|é", Special::Literal).unwrap();
        }
    }
}
