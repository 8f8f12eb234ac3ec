//! Models that llama.cpp's `gguf-split` cut into parts: `NAME-00001-of-00003.gguf`, and keys that say which is which.

use std::path::{Path, PathBuf};

use super::read::{self, MAX_ENTRIES, Part};
use super::value::Value;
use super::{Gguf, map};
use crate::error::ModelError;

const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";

/// Where a file stands among the parts of its model.
pub(super) struct Place {
    /// Number of the part, from 0 as in `split.no`.
    number: usize,
    /// Parts of the model; 1 if it is whole.
    pub(super) parts: usize,
}

impl Place {
    /// What the keys of `part` say; its name is not believed.
    pub(super) fn of(path: &Path, part: &Part) -> Result<Self, ModelError> {
        let parts = match part.metadata.get(COUNT) {
            None => 1,
            Some(value) => small(value).ok_or_else(|| bad(path, COUNT, value, "from 0 to 65535"))?,
        };
        // The splitter writes 0 into files that it leaves whole.
        if parts <= 1 {
            return Ok(Self { number: 0, parts: 1 });
        }
        let expected = format!("from 0 to {}", parts - 1);
        let Some(value) = part.metadata.get(NUMBER) else {
            return Err(ModelError::MissingKey {
                path: path.to_owned(),
                key: NUMBER.to_owned(),
                expected: format!("a whole number {expected}"),
            });
        };
        match small(value) {
            Some(number) if number < parts => Ok(Self { number, parts }),
            _ => Err(bad(path, NUMBER, value, &expected)),
        }
    }
}

/// A whole number that fits 16 bits, as `gguf-split` writes counts.
fn small(value: &Value) -> Option<usize> {
    Some(usize::from(u16::try_from(value.whole()?).ok()?))
}

fn bad(path: &Path, key: &str, value: &Value, expected: &str) -> ModelError {
    ModelError::BadKey {
        path: path.to_owned(),
        key: key.to_owned(),
        found: value.to_string(),
        expected: format!("a whole number {expected}"),
    }
}

/// `-00002-of-00003.gguf`; `number` counts from 0, names count from 1.
fn suffix(number: usize, parts: usize) -> String {
    format!("-{:05}-of-{parts:05}.gguf", number + 1)
}

/// Opens the other parts beside `path`, which holds `part` at `place`.
pub(super) fn open(path: &Path, part: Part, place: &Place) -> Result<Gguf, ModelError> {
    let parts = place.parts;
    let own = suffix(place.number, parts);
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(prefix) = name.and_then(|name| name.strip_suffix(&own)) else {
        return Err(ModelError::NotAModel {
            path: path.to_owned(),
            reason: format!(
                "it is part {} of the {parts} parts of a model, which are only found when its name ends in `{own}`",
                place.number + 1
            ),
        });
    };
    let file = |number| -> PathBuf { path.with_file_name(format!("{prefix}{}", suffix(number, parts))) };

    let mut given = Some(part);
    let mut all = Vec::new();
    for number in 0..parts {
        let part = match given.take_if(|_| number == place.number) {
            Some(part) => part,
            None => open_part(&file(number), number, parts)?,
        };
        all.push(part);
    }

    let tensors: usize = all.iter().map(|part| part.tensors.len()).sum();
    let first = file(0);
    if tensors > MAX_ENTRIES {
        return Err(ModelError::Damaged {
            path: first,
            reason: format!("its parts have {tensors} tensors, and no model has more than {MAX_ENTRIES}"),
        });
    }
    if let Some(value) = all[0].metadata.get(TENSORS)
        && value.whole() != i128::try_from(tensors).ok()
    {
        let expected = format!("{tensors}, the tensors of all parts");
        return Err(ModelError::BadKey {
            path: first,
            key: TENSORS.to_owned(),
            found: value.to_string(),
            expected,
        });
    }
    Gguf::new(&first, all)
}

fn open_part(path: &Path, number: usize, parts: usize) -> Result<Part, ModelError> {
    let bytes = map::open(path).map_err(|error| match error {
        ModelError::Io { path, source } => ModelError::MissingPart { path, part: number + 1, parts, source },
        other => other,
    })?;
    let part = read::read(path, &bytes)?;
    let place = Place::of(path, &part)?;
    for (key, found, expected) in [(COUNT, place.parts, parts), (NUMBER, place.number, number)] {
        if found != expected {
            return Err(ModelError::BadKey {
                path: path.to_owned(),
                key: key.to_owned(),
                found: found.to_string(),
                expected: format!("{expected} as its name says"),
            });
        }
    }
    Ok(part)
}
