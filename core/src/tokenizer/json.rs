//! `tokenizer.json`, as Hugging Face's tokenizers save it.
//!
//! Read here rather than by their library, which takes every kind of tokenizer, builds what it reads before checking
//! it, and would add `<bos>`, truncate or pad where the file says so.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::build::{Keys, Kind, Source, Token, bad_key, shorten};
use super::vocab::split_merge;
use crate::error::ModelError;

const ADDED: &str = "added_tokens";
const VOCAB: &str = "model.vocab";
const MERGES: &str = "model.merges";

/// Every value is left as text until its key is known to be good.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    continuing_subword_prefix: Option<&'a RawValue>,
    #[serde(borrow)]
    end_of_word_suffix: Option<&'a RawValue>,
    #[serde(borrow)]
    byte_fallback: Option<&'a RawValue>,
    #[serde(borrow)]
    ignore_merges: Option<&'a RawValue>,
    #[serde(borrow)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow)]
    merges: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the file's own fields")]
struct Added<'a> {
    id: u64,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

/// Reads a file's vocabulary and refuses what would tokenize otherwise than Gemma 4 does.
pub(super) fn source<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Source<'a>, ModelError> {
    let not_json = |reason: String| ModelError::NotAModel { path: path.to_owned(), reason };
    let text = std::str::from_utf8(bytes).map_err(|error| not_json(format!("no JSON, {error}")))?;
    let file: File<'_> =
        serde_json::from_str(text).map_err(|error| not_json(format!("no tokenizer.json, {error}")))?;
    let raw_model = file.model.ok_or_else(|| missing(path, "model", "a vocabulary with merges"))?;
    let model: Model<'_> = parse(path, "model", raw_model, "an object")?;

    expect(path, "model.type", model.kind, "\"BPE\"", |value| value == "BPE")?;
    let none = |value: &Value| value.is_null() || value == "";
    expect(path, "model.continuing_subword_prefix", model.continuing_subword_prefix, "null", none)?;
    expect(path, "model.end_of_word_suffix", model.end_of_word_suffix, "null", none)?;
    expect(path, "model.byte_fallback", model.byte_fallback, "true", |value| value == true)?;
    expect(path, "model.ignore_merges", model.ignore_merges, "false", |value| {
        value.is_null() || value == false
    })?;
    expect(path, "normalizer", file.normalizer, "the replacement of spaces by `▁`", replaces_spaces)?;
    // It finds nothing to split at once spaces are replaced.
    let splits_at_spaces =
        |value: &Value| value.is_null() || (value["type"] == "Split" && value["pattern"]["String"] == " ");
    expect(path, "pre_tokenizer", file.pre_tokenizer, "null or a split at spaces", splits_at_spaces)?;

    let raw_vocab = model.vocab.ok_or_else(|| missing(path, VOCAB, "an id for each token"))?;
    let Entries(vocab) = parse(path, VOCAB, raw_vocab, "an object of ids by token")?;
    let raw_merges = model.merges.ok_or_else(|| missing(path, MERGES, "a list of merges"))?;
    let merges: Vec<Merge<'_>> = parse(path, MERGES, raw_merges, "pairs of tokens")?;
    let added = match file.added_tokens {
        None => Vec::new(),
        Some(raw) => parse(path, ADDED, raw, "a list of tokens with `id` and `content`")?,
    };

    let mut tokens: Vec<Token<'_>> =
        vocab.into_iter().map(|(text, id)| Token { id, text, kind: Kind::Text }).collect();
    add(path, &mut tokens, added)?;
    Ok(Source {
        path,
        keys: Keys { tokens: VOCAB, merges: MERGES, bos: ADDED },
        tokens,
        merges: merges.into_iter().map(|Merge(left, right)| (left, right)).collect(),
        bos: None,
    })
}

/// Marks the added tokens that the vocabulary has and appends the others.
fn add<'a>(path: &Path, tokens: &mut Vec<Token<'a>>, added: Vec<Added<'a>>) -> Result<(), ModelError> {
    let mut wanted: HashMap<Cow<'a, str>, (u64, Kind)> = HashMap::new();
    let mut seen = HashSet::new();
    for Added { id, content, special, single_word, lstrip, rstrip } in added {
        let name = shorten(&content);
        for (flag, set) in [("single_word", single_word), ("lstrip", lstrip), ("rstrip", rstrip)] {
            if set {
                return Err(bad_key(path, ADDED, format!("`{name}` with `{flag}` true"), "false"));
            }
        }
        let kind = if special { Kind::Control } else { Kind::Added };
        if !seen.insert(id) || wanted.insert(content, (id, kind)).is_some() {
            return Err(bad_key(path, ADDED, format!("`{name}` as {id}, a second time"), "every token once"));
        }
    }
    for token in tokens.iter_mut() {
        let Some((id, kind)) = wanted.remove(&token.text) else {
            continue;
        };
        if id != token.id {
            let found = format!("`{}` as {id}", shorten(&token.text));
            return Err(bad_key(path, ADDED, found, format!("{} as in `{VOCAB}`", token.id)));
        }
        token.kind = kind;
    }
    tokens.extend(wanted.into_iter().map(|(text, (id, kind))| Token { id, text, kind }));
    Ok(())
}

fn replaces_spaces(value: &Value) -> bool {
    let only = match &value["normalizers"] {
        Value::Array(steps) if value["type"] == "Sequence" && steps.len() == 1 => &steps[0],
        _ => value,
    };
    only["type"] == "Replace" && only["pattern"]["String"] == " " && only["content"] == "▁"
}

fn missing(path: &Path, key: &str, expected: &str) -> ModelError {
    ModelError::MissingKey { path: path.to_owned(), key: key.to_owned(), expected: expected.to_owned() }
}

fn parse<'a, T: Deserialize<'a>>(
    path: &Path,
    key: &str,
    raw: &'a RawValue,
    expected: &str,
) -> Result<T, ModelError> {
    serde_json::from_str(raw.get())
        .map_err(|error| bad_key(path, key, format!("unreadable ({error} of the value)"), expected))
}

/// Checks a small value. An absent one counts as null.
fn expect(
    path: &Path,
    key: &str,
    raw: Option<&RawValue>,
    expected: &str,
    good: impl Fn(&Value) -> bool,
) -> Result<(), ModelError> {
    let text = raw.map_or("null", RawValue::get);
    // What is good is short; anything longer is not worth the memory.
    let value = if text.len() <= 4096 { serde_json::from_str(text).ok() } else { None };
    if value.as_ref().is_some_and(good) {
        return Ok(());
    }
    Err(bad_key(path, key, shorten(text), expected))
}

/// A string that borrows from the file where it has no escapes.
#[derive(Deserialize)]
struct Str<'a>(#[serde(borrow)] Cow<'a, str>);

/// The vocabulary in the file's order. A map type would silently keep one of two equal tokens.
struct Entries<'a>(Vec<(Cow<'a, str>, u64)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(Str(text)) = map.next_key()? {
                    entries.push((text, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// `["a", "b"]`, or `"a b"` in older files.
struct Merge<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de> Deserialize<'de> for Merge<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens, as a list or with one space between them")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let (Some(Str(left)), Some(Str(right)), None) =
                    (list.next_element()?, list.next_element()?, list.next_element::<de::IgnoredAny>()?)
                else {
                    return Err(de::Error::custom("a merge that is not of two tokens"));
                };
                Ok(Merge(left, right))
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                let (left, right) = split_merge(text).ok_or_else(|| no_pair(text))?;
                Ok(Merge(Cow::Borrowed(left), Cow::Borrowed(right)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let (left, right) = split_merge(text).ok_or_else(|| no_pair(text))?;
                Ok(Merge(Cow::Owned(left.to_owned()), Cow::Owned(right.to_owned())))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn no_pair<E: de::Error>(text: &str) -> E {
    E::custom(format_args!("`{}` is not two tokens with one space between them", shorten(text)))
}
