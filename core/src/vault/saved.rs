//! One conversation in one file: its manifest under the model's name, then its pages in order.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::record::{self, Damage, Kind};
use super::{Key, Manifest, PageRef, VaultError};

/// Longest manifest: 2^22 tokens and the names of as many pages as they fill.
pub(super) const MAX_MANIFEST: u64 = 32 << 20;

/// Writes a conversation to `path`; an existing file is replaced only when the new one is complete.
///
/// # Errors
///
/// [`VaultError::Io`], or that of `read`.
pub fn write_saved<E: From<VaultError>>(
    path: &Path,
    fingerprint: &Key,
    manifest: &Manifest,
    read: &mut dyn FnMut(&PageRef) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    let io = |source| VaultError::Io { path: path.to_owned(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = PathBuf::from(temporary);
    let mut file = BufWriter::new(File::create(&temporary).map_err(io)?);
    let written = (|| -> Result<(), E> {
        record::write(&mut file, Kind::Manifest, fingerprint, &manifest.encode()).map_err(io)?;
        for page in &manifest.pages {
            record::write(&mut file, Kind::Page, &page.key, &read(page)?).map_err(io)?;
        }
        file.flush().map_err(io)?;
        file.get_ref().sync_all().map_err(io)?;
        Ok(fs::rename(&temporary, path).map_err(io)?)
    })();
    if written.is_err() {
        // Best effort: the error that led here is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Reads what [`write_saved`] wrote. Every page has at most `page_bytes` bytes; `path` is for messages. `page` is given
/// each page in order, after `start` has agreed to the manifest.
///
/// # Errors
///
/// [`VaultError`]. Pages that were given before are then to be forgotten.
pub fn read_saved(
    path: &Path,
    input: &mut dyn Read,
    fingerprint: &Key,
    page_bytes: u64,
    page: &mut dyn FnMut(&Manifest, usize, Vec<u8>),
) -> Result<Manifest, VaultError> {
    let damaged = |reason: &str| VaultError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let record = |input: &mut dyn Read, most| {
        record::read(input, most).map_err(|error| match error {
            Damage::Io(source) => VaultError::Io { path: path.to_owned(), source },
            Damage::Bad(reason) => damaged(reason),
        })
    };
    let head = record(input, MAX_MANIFEST)?;
    if head.kind != Kind::Manifest {
        return Err(damaged("it does not begin with a conversation"));
    }
    if head.key != *fingerprint {
        return Err(VaultError::Other { path: path.to_owned() });
    }
    let manifest = Manifest::decode(&head.bytes).map_err(damaged)?;
    for (at, named) in manifest.pages.iter().enumerate() {
        let found = record(input, page_bytes)?;
        if found.kind != Kind::Page || found.key != named.key || found.bytes.len() != named.bytes {
            return Err(damaged("a page is another than the conversation's"));
        }
        page(&manifest, at, found.bytes);
    }
    match io::copy(&mut input.take(1), &mut io::sink()) {
        Ok(0) => Ok(manifest),
        Ok(_) => Err(damaged("something follows its last page")),
        Err(source) => Err(VaultError::Io { path: path.to_owned(), source }),
    }
}
