//! JSON files of bounded size.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// Bytes of a JSON file other than `tokenizer.json`.
pub(crate) const MAX_JSON: u64 = 16 << 20;

/// Values of a JSON file that becomes a tree; the smallest value takes 72 bytes of memory and two of the file.
pub(crate) const MAX_VALUES: usize = 1 << 18;

/// Characters of a message about a damaged file, beside the file's name.
const MAX_REASON: usize = 300;

/// The text of the regular file `path`, of at most `limit` bytes; `None` if there is no such file.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<Option<String>, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    // Before opening, because opening a pipe waits for its writer.
    let kind = match fs::metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    if !kind.is_file() {
        return Err(damaged(path, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it has {} bytes, expected at most {limit}", kind.len());
        return Err(damaged(path, &reason));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err(damaged(path, &format!("it is not UTF-8 text at byte {at}")))
        }
    }
}

/// The JSON object that `text` is. Depth is bounded by the parser, at 128.
pub(crate) fn object(path: &Path, text: &str) -> Result<Map<String, Value>, ModelError> {
    check_values(path, text.as_bytes(), MAX_VALUES)?;
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(damaged(path, "it is not a JSON object")),
        Err(error) => Err(damaged(path, &format!("it is not JSON: {error}"))),
    }
}

/// Refuses text that would become more than about `limit` values: a tree is up to fifty times its text.
pub(crate) fn check_values(path: &Path, text: &[u8], limit: usize) -> Result<(), ModelError> {
    let values = text.iter().filter(|b| b",:[{".contains(b)).count();
    if values <= limit {
        return Ok(());
    }
    let reason = format!("its JSON has about {values} values, expected at most {limit}");
    Err(damaged(path, &reason))
}

/// The error that `path` is damaged, for a `reason` that may quote the file at length.
pub(crate) fn damaged(path: &Path, reason: &str) -> ModelError {
    let reason = match reason.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason.to_owned(),
    };
    ModelError::Damaged { path: path.to_owned(), reason }
}
