//! Writes GGUF files: first what is in them, then the bytes of the tensors, in order and without holding them.

use std::io::{self, Write};
use std::vec;

use indexmap::IndexMap;

use super::read::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, MAX_ENTRIES, MAX_KEY_BYTES};
use super::read::{MAX_NAME_BYTES, VERSION};
use super::value::{Value, encode_string, quote};
use super::{TensorInfo, types};
use crate::tensor::DType;

/// Metadata and tensors of a file to be. Whatever it writes, [`Gguf`](super::Gguf) reads.
///
/// Tensor data are aligned to `general.alignment` bytes if that key is set, else to 32.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    metadata: IndexMap<String, Value>,
    tensors: IndexMap<String, Declared>,
}

#[derive(Clone, Debug)]
struct Declared {
    ggml_type: u32,
    dims: Vec<usize>,
    bytes: usize,
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

impl Writer {
    /// A file without metadata and tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key`; keys are written in the order in which they were first set.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Announces the next tensor, of `dims` with the fastest first: `[cols, rows, experts]`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if the name is taken, a dimension is 0, there are none or more than four,
    /// or blocks do not fill a row.
    pub fn tensor(&mut self, name: &str, dtype: DType, dims: &[usize]) -> io::Result<()> {
        let bytes = dims.split_first().and_then(|(cols, others)| {
            let row = dtype.row_bytes(*cols)?;
            others.iter().try_fold(row, |bytes, dim| bytes.checked_mul(*dim))
        });
        match bytes {
            Some(bytes) => self.declare(name, dtype.ggml(), dims, bytes),
            None => {
                Err(invalid(format!("tensor {} of {dtype} cannot have dimensions {dims:?}", quote(name))))
            }
        }
    }

    /// Announces the next tensor with the name, type and dimensions of `info`, even of a type that this program
    /// cannot compute with.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if the name is taken.
    pub fn copy(&mut self, info: &TensorInfo) -> io::Result<()> {
        self.declare(&info.name, info.ggml_type, &info.dims, info.bytes.len())
    }

    fn declare(&mut self, name: &str, ggml_type: u32, dims: &[usize], bytes: usize) -> io::Result<()> {
        let known = u32::try_from(dims.len()).is_ok_and(|count| (1..=MAX_DIMS).contains(&count));
        if !known || bytes == 0 || dims.contains(&0) || name.len() > MAX_NAME_BYTES {
            return Err(invalid(format!(
                "tensor {} of {} cannot have dimensions {dims:?} or so long a name",
                quote(name),
                types::name(ggml_type)
            )));
        }
        let declared = Declared { ggml_type, dims: dims.to_owned(), bytes };
        match self.tensors.insert(name.to_owned(), declared) {
            Some(_) => Err(invalid(format!("tensor {} is announced twice", quote(name)))),
            None => Ok(()),
        }
    }

    fn alignment(&self) -> io::Result<usize> {
        let Some(value) = self.metadata.get(ALIGNMENT_KEY) else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        let alignment = value.whole().and_then(|number| usize::try_from(number).ok());
        alignment
            .filter(|number| number.is_power_of_two())
            .ok_or_else(|| invalid(format!("key `{ALIGNMENT_KEY}` is {value}, expected a power of two")))
    }

    /// Writes everything but the tensors' bytes to `out`, which the result then takes.
    ///
    /// # Errors
    ///
    /// Those of `out`; [`io::ErrorKind::InvalidInput`] if the alignment is not a power of two, or there are more
    /// keys, tensors or bytes of a key than [`Gguf`](super::Gguf) reads.
    pub fn start<W: Write>(&self, mut out: W) -> io::Result<TensorWriter<W>> {
        let alignment = self.alignment()?;
        let (keys, tensors) = (self.metadata.len(), self.tensors.len());
        if keys > MAX_ENTRIES || tensors > MAX_ENTRIES {
            return Err(invalid(format!("{keys} keys and {tensors} tensors are too many")));
        }
        let mut header = Vec::new();
        header.extend_from_slice(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors as u64).to_le_bytes());
        header.extend((keys as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            if key.len() > MAX_KEY_BYTES {
                return Err(invalid(format!("key {} is too long", quote(key))));
            }
            encode_string(key, &mut header);
            header.extend(value.kind().id().to_le_bytes());
            value.encode(&mut header);
        }
        let mut offset = 0;
        let mut spans = Vec::new();
        for (name, tensor) in &self.tensors {
            let padded = tensor.bytes.checked_next_multiple_of(alignment);
            let Some(end) = padded.and_then(|bytes| bytes.checked_add(offset)) else {
                return Err(invalid(format!("tensor {} is too large", quote(name))));
            };
            encode_string(name, &mut header);
            header.extend(u32::try_from(tensor.dims.len()).unwrap_or(MAX_DIMS).to_le_bytes());
            for dim in &tensor.dims {
                header.extend((*dim as u64).to_le_bytes());
            }
            header.extend(tensor.ggml_type.to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            spans.push(Span { bytes: tensor.bytes, padding: end - offset - tensor.bytes });
            offset = end;
        }
        header.resize(header.len().next_multiple_of(alignment), 0);
        out.write_all(&header)?;
        let mut spans = spans.into_iter();
        Ok(TensorWriter { out, current: spans.next(), rest: spans })
    }

    /// The whole file, with the bytes of each tensor in order.
    ///
    /// # Errors
    ///
    /// Those of [`Writer::start`], [`TensorWriter::write`] and [`TensorWriter::finish`].
    pub fn to_vec<T: AsRef<[u8]>>(&self, tensors: impl IntoIterator<Item = T>) -> io::Result<Vec<u8>> {
        let mut writer = self.start(Vec::new())?;
        for bytes in tensors {
            writer.write(bytes.as_ref())?;
        }
        writer.finish()
    }
}

/// Bytes of a tensor that are still to come, and zeros after them.
#[derive(Clone, Copy, Debug)]
struct Span {
    bytes: usize,
    padding: usize,
}

/// Takes the bytes of the announced tensors in order.
#[derive(Debug)]
pub struct TensorWriter<W> {
    out: W,
    current: Option<Span>,
    rest: vec::IntoIter<Span>,
}

impl<W: Write> TensorWriter<W> {
    /// The next bytes of the tensor that is not yet complete: all of them or a part, never of two tensors.
    ///
    /// # Errors
    ///
    /// Those of the output; [`io::ErrorKind::InvalidInput`] for more bytes than the tensor has.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.current.map_or(0, |span| span.bytes);
        let (Some(span), Some(left)) = (self.current.as_mut(), left.checked_sub(bytes.len())) else {
            return Err(invalid(format!("{} bytes for a tensor that needs {left} more", bytes.len())));
        };
        self.out.write_all(bytes)?;
        span.bytes = left;
        if left == 0 {
            let padding = span.padding as u64;
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out)?;
            self.current = self.rest.next();
        }
        Ok(())
    }

    /// Flushes and returns the output.
    ///
    /// # Errors
    ///
    /// Those of the output; [`io::ErrorKind::InvalidInput`] if tensors are incomplete.
    pub fn finish(mut self) -> io::Result<W> {
        if self.current.is_some() {
            return Err(invalid(format!("{} tensors lack bytes", self.rest.len() + 1)));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}
