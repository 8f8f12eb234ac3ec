//! One GGUF file: magic, version, metadata, tensor infos, data.
//!
//! Layout: `gguf.md` in the ggml repository. Everything is little-endian, and everything is hostile until checked.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexMap;
use indexmap::map::Entry;

use super::value::{Array, Kind, Value, quote};
use super::{TensorInfo, sniff, types};
use crate::error::ModelError;
use crate::tensor::Bytes;

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
pub(super) const VERSION: u32 = 3;
pub(super) const DEFAULT_ALIGNMENT: usize = 32;
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// Most tensors, and most keys, of a model: ten times those of the largest model of any family, few enough that
/// their descriptions stay small whatever the file claims.
pub(super) const MAX_ENTRIES: usize = 1 << 15;
/// Longest key in bytes, from the specification.
pub(super) const MAX_KEY_BYTES: usize = 65_535;
/// Longest tensor name in bytes. llama.cpp has room for 63.
pub(super) const MAX_NAME_BYTES: usize = 255;
/// How deep arrays nest. Nobody nests them at all, but a key that nobody reads must not stop a model.
const MAX_DEPTH: usize = 4;
/// Dimensions of a tensor.
pub(super) const MAX_DIMS: u32 = 4;

/// What one file holds. A split model has several.
pub(super) struct Part {
    pub(super) metadata: IndexMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
}

/// A tensor before its bytes are found.
struct Header {
    name: String,
    ggml_type: u32,
    dims: Vec<usize>,
    /// First byte, counted from the start of the data.
    start: usize,
    /// Size in bytes, for types of known size.
    bytes: Option<usize>,
}

pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<Part, ModelError> {
    let mut reader = Reader { path, file: bytes, all: bytes, at: 0 };
    reader.magic()?;
    let tensors = reader.count("tensors")?;
    let keys = reader.count("keys")?;
    let metadata = reader.metadata(keys)?;
    let alignment = reader.alignment(&metadata)?;
    let headers = reader.headers(tensors, alignment)?;
    let tensors = reader.tensors(headers, alignment)?;
    Ok(Part { metadata, tensors })
}

struct Reader<'a> {
    path: &'a Path,
    file: &'a Bytes,
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn damaged(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Damaged { path: self.path.to_owned(), reason: reason.into() }
    }

    fn cut(&self, what: impl Display) -> ModelError {
        self.damaged(format!("it is cut short: its {} bytes end within {what}", self.all.len()))
    }

    /// The next `count` bytes, part of `what`.
    fn take(&mut self, count: u64, what: impl Display) -> Result<&'a [u8], ModelError> {
        let end = usize::try_from(count).ok().and_then(|n| self.at.checked_add(n));
        match end.and_then(|end| self.all.get(self.at..end)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(self.cut(what)),
        }
    }

    fn u32(&mut self, what: impl Display) -> Result<u32, ModelError> {
        match self.all[self.at..].first_chunk() {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(u32::from_le_bytes(*bytes))
            }
            None => Err(self.cut(what)),
        }
    }

    fn u64(&mut self, what: impl Display) -> Result<u64, ModelError> {
        match self.all[self.at..].first_chunk() {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(u64::from_le_bytes(*bytes))
            }
            None => Err(self.cut(what)),
        }
    }

    fn string(&mut self, what: impl Display) -> Result<&'a str, ModelError> {
        let length = self.u64(&what)?;
        let bytes = self.take(length, &what)?;
        std::str::from_utf8(bytes).map_err(|_| self.damaged(format!("{what} is not UTF-8")))
    }

    fn magic(&mut self) -> Result<(), ModelError> {
        let not = |reason: String| ModelError::NotAModel { path: self.path.to_owned(), reason };
        if self.all.is_empty() {
            return Err(not("the file is empty".to_owned()));
        }
        if !self.all.starts_with(MAGIC) {
            if MAGIC.starts_with(self.all) {
                return Err(self.cut("the first word"));
            }
            return Err(not(sniff::describe(self.all)));
        }
        self.at = MAGIC.len();
        let version = self.u32("the version")?;
        if version == VERSION {
            return Ok(());
        }
        Err(ModelError::NotAModel {
            path: self.path.to_owned(),
            // Versions are small, so one that is small after swapping was written the other way round.
            reason: if (1..=0xffff).contains(&version.swap_bytes()) {
                format!(
                    "it is a big-endian GGUF file of version {}, and only little-endian ones can be read",
                    version.swap_bytes()
                )
            } else {
                format!("it is a GGUF file of version {version}, and only version {VERSION} can be read")
            },
        })
    }

    fn count(&mut self, what: &str) -> Result<usize, ModelError> {
        let count = self.u64(format_args!("the count of {what}"))?;
        match usize::try_from(count) {
            Ok(count) if count <= MAX_ENTRIES => Ok(count),
            _ => Err(self.damaged(format!(
                "it claims to have {count} {what}, and no model has more than {MAX_ENTRIES}"
            ))),
        }
    }

    fn metadata(&mut self, keys: usize) -> Result<IndexMap<String, Value>, ModelError> {
        let mut metadata = IndexMap::new();
        for i in 0..keys {
            let what = format_args!("the name of key {} of {keys}", i + 1);
            let key = self.string(what)?;
            if key.len() > MAX_KEY_BYTES {
                return Err(self.damaged(format!("{what} has {} bytes", key.len())));
            }
            let value = self.value(&format_args!("key {}", quote(key)))?;
            match metadata.entry(key.to_owned()) {
                Entry::Occupied(_) => {
                    return Err(self.damaged(format!("key {} occurs twice", quote(key))));
                }
                Entry::Vacant(entry) => entry.insert(value),
            };
        }
        Ok(metadata)
    }

    fn kind(&mut self, what: &dyn Display) -> Result<Kind, ModelError> {
        let id = self.u32(what)?;
        Kind::from_id(id)
            .ok_or_else(|| self.damaged(format!("{what} has value type {id}, which GGUF does not have")))
    }

    fn value(&mut self, what: &dyn Display) -> Result<Value, ModelError> {
        let kind = self.kind(what)?;
        match kind {
            Kind::String => Ok(Value::String(self.string(what)?.to_owned())),
            Kind::Array => self.array(what),
            scalar => {
                let size = scalar.size().unwrap_or(0) as u64;
                let bytes = self.take(size, what)?;
                Value::scalar(scalar, bytes).ok_or_else(|| self.not_boolean(what))
            }
        }
    }

    fn not_boolean(&self, what: &dyn Display) -> ModelError {
        self.damaged(format!("{what} holds a truth value that is neither 0 nor 1"))
    }

    fn array(&mut self, what: &dyn Display) -> Result<Value, ModelError> {
        let kind = self.kind(what)?;
        let count = self.u64(what)?;
        let start = self.at;
        self.skip(kind, count, what)?;
        // Every element has a byte or more, so a count that passed fits.
        let (Ok(count), Some(bytes)) = (usize::try_from(count), self.file.slice(start..self.at)) else {
            return Err(self.cut(what));
        };
        Ok(Value::Array(Array::new(kind, count, bytes)))
    }

    /// Checks and steps over `count` elements, without recursion.
    fn skip(&mut self, kind: Kind, count: u64, what: &dyn Display) -> Result<(), ModelError> {
        // For every array that is open, from the outside in: what is left of it.
        let mut open = vec![(kind, count)];
        while let Some((kind, left)) = open.last_mut() {
            if *left == 0 {
                open.pop();
            } else if let Some(size) = kind.size() {
                let (kind, left) = (*kind, *left);
                let bytes = self.take(left.saturating_mul(size as u64), what)?;
                if kind == Kind::Bool && bytes.iter().any(|byte| *byte > 1) {
                    return Err(self.not_boolean(what));
                }
                open.pop();
            } else if *kind == Kind::String {
                for _ in 0..*left {
                    self.string(what)?;
                }
                open.pop();
            } else {
                *left -= 1;
                if open.len() == MAX_DEPTH {
                    return Err(
                        self.damaged(format!("{what} has arrays that nest more than {MAX_DEPTH} deep"))
                    );
                }
                let inner = self.kind(what)?;
                open.push((inner, self.u64(what)?));
            }
        }
        Ok(())
    }

    fn alignment(&self, metadata: &IndexMap<String, Value>) -> Result<usize, ModelError> {
        let Some(value) = metadata.get(ALIGNMENT_KEY) else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        let alignment = value.whole().and_then(|number| usize::try_from(number).ok());
        alignment.filter(|number| number.is_power_of_two()).ok_or_else(|| ModelError::BadKey {
            path: self.path.to_owned(),
            key: ALIGNMENT_KEY.to_owned(),
            found: value.to_string(),
            expected: "a power of two".to_owned(),
        })
    }

    fn headers(&mut self, tensors: usize, alignment: usize) -> Result<Vec<Header>, ModelError> {
        let mut headers = Vec::new();
        for i in 0..tensors {
            let what = format_args!("the name of tensor {} of {tensors}", i + 1);
            let name = self.string(what)?;
            if name.len() > MAX_NAME_BYTES {
                return Err(self.damaged(format!("{what} has {} bytes", name.len())));
            }
            headers.push(self.header(name, alignment)?);
        }
        Ok(headers)
    }

    fn header(&mut self, name: &str, alignment: usize) -> Result<Header, ModelError> {
        let what = format!("tensor {}", quote(name));
        let count = self.u32(&what)?;
        if count == 0 || count > MAX_DIMS {
            return Err(
                self.damaged(format!("{what} has {count} dimensions, and GGUF allows 1 to {MAX_DIMS}"))
            );
        }
        let mut dims = Vec::new();
        for _ in 0..count {
            let dim = self.u64(&what)?;
            match usize::try_from(dim) {
                Ok(dim) if dim > 0 => dims.push(dim),
                _ => return Err(self.damaged(format!("{what} has a dimension of {dim}"))),
            }
        }
        let ggml_type = self.u32(&what)?;
        let offset = self.u64(&what)?;
        let bytes = match types::block(ggml_type) {
            Some((values, _)) if !dims[0].is_multiple_of(values) => {
                return Err(self.damaged(format!(
                    "{what} has rows of {} values, which is not a multiple of the {values} of a {} block",
                    dims[0],
                    types::name(ggml_type)
                )));
            }
            Some((values, bytes)) => {
                let row = (dims[0] / values).checked_mul(bytes);
                let all = dims[1..].iter().try_fold(row, |all, dim| all.map(|b| b.checked_mul(*dim)));
                let all = all.flatten();
                if all.is_none() {
                    return Err(self.damaged(format!("{what} claims dimensions {dims:?}")));
                }
                all
            }
            None => None,
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if !start.is_multiple_of(alignment) {
            return Err(self.damaged(format!(
                "{what} starts at offset {offset}, which is not a multiple of the alignment {alignment}"
            )));
        }
        Ok(Header { name: name.to_owned(), ggml_type, dims, start, bytes })
    }

    /// Finds the bytes of every tensor, in the order of the file's tensor infos.
    fn tensors(&self, headers: Vec<Header>, alignment: usize) -> Result<Vec<TensorInfo>, ModelError> {
        if headers.is_empty() {
            // A vocabulary: there need not even be padding.
            return Ok(Vec::new());
        }
        let data = self.at.checked_next_multiple_of(alignment);
        let data = data.and_then(|start| self.file.slice(start..self.all.len()));
        let data = data.ok_or_else(|| self.cut("the padding before the tensor data"))?;

        let mut order: Vec<usize> = (0..headers.len()).collect();
        order.sort_by_key(|i| headers[*i].start);
        let mut ends = vec![0; headers.len()];
        for (at, i) in order.iter().enumerate() {
            let header = &headers[*i];
            let next = order.get(at + 1).map(|i| &headers[*i]);
            // A tensor of unknown size reaches to the next one.
            let end = match (header.bytes, next) {
                (Some(bytes), _) => header.start.saturating_add(bytes),
                (None, Some(next)) => next.start,
                (None, None) => data.len().max(header.start),
            };
            if end > data.len() {
                return Err(self.damaged(format!(
                    "it is cut short: tensor {} ends at byte {end} of the tensor data, which has {} bytes",
                    quote(&header.name),
                    data.len()
                )));
            }
            if let Some(next) = next
                && (end > next.start || header.start == next.start)
            {
                return Err(self.damaged(format!(
                    "tensors {} and {} overlap",
                    quote(&header.name),
                    quote(&next.name)
                )));
            }
            ends[*i] = end;
        }

        let file: Arc<Path> = Arc::from(self.path);
        let tensors = headers.into_iter().zip(ends).map(|(header, end)| TensorInfo {
            bytes: data.slice(header.start..end).expect("ends were checked against the data"),
            name: header.name,
            ggml_type: header.ggml_type,
            dims: header.dims,
            file: Arc::clone(&file),
        });
        Ok(tensors.collect())
    }
}
