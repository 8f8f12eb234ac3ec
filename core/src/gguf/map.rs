//! Files as memory: the operating system reads a page when it is first touched.

#![expect(unsafe_code, reason = "a memory map is the only way to use weights without copying them")]

use std::fs::{self, File};
use std::path::Path;

use memmap2::Mmap;

use crate::error::ModelError;
use crate::tensor::Bytes;

/// Maps the regular file `path` into memory, read only. Nothing is read yet.
///
/// The file must not be changed or cut while the program runs: changed weights give changed results,
/// and reading a page that is no longer there ends the process.
///
/// # Errors
///
/// [`ModelError::Io`] if it cannot be opened, [`ModelError::NotAModel`] if it is a folder, a device, or empty.
pub fn open(path: &Path) -> Result<Bytes, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let refuse = |reason: &str| ModelError::NotAModel { path: path.to_owned(), reason: reason.to_owned() };
    // Before opening, because opening a pipe waits for its writer.
    let kind = fs::metadata(path).map_err(io)?;
    if kind.is_dir() {
        return Err(refuse("it is a folder"));
    }
    if !kind.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    if kind.len() == 0 {
        return Err(refuse("the file is empty"));
    }
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is read only and lives in `Bytes`, which hands out shared slices no longer than itself.
    // That nobody changes the file meanwhile is beyond any program's control; it is asked for above, nothing
    // that was checked once (lengths, UTF-8) is later assumed without a check, and no reader uses `unsafe`.
    let map = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Bytes::from_mapped(map))
}
