//! From tokens and merges, whatever file they come from, to a tokenizer.

use std::borrow::Cow;
use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::models::bpe::{BPE, Vocab as Ids};

use super::cut::Cuts;
use super::{Finder, Marks, Pieces, Tokenizer, byte_of};
use crate::error::ModelError;

/// Ids reach no further: four times Gemma's vocabulary. Every id costs memory whether it has a token or not.
const IDS: u64 = 1 << 20;
/// The longest token, bytes. Gemma's has 93.
const PIECE_BYTES: usize = 1024;
/// Control tokens and added words together, bytes. Each costs a state of the automaton that looks for them.
const SPECIALS_BYTES: usize = 1 << 20;

/// Tokens that files are known to type as ordinary text, next to the dialogue's marks.
const ALWAYS_CONTROL: [&str; 5] = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What merging gives, and byte tokens.
    Text,
    /// A word that a fine-tune added: taken out of raw text before merging.
    Added,
    /// The same where the text is trusted, and nothing else makes it.
    Control,
}

#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) id: u64,
    /// As the vocabulary spells it. Empty: the id has no token.
    pub(super) text: Cow<'a, str>,
    pub(super) kind: Kind,
}

/// What a file calls its parts, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub(super) tokens: &'static str,
    pub(super) merges: &'static str,
    pub(super) bos: &'static str,
}

/// A file's vocabulary, not yet checked.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) keys: Keys,
    /// In any order.
    pub(super) tokens: Vec<Token<'a>>,
    /// Best first.
    pub(super) merges: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Where a file says it in a field of its own; `<bos>` goes before it.
    pub(super) bos: Option<u32>,
}

impl Source<'_> {
    pub(super) fn build(mut self) -> Result<Tokenizer, ModelError> {
        self.tokens.retain(|token| !token.text.is_empty());
        self.tokens.sort_by_key(|token| token.id);
        for token in &mut self.tokens {
            if Marks::TEXTS.contains(&&*token.text) || ALWAYS_CONTROL.contains(&&*token.text) {
                token.kind = Kind::Control;
            }
        }
        let pieces = self.pieces()?;
        let mut ids = self.ids()?;
        let marks = Marks::find(|text| ids.get(text).copied());
        let bos = self.bos(&ids)?;
        let specials = self.of_kinds(&[Kind::Control]).map(|token| ids[&*token.text]).collect();
        let marked = self.finder(&[Kind::Control, Kind::Added], &ids)?;
        let words = self.finder(&[Kind::Added], &ids)?;

        for token in self.of_kinds(&[Kind::Control]) {
            ids.remove(&*token.text);
        }
        for byte in 0..=u8::MAX {
            let text = format!("<0x{byte:02X}>");
            if !ids.contains_key(&text) {
                return Err(self.bad_tokens(format!("without `{text}`"), "a token for each byte"));
            }
        }
        let cuts = self.check_merges(&ids)?;

        let Source { path, keys, merges, tokens, .. } = self;
        drop(tokens);
        let merges =
            merges.into_iter().map(|(left, right)| (left.into_owned(), right.into_owned())).collect();
        let bpe = BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).build();
        let bpe =
            bpe.map_err(|error| bad_key(path, keys.merges, error.to_string(), "merges of its tokens"))?;
        Ok(Tokenizer { bpe, marked, words, specials, pieces, cuts, bos, marks })
    }

    /// Checks ids and lengths.
    fn pieces(&self) -> Result<Pieces, ModelError> {
        let mut pieces = Pieces::default();
        let mut end = 0;
        for token in &self.tokens {
            let (id, text) = (token.id, &*token.text);
            if id >= IDS {
                return Err(
                    self.bad_tokens(format!("`{}` as {id}", shorten(text)), format!("ids below {IDS}"))
                );
            }
            if text.len() > PIECE_BYTES {
                let found = format!("`{}` of {} bytes as {id}", shorten(text), text.len());
                return Err(self.bad_tokens(found, format!("tokens of at most {PIECE_BYTES} bytes")));
            }
            let index = usize::try_from(id).expect("`IDS` fits");
            if index < pieces.len() {
                return Err(
                    self.bad_tokens(format!("`{}` as {id}, a second time", shorten(text)), "every id once")
                );
            }
            pieces.ends.resize(index, end);
            pieces.text.push_str(text);
            end = u32::try_from(pieces.text.len()).expect("`IDS` pieces of `PIECE_BYTES` fit");
            pieces.ends.push(end);
        }
        Ok(pieces)
    }

    /// The id of every token, special ones too.
    fn ids(&self) -> Result<Ids, ModelError> {
        let mut ids = Ids::with_capacity(self.tokens.len());
        for token in &self.tokens {
            let id = u32::try_from(token.id).expect("`pieces` refuses more than `IDS`");
            if let Some(twin) = ids.insert(token.text.to_string(), id) {
                let found = format!("`{}` twice, as {twin} and {id}", shorten(&token.text));
                return Err(self.bad_tokens(found, "every token once"));
            }
        }
        Ok(ids)
    }

    fn bos(&self, ids: &Ids) -> Result<u32, ModelError> {
        ids.get("<bos>").copied().or(self.bos).ok_or_else(|| ModelError::MissingKey {
            path: self.path.to_owned(),
            key: self.keys.bos.to_owned(),
            expected: "a token to begin every text with, `<bos>`".to_owned(),
        })
    }

    /// In ascending order of ids.
    fn of_kinds(&self, kinds: &[Kind]) -> impl Iterator<Item = &Token<'_>> {
        self.tokens.iter().filter(|token| kinds.contains(&token.kind))
    }

    fn finder(&self, kinds: &[Kind], ids: &Ids) -> Result<Finder, ModelError> {
        let texts = || self.of_kinds(kinds).map(|token| &*token.text);
        let bytes: usize = texts().map(str::len).sum();
        if bytes > SPECIALS_BYTES {
            let found = format!("control tokens and added words of {bytes} bytes together");
            return Err(self.bad_tokens(found, format!("at most {SPECIALS_BYTES} bytes")));
        }
        let automaton = (bytes > 0)
            .then(|| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts()))
            .transpose()
            .map_err(|error| self.bad_tokens(error.to_string(), "tokens to look for"))?;
        Ok(Finder { automaton, ids: texts().map(|text| ids[text]).collect() })
    }

    /// Every merge is of known tokens to a known token, none of them a byte's: those stand for characters that have
    /// no token, and merging them would depend on what the text around them is cut into. The library that merges
    /// relies on the result being known and would panic.
    fn check_merges(&self, ids: &Ids) -> Result<Cuts, ModelError> {
        let mut cuts = Cuts::default();
        let mut product = String::new();
        for (index, (left, right)) in self.merges.iter().enumerate() {
            product.clear();
            product.push_str(left);
            product.push_str(right);
            for part in [left, right, &*product] {
                if part.is_empty() || byte_of(part).is_some() || !ids.contains_key(part) {
                    let found = format!("`{}` with `{}` at {index}", shorten(left), shorten(right));
                    let expected =
                        format!("two tokens that make a token; `{}` is no token of text", shorten(part));
                    return Err(bad_key(self.path, self.keys.merges, found, expected));
                }
            }
            cuts.note(left, right);
        }
        Ok(cuts)
    }

    fn bad_tokens(&self, found: impl Into<String>, expected: impl Into<String>) -> ModelError {
        bad_key(self.path, self.keys.tokens, found, expected)
    }
}

/// An error about the value of a key.
pub(super) fn bad_key(
    path: &Path,
    key: impl Into<String>,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> ModelError {
    ModelError::BadKey {
        path: path.to_owned(),
        key: key.into(),
        found: found.into(),
        expected: expected.into(),
    }
}

/// Text from a file, fit for a line of an error.
pub(super) fn shorten(text: &str) -> String {
    let mut short = String::new();
    for (index, c) in text.chars().enumerate() {
        match c {
            _ if index == 60 => {
                short.push_str("...");
                break;
            }
            c if c.is_control() => short.extend(c.escape_debug()),
            c => short.push(c),
        }
    }
    short
}
