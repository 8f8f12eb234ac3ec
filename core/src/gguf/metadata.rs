//! Metadata of a GGUF file, read by key.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::value::{Array, Strings, Value};
use crate::error::ModelError;

/// Most elements of an array that is handed out: eight times the longest of a Gemma 4 file, few enough that
/// a copy of a hostile one does no harm.
const MAX_ELEMENTS: usize = 1 << 22;

/// Most values that [`Metadata::u32_or_array`] makes of one.
const MAX_REPEATS: usize = 1 << 16;

const U32: &str = "a whole number from 0 to 4294967295";
const I32: &str = "a whole number from -2147483648 to 2147483647";

/// Keys and values in the order of the file.
///
/// Integers are accepted in every integer type that holds the value, because producers do not agree on one.
/// Every getter without `opt_` fails with [`ModelError::MissingKey`] if the key is absent, and every getter with
/// [`ModelError::BadKey`] if the value is something else than it says.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: PathBuf,
    values: IndexMap<String, Value>,
}

/// What a value is instead of what was asked for.
type Found = String;

impl Metadata {
    pub(super) fn new(path: &Path, values: IndexMap<String, Value>) -> Self {
        Self { path: path.to_owned(), values }
    }

    /// The file, as errors name it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keys and values in the order of the file.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The error for `key` not being `expected`: [`ModelError::BadKey`] with its value, or
    /// [`ModelError::MissingKey`]. For limits that only the caller knows.
    #[must_use]
    pub fn unexpected(&self, key: &str, expected: impl Into<String>) -> ModelError {
        match self.get(key) {
            Some(value) => self.bad(key, value.to_string(), expected.into()),
            None => ModelError::MissingKey {
                path: self.path.clone(),
                key: key.to_owned(),
                expected: expected.into(),
            },
        }
    }

    fn bad(&self, key: &str, found: Found, expected: String) -> ModelError {
        ModelError::BadKey { path: self.path.clone(), key: key.to_owned(), found, expected }
    }

    fn optional<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Result<T, Found>,
    ) -> Result<Option<T>, ModelError> {
        let value = self.get(key).map(convert).transpose();
        value.map_err(|found| self.bad(key, found, expected.to_owned()))
    }

    fn required<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Result<T, Found>,
    ) -> Result<T, ModelError> {
        let value = self.optional(key, expected, convert)?;
        value.ok_or_else(|| self.unexpected(key, expected))
    }

    /// A whole number.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn u32(&self, key: &str) -> Result<u32, ModelError> {
        self.required(key, U32, whole)
    }

    /// A whole number, if there is one.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, ModelError> {
        self.optional(key, U32, whole)
    }

    /// A finite number.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn f32(&self, key: &str) -> Result<f32, ModelError> {
        self.required(key, "a finite number", finite)
    }

    /// A finite number, if there is one.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.optional(key, "a finite number", finite)
    }

    /// A truth value; also an integer that is 0 or 1.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn bool(&self, key: &str) -> Result<bool, ModelError> {
        self.required(key, "true or false", truth)
    }

    /// A truth value, if there is one.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.optional(key, "true or false", truth)
    }

    /// A string.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn str(&self, key: &str) -> Result<&str, ModelError> {
        self.required(key, "a string", text)
    }

    /// A string, if there is one.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.optional(key, "a string", text)
    }

    /// `len` whole numbers: an array of that length, or one number that stands for all.
    ///
    /// # Errors
    ///
    /// See [`Metadata`]; also if `len` is above 65536, which no count of layers is.
    pub fn u32_or_array(&self, key: &str, len: usize) -> Result<Vec<u32>, ModelError> {
        let values = self.opt_u32_or_array(key, len)?;
        values.ok_or_else(|| self.unexpected(key, u32_or_array_expected(len)))
    }

    /// `len` whole numbers, if there are any: an array of that length, or one number that stands for all.
    ///
    /// # Errors
    ///
    /// See [`Metadata`]; also if `len` is above 65536, which no count of layers is.
    pub fn opt_u32_or_array(&self, key: &str, len: usize) -> Result<Option<Vec<u32>>, ModelError> {
        self.optional(key, &u32_or_array_expected(len), |value| match value {
            _ if len > MAX_REPEATS => Err(format!("for {len} layers")),
            Value::Array(array) if array.len() == len => elements(value, whole),
            Value::Array(_) => Err(value.to_string()),
            _ => Ok(vec![whole(value)?; len]),
        })
    }

    /// An array of whole numbers.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>, ModelError> {
        self.required(key, &format!("an array of {I32}"), |v| elements(v, whole))
    }

    /// An array of whole numbers, if there is one.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_i32s(&self, key: &str) -> Result<Option<Vec<i32>>, ModelError> {
        self.optional(key, &format!("an array of {I32}"), |v| elements(v, whole))
    }

    /// An array of numbers, finite or not.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, ModelError> {
        self.required(key, "an array of numbers", |v| elements(v, float))
    }

    /// An array of numbers, finite or not, if there is one.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_f32s(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.optional(key, "an array of numbers", |v| elements(v, float))
    }

    /// An array of truth values; also of integers that are 0 or 1.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn bools(&self, key: &str) -> Result<Vec<bool>, ModelError> {
        self.required(key, "an array of true or false", |v| elements(v, truth))
    }

    /// An array of truth values, if there is one; also of integers that are 0 or 1.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_bools(&self, key: &str) -> Result<Option<Vec<bool>>, ModelError> {
        self.optional(key, "an array of true or false", |v| elements(v, truth))
    }

    /// An array of strings, borrowed from the file.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn strings(&self, key: &str) -> Result<Strings<'_>, ModelError> {
        self.required(key, "an array of strings", strings)
    }

    /// An array of strings, if there is one, borrowed from the file.
    ///
    /// # Errors
    ///
    /// See [`Metadata`].
    pub fn opt_strings(&self, key: &str) -> Result<Option<Strings<'_>>, ModelError> {
        self.optional(key, "an array of strings", strings)
    }
}

fn u32_or_array_expected(len: usize) -> String {
    if len > MAX_REPEATS {
        return format!("at most {MAX_REPEATS} layers");
    }
    format!("{U32}, or an array of {len} of them")
}

fn whole<T: TryFrom<i128>>(value: &Value) -> Result<T, Found> {
    let number = value.whole().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| value.to_string())
}

fn float(value: &Value) -> Result<f32, Found> {
    value.float().ok_or_else(|| value.to_string())
}

fn finite(value: &Value) -> Result<f32, Found> {
    let number = value.float().filter(|number| number.is_finite());
    number.ok_or_else(|| value.to_string())
}

fn truth(value: &Value) -> Result<bool, Found> {
    value.truth().ok_or_else(|| value.to_string())
}

fn text(value: &Value) -> Result<&str, Found> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(value.to_string()),
    }
}

/// The array, unless it is longer than anyone needs.
fn array(value: &Value) -> Result<&Array, Found> {
    match value {
        Value::Array(array) if array.len() <= MAX_ELEMENTS => Ok(array),
        Value::Array(_) => Err(format!("{value}, more than the {MAX_ELEMENTS} that are read")),
        _ => Err(value.to_string()),
    }
}

fn elements<T>(value: &Value, convert: impl Fn(&Value) -> Result<T, Found>) -> Result<Vec<T>, Found> {
    let array = array(value)?;
    if array.kind().size().is_none() {
        return Err(value.to_string());
    }
    let convert = |(at, element)| convert(&element).map_err(|found| format!("{found} at index {at}"));
    array.scalars().enumerate().map(convert).collect()
}

fn strings(value: &Value) -> Result<Strings<'_>, Found> {
    let strings = array(value)?.strings();
    strings.ok_or_else(|| value.to_string())
}
