//! Named values of either format, and errors that say where they are.

use std::collections::HashSet;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::Path;

use crate::error::ModelError;

/// Longest list that is read: more than any list of layers or token ids needs.
pub(crate) const MAX_LIST: usize = 1 << 16;

/// A value of either format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    /// At most [`MAX_LIST`] values.
    List(Vec<Value<'a>>),
    /// Anything else, in words.
    Other(String),
}

impl Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Int(i) => i.fmt(f),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Bool(b) => b.fmt(f),
            Value::Text(s) => {
                let start: String = s.chars().take(40).collect();
                let rest = if start.len() < s.len() { "..." } else { "" };
                write!(f, "{start:?}{rest}")
            }
            Value::List(list) => write!(f, "a list of {} values", list.len()),
            Value::Other(what) => f.write_str(what),
        }
    }
}

/// The keys of one file.
pub(crate) trait Keys {
    /// The file, for errors.
    fn path(&self) -> &Path;
    /// How the file spells `key`.
    fn spell(&self, key: &str) -> String;
    /// What it holds; `None` if it is absent or null.
    fn find(&self, key: &str) -> Option<Value<'_>>;

    fn missing(&self, key: &str, expected: impl Display) -> ModelError {
        ModelError::MissingKey {
            path: self.path().to_owned(),
            key: self.spell(key),
            expected: expected.to_string(),
        }
    }

    fn bad(&self, key: &str, found: impl Display, expected: impl Display) -> ModelError {
        ModelError::BadKey {
            path: self.path().to_owned(),
            key: self.spell(key),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// A size in `range`; `None` if absent.
    fn size(&self, key: &str, range: Sizes) -> Result<Option<usize>, ModelError> {
        self.find(key).map(|value| self.to_size(key, &value, &range)).transpose()
    }

    /// A size in `range`.
    fn need_size(&self, key: &str, range: Sizes) -> Result<usize, ModelError> {
        let value = self.find(key).ok_or_else(|| self.missing(key, &range))?;
        self.to_size(key, &value, &range)
    }

    /// `value`, found under `key`, as a size in `range`.
    fn to_size(&self, key: &str, value: &Value<'_>, range: &Sizes) -> Result<usize, ModelError> {
        let size = match value {
            Value::Int(i) => usize::try_from(*i).ok().filter(|i| range.contains(*i)),
            _ => None,
        };
        size.ok_or_else(|| self.bad(key, value, range))
    }

    /// A number that is inside `inside`, as `f32` too; `None` if absent.
    fn double(&self, key: &str, inside: Numbers) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.find(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::Int(i) => Some(i as f64),
            Value::Float(x) => Some(x),
            _ => None,
        };
        number
            .filter(|x| narrow(*x).is_finite() && inside.contains(narrow(*x)))
            .map(Some)
            .ok_or_else(|| self.bad(key, &value, inside))
    }

    /// A number that is inside `inside`; `None` if absent.
    fn number(&self, key: &str, inside: Numbers) -> Result<Option<f32>, ModelError> {
        Ok(self.double(key, inside)?.map(narrow))
    }

    /// A finite number that is inside `inside`.
    fn need_number(&self, key: &str, inside: Numbers) -> Result<f32, ModelError> {
        self.number(key, inside)?.ok_or_else(|| self.missing(key, inside))
    }

    /// True or false; `None` if absent.
    fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.find(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(self.bad(key, other, "true or false")),
        }
    }

    /// Text; `None` if absent.
    fn text(&self, key: &str) -> Result<Option<String>, ModelError> {
        match self.find(key) {
            None => Ok(None),
            Some(Value::Text(s)) => Ok(Some(s.to_owned())),
            Some(other) => Err(self.bad(key, other, "text")),
        }
    }

    /// A token id or a list of them, in order and without repetitions; empty if absent.
    fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let list = match self.find(key) {
            None => return Ok(Vec::new()),
            Some(Value::List(list)) => list,
            Some(one) => vec![one],
        };
        let mut ids = Vec::new();
        for value in list {
            let id = match value {
                Value::Int(i) => u32::try_from(i).ok(),
                _ => None,
            };
            ids.push(id.ok_or_else(|| self.bad(key, &value, "token ids, each from 0 to 4294967295"))?);
        }
        Ok(unique(ids))
    }

    /// One size for all `layers`, or a list with one for each.
    fn need_sizes(&self, key: &str, range: Sizes, layers: usize) -> Result<Vec<usize>, ModelError> {
        match self.find(key) {
            None => Err(self.missing(key, format!("{range}, or a list of {layers} of them"))),
            Some(Value::List(list)) if list.len() == layers => {
                list.iter().map(|value| self.to_size(key, value, &range)).collect()
            }
            Some(Value::List(list)) => Err(self.bad(
                key,
                format!("a list of {} values", list.len()),
                format!("one for each of the {layers} layers"),
            )),
            Some(one) => Ok(vec![self.to_size(key, &one, &range)?; layers]),
        }
    }
}

/// The first of each id, in order.
pub(crate) fn unique(mut ids: Vec<u32>) -> Vec<u32> {
    let mut seen = HashSet::new();
    ids.retain(|id| seen.insert(*id));
    ids
}

#[expect(clippy::cast_possible_truncation, reason = "callers refuse what became infinite or zero")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// Whole numbers that a size may be.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    range: RangeInclusive<usize>,
    multiple_of: usize,
}

/// Sizes in `range`.
pub(crate) const fn sizes(range: RangeInclusive<usize>) -> Sizes {
    Sizes { range, multiple_of: 1 }
}

impl Sizes {
    pub(crate) const fn multiple_of(mut self, multiple_of: usize) -> Self {
        self.multiple_of = multiple_of;
        self
    }

    pub(crate) fn contains(&self, size: usize) -> bool {
        self.range.contains(&size) && size.is_multiple_of(self.multiple_of)
    }
}

impl Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.multiple_of {
            1 => f.write_str("a whole number")?,
            n => write!(f, "a multiple of {n}")?,
        }
        write!(f, " from {} to {}", self.range.start(), self.range.end())
    }
}

/// Finite numbers that a setting may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Numbers {
    /// Greater than 0.
    Positive,
    /// 0 or greater.
    NonNegative,
    /// From 0 to 1.
    Share,
    /// Greater than 0, at most 1.
    PositiveShare,
}

impl Numbers {
    /// NaN is in none of them.
    fn contains(self, x: f32) -> bool {
        match self {
            Numbers::Positive => x > 0.0,
            Numbers::NonNegative => x >= 0.0,
            Numbers::Share => (0.0..=1.0).contains(&x),
            Numbers::PositiveShare => x > 0.0 && x <= 1.0,
        }
    }
}

impl Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Numbers::Positive => "a number greater than 0",
            Numbers::NonNegative => "a number of 0 or more",
            Numbers::Share => "a number from 0 to 1",
            Numbers::PositiveShare => "a number greater than 0, at most 1",
        })
    }
}
