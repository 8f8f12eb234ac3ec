//! Reading requests: JSON values by key, with errors that name the key, what was found and what was expected.

use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// Characters of a value that an error repeats.
const SHOWN: usize = 60;

/// A value that a request must not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadField {
    /// Where, such as `messages[2].content`; empty for the whole body.
    pub(crate) path: String,
    /// What was found and what was expected, beginning with the path.
    pub(crate) message: String,
}

impl BadField {
    /// Something else than a wrong type or range.
    pub(crate) fn new(path: impl Into<String>, why: impl fmt::Display) -> Self {
        let path = path.into();
        let message = if path.is_empty() { why.to_string() } else { format!("`{path}`: {why}") };
        Self { path, message }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Field<'a> {
    /// The value.
    pub(crate) value: &'a Value,
    /// Where it stands.
    pub(crate) path: String,
}

/// An object and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    /// The members.
    pub(crate) map: &'a Map<String, Value>,
    /// Where the object stands.
    pub(crate) path: String,
}

impl<'a> Fields<'a> {
    /// The whole body.
    pub(crate) fn of(body: &'a Value) -> Result<Self, BadField> {
        Field { value: body, path: String::new() }.object()
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key; `null` counts as absent, as all three interfaces say.
    pub(crate) fn get(&self, key: &str) -> Option<Field<'a>> {
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(Field { value, path: self.path_of(key) })
    }

    /// The value of the first of several names of a key.
    pub(crate) fn any(&self, keys: &[&str]) -> Option<Field<'a>> {
        keys.iter().find_map(|key| self.get(key))
    }

    /// The value of a key that must be there.
    pub(crate) fn need(&self, key: &str, expected: &str) -> Result<Field<'a>, BadField> {
        self.get(key).ok_or_else(|| {
            let path = self.path_of(key);
            BadField { message: format!("`{path}` is missing, expected {expected}"), path }
        })
    }

    /// A key that may be absent, read by `read`.
    pub(crate) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(Field<'a>) -> Result<T, BadField>,
    ) -> Result<Option<T>, BadField> {
        self.get(key).map(read).transpose()
    }

    /// A switch; absent is `default`.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, BadField> {
        Ok(self.read(key, |field| field.boolean())?.unwrap_or(default))
    }
}

impl<'a> Field<'a> {
    /// An error: this value is not what was expected.
    pub(crate) fn wrong(&self, expected: impl fmt::Display) -> BadField {
        let found = shown(self.value);
        let message = if self.path.is_empty() {
            format!("the body is {found}, expected {expected}")
        } else {
            format!("`{}` is {found}, expected {expected}", self.path)
        };
        BadField { path: self.path.clone(), message }
    }

    /// A string.
    pub(crate) fn string(&self) -> Result<&'a str, BadField> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, BadField> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// A whole number; `3.0` is one.
    pub(crate) fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, BadField> {
        let whole = self.value.as_i64().or_else(|| {
            let number = self.value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9.0e15)?;
            // Whole and below 2^53, so its decimal form is exact.
            format!("{number:.0}").parse().ok()
        });
        whole.filter(|n| range.contains(n)).ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            match (*from, *to) {
                (i64::MIN, i64::MAX) => self.wrong("a whole number"),
                (from, i64::MAX) => self.wrong(format_args!("a whole number of at least {from}")),
                (from, to) => self.wrong(format_args!("a whole number from {from} to {to}")),
            }
        })
    }

    /// A count.
    pub(crate) fn count(&self, range: RangeInclusive<usize>) -> Result<usize, BadField> {
        let edge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let number = self.integer(edge(*range.start())..=edge(*range.end()))?;
        usize::try_from(number).map_err(|_| self.wrong("a count"))
    }

    /// A number.
    pub(crate) fn number(&self, range: RangeInclusive<f64>) -> Result<f32, BadField> {
        let (from, to) = (*range.start(), *range.end());
        let number = self.value.as_f64().filter(|n| range.contains(n));
        let number = number.ok_or_else(|| self.wrong(format_args!("a number from {from} to {to}")))?;
        #[expect(clippy::cast_possible_truncation, reason = "settings are kept in 32 bits")]
        Ok(number as f32)
    }

    /// An object.
    pub(crate) fn object(self) -> Result<Fields<'a>, BadField> {
        match self.value {
            Value::Object(map) => Ok(Fields { map, path: self.path }),
            _ => Err(self.wrong("an object")),
        }
    }

    /// The items of a list.
    pub(crate) fn list(&self) -> Result<impl ExactSizeIterator<Item = Field<'a>> + use<'a>, BadField> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let path = self.path.clone();
        Ok(items.iter().enumerate().map(move |(at, value)| Field { value, path: format!("{path}[{at}]") }))
    }

    /// A string, or a list of at most `most` strings.
    pub(crate) fn strings(&self, most: usize) -> Result<Vec<String>, BadField> {
        if let Some(text) = self.value.as_str() {
            return Ok(vec![text.to_owned()]);
        }
        let expected = format_args!("a string or a list of at most {most} strings").to_string();
        let Some(items) = self.value.as_array().filter(|items| items.len() <= most) else {
            return Err(self.wrong(expected));
        };
        let text = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(|| self.wrong(&expected));
        items.iter().map(text).collect()
    }

    /// One of several words.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, BadField> {
        let found = words.iter().find(|(word, _)| self.value.as_str() == Some(word));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.wrong(words.join(" or "))
        })
    }

    /// A token id below `vocab`.
    pub(crate) fn token(&self, vocab: usize) -> Result<u32, BadField> {
        let id = self.value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.filter(|&id| (id as usize) < vocab)
            .ok_or_else(|| self.wrong(format_args!("a token id from 0 to {}", vocab.saturating_sub(1))))
    }
}

/// A value as an error repeats it: what kind of value, or the value itself if it is short.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::String(text) if text.chars().count() > SHOWN => {
            let start: String = text.chars().take(SHOWN).collect();
            format!("{}…", Value::from(start))
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_key_the_value_and_what_was_expected() {
        let body = json!({
            "temperature": "warm", "n": 99, "stop": [1], "stream": "yes", "messages": [{"content": 5}], "seed": 1.5,
            "mode": "fast", "token": 70, "long": "x".repeat(100), "deep": {"list": {}},
        });
        let fields = Fields::of(&body).unwrap();
        let field = |key: &str| fields.get(key).unwrap();
        for (error, expected) in [
            (
                field("temperature").number(0.0..=2.0).err(),
                "`temperature` is \"warm\", expected a number from 0 to 2",
            ),
            (field("n").count(1..=16).err(), "`n` is 99, expected a whole number from 1 to 16"),
            (field("seed").integer(i64::MIN..=i64::MAX).err(), "`seed` is 1.5, expected a whole number"),
            (
                field("stop").strings(4).err(),
                "`stop` is a list of 1, expected a string or a list of at most 4 strings",
            ),
            (field("stream").boolean().err(), "`stream` is \"yes\", expected true or false"),
            (
                field("mode").one_of(&[("a", 1), ("b", 2)]).err(),
                "`mode` is \"fast\", expected \"a\" or \"b\"",
            ),
            (field("token").token(70).err(), "`token` is 70, expected a token id from 0 to 69"),
            (fields.need("model", "a string").err(), "`model` is missing, expected a string"),
            (
                field("deep").object().unwrap().get("list").unwrap().list().err(),
                "`deep.list` is an object, expected a list",
            ),
        ] {
            assert_eq!(error.unwrap().message, expected);
        }
        let items: Vec<Field<'_>> = field("messages").list().unwrap().collect();
        let content = items[0].clone().object().unwrap().get("content").unwrap();
        assert_eq!(content.string().unwrap_err().message, "`messages[0].content` is 5, expected a string");
        let long = field("long").boolean().unwrap_err().message;
        assert_eq!(long, format!("`long` is \"{}\"…, expected true or false", "x".repeat(60)));
        assert_eq!(
            Fields::of(&json!([])).unwrap_err().message,
            "the body is a list of 0, expected an object"
        );
    }

    #[test]
    fn null_is_absent_and_whole_floats_are_integers() {
        let body = json!({"a": null, "n": 3.0});
        let fields = Fields::of(&body).unwrap();
        assert!(fields.get("a").is_none());
        assert_eq!(fields.get("n").unwrap().count(0..=5), Ok(3));
    }
}
