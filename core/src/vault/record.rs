//! How pages and manifests are written to files: each with a hash over everything, so that half a record is none.
//!
//! Little-endian: `GEMMA4KR`, u32 version, u32 kind, u64 length, 32 bytes of name, the contents, 32 bytes of BLAKE3 hash
//! of all before.

use std::io::{self, Read, Write};

use super::Key;

const MAGIC: &[u8; 8] = b"GEMMA4KR";
const VERSION: u32 = 1;
const HEADER: usize = 56;

/// Bytes of a record beside its contents.
pub const OVERHEAD: u64 = HEADER as u64 + 32;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A page of the cache.
    Page,
    /// A [`Manifest`](super::Manifest).
    Manifest,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it holds.
    pub kind: Kind,
    /// Its name.
    pub key: Key,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is none, or damaged.
    #[error("{0}")]
    Bad(&'static str),
}

/// Writes a record.
///
/// # Errors
///
/// What the system says.
pub fn write(out: &mut dyn Write, kind: Kind, key: &Key, bytes: &[u8]) -> io::Result<()> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&code(kind).to_le_bytes());
    header.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    header.extend_from_slice(&key.0);
    out.write_all(&header)?;
    out.write_all(bytes)?;
    out.write_all(hash(&header, bytes).as_bytes())
}

/// Reads a record whose contents have at most `most` bytes.
///
/// # Errors
///
/// [`Damage`]. No more is allocated than the input has.
pub fn read(input: &mut dyn Read, most: u64) -> Result<Record, Damage> {
    let mut header = [0; HEADER];
    input.read_exact(&mut header).map_err(early)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if &header[..8] != MAGIC {
        return Err(Damage::Bad("it does not start with GEMMA4KR"));
    }
    if word(8) != VERSION {
        return Err(Damage::Bad("it is of another version"));
    }
    let kind = match word(12) {
        0 => Kind::Page,
        1 => Kind::Manifest,
        _ => return Err(Damage::Bad("it holds something unknown")),
    };
    let len = u64::from(word(16)) | u64::from(word(20)) << 32;
    if len > most {
        return Err(Damage::Bad("it is longer than it can be"));
    }
    let mut key = [0; 32];
    key.copy_from_slice(&header[24..]);
    let mut bytes = Vec::new();
    input.take(len).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != len {
        return Err(Damage::Bad("it ends too early"));
    }
    let mut sum = [0; 32];
    input.read_exact(&mut sum).map_err(early)?;
    if hash(&header, &bytes) != blake3::Hash::from_bytes(sum) {
        return Err(Damage::Bad("its hash does not match its contents"));
    }
    Ok(Record { kind, key: Key(key), bytes })
}

fn code(kind: Kind) -> u32 {
    match kind {
        Kind::Page => 0,
        Kind::Manifest => 1,
    }
}

fn hash(header: &[u8], bytes: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(bytes);
    hasher.finalize()
}

fn early(error: io::Error) -> Damage {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Damage::Bad("it ends too early"),
        _ => Damage::Io(error),
    }
}
