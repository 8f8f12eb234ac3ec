//! A vocabulary as GGUF files hold it.

use std::borrow::Cow;
use std::path::Path;

use super::build::{Keys, Kind, Source, Token, bad_key};
use crate::error::ModelError;
use crate::gguf::Metadata;

/// The `tokenizer.ggml.*` fields of a GGUF file. Scores mean nothing in Gemma's vocabularies and are left out, as is
/// `add_bos_token`, which some of Google's own files have wrong.
#[derive(Clone, Debug, Default)]
pub struct Vocab<'a> {
    /// `tokens`: by id.
    pub tokens: Vec<&'a str>,
    /// `token_type`: one a token, or empty when the file has none.
    pub types: Vec<i32>,
    /// `merges`: two tokens with one ASCII space between them, best first.
    pub merges: Vec<&'a str>,
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`: 1 or 106, depending on who made the file. See [`super::Tokenizer::end_ids`] for what ends a text.
    pub eos: Option<u32>,
    /// `unknown_token_id`
    pub unk: Option<u32>,
    /// `padding_token_id`
    pub pad: Option<u32>,
    /// `mask_token_id`
    pub mask: Option<u32>,
}

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
const MASK: &str = "tokenizer.ggml.mask_token_id";

impl<'a> Vocab<'a> {
    /// Reads the fields of a file.
    ///
    /// # Errors
    /// [`ModelError`] when a field is missing or of the wrong type, or the tokenizer is of another kind.
    pub fn from_metadata(metadata: &'a Metadata) -> Result<Vocab<'a>, ModelError> {
        // Ollama's converter calls the same vocabulary `llama`; what others call so has scores and no merges.
        let merges = metadata.opt_strings(MERGES)?;
        match (metadata.str(MODEL)?, &merges) {
            ("gemma4", _) | ("llama", Some(_)) => {}
            _ => return Err(metadata.unexpected(MODEL, "`gemma4`")),
        }
        Ok(Vocab {
            tokens: metadata.strings(TOKENS)?.collect(),
            types: metadata.opt_i32s(TYPES)?.unwrap_or_default(),
            merges: merges.ok_or_else(|| metadata.unexpected(MERGES, "an array of strings"))?.collect(),
            bos: metadata.opt_u32(BOS)?,
            eos: metadata.opt_u32(EOS)?,
            unk: metadata.opt_u32(UNK)?,
            pad: metadata.opt_u32(PAD)?,
            mask: metadata.opt_u32(MASK)?,
        })
    }

    pub(super) fn source(self, path: &'a Path) -> Result<Source<'a>, ModelError> {
        let count = self.tokens.len();
        if !self.types.is_empty() && self.types.len() != count {
            let found = format!("an array of {}", self.types.len());
            return Err(bad_key(path, TYPES, found, format!("one type for each of {count} tokens")));
        }
        let ids = [(BOS, self.bos), (EOS, self.eos), (UNK, self.unk), (PAD, self.pad), (MASK, self.mask)];
        for (key, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(bad_key(path, key, id.to_string(), format!("the id of one of {count} tokens")));
            }
        }

        let mut tokens = Vec::new();
        for (index, text) in self.tokens.iter().enumerate() {
            let kind = match self.types.get(index) {
                // Undefined, normal, unused, byte. A byte token is known by its text.
                None | Some(0 | 1 | 5 | 6) => Kind::Text,
                // Unknown, control.
                Some(2 | 3) => Kind::Control,
                // User-defined.
                Some(4) => Kind::Added,
                Some(other) => {
                    return Err(bad_key(path, TYPES, format!("{other} at {index}"), "a type from 1 to 6"));
                }
            };
            tokens.push(Token { id: index as u64, text: Cow::Borrowed(text), kind });
        }
        let mut merges = Vec::new();
        for (index, merge) in self.merges.iter().enumerate() {
            let Some((left, right)) = split_merge(merge) else {
                let found = format!("`{}` at {index}", merge.escape_debug());
                return Err(bad_key(path, MERGES, found, "two tokens with one space between them"));
            };
            merges.push((Cow::Borrowed(left), Cow::Borrowed(right)));
        }
        let keys = Keys { tokens: TOKENS, merges: MERGES, bos: BOS };
        Ok(Source { path, keys, tokens, merges, bos: self.bos })
    }
}

/// The two halves of `left right`. Neither holds a space: vocabularies write `▁`.
pub(super) fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let (left, right) = merge.split_once(' ')?;
    (!left.is_empty() && !right.is_empty() && !right.contains(' ')).then_some((left, right))
}
