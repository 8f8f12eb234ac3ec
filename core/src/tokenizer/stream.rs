//! Decoding id by id.

use super::{Markup, Tokenizer};

/// Text out of ids that come one by one: each call gives what has become certain. All that it gives, put together, is
/// what [`Tokenizer::decode`] makes of all ids at once.
#[derive(Clone, Debug)]
pub struct Stream {
    markup: Markup,
    /// The beginning of a character whose other bytes have not come. At most three bytes between calls.
    pending: Vec<u8>,
}

impl Stream {
    /// A stream at the start of a text.
    #[must_use]
    pub fn new(markup: Markup) -> Stream {
        Stream { markup, pending: Vec::new() }
    }

    /// The text that the next id completes. Empty while a character's bytes are incomplete.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        tokenizer.append_bytes(id, self.markup, &mut self.pending);
        let mut text = String::new();
        let mut taken = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() || (taken + invalid.len() == self.pending.len() && incomplete(invalid)) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            taken += invalid.len();
        }
        self.pending.drain(..taken);
        text
    }

    /// The end of the text: U+FFFD when it stopped inside a character, otherwise nothing.
    #[must_use]
    pub fn finish(self) -> &'static str {
        if self.pending.is_empty() { "" } else { "\u{fffd}" }
    }
}

/// Whether more bytes could make a character of these.
fn incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
