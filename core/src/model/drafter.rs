//! Drafters as a user names them: which file it is, and whether it fits the target.

mod synthetic;

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::config::gguf::GgufKeys;
use super::config::keys::Keys;
use super::dflash::DFlashFile;
use super::mtp::MtpFile;
use super::weights::{Shape, WeightSource};
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::hf::{self, Folder};
use crate::tensor::{DType, Tensor};
use crate::tokenizer::Tokenizer;

pub use synthetic::synthetic;

/// A drafter that cannot draft for this target.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// The file cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It was made for another model: pass the drafter that belongs to the target.
    #[error("{path} drafts for another model: {what} is {drafter} in the drafter and {target} in the target")]
    Differs {
        /// File or folder of the drafter.
        path: PathBuf,
        /// What differs.
        what: String,
        /// In the drafter.
        drafter: String,
        /// In the target.
        target: String,
    },
}

/// A drafter's file, read and checked by itself.
#[derive(Clone, Debug)]
pub enum DraftFile {
    /// An MTP assistant.
    Mtp(Box<MtpFile>),
    /// A DFlash drafter.
    DFlash(Box<DFlashFile>),
}

/// An open file or folder that is a drafter.
#[derive(Debug)]
pub struct OpenDraft {
    /// What it holds.
    pub file: DraftFile,
    /// What is worth telling a user about how it was found and read.
    pub notes: Vec<String>,
    gguf: Option<Box<Gguf>>,
}

impl OpenDraft {
    /// Opens `path`: a GGUF file, or a folder with either a GGUF file or `config.json` and safetensors. A folder with
    /// both is read from the GGUF file, whose weights are smaller.
    ///
    /// # Errors
    ///
    /// [`ModelError`] saying what the path is instead, or naming what is missing or wrong in it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if !path.is_dir() {
            return Self::from_gguf(Gguf::open(path)?);
        }
        let quantised = gguf_in(path)?;
        let Some(inside) = quantised else { return Self::from_folder(&Folder::open(path)?) };
        let mut open = Self::from_gguf(Gguf::open(&inside)?)?;
        let name = inside.file_name().unwrap_or_default().to_string_lossy();
        open.notes.insert(0, format!("{}: of this folder, {name} is used", path.display()));
        Ok(open)
    }

    fn from_gguf(gguf: Gguf) -> Result<Self, ModelError> {
        const KEY: &str = "general.architecture";
        let keys = GgufKeys::new(&gguf);
        let architecture = keys.text(KEY)?.ok_or_else(|| keys.missing(KEY, KNOWN))?;
        refuse_variants(gguf.tensor_names(), gguf.path())?;
        let file = match architecture.as_str() {
            "gemma4-assistant" | "gemma4_assistant" => {
                DraftFile::Mtp(Box::new(MtpFile::from_gguf(&gguf, &architecture)?))
            }
            "gemma4-dflash-draft" | "dflash" | "dflash-draft" => {
                DraftFile::DFlash(Box::new(DFlashFile::from_gguf(&gguf, &architecture)?))
            }
            other => {
                return Err(ModelError::NotAModel {
                    path: gguf.path().to_owned(),
                    reason: format!("`{KEY}` {other:?} is no drafter for Gemma 4; a drafter has {KNOWN}"),
                });
            }
        };
        let notes = file.notes().to_vec();
        Ok(Self { file, notes, gguf: Some(Box::new(gguf)) })
    }

    /// Reads an open checkpoint folder.
    ///
    /// # Errors
    ///
    /// [`ModelError`] as [`OpenDraft::open`].
    pub fn from_folder(folder: &Folder) -> Result<Self, ModelError> {
        let path = folder.path().join("config.json");
        let object = hf::json::object(&path, folder.config_json())?;
        let text = |key: &str| object.get(key).map(Json::to_string).unwrap_or_default().to_lowercase();
        let (kind, architectures) = (text("model_type"), text("architectures"));
        let not = |reason: &str| ModelError::NotAModel {
            path: folder.path().to_owned(),
            reason: reason.to_owned(),
        };
        if object.contains_key("speculators_model_type") || object.contains_key("transformer_layer_config") {
            return Err(not(
                "it is a drafter in the speculators format, whose vocabulary is reduced; this program reads z-lab's \
                 DFlash drafters and Google's assistants",
            ));
        }
        if architectures.contains("dspark")
            || architectures.contains("dflash2")
            || object.contains_key("markov_rank")
        {
            return Err(not(
                "it is a DSpark or DFlash 2 drafter; this program reads drafters of the first DFlash",
            ));
        }
        refuse_variants(folder.tensors().map(|tensor| tensor.name), folder.path())?;
        let file = if kind.contains("assistant") || architectures.contains("assistant") {
            let mut file = MtpFile::from_json(&path, folder.config_json(), folder)?;
            file.advised = advised(folder)?;
            DraftFile::Mtp(Box::new(file))
        } else if object.contains_key("dflash_config") || architectures.contains("dflash") {
            DraftFile::DFlash(Box::new(DFlashFile::from_json(&path, folder.config_json(), folder)?))
        } else {
            let found = object
                .get("model_type")
                .map_or("no `model_type`".to_owned(), |kind| format!("`model_type` {kind}"));
            let reason = format!(
                "a folder with {found} is no drafter for Gemma 4; an assistant has `gemma4_assistant`, a DFlash \
                 drafter `dflash_config`"
            );
            return Err(not(&reason));
        };
        let notes = file.notes().to_vec();
        Ok(Self { file, notes, gguf: None })
    }

    /// Checks that the drafter's tokens, where its file lists them, are those of the target.
    ///
    /// # Errors
    ///
    /// [`DraftError::Differs`] with the first token that is another.
    pub fn check_tokens(&self, target: &Tokenizer) -> Result<(), DraftError> {
        let Some(gguf) = &self.gguf else { return Ok(()) };
        let Some(tokens) = gguf.metadata().get("tokenizer.ggml.tokens") else { return Ok(()) };
        let crate::gguf::value::Value::Array(array) = tokens else { return Ok(()) };
        let Some(strings) = array.strings() else { return Ok(()) };
        for (id, token) in (0u32..).zip(strings) {
            let of_target = target.piece(id);
            if of_target != Some(token) {
                return Err(DraftError::Differs {
                    path: gguf.path().to_owned(),
                    what: format!("token {id}"),
                    drafter: format!("{token:?}"),
                    target: of_target.map_or("absent".to_owned(), |piece| format!("{piece:?}")),
                });
            }
        }
        Ok(())
    }
}

impl DraftFile {
    /// File or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Mtp(file) => &file.path,
            Self::DFlash(file) => &file.path,
        }
    }

    /// Bytes of its weights as the file holds them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Mtp(file) => file.bytes(),
            Self::DFlash(file) => file.bytes(),
        }
    }

    fn notes(&self) -> &[String] {
        match self {
            Self::Mtp(file) => &file.notes,
            Self::DFlash(file) => &file.notes,
        }
    }
}

/// `general.architecture` of drafters.
const KNOWN: &str = "gemma4-assistant, gemma4_assistant, gemma4-dflash-draft, dflash or dflash-draft";

/// The GGUF file of a folder, if it has any: of several the one whose name says `Q8_0`, else the first by name.
fn gguf_in(folder: &Path) -> Result<Option<PathBuf>, ModelError> {
    let io = |source| ModelError::Io { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            files.push(path);
        }
    }
    files.sort();
    let wanted = |path: &&PathBuf| path.to_string_lossy().to_uppercase().contains("Q8_0");
    Ok(files.iter().find(wanted).or(files.first()).cloned())
}

/// Drafts a round that an assistant's `generation_config.json` advises.
fn advised(folder: &Folder) -> Result<Option<usize>, ModelError> {
    let Some(text) = folder.generation_config_json() else { return Ok(None) };
    let object = hf::json::object(&folder.path().join("generation_config.json"), text)?;
    let count = object.get("num_assistant_tokens").and_then(Json::as_u64);
    Ok(count.and_then(|count| usize::try_from(count).ok()).filter(|count| (1..=64).contains(count)))
}

/// Refuses drafters that have more than the first DFlash and an assistant have, and would draft nonsense without.
fn refuse_variants<'a>(names: impl Iterator<Item = &'a str>, path: &Path) -> Result<(), ModelError> {
    const VARIANTS: [(&str, &str); 8] = [
        ("attn_conv", "a DFlash 2 drafter (convolutions)"),
        ("ffn_conv", "a DFlash 2 drafter (convolutions)"),
        ("kernel_projection", "a DFlash 2 drafter (convolutions)"),
        ("base_kernel", "a DFlash 2 drafter (convolutions)"),
        ("selector", "a DFlash 2 drafter (a candidate selector)"),
        ("markov", "a DSpark drafter (a Markov head)"),
        ("conf_proj", "a DSpark drafter (a confidence head)"),
        ("d2t", "a drafter with a vocabulary of its own"),
    ];
    for name in names {
        if let Some((_, what)) = VARIANTS.iter().find(|(part, _)| name.contains(part)) {
            return Err(ModelError::NotAModel {
                path: path.to_owned(),
                reason: format!(
                    "its tensor `{name}` says that it is {what}; this program reads assistants and drafters of the \
                     first DFlash, which share the target's vocabulary"
                ),
            });
        }
    }
    Ok(())
}

/// The first of `names` that is there, with its shape checked.
pub(super) fn find(
    source: &dyn WeightSource,
    names: &[String],
    expected: [usize; 3],
) -> Result<Option<Tensor>, ModelError> {
    for name in names {
        let Some(tensor) = source.load(name)? else { continue };
        if [tensor.experts, tensor.rows, tensor.cols] != expected {
            return Err(shape_error(source, &tensor, expected));
        }
        return Ok(Some(tensor));
    }
    Ok(None)
}

/// The first of `names`, which must be there.
pub(super) fn need(
    source: &dyn WeightSource,
    names: &[String],
    expected: [usize; 3],
) -> Result<Tensor, ModelError> {
    find(source, names, expected)?.ok_or_else(|| ModelError::MissingTensor {
        path: source.path().to_owned(),
        tensor: names.first().cloned().unwrap_or_default(),
        expected: Shape(expected).to_string(),
    })
}

/// A vector of floats, which must be there.
pub(super) fn need_vector(
    source: &dyn WeightSource,
    names: &[String],
    len: usize,
) -> Result<Tensor, ModelError> {
    let tensor = need(source, names, [1, 1, len])?;
    match tensor.dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(tensor),
        _ => Err(ModelError::BadTensor {
            path: source.path().to_owned(),
            tensor: tensor.name.clone(),
            found: tensor.dtype.to_string(),
            expected: "F32, F16 or BF16".to_owned(),
        }),
    }
}

/// The error for a tensor of another shape.
pub(super) fn shape_error(source: &dyn WeightSource, tensor: &Tensor, expected: [usize; 3]) -> ModelError {
    ModelError::BadTensor {
        path: source.path().to_owned(),
        tensor: tensor.name.clone(),
        found: format!("{} {}", Shape([tensor.experts, tensor.rows, tensor.cols]), tensor.dtype),
        expected: Shape(expected).to_string(),
    }
}
