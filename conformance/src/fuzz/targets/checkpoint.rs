//! Checkpoint folders: safetensors headers, and the index of several files.

use std::fs;
use std::hint::black_box;

use gemma4_core::error::ModelError;
use gemma4_core::hf::Folder;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::config::CONFIGS;
use crate::fuzz::{BadKey, Syntax, Target, keys, spoil};

/// Starts the name of the folder, which is in every error.
const LABEL: &str = "fuzzed-folder-";

/// The file of the folder that an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// `model.safetensors`.
    Weights,
    /// `model.safetensors.index.json`, beside two good files.
    Index,
}

/// A folder of which one file is the input.
#[derive(Debug)]
pub(super) struct Checkpoint {
    name: &'static str,
    part: Part,
    folder: TempDir,
}

impl Checkpoint {
    pub(super) fn new(name: &'static str, part: Part) -> Self {
        let folder = TempDir::with_prefix(LABEL).expect("temporary files can be made");
        let write = |name: &str, bytes: &[u8]| {
            fs::write(folder.path().join(name), bytes).expect("temporary files can be written");
        };
        write("config.json", CONFIGS[0].as_bytes());
        if part == Part::Index {
            write("one.safetensors", &file(&header(&["a", "model.embed_tokens.weight"])));
            write("two.safetensors", &file(&header(&["b"])));
        }
        Self { name, part, folder }
    }

    fn input(&self) -> &'static str {
        match self.part {
            Part::Weights => "model.safetensors",
            Part::Index => "model.safetensors.index.json",
        }
    }
}

impl Target for Checkpoint {
    fn name(&self) -> &'static str {
        self.name
    }

    fn syntax(&self) -> Syntax {
        match self.part {
            Part::Weights => Syntax::Framed,
            Part::Index => Syntax::Json,
        }
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        match self.part {
            Part::Weights => vec![
                file(&json!({})),
                file(&header(&["a"])),
                file(&header(&["model.language_model.embed_tokens.weight", "a", "b"])),
            ],
            Part::Index => vec![
                index(&[("a", "one.safetensors"), ("b", "two.safetensors")]),
                index(&[("model.embed_tokens.weight", "one.safetensors")]),
                index(&[]),
            ],
        }
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let mut words = keys(&header(&["a", "b"]).to_string().into_bytes());
        let more =
            ["weight_map", "one.safetensors", "two.safetensors", "../one.safetensors", "/etc/passwd", "."];
        words.extend(more.map(|word| word.as_bytes().to_vec()));
        words.extend(["F64", "F16", "BF16", "I8", "U8", "BOOL", "F4"].map(|word| word.as_bytes().to_vec()));
        words
    }

    fn label(&self) -> &'static str {
        LABEL
    }

    fn one_bad_key(&self) -> Vec<BadKey> {
        match self.part {
            // The message is that of the library, which names no key.
            Part::Weights => Vec::new(),
            Part::Index => {
                spoil(&self.samples()[0], &[json!("nowhere.safetensors"), json!("../one.safetensors")])
                    .into_iter()
                    .filter(|bad| !["weight_map", "metadata", "total_size"].contains(&bad.names[0].as_str()))
                    .map(|bad| BadKey { names: vec![".safetensors".to_owned()], ..bad })
                    .collect()
            }
        }
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let path = self.folder.path();
        fs::write(path.join(self.input()), input).expect("temporary files can be written");
        let folder = Folder::open(path).map_err(|error| error.to_string())?;
        black_box((folder.prefix(), folder.chat_template(), folder.config_json(), folder.tokenizer_path()));
        folder.config().map_err(|error| error.to_string())?;
        let names: Vec<String> = folder.tensors().map(|tensor| tensor.name.to_owned()).collect();
        for name in names {
            match folder.load(&name) {
                Ok(tensor) => {
                    let tensor = tensor.expect("it was just named");
                    black_box(tensor.data.iter().map(|byte| u64::from(*byte)).sum::<u64>());
                    assert_eq!(tensor.data.len(), tensor.experts * tensor.rows * tensor.row_bytes());
                }
                Err(error) => assert!(matches!(error, ModelError::BadTensor { .. }), "{error}"),
            }
        }
        Ok(())
    }
}

/// A header that describes tensors of two values, one after the other, each with another type or shape.
fn header(names: &[&str]) -> Value {
    let mut header = json!({"__metadata__": {"format": "pt"}});
    let kinds = [("F32", json!([2])), ("BF16", json!([2, 2])), ("F16", json!([1, 2, 2]))];
    for (index, name) in names.iter().enumerate() {
        let (dtype, shape) = &kinds[index % 3];
        header[*name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [8 * index, 8 * index + 8]});
    }
    header
}

/// A safetensors file with the bytes that `header` describes.
fn file(header: &Value) -> Vec<u8> {
    let tensors = header.as_object().map_or(0, |map| map.len().saturating_sub(1));
    let text = header.to_string();
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0x3c; 8 * tensors]].concat()
}

fn index(tensors: &[(&str, &str)]) -> Vec<u8> {
    let mut map = json!({});
    for (tensor, shard) in tensors {
        map[*tensor] = json!(shard);
    }
    json!({"metadata": {"total_size": 8}, "weight_map": map}).to_string().into_bytes()
}
