//! Checkpoint folders of Hugging Face: `config.json`, safetensors, and the texts beside them.

pub(crate) mod json;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::shards::Entry;
use crate::error::ModelError;
use crate::model::config::Config;
use crate::model::generation::GenerationDefaults;
use crate::model::weights::{Naming, WeightSource, integers};
use crate::tensor::{DType, Tensor};

/// Bytes of a `tokenizer.json`; the real one of Gemma 4 has 32 million.
const MAX_TOKENIZER: u64 = 128 << 20;

/// What embedding tensors of the text model are called, after the prefix.
const EMBEDDING: &str = "embed_tokens.weight";

/// Prefixes in the order in which they are preferred, where a file has more than one embedding.
const PREFIXES: [&str; 4] = ["model.language_model.", "language_model.model.", "model.", ""];

/// An open checkpoint: its texts in memory, its weights mapped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: String,
    generation: Option<String>,
    chat_template: Option<String>,
    tensors: BTreeMap<String, Entry>,
    prefix: Option<String>,
}

/// A tensor of a checkpoint, whether or not this program can compute with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type as safetensors calls it, such as `BF16`.
    pub dtype: safetensors::Dtype,
    /// Its dimensions, slowest first.
    pub shape: &'a [usize],
    /// Bytes in the file.
    pub bytes: usize,
}

impl Folder {
    /// Opens the folder `path`: reads its texts, maps its weights and checks their headers.
    ///
    /// Whether it is a Gemma 4 model shows in [`Folder::config`]: drafters are folders too.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] and [`ModelError::NotAModel`] if files are missing, [`ModelError::Damaged`] for what a
    /// checkpoint cannot hold: shards outside the folder, a tensor in two shards, a header that is no safetensors.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let refuse =
            |reason: &str| ModelError::NotAModel { path: path.to_owned(), reason: reason.to_owned() };
        if !path.is_dir() {
            // Tells a missing folder from a file.
            std::fs::metadata(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
            return Err(refuse("it is not a folder"));
        }
        let read = |name: &str| json::read_text(&path.join(name), json::MAX_JSON);
        let config = read("config.json")?.ok_or_else(|| refuse("the folder has no config.json"))?;
        let tensors = shards::open(path)?;
        let prefix = prefix(tensors.keys().map(String::as_str));
        Ok(Self {
            path: path.to_owned(),
            config,
            generation: read("generation_config.json")?,
            chat_template: chat_template(path)?,
            tensors,
            prefix,
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of `config.json`.
    #[must_use]
    pub fn config_json(&self) -> &str {
        &self.config
    }

    /// The text of `generation_config.json`.
    #[must_use]
    pub fn generation_config_json(&self) -> Option<&str> {
        self.generation.as_deref()
    }

    /// The hyper-parameters, with the suppressed tokens of `generation_config.json`.
    ///
    /// # Errors
    ///
    /// Those of [`Config::from_json`] and [`Folder::generation_defaults`].
    pub fn config(&self) -> Result<Config, ModelError> {
        let config = Config::from_json(&self.path.join("config.json"), &self.config)?;
        let suppress = self.generation_defaults()?.suppress_tokens;
        config.with_suppressed(&self.path.join("generation_config.json"), suppress)
    }

    /// What the checkpoint says about generation.
    ///
    /// # Errors
    ///
    /// Those of [`GenerationDefaults::from_json`].
    pub fn generation_defaults(&self) -> Result<GenerationDefaults, ModelError> {
        let config = self.path.join("config.json");
        let generation = self.path.join("generation_config.json");
        let generation = self.generation.as_deref().map(|text| (generation.as_path(), text));
        GenerationDefaults::from_json((&config, &self.config), generation)
    }

    /// The chat template, from `chat_template.jinja` or `tokenizer_config.json`.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Where the tokenizer is, whether or not it is there.
    #[must_use]
    pub fn tokenizer_path(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// The text of `tokenizer.json`, of at most 128 MiB.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] if it cannot be read, [`ModelError::NotAModel`] if it is missing,
    /// [`ModelError::Damaged`] if it is too long or not text.
    pub fn tokenizer_json(&self) -> Result<String, ModelError> {
        json::read_text(&self.tokenizer_path(), MAX_TOKENIZER)?.ok_or_else(|| ModelError::NotAModel {
            path: self.path.clone(),
            reason: "the folder has no tokenizer.json".to_owned(),
        })
    }

    /// What stands before the names of the text model's weights, such as `model.language_model.`; `None` if there
    /// is no token embedding.
    #[must_use]
    pub fn prefix(&self) -> Option<&str> {
        self.prefix.as_deref()
    }

    /// All tensors by name, those of other modalities too.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|(name, entry)| TensorInfo {
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: entry.data.len(),
        })
    }

    /// The tensor `name`, sharing the bytes of the file: `[experts, rows, cols]`, a vector as one row. `None` if
    /// there is none.
    ///
    /// # Errors
    ///
    /// [`ModelError::BadTensor`] if it is not F32, F16 or BF16, or has more than three dimensions.
    pub fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(entry) = self.tensors.get(name) else {
            return Ok(None);
        };
        let bad = |found: String, expected: &str| ModelError::BadTensor {
            path: entry.file.to_path_buf(),
            tensor: name.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        let dtype = match entry.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => return Err(bad(format!("{:?} {other}", entry.shape), "F32, F16 or BF16")),
        };
        let shape = match *entry.shape.as_slice() {
            [] => [1, 1, 1],
            [cols] => [1, 1, cols],
            [rows, cols] => [1, rows, cols],
            [experts, rows, cols] => [experts, rows, cols],
            _ => {
                return Err(bad(format!("{:?} {dtype}", entry.shape), "at most three dimensions"));
            }
        };
        match Tensor::new(name, dtype, shape, entry.data.clone()) {
            Some(tensor) => Ok(Some(tensor)),
            None => Err(bad(format!("of {} bytes", entry.data.len()), "the bytes of its shape")),
        }
    }
}

impl WeightSource for Folder {
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        self.load(name)
    }

    fn ids(&self, name: &str) -> Result<Option<Vec<i64>>, ModelError> {
        let Some(entry) = self.tensors.get(name) else { return Ok(None) };
        let kind = format!("{:?}", entry.dtype);
        integers(&entry.data, &kind).map(Some).ok_or_else(|| ModelError::BadTensor {
            path: entry.file.to_path_buf(),
            tensor: name.to_owned(),
            found: kind.clone(),
            expected: "I32 or I64".to_owned(),
        })
    }

    fn path(&self) -> &Path {
        self.path()
    }

    fn naming(&self) -> Naming {
        // Without an embedding the error that follows has to name some tensor.
        let prefix = self.prefix().unwrap_or("model.").to_owned();
        Naming::Hf { prefix }
    }
}

/// What stands before the text model's weights among `names`.
pub(crate) fn prefix<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let found: Vec<&str> = names
        .filter_map(|name| name.strip_suffix(EMBEDDING))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .collect();
    let known = PREFIXES.into_iter().find(|prefix| found.contains(prefix));
    let best = known.or_else(|| found.iter().copied().min_by_key(|prefix| prefix.len()));
    best.map(str::to_owned)
}

/// `tokenizer_config.json`.
#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    chat_template: Option<Templates>,
}

/// One template, or several of which one is called "default".
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// The chat template of the folder `path`, in its newer place or its older one.
fn chat_template(path: &Path) -> Result<Option<String>, ModelError> {
    if let Some(text) = json::read_text(&path.join("chat_template.jinja"), json::MAX_JSON)? {
        return Ok(Some(text));
    }
    let path = path.join("tokenizer_config.json");
    let Some(text) = json::read_text(&path, json::MAX_JSON)? else {
        return Ok(None);
    };
    json::check_values(&path, text.as_bytes(), json::MAX_VALUES)?;
    let config: TokenizerConfig = serde_json::from_str(&text)
        .map_err(|error| json::damaged(&path, &format!("it is not the JSON of a tokenizer: {error}")))?;
    Ok(match config.chat_template {
        None => None,
        Some(Templates::One(template)) => Some(template),
        Some(Templates::Named(list)) => {
            list.into_iter().find(|named| named.name == "default").map(|named| named.template)
        }
    })
}
