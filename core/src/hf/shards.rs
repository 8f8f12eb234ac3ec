//! Safetensors files: one, or several with an index.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::json::{MAX_JSON, MAX_VALUES, check_values, damaged, read_text};
use crate::error::ModelError;
use crate::gguf::map;
use crate::tensor::Bytes;

/// Bytes of a header; the real ones have at most a few hundred thousand.
const MAX_HEADER: u64 = 16 << 20;

/// Values in a header, of which a tensor has about twelve. While a header is read, a value takes up to 128 bytes.
const MAX_HEADER_VALUES: usize = 1 << 19;

/// A tensor in one of the files.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) file: Arc<Path>,
    pub(super) dtype: Dtype,
    /// Slowest dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) data: Bytes,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// All tensors of the folder.
pub(super) fn open(folder: &Path) -> Result<BTreeMap<String, Entry>, ModelError> {
    let mut tensors = BTreeMap::new();
    let single = folder.join("model.safetensors");
    if single.exists() {
        add(&single, &mut tensors)?;
        return Ok(tensors);
    }
    let path = folder.join("model.safetensors.index.json");
    let Some(text) = read_text(&path, MAX_JSON)? else {
        return Err(ModelError::NotAModel {
            path: folder.to_owned(),
            reason: "the folder has neither model.safetensors nor model.safetensors.index.json".to_owned(),
        });
    };
    check_values(&path, text.as_bytes(), MAX_VALUES)?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| damaged(&path, &format!("it is not the JSON of an index: {error}")))?;

    let mut files: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for shard in index.weight_map.values() {
        if let btree_map::Entry::Vacant(slot) = files.entry(shard) {
            slot.insert(inside(folder, shard).ok_or_else(|| {
                damaged(&path, &format!("shard {shard:?} is not a name inside of the folder"))
            })?);
        }
    }
    for (shard, file) in &files {
        if !file.exists() {
            return Err(damaged(&path, &format!("its shard {shard:?} is not in the folder")));
        }
        add(file, &mut tensors)?;
    }
    for (tensor, shard) in &index.weight_map {
        let file = tensors.get(tensor).map(|entry| &*entry.file);
        if file != files.get(shard.as_str()).map(PathBuf::as_path) {
            return Err(damaged(&path, &format!("tensor {tensor:?} is not in its shard {shard:?}")));
        }
    }
    Ok(tensors)
}

/// `name` in `folder`, unless it leads out of it.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut steps = Path::new(name).components();
    let plain = !name.is_empty() && steps.all(|step| matches!(step, Component::Normal(_)));
    plain.then(|| folder.join(name))
}

/// Adds the tensors of the file `path` to `tensors`.
fn add(path: &Path, tensors: &mut BTreeMap<String, Entry>) -> Result<(), ModelError> {
    let bytes = map::open(path)?;
    let file: Arc<Path> = Arc::from(path);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(damaged(path, &format!("it has {} bytes, too few for a header", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        let reason = format!("its header would have {length} bytes, expected at most {MAX_HEADER}");
        return Err(damaged(path, &reason));
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let Some(header) = header else {
        let reason = format!("its header has {length} bytes, but only {} follow", rest.len());
        return Err(damaged(path, &reason));
    };
    let data = 8 + header.len();
    check_values(path, header, MAX_HEADER_VALUES)?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            damaged(path, &format!("it has {} bytes, but its header describes another number", bytes.len()))
        }
        other => damaged(path, &other.to_string()),
    })?;
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let range = data
            .checked_add(start)
            .zip(data.checked_add(end))
            .and_then(|(start, end)| bytes.slice(start..end));
        let Some(part) = range else {
            return Err(damaged(path, &format!("tensor {name:?} reaches past the end of the file")));
        };
        let entry = Entry { file: file.clone(), dtype: info.dtype, shape: info.shape.clone(), data: part };
        match tensors.entry(name) {
            btree_map::Entry::Vacant(slot) => {
                slot.insert(entry);
            }
            btree_map::Entry::Occupied(other) => {
                let reason = format!("tensor {:?} is in {} too", other.key(), other.get().file.display());
                return Err(damaged(path, &reason));
            }
        }
    }
    Ok(())
}
