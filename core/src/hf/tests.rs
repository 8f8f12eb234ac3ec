use std::collections::HashMap;
use std::fs;

use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::model::config::tests::fixture;

/// The bytes of a safetensors file with these tensors of zeros.
fn file(tensors: &[(&str, Dtype, &[usize])]) -> Vec<u8> {
    let zeros = vec![0; 4096];
    let views: HashMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, dtype, shape)| {
            let bytes = dtype.bitsize() / 8 * shape.iter().product::<usize>();
            (*name, TensorView::new(*dtype, shape.to_vec(), &zeros[..bytes]).unwrap())
        })
        .collect();
    serialize(views, None).unwrap()
}

/// A folder with these files and a good `config.json`.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("config.json"), fixture("dense")).unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// The error of opening the folder, with the folder's own path as `DIR`.
fn error(folder: &TempDir) -> String {
    let text = Folder::open(folder.path()).map(|_| ()).unwrap_err().to_string();
    text.replace(&folder.path().display().to_string(), "DIR")
}

fn index(map: &serde_json::Value) -> Vec<u8> {
    json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string().into_bytes()
}

const A: &str = "model.embed_tokens.weight";

#[test]
fn loads_each_float_type_and_rank() {
    let weights = file(&[
        ("a", Dtype::F32, &[3]),
        ("b", Dtype::F16, &[2, 5]),
        ("c", Dtype::BF16, &[4, 2, 3]),
        ("d", Dtype::F32, &[]),
    ]);
    let folder = folder(&[("model.safetensors", &weights)]);
    let folder = Folder::open(folder.path()).unwrap();
    for (name, dtype, shape) in [
        ("a", DType::F32, [1, 1, 3]),
        ("b", DType::F16, [1, 2, 5]),
        ("c", DType::BF16, [4, 2, 3]),
        ("d", DType::F32, [1, 1, 1]),
    ] {
        let tensor = folder.load(name).unwrap().unwrap();
        assert_eq!((tensor.name.as_str(), tensor.dtype), (name, dtype));
        assert_eq!([tensor.experts, tensor.rows, tensor.cols], shape);
    }
    assert!(folder.load("e").unwrap().is_none());
    let listed: Vec<(&str, usize)> = folder.tensors().map(|t| (t.name, t.bytes)).collect();
    assert_eq!(listed, [("a", 12), ("b", 20), ("c", 48), ("d", 4)]);
}

#[test]
fn tensors_are_parts_of_the_file_and_not_copies() {
    let values: Vec<u8> = (0..64).collect();
    let view = |range| TensorView::new(Dtype::F32, vec![8], &values[range]).unwrap();
    let weights = serialize([("a", view(0..32)), ("b", view(32..64))], None).unwrap();
    let folder = folder(&[("model.safetensors", &weights)]);
    let folder = Folder::open(folder.path()).unwrap();
    let [a, a_again, b] = ["a", "a", "b"].map(|name| folder.load(name).unwrap().unwrap());
    assert_eq!((&*a.data, &*b.data), (&values[..32], &values[32..]));
    assert_eq!(a.data.as_ptr(), a_again.data.as_ptr());
    assert_eq!(a.data.as_ptr_range().end, b.data.as_ptr());
}

#[test]
fn other_types_and_ranks_are_refused_by_name() {
    let weights = file(&[("a", Dtype::F8_E4M3, &[2, 4]), ("b", Dtype::F32, &[1, 1, 1, 2])]);
    let dir = folder(&[("model.safetensors", &weights)]);
    let folder = Folder::open(dir.path()).unwrap();
    let file = dir.path().join("model.safetensors").display().to_string();
    assert_eq!(
        folder.load("a").unwrap_err().to_string(),
        format!("{file}: tensor `a` is [2, 4] F8_E4M3, expected F32, F16 or BF16")
    );
    assert_eq!(
        folder.load("b").unwrap_err().to_string(),
        format!("{file}: tensor `b` is [1, 1, 1, 2] F32, expected at most three dimensions")
    );
}

#[test]
fn shards_are_one_model() {
    let [first, second] = [file(&[(A, Dtype::F32, &[2, 2])]), file(&[("b", Dtype::F16, &[4])])];
    let map = index(&json!({ A: "one.safetensors", "b": "part/two.safetensors" }));
    let folder = folder(&[
        ("model.safetensors.index.json", &map),
        ("one.safetensors", &first),
        ("part/two.safetensors", &second),
    ]);
    let folder = Folder::open(folder.path()).unwrap();
    assert_eq!(folder.tensors().count(), 2);
    assert_eq!(folder.prefix(), Some("model."));
    assert_eq!(folder.load("b").unwrap().unwrap().dtype, DType::F16);
}

#[test]
fn the_prefix_is_what_stands_before_the_embedding() {
    for (names, expected) in [
        (&["model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"][..], Some("model.")),
        (&["model.language_model.embed_tokens.weight"], Some("model.language_model.")),
        (&["language_model.model.embed_tokens.weight"], Some("language_model.model.")),
        (&["embed_tokens.weight"], Some("")),
        (&["a.b.embed_tokens.weight", "other.weight"], Some("a.b.")),
        (
            &["model.audio_tower.embed_tokens.weight", "model.language_model.embed_tokens.weight"],
            Some("model.language_model."),
        ),
        (&["model.embed_tokens_per_layer.weight", "model.my_embed_tokens.weight"], None),
        (&[], None),
    ] {
        assert_eq!(prefix(names.iter().copied()).as_deref(), expected, "{names:?}");
    }
}

#[test]
fn each_bad_folder_gives_one_sentence() {
    let weights = file(&[(A, Dtype::F32, &[2, 2])]);
    let with_index = |map: serde_json::Value| {
        let index = index(&map);
        error(&folder(&[
            ("model.safetensors.index.json", &index),
            ("one.safetensors", &weights),
            ("two.safetensors", &weights),
        ]))
    };
    let with_file = |bytes: &[u8]| error(&folder(&[("model.safetensors", bytes)]));
    let with_header = |length: u64, header: &str| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        with_file(&bytes)
    };
    let many = format!("{{\"a\":[{}0]}}", "0,".repeat(1 << 19));
    for (found, expected) in [
        (
            error(&folder(&[])),
            "DIR is not a model: the folder has neither model.safetensors nor model.safetensors.index.json",
        ),
        (
            with_index(json!({ A: "../one.safetensors" })),
            "DIR/model.safetensors.index.json is damaged: shard \"../one.safetensors\" is not a name inside of the folder",
        ),
        (
            with_index(json!({ A: "/etc/passwd" })),
            "DIR/model.safetensors.index.json is damaged: shard \"/etc/passwd\" is not a name inside of the folder",
        ),
        (
            with_index(json!({ A: "" })),
            "DIR/model.safetensors.index.json is damaged: shard \"\" is not a name inside of the folder",
        ),
        (
            with_index(json!({ A: "three.safetensors" })),
            "DIR/model.safetensors.index.json is damaged: its shard \"three.safetensors\" is not in the folder",
        ),
        (
            with_index(json!({ A: "one.safetensors", "b": "one.safetensors" })),
            "DIR/model.safetensors.index.json is damaged: tensor \"b\" is not in its shard \"one.safetensors\"",
        ),
        (
            with_index(json!({ A: "one.safetensors", "b": "two.safetensors" })),
            "DIR/two.safetensors is damaged: tensor \"model.embed_tokens.weight\" is in DIR/one.safetensors too",
        ),
        (
            with_index(json!({ A: 3 })),
            "DIR/model.safetensors.index.json is damaged: it is not the JSON of an index: invalid type: integer `3`, expected a string at line 1 column 72",
        ),
        (with_file(b"short"), "DIR/model.safetensors is damaged: it has 5 bytes, too few for a header"),
        (
            with_header(100, "{}"),
            "DIR/model.safetensors is damaged: its header has 100 bytes, but only 2 follow",
        ),
        (
            with_header(u64::MAX, "{}"),
            "DIR/model.safetensors is damaged: its header would have 18446744073709551615 bytes, expected at most 16777216",
        ),
        (
            with_header(2, "[]"),
            "DIR/model.safetensors is damaged: invalid JSON in header: invalid type: sequence, expected struct HashMetadata at line 1 column 0",
        ),
        (
            with_header(many.len() as u64, &many),
            "DIR/model.safetensors is damaged: its JSON has about 524291 values, expected at most 524288",
        ),
        (
            with_file(&weights[..weights.len() - 1]),
            "DIR/model.safetensors is damaged: it has 111 bytes, but its header describes another number",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn a_message_does_not_repeat_the_file() {
    let header = format!("{{\"a\":{{\"dtype\":\"{}\"}}}}", "x".repeat(1 << 20));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    let text = error(&folder(&[("model.safetensors", &bytes)]));
    assert!(text.starts_with("DIR/model.safetensors is damaged: invalid JSON in header: unknown variant"));
    assert!(text.len() < 400 && text.ends_with("..."), "{text}");
}

#[test]
fn what_is_no_folder_is_refused() {
    let dir = folder(&[("model.safetensors", &file(&[]))]);
    let absent = dir.path().join("absent");
    let text = Folder::open(&absent).unwrap_err().to_string();
    assert_eq!(text, format!("cannot read {}", absent.display()));
    let config = dir.path().join("config.json");
    let text = Folder::open(&config).unwrap_err().to_string();
    assert_eq!(text, format!("{} is not a model: it is not a folder", config.display()));
    fs::remove_file(&config).unwrap();
    assert_eq!(error(&dir), "DIR is not a model: the folder has no config.json");
}

#[test]
fn texts_have_a_limit() {
    let weights = file(&[]);
    let long = vec![b' '; (16 << 20) + 1];
    let dir = folder(&[("model.safetensors", &weights), ("config.json", &long)]);
    assert_eq!(error(&dir), "DIR/config.json is damaged: it has 16777217 bytes, expected at most 16777216");
    let dir = folder(&[("model.safetensors", &weights), ("config.json", b"{\"a\":\"\xff\"}")]);
    assert_eq!(error(&dir), "DIR/config.json is damaged: it is not UTF-8 text at byte 6");
}

#[test]
fn finds_the_texts_beside_the_weights() {
    let weights = file(&[(A, Dtype::F32, &[2, 2])]);
    let generation = json!({ "eos_token_id": [1, 50], "suppress_tokens": [9] }).to_string();
    let named = json!({ "chat_template": [
        { "name": "tool_use", "template": "t" }, { "name": "default", "template": "named" }
    ] });
    let mut files: Vec<(&str, Vec<u8>)> = vec![("model.safetensors", weights)];
    let mut open = |name: &'static str, text: String| {
        files.push((name, text.into_bytes()));
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
        let dir = folder(&files);
        let folder = Folder::open(dir.path()).unwrap();
        // Read while the folder is still there.
        let tokenizer = folder.tokenizer_json();
        (folder, tokenizer.map_err(|error| error.to_string()))
    };
    let (bare, tokenizer) = open("unrelated.txt", String::new());
    assert_eq!(bare.chat_template(), None);
    assert!(bare.config().unwrap().suppress.is_empty());
    assert!(tokenizer.unwrap_err().ends_with("is not a model: the folder has no tokenizer.json"));

    let (one, _) = open("tokenizer_config.json", json!({ "chat_template": "one" }).to_string());
    assert_eq!(one.chat_template(), Some("one"));
    let (several, _) = open("tokenizer_config.json", named.to_string());
    assert_eq!(several.chat_template(), Some("named"));
    let (newer, _) = open("chat_template.jinja", "jinja".to_owned());
    assert_eq!(newer.chat_template(), Some("jinja"));

    let (full, _) = open("generation_config.json", generation.clone());
    assert_eq!(full.generation_config_json(), Some(generation.as_str()));
    assert_eq!(full.generation_defaults().unwrap().eos, [1, 50]);
    assert_eq!(full.config().unwrap().suppress, [9]);
    let (_, tokenizer) = open("tokenizer.json", "{}".to_owned());
    assert_eq!(tokenizer.unwrap(), "{}");

    let (unknown, _) = open("generation_config.json", json!({ "suppress_tokens": [1024] }).to_string());
    let error = unknown.config().unwrap_err().to_string();
    assert!(
        error.ends_with(
            "generation_config.json: key `suppress_tokens` is a list with 1024, expected token ids below 1024"
        ),
        "{error}"
    );
}

proptest! {
    #[test]
    fn changed_weights_files_are_an_error_or_tensors_inside_the_file(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        end in any::<usize>(),
    ) {
        let mut bytes = file(&[(A, Dtype::F32, &[2, 2]), ("b", Dtype::BF16, &[3]), ("c", Dtype::I8, &[5])]);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(1 + end % (2 * bytes.len()));
        let dir = folder(&[("model.safetensors", &bytes)]);
        if let Ok(folder) = Folder::open(dir.path()) {
            for info in folder.tensors() {
                prop_assert!(info.bytes < bytes.len());
                if let Ok(tensor) = folder.load(info.name) {
                    prop_assert_eq!(tensor.unwrap().data.len(), info.bytes);
                }
            }
        }
    }
}
