//! GGUF version 3: metadata and tensors of a model in one file, or in the parts that llama.cpp splits it into.
//!
//! A file is mapped, its header is checked once as a whole, and tensors are handed out as parts of the map.
//! Nothing in a file can make this module panic, or allocate more than a few times its header.

pub mod map;
pub mod metadata;
mod read;
mod sniff;
mod split;
pub mod types;
pub mod value;
pub mod write;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use indexmap::map::Entry;

pub use self::metadata::Metadata;
use self::read::Part;
use self::value::quote;
use crate::error::ModelError;
use crate::tensor::{Bytes, DType, Tensor};

/// An open GGUF model.
#[derive(Clone, Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: Metadata,
    tensors: IndexMap<String, TensorInfo>,
}

/// A tensor as the file describes it, whether or not this program can compute with it.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// GGUF's number of its type; [`types::name`] gives the name.
    pub ggml_type: u32,
    /// 1 to 4 dimensions, none 0, the fastest first: `[cols, rows, experts]`.
    pub dims: Vec<usize>,
    /// Its bytes; for a type of unknown size everything up to the next tensor.
    pub bytes: Bytes,
    /// The file that holds it.
    pub file: Arc<Path>,
}

impl Gguf {
    /// Opens the file `path`. If it is a part of a split model, opens all parts: they lie beside it and are
    /// called `NAME-00001-of-00003.gguf` and so on.
    ///
    /// # Errors
    ///
    /// [`ModelError`], naming the file and, for a damaged one, what is wrong where.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let part = read::read(path, &map::open(path)?)?;
        match split::Place::of(path, &part)? {
            place if place.parts == 1 => Self::new(path, vec![part]),
            place => split::open(path, part, &place),
        }
    }

    /// Opens a model that is in memory; errors name it `label`.
    ///
    /// # Errors
    ///
    /// [`ModelError`]; also if it is a part of a split model, for there is no place to look for the others.
    pub fn from_bytes(label: &Path, bytes: &Bytes) -> Result<Self, ModelError> {
        let part = read::read(label, bytes)?;
        let parts = split::Place::of(label, &part)?.parts;
        if parts > 1 {
            return Err(ModelError::NotAModel {
                path: label.to_owned(),
                reason: format!("it is one of {parts} parts of a model, and the others are not at hand"),
            });
        }
        Self::new(label, vec![part])
    }

    /// A model of all `parts`, the first of which, at `path`, has the metadata.
    fn new(path: &Path, parts: Vec<Part>) -> Result<Self, ModelError> {
        let mut metadata = None;
        let mut tensors: IndexMap<String, TensorInfo> = IndexMap::new();
        for part in parts {
            metadata.get_or_insert(part.metadata);
            for tensor in part.tensors {
                match tensors.entry(tensor.name.clone()) {
                    Entry::Occupied(_) => {
                        return Err(ModelError::Damaged {
                            path: tensor.file.to_path_buf(),
                            reason: format!("tensor {} occurs twice", quote(&tensor.name)),
                        });
                    }
                    Entry::Vacant(entry) => entry.insert(tensor),
                };
            }
        }
        Ok(Self {
            path: path.to_owned(),
            metadata: Metadata::new(path, metadata.unwrap_or_default()),
            tensors,
        })
    }

    /// The file, the first part of a split model, or the label.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keys and values.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Names of all tensors in the order of the file.
    #[must_use]
    pub fn tensor_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All tensors in the order of the file.
    #[must_use]
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.values()
    }

    /// The tensor `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The tensor `name`, ready to compute with: `[experts, rows, cols]`, a vector as one row. `None` if there
    /// is no such tensor.
    ///
    /// # Errors
    ///
    /// [`ModelError::BadTensor`] if this program lacks its type, or it has four dimensions.
    pub fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        self.tensor(name).map(TensorInfo::load).transpose()
    }
}

impl TensorInfo {
    /// GGUF's name of its type.
    #[must_use]
    pub fn type_name(&self) -> String {
        types::name(self.ggml_type)
    }

    /// The tensor, ready to compute with: `[experts, rows, cols]`, a vector as one row.
    ///
    /// # Errors
    ///
    /// [`ModelError::BadTensor`] if this program lacks its type, or it has four dimensions.
    pub fn load(&self) -> Result<Tensor, ModelError> {
        let bad = |found: String, expected: String| ModelError::BadTensor {
            path: self.file.to_path_buf(),
            tensor: self.name.clone(),
            found,
            expected,
        };
        let Some(dtype) = DType::from_ggml(self.ggml_type) else {
            let known = DType::ALL.map(DType::name).join(", ");
            return Err(bad(self.type_name(), format!("one of {known}")));
        };
        let shape = match *self.dims {
            [cols] => [1, 1, cols],
            [cols, rows] => [1, rows, cols],
            [cols, rows, experts] => [experts, rows, cols],
            _ => {
                let found = format!("of {} dimensions", self.dims.len());
                return Err(bad(found, "1 to 3 dimensions".to_owned()));
            }
        };
        Tensor::new(&self.name, dtype, shape, self.bytes.clone())
            .ok_or_else(|| bad(format!("of {} bytes", self.bytes.len()), format!("the bytes of {shape:?}")))
    }
}
