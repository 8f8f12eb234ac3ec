//! Text to token ids and back.
//!
//! Gemma 4's vocabulary is byte pair encoding with explicit ranked merges: spaces become `▁` (U+2581), a text is
//! merged from single characters, and a character outside the vocabulary falls apart into byte tokens `<0xNN>`.
//! There is no other normalisation and no splitting into words. Special tokens are cut out of the raw text first.
//! The same tokenizer comes out of a GGUF file's fields and out of a `tokenizer.json`; what else such a file says
//! about adding `<bos>`, truncation or padding is ignored.
//!
//! Ids are never assumed: the dialogue's marks are found by their text, because vocabularies number them differently.

mod build;
mod cut;
mod json;
mod stream;
mod vocab;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use aho_corasick::AhoCorasick;
use tokenizers::Model;
use tokenizers::models::bpe::BPE;

use crate::error::ModelError;
use crate::gguf::Gguf;

pub use stream::Stream;
pub use vocab::Vocab;

/// What vocabularies write for an ASCII space.
const SPACE: char = '▁';

/// The longest stretch, in bytes, that is merged as one. Merging needs about 100 bytes of memory a byte of it, and no
/// context holds as many tokens as a stretch of this length becomes.
const STRETCH_BYTES: usize = 4 << 20;

/// How [`Tokenizer::encode`] takes the text of a control token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// As that token: for the output of a chat template and for raw prompts.
    Parse,
    /// As ordinary text: for what a user may not be trusted with, such as ending a turn.
    Literal,
}

/// What decoding makes of control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Markup {
    /// Their text, such as `<|turn>`.
    Show,
    /// Nothing.
    Hide,
}

/// A text that cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// No space or line end for too long: no context holds the text, shorten it.
    #[error("the text has {found} bytes without a place to cut, expected at most {STRETCH_BYTES}")]
    Uncut {
        /// Length of the stretch, bytes.
        found: usize,
    },
    /// The merging library gave up.
    #[error("the text cannot be merged into tokens: {reason}")]
    Merge {
        /// What it said.
        reason: String,
    },
}

/// Ids of the tokens that shape a dialogue, found by their text. A vocabulary without one has `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// `<|turn>`
    pub turn: Option<u32>,
    /// `<turn|>`: ends a turn, and so a generation.
    pub turn_end: Option<u32>,
    /// `<|channel>`: opens a thought.
    pub channel: Option<u32>,
    /// `<channel|>`: closes it.
    pub channel_end: Option<u32>,
    /// `<|tool>`: opens the declaration of a tool.
    pub tool: Option<u32>,
    /// `<tool|>`
    pub tool_end: Option<u32>,
    /// `<|tool_call>`
    pub tool_call: Option<u32>,
    /// `<tool_call|>`
    pub tool_call_end: Option<u32>,
    /// `<|tool_response>`: the model waits for a tool, which ends a generation.
    pub tool_response: Option<u32>,
    /// `<tool_response|>`
    pub tool_response_end: Option<u32>,
    /// `<|"|>`: quotes a string in a declaration, a call or a response.
    pub quote: Option<u32>,
    /// `<|think|>`: switches thinking on.
    pub think: Option<u32>,
}

impl Marks {
    /// The text of every mark.
    const TEXTS: [&'static str; 12] = [
        "<|turn>",
        "<turn|>",
        "<|channel>",
        "<channel|>",
        "<|tool>",
        "<tool|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|tool_response>",
        "<tool_response|>",
        "<|\"|>",
        "<|think|>",
    ];

    fn find(id: impl Fn(&str) -> Option<u32>) -> Marks {
        let [
            turn,
            turn_end,
            channel,
            channel_end,
            tool,
            tool_end,
            tool_call,
            tool_call_end,
            tool_response,
            tool_response_end,
            quote,
            think,
        ] = Marks::TEXTS.map(id);
        Marks {
            turn,
            turn_end,
            channel,
            channel_end,
            tool,
            tool_end,
            tool_call,
            tool_call_end,
            tool_response,
            tool_response_end,
            quote,
            think,
        }
    }
}

/// A vocabulary and its merges. Cheap to share, expensive to make: keep it behind an `Arc`.
pub struct Tokenizer {
    /// Ordinary tokens and merges. Control tokens are left out, so that no text spells one.
    bpe: BPE,
    /// Finds control tokens and added words in raw text.
    marked: Finder,
    /// Finds added words alone.
    words: Finder,
    /// Ids of control tokens, in ascending order.
    specials: Vec<u32>,
    pieces: Pieces,
    /// Where a text may be cut without changing its tokens.
    cuts: cut::Cuts,
    bos: u32,
    marks: Marks,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("tokens", &self.pieces.len())
            .field("specials", &self.specials.len())
            .field("bos", &self.bos)
            .field("marks", &self.marks)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`. `path` names the file in errors.
    ///
    /// # Errors
    /// [`ModelError`] when the file is not JSON, is not a vocabulary of Gemma 4's kind, or contradicts itself.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Tokenizer, ModelError> {
        json::source(path, bytes)?.build()
    }

    /// Reads the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// As [`Vocab::from_metadata`] and [`Tokenizer::from_vocab`].
    pub fn from_gguf(file: &Gguf) -> Result<Tokenizer, ModelError> {
        Self::from_vocab(file.path(), Vocab::from_metadata(file.metadata())?)
    }

    /// Takes the `tokenizer.ggml.*` fields of a GGUF file. `path` names the file in errors.
    ///
    /// # Errors
    /// [`ModelError`] when the fields contradict each other or byte tokens are missing.
    pub fn from_vocab(path: &Path, vocab: Vocab<'_>) -> Result<Tokenizer, ModelError> {
        vocab.source(path)?.build()
    }

    /// The ids of a text, without `<bos>`. An empty text has none.
    ///
    /// # Errors
    /// [`EncodeError::Uncut`] when the text goes on for megabytes without a space or a line end.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, EncodeError> {
        let finder = match special {
            Special::Parse => &self.marked,
            Special::Literal => &self.words,
        };
        let mut ids = Vec::new();
        let mut start = 0;
        for (found, id) in finder.find(text) {
            self.encode_ordinary(&text[start..found.start], &mut ids)?;
            ids.push(id);
            start = found.end;
        }
        self.encode_ordinary(&text[start..], &mut ids)?;
        Ok(ids)
    }

    /// The ids of a whole prompt: those of [`Tokenizer::encode`] behind exactly one `<bos>`, whether or not the text
    /// begins with it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str, special: Special) -> Result<Vec<u32>, EncodeError> {
        Ok(self.with_bos(self.encode(text, special)?))
    }

    /// The same ids with exactly one `<bos>` in front. Without it the model answers with garbage.
    pub fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let present = ids.iter().take_while(|&&id| id == self.bos).count();
        ids.splice(..present, [self.bos]);
        ids
    }

    /// Text without special tokens, stretch by stretch.
    fn encode_ordinary(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        let mut spaced = String::new();
        for stretch in self.cuts.stretches(text) {
            if stretch.len() > STRETCH_BYTES {
                return Err(EncodeError::Uncut { found: stretch.len() });
            }
            spaced.clear();
            spaced.extend(stretch.chars().map(|c| if c == ' ' { SPACE } else { c }));
            self.merge(&spaced, ids)?;
        }
        Ok(())
    }

    /// Text whose spaces are replaced, as one stretch.
    fn merge(&self, spaced: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        let tokens =
            self.bpe.tokenize(spaced).map_err(|error| EncodeError::Merge { reason: error.to_string() })?;
        ids.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }

    /// The text of ids. Bytes that are no UTF-8 become U+FFFD; ids without a token are left out. A U+2581 in a text
    /// that was encoded comes back as a space.
    pub fn decode(&self, ids: &[u32], markup: Markup) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            self.append_bytes(id, markup, &mut bytes);
        }
        match String::from_utf8_lossy(&bytes) {
            Cow::Borrowed(text) => text.to_owned(),
            Cow::Owned(text) => text,
        }
    }

    /// What a token adds to a text, special tokens shown: for most tokens UTF-8, for byte tokens one byte of it.
    /// `None` for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        self.piece(id)?;
        let mut bytes = Vec::new();
        self.append_bytes(id, Markup::Show, &mut bytes);
        Some(bytes)
    }

    fn append_bytes(&self, id: u32, markup: Markup, bytes: &mut Vec<u8>) {
        let Some(piece) = self.piece(id) else { return };
        if self.is_special(id) {
            if markup == Markup::Show {
                bytes.extend_from_slice(piece.as_bytes());
            }
        } else if let Some(byte) = byte_of(piece) {
            bytes.push(byte);
        } else {
            for (nth, part) in piece.split(SPACE).enumerate() {
                if nth > 0 {
                    bytes.push(b' ');
                }
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }

    /// A token as the vocabulary spells it, with `▁` and `<0xNN>`. `None` for an id without a token.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id)
    }

    /// The id of a token spelled as in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        let special = || self.specials.iter().copied().find(|&id| self.piece(id) == Some(token));
        self.bpe.token_to_id(token).or_else(special)
    }

    /// Control tokens, in ascending order: those that [`Special::Literal`] never gives and [`Markup::Hide`] leaves
    /// out. Words that a fine-tune added to the vocabulary are none of them.
    pub fn specials(&self) -> &[u32] {
        &self.specials
    }

    /// Whether an id is one of [`Tokenizer::specials`].
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.binary_search(&id).is_ok()
    }

    /// The dialogue's tokens.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The id of `<bos>`.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The ids that end a generation: `<eos>`, `<turn|>`, `<|tool_response>`, and `more`, which is what a generation
    /// config lists. Never `</s>`: Gemma's vocabulary has it as an HTML tag.
    pub fn end_ids(&self, more: &[u32]) -> BTreeSet<u32> {
        let own = [self.id("<eos>"), self.marks.turn_end, self.marks.tool_response];
        let mut ids: BTreeSet<u32> = own.into_iter().flatten().chain(more.iter().copied()).collect();
        if let Some(tag) = self.id("</s>") {
            ids.remove(&tag);
        }
        ids
    }

    /// One more than the largest id. A model may have rows for more.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }
}

/// Finds tokens that are taken out of a text whole, the leftmost first and of those the longest.
struct Finder {
    /// `None` when there is nothing to find.
    automaton: Option<AhoCorasick>,
    /// By pattern.
    ids: Vec<u32>,
}

impl Finder {
    fn find(&self, text: &str) -> impl Iterator<Item = (Range<usize>, u32)> {
        let found = self.automaton.iter().flat_map(move |automaton| automaton.find_iter(text));
        found.map(|found| (found.range(), self.ids[found.pattern().as_usize()]))
    }
}

/// Every token's text, by id, in one string. An id without a token has an empty one.
#[derive(Default)]
struct Pieces {
    text: String,
    /// Where each piece ends in `text`, bytes.
    ends: Vec<u32>,
}

impl Pieces {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, id: u32) -> Option<&str> {
        let id = usize::try_from(id).ok()?;
        let end = *self.ends.get(id)?;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        Some(&self.text[start as usize..end as usize]).filter(|piece| !piece.is_empty())
    }
}

/// The byte that a byte token `<0xNN>` stands for.
fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || digits.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'A'..=b'F')) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
