//! Metadata values: numbers and strings as they are, arrays as the bytes of the file.

use std::fmt;

use crate::tensor::Bytes;

/// What a metadata value is. Numbers and names are GGUF's (`gguf_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say all")]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// Every kind; the position is GGUF's number.
    pub const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// GGUF's name and the bytes of a value, if they are always the same.
    const fn row(self) -> (&'static str, Option<usize>) {
        match self {
            Kind::U8 => ("u8", Some(1)),
            Kind::I8 => ("i8", Some(1)),
            Kind::U16 => ("u16", Some(2)),
            Kind::I16 => ("i16", Some(2)),
            Kind::U32 => ("u32", Some(4)),
            Kind::I32 => ("i32", Some(4)),
            Kind::F32 => ("f32", Some(4)),
            Kind::Bool => ("bool", Some(1)),
            Kind::String => ("string", None),
            Kind::Array => ("array", None),
            Kind::U64 => ("u64", Some(8)),
            Kind::I64 => ("i64", Some(8)),
            Kind::F64 => ("f64", Some(8)),
        }
    }

    /// The kind with GGUF's number `id`.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// GGUF's number.
    #[must_use]
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of a value; `None` for strings and arrays.
    #[must_use]
    pub const fn size(self) -> Option<usize> {
        self.row().1
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().0)
    }
}

/// A metadata value. [`Display`](fmt::Display) shortens it for messages.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say all")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Value::U8(_) => Kind::U8,
            Value::I8(_) => Kind::I8,
            Value::U16(_) => Kind::U16,
            Value::I16(_) => Kind::I16,
            Value::U32(_) => Kind::U32,
            Value::I32(_) => Kind::I32,
            Value::F32(_) => Kind::F32,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::U64(_) => Kind::U64,
            Value::I64(_) => Kind::I64,
            Value::F64(_) => Kind::F64,
        }
    }

    /// The value of `kind` that fills `bytes`; `None` for strings, arrays, wrong lengths, and booleans that are
    /// neither 0 nor 1.
    pub(super) fn scalar(kind: Kind, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            Kind::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            Kind::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            Kind::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            Kind::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            Kind::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            Kind::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            Kind::Bool => match bytes {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            Kind::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            Kind::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            Kind::String | Kind::Array => return None,
        })
    }

    /// The whole number in any integer type, for producers do not agree on one.
    #[must_use]
    pub fn whole(&self) -> Option<i128> {
        Some(match self {
            Value::U8(v) => i128::from(*v),
            Value::I8(v) => i128::from(*v),
            Value::U16(v) => i128::from(*v),
            Value::I16(v) => i128::from(*v),
            Value::U32(v) => i128::from(*v),
            Value::I32(v) => i128::from(*v),
            Value::U64(v) => i128::from(*v),
            Value::I64(v) => i128::from(*v),
            _ => return None,
        })
    }

    /// The number in either float type, rounded to `f32`.
    #[must_use]
    pub fn float(&self) -> Option<f32> {
        match self {
            Value::F32(v) => Some(*v),
            #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest, as documented")]
            Value::F64(v) => Some(*v as f32),
            _ => None,
        }
    }

    /// The truth value, also from an integer that is 0 or 1.
    #[must_use]
    pub fn truth(&self) -> Option<bool> {
        match self {
            Value::Bool(v) => Some(*v),
            _ => match self.whole()? {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            },
        }
    }

    /// Appends the value as a file holds it, without its kind.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => out.extend(v.to_le_bytes()),
            Value::I8(v) => out.extend(v.to_le_bytes()),
            Value::U16(v) => out.extend(v.to_le_bytes()),
            Value::I16(v) => out.extend(v.to_le_bytes()),
            Value::U32(v) => out.extend(v.to_le_bytes()),
            Value::I32(v) => out.extend(v.to_le_bytes()),
            Value::F32(v) => out.extend(v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::String(v) => encode_string(v, out),
            Value::Array(v) => {
                out.extend(v.kind.id().to_le_bytes());
                out.extend((v.len as u64).to_le_bytes());
                out.extend_from_slice(&v.bytes);
            }
            Value::U64(v) => out.extend(v.to_le_bytes()),
            Value::I64(v) => out.extend(v.to_le_bytes()),
            Value::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

/// Appends `text` as a file holds it: its length in bytes, then the bytes.
pub(super) fn encode_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// `text` in quotes on one line, cut after 60 characters: for names and values that a file supplies.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(v) => write!(f, "{v}"),
            Value::F32(v) => write!(f, "{v:?}"),
            Value::F64(v) => write!(f, "{v:?}"),
            Value::String(v) => f.write_str(&quote(v)),
            Value::Array(v) => write!(f, "an array of {} {}", v.len, v.kind),
            _ => match self.whole() {
                Some(v) => write!(f, "{v}"),
                None => write!(f, "of kind {}", self.kind()),
            },
        }
    }
}

/// An array as the file holds it, already checked: counts, lengths, UTF-8 and booleans are good.
#[derive(Clone)]
pub struct Array {
    kind: Kind,
    len: usize,
    bytes: Bytes,
}

impl Array {
    /// `bytes` must hold `len` values of `kind` and nothing else.
    pub(super) fn new(kind: Kind, len: usize, bytes: Bytes) -> Self {
        Self { kind, len, bytes }
    }

    /// What the elements are.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The numbers or truth values in order; nothing if the elements are strings or arrays.
    pub fn scalars(&self) -> impl Iterator<Item = Value> {
        let size = self.kind.size();
        let bytes: &[u8] = if size.is_some() { &self.bytes } else { &[] };
        bytes.chunks_exact(size.unwrap_or(1)).filter_map(|bytes| Value::scalar(self.kind, bytes))
    }

    /// The strings in order; `None` if the elements are something else.
    #[must_use]
    pub fn strings(&self) -> Option<Strings<'_>> {
        (self.kind == Kind::String).then(|| Strings { rest: &self.bytes, left: self.len })
    }
}

impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.len == other.len && *self.bytes == *other.bytes
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.kind, self.len)
    }
}

/// The strings of an array, borrowed from the file.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let mut read = || {
            let (length, rest) = self.rest.split_first_chunk::<8>()?;
            let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
            self.rest = rest;
            std::str::from_utf8(text).ok()
        };
        Some(read().expect("every string was checked when the file was opened"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// Conversions from a Rust type to a value and from a slice of it to an array.
macro_rules! value_from {
    ($($variant:ident($rust:ty)),*) => {$(
        impl From<$rust> for Value {
            fn from(value: $rust) -> Self {
                Value::$variant(value)
            }
        }

        impl From<&[$rust]> for Value {
            fn from(values: &[$rust]) -> Self {
                let mut bytes = Vec::with_capacity(size_of_val(values));
                for value in values {
                    Value::$variant(*value).encode(&mut bytes);
                }
                Value::Array(Array::new(Kind::$variant, values.len(), Bytes::from_owner(bytes)))
            }
        }
    )*};
}

value_from!(
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    U64(u64),
    I64(i64),
    F64(f64)
);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::String(value.to_owned())
    }
}

impl Value {
    /// An array of strings.
    pub fn strings<S: AsRef<str>>(values: &[S]) -> Self {
        let mut bytes = Vec::new();
        for text in values {
            encode_string(text.as_ref(), &mut bytes);
        }
        Value::Array(Array::new(Kind::String, values.len(), Bytes::from_owner(bytes)))
    }
}
