//! What can be wrong with a model file.

use std::path::PathBuf;

/// A model that cannot be loaded. Every message names the file and, where there is one, the key or tensor.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be opened or read: check the path and its permissions.
    #[error("cannot read {path}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A part of a split model is not beside the others: download every part into one folder.
    #[error("cannot read {path}, part {part} of the {parts} parts of this model")]
    MissingPart {
        /// Where the part should be.
        path: PathBuf,
        /// Number of the part, from 1.
        part: usize,
        /// Parts of the model.
        parts: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is none of the formats this program reads: pass a GGUF file or a checkpoint folder.
    #[error("{path} is not a model: {reason}")]
    NotAModel {
        /// File or folder.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// The file is damaged or cut short: download it again.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// File.
        path: PathBuf,
        /// Where and how.
        reason: String,
    },
    /// A metadata key is absent.
    #[error("{path}: key `{key}` is missing, expected {expected}")]
    MissingKey {
        /// File.
        path: PathBuf,
        /// Name of the key.
        key: String,
        /// What it should hold.
        expected: String,
    },
    /// A metadata key holds what a Gemma 4 model cannot have.
    #[error("{path}: key `{key}` is {found}, expected {expected}")]
    BadKey {
        /// File.
        path: PathBuf,
        /// Name of the key.
        key: String,
        /// Its value or type, shortened.
        found: String,
        /// What it should hold.
        expected: String,
    },
    /// A tensor that the model needs is absent.
    #[error("{path}: tensor `{tensor}` is missing, expected {expected}")]
    MissingTensor {
        /// File or folder.
        path: PathBuf,
        /// Name of the tensor, as this format spells it.
        tensor: String,
        /// Its shape, slowest dimension first.
        expected: String,
    },
    /// A tensor has the wrong shape or an element type that this program lacks.
    #[error("{path}: tensor `{tensor}` is {found}, expected {expected}")]
    BadTensor {
        /// File or folder.
        path: PathBuf,
        /// Name of the tensor, as this format spells it.
        tensor: String,
        /// Its shape or type.
        found: String,
        /// What it should be.
        expected: String,
    },
}
