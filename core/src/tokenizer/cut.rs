//! Where a text may be cut without changing its tokens.
//!
//! A merge joins two neighbouring pieces, so it joins the last character of one with the first of the other. Where no
//! merge has such a pair at its seam, nothing ever grows across, and both sides can be merged apart: this holds for
//! any vocabulary and needs no list of exceptions. Only two kinds of places are worth looking for, the start of a run of
//! spaces and either end of a run of newlines: they give words, which repeat and are remembered.

use std::collections::HashSet;

use super::SPACE;

/// What the merges of a vocabulary have at their seams.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// Characters that some merge joins with a `▁` behind them. In Gemma's vocabulary only `>`, for `>▁</`.
    joined_before_space: HashSet<char>,
    /// Characters other than `\n` that some merge joins with a `\n` on either side. Empty in Gemma's vocabulary.
    joined_with_newline: HashSet<char>,
}

impl Cuts {
    /// Takes note of a merge of two pieces.
    pub(super) fn note(&mut self, left: &str, right: &str) {
        let (Some(last), Some(first)) = (left.chars().next_back(), right.chars().next()) else {
            return;
        };
        match (last, first) {
            ('\n', '\n') | (SPACE, SPACE) => {}
            (c, '\n') | ('\n', c) => {
                self.joined_with_newline.insert(c);
            }
            (c, SPACE) => {
                self.joined_before_space.insert(c);
            }
            _ => {}
        }
    }

    /// The text in pieces that can be merged apart, in order and without gaps. Spaces may be replaced or not.
    pub(super) fn stretches<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let stretch = &rest[..self.first_cut(rest)?];
            rest = &rest[stretch.len()..];
            Some(stretch)
        })
    }

    /// Bytes up to the first cut or the end; `None` for an empty text.
    fn first_cut(&self, text: &str) -> Option<usize> {
        let mut chars = text.char_indices().map(|(at, c)| (at, if c == ' ' { SPACE } else { c }));
        let (_, mut last) = chars.next()?;
        for (at, c) in chars {
            if self.separate(last, c) {
                return Some(at);
            }
            last = c;
        }
        Some(text.len())
    }

    fn separate(&self, last: char, next: char) -> bool {
        match (last, next) {
            ('\n', '\n') | (SPACE, SPACE) => false,
            (c, '\n') | ('\n', c) => !self.joined_with_newline.contains(&c),
            (c, SPACE) => !self.joined_before_space.contains(&c),
            _ => false,
        }
    }
}
