//! A conversation in a file: its tokens and the pages of its cache.
//!
//! Layout, little-endian: `GEMMA4KV`, u32 version, u32 length of the header, the header as JSON, the global pages
//! in order, the local pages in order, and a 64-bit FNV-1a hash of all before it. A page is what
//! [`Engine::read_page`] gives.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Session;
use crate::backend::Backend;
use crate::cache::PAGE;
use crate::engine::{Engine, EngineError};
use crate::model::config::Span;
use crate::program::WeightSpec;

const MAGIC: &[u8; 8] = b"GEMMA4KV";
const VERSION: u32 = 1;

/// Longest header: 2^20 tokens and as many bytes of messages.
const MAX_HEADER: u32 = 32 << 20;

/// A file that cannot be written or restored. The conversation is as it was.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read or written.
    #[error("cannot access {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no saved conversation, or is damaged.
    #[error("{path} is not a saved conversation: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file belongs to another model or another kind of cache: its messages can still be used.
    #[error("{path} was saved with {saved}; this is {here}")]
    Other {
        /// The file.
        path: PathBuf,
        /// What it was saved with.
        saved: String,
        /// What is running.
        here: String,
        /// What was saved beside the cache.
        extra: Box<serde_json::Value>,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A conversation read from a file.
#[derive(Debug)]
pub struct Restored {
    /// The conversation; nothing has to be computed again.
    pub session: Session,
    /// What was saved beside the cache.
    pub extra: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Header {
    model: String,
    cache: String,
    tokens: Vec<u32>,
    extra: serde_json::Value,
}

/// Writes to `inner` and hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hash: 0xCBF2_9CE4_8422_2325 }
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }
}

impl<T: Write> Hashing<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.add(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Hashing<T> {
    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.inner.read_exact(&mut bytes)?;
        self.add(&bytes);
        Ok(bytes)
    }

    fn word(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// The pages of one kind of layer that a sequence of `len` tokens needs, as logical pages.
fn pages<B: Backend>(engine: &Engine<B>, span: Span, len: usize) -> std::ops::Range<usize> {
    let spec = engine.cache().spec();
    if spec.table_len(span) == 0 {
        return 0..0;
    }
    let first = match span {
        Span::Global => 0,
        Span::Local => (len + 1).saturating_sub(spec.window) / PAGE,
    };
    first.min(len.div_ceil(PAGE))..len.div_ceil(PAGE)
}

/// A text that differs between models: shapes, and a hash over parts of every weight.
fn model_name<B: Backend>(engine: &Engine<B>) -> String {
    let mut hash = Hashing::new(());
    let config = &engine.model().config;
    for tensor in &engine.model().tensors {
        hash.add(format!("{:?}", WeightSpec::of(tensor)).as_bytes());
        let ends = 512.min(tensor.data.len());
        hash.add(&tensor.data[..ends]);
        hash.add(&tensor.data[tensor.data.len() - ends..]);
    }
    format!("a model of {} layers, width {}, hash {:016x}", config.layers.len(), config.hidden, hash.hash)
}

fn cache_name<B: Backend>(engine: &Engine<B>) -> String {
    let options = engine.options();
    let [local, global] = [options.kv_local, options.kv_global].map(|kv| format!("{},{}", kv.k, kv.v));
    format!("a cache of type {local} in local and {global} in global layers")
}

impl Session {
    /// Writes the conversation to `path`, with `extra` beside it; an existing file is replaced only when the new one
    /// is complete.
    ///
    /// # Errors
    ///
    /// [`FileError`].
    pub fn save<B: Backend>(
        &self,
        engine: &Engine<B>,
        path: &Path,
        extra: &serde_json::Value,
    ) -> Result<(), FileError> {
        let err = |source| FileError::Io { path: path.to_owned(), source };
        let header = Header {
            model: model_name(engine),
            cache: cache_name(engine),
            tokens: self.tokens.clone(),
            extra: extra.clone(),
        };
        let header = serde_json::to_vec(&header).map_err(|e| err(e.into()))?;
        let too_long = || err(io::Error::other("the conversation is too long to be saved"));
        let length = u32::try_from(header.len()).ok().filter(|&n| n <= MAX_HEADER).ok_or_else(too_long)?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let mut file = Hashing::new(io::BufWriter::new(fs::File::create(&temporary).map_err(err)?));
        let written = (|| -> Result<(), FileError> {
            file.put(MAGIC).map_err(err)?;
            file.put(&VERSION.to_le_bytes()).map_err(err)?;
            file.put(&length.to_le_bytes()).map_err(err)?;
            file.put(&header).map_err(err)?;
            for span in [Span::Global, Span::Local] {
                let table = engine.cache().table(self.seq, span).map_err(EngineError::from)?;
                for logical in pages(engine, span, self.tokens.len()) {
                    let page = engine.read_page(span, table[logical % table.len()])?;
                    file.put(&page).map_err(err)?;
                }
            }
            let hash = file.hash;
            file.put(&hash.to_le_bytes()).map_err(err)?;
            file.inner.flush().map_err(err)?;
            file.inner.get_ref().sync_all().map_err(err)
        })();
        let finished = written.and_then(|()| fs::rename(&temporary, path).map_err(err));
        if finished.is_err() {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        finished
    }

    /// Reads a conversation that [`Session::save`] wrote.
    ///
    /// # Errors
    ///
    /// [`FileError`]; [`FileError::Other`] if the model or the types of the cache differ.
    pub fn load<B: Backend>(engine: &mut Engine<B>, path: &Path) -> Result<Restored, FileError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                FileError::Damaged { path: path.to_owned(), reason: "it ends too early".to_owned() }
            }
            _ => FileError::Io { path: path.to_owned(), source },
        };
        let damaged = |reason: &str| FileError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
        let mut file = Hashing::new(io::BufReader::new(fs::File::open(path).map_err(io)?));
        if file.take(MAGIC.len()).map_err(io)? != MAGIC {
            return Err(damaged("it does not start with GEMMA4KV"));
        }
        let version = file.word().map_err(io)?;
        if version != VERSION {
            return Err(damaged(&format!("its version is {version}, expected {VERSION}")));
        }
        let length = file.word().map_err(io)?;
        if length > MAX_HEADER {
            return Err(damaged("its header is too long"));
        }
        let header = file.take(length as usize).map_err(io)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|e| damaged(&format!("its header: {e}")))?;
        for (saved, here) in [(&header.model, model_name(engine)), (&header.cache, cache_name(engine))] {
            if *saved != here {
                let (saved, extra) = (saved.clone(), Box::new(header.extra));
                return Err(FileError::Other { path: path.to_owned(), saved, here, extra });
            }
        }
        let (len, vocab) = (header.tokens.len(), engine.model().config.vocab);
        if header.tokens.iter().any(|&token| token as usize >= vocab) {
            return Err(damaged("it holds a token that the vocabulary lacks"));
        }
        if len > engine.options().context {
            let (saved, here) =
                (format!("{len} tokens"), format!("a context of {}", engine.options().context));
            return Err(FileError::Other {
                path: path.to_owned(),
                saved,
                here,
                extra: Box::new(header.extra),
            });
        }

        let mut session = Session::new(engine)?;
        let restored = (|| {
            engine.skip(session.seq, len)?;
            for span in [Span::Global, Span::Local] {
                for logical in pages(engine, span, len) {
                    let bytes = file.take(engine.page_bytes(span)).map_err(io)?;
                    let table = engine.cache().table(session.seq, span).map_err(EngineError::from)?;
                    engine.write_page(span, table[logical % table.len()], &bytes)?;
                }
            }
            let hash = file.hash;
            if file.take(8).map_err(io)? != hash.to_le_bytes() {
                return Err(damaged("its hash does not match its contents"));
            }
            Ok(())
        })();
        if let Err(error) = restored {
            session.close(engine)?;
            return Err(error);
        }
        session.oldest = pages(engine, Span::Local, len).start * PAGE;
        session.tokens = header.tokens;
        Ok(Restored { session, extra: header.extra })
    }
}
