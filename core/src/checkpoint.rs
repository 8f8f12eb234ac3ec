//! A model as a user names it: a GGUF file or a checkpoint folder, and everything that can be read from it.

use std::path::Path;

use crate::chat::{ChatError, ChatTemplate};
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::hf::Folder;
use crate::model::config::Config;
use crate::model::gemma4::Gemma4;
use crate::model::generation::GenerationDefaults;
use crate::model::weights::{WeightSource, Weights};
use crate::tensor::Bytes;
use crate::tokenizer::Tokenizer;

/// An open model file or folder.
#[derive(Debug)]
pub enum Checkpoint {
    /// A GGUF file, or all parts of a split one.
    Gguf(Box<Gguf>),
    /// A folder with `config.json` and safetensors.
    Folder(Box<Folder>),
}

impl Checkpoint {
    /// Opens `path`: a folder, or a GGUF file.
    ///
    /// # Errors
    ///
    /// [`ModelError`] saying what the path is instead.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() {
            return Ok(Self::Folder(Box::new(Folder::open(path)?)));
        }
        Ok(Self::Gguf(Box::new(Gguf::open(path)?)))
    }

    /// Opens a GGUF file that is in memory already; `label` names it in errors.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if it is damaged.
    pub fn from_bytes(label: &Path, bytes: &Bytes) -> Result<Self, ModelError> {
        Ok(Self::Gguf(Box::new(Gguf::from_bytes(label, bytes)?)))
    }

    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.source().path()
    }

    fn source(&self) -> &dyn WeightSource {
        match self {
            Self::Gguf(gguf) => &**gguf,
            Self::Folder(folder) => &**folder,
        }
    }

    /// Hyper-parameters.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key that is missing or wrong.
    pub fn config(&self) -> Result<Config, ModelError> {
        match self {
            Self::Gguf(gguf) => Config::from_gguf(gguf),
            Self::Folder(folder) => folder.config(),
        }
    }

    /// The model with all its weights, whose bytes stay where they are.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key or tensor that is missing or wrong.
    pub fn model(&self) -> Result<Gemma4, ModelError> {
        let config = self.config()?;
        let weights = Weights::load(&config, self.source())?;
        Ok(Gemma4::new(config, weights))
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key that is missing or wrong.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        match self {
            Self::Gguf(gguf) => Tokenizer::from_gguf(gguf),
            Self::Folder(folder) => {
                Tokenizer::from_json(&folder.tokenizer_path(), folder.tokenizer_json()?.as_bytes())
            }
        }
    }

    /// The chat template of the model, or the built-in one where it has none.
    ///
    /// # Errors
    ///
    /// [`ChatError`] if the model's own is broken.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate, ChatError> {
        let bos = tokenizer.piece(tokenizer.bos()).unwrap_or("<bos>");
        let own = match self {
            Self::Gguf(gguf) => gguf.metadata().opt_str("tokenizer.chat_template").unwrap_or(None),
            Self::Folder(folder) => folder.chat_template(),
        };
        match own {
            Some(source) => ChatTemplate::new(source, bos, "<eos>"),
            None => Ok(ChatTemplate::builtin(bos, "<eos>")),
        }
    }

    /// How the model's makers want it to be sampled, and where it ends.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key that is wrong.
    pub fn generation(&self) -> Result<GenerationDefaults, ModelError> {
        match self {
            Self::Gguf(gguf) => GenerationDefaults::from_gguf(gguf),
            Self::Folder(folder) => folder.generation_defaults(),
        }
    }
}
