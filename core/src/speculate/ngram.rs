//! Drafts from the text itself (prompt lookup): what followed when its last tokens occurred before.

use std::collections::HashMap;

/// Lengths of what is looked up, the longest first.
const LENGTHS: [usize; 2] = [4, 2];

/// A text, and where its n-grams ended last.
#[derive(Clone, Debug, Default)]
pub struct Ngrams {
    text: Vec<u32>,
    /// For each of [`LENGTHS`]: the place behind the last occurrence of an n-gram, unless that is the end of the text.
    places: [HashMap<[u32; 4], usize>; 2],
}

impl Ngrams {
    /// Makes `text` the text. Costs what is new; a text that does not begin with the old one is read anew.
    pub fn follow(&mut self, text: &[u32]) {
        if !text.starts_with(&self.text) {
            *self = Self::default();
        }
        for &token in &text[self.text.len()..] {
            self.push(token);
        }
    }

    /// Adds a token to the text.
    pub fn push(&mut self, token: u32) {
        // What ended here has a token behind it now.
        let end = self.text.len();
        for (places, length) in self.places.iter_mut().zip(LENGTHS) {
            if let Some(key) = key(&self.text, length) {
                places.insert(key, end);
            }
        }
        self.text.push(token);
    }

    /// Tokens of the text.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Place behind the latest earlier occurrence of the last tokens.
    fn place(&self) -> Option<usize> {
        let mut lengths = self.places.iter().zip(LENGTHS);
        lengths.find_map(|(places, length)| places.get(&key(&self.text, length)?).copied())
    }

    /// How many drafts there are, at most `most`.
    #[must_use]
    pub fn matched(&self, most: usize) -> usize {
        self.place().map_or(0, |place| (self.text.len() - place).min(most))
    }

    /// The tokens that followed then, at most `count`.
    #[must_use]
    pub fn drafts(&self, count: usize) -> Vec<u32> {
        let Some(place) = self.place() else { return Vec::new() };
        self.text[place..].iter().copied().take(count).collect()
    }
}

/// The last `length` tokens of a text, padded.
fn key(text: &[u32], length: usize) -> Option<[u32; 4]> {
    let tail = text.len().checked_sub(length).map(|start| &text[start..])?;
    let mut key = [u32::MAX; 4];
    key[..length].copy_from_slice(tail);
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_drafted() {
        let mut ngrams = Ngrams::default();
        ngrams.follow(&[1, 2, 3, 4, 5, 6]);
        assert!(ngrams.drafts(4).is_empty());
        ngrams.follow(&[1, 2, 3, 4, 5, 6, 2, 3]);
        assert_eq!((ngrams.matched(9), ngrams.drafts(3)), (5, vec![4, 5, 6]));
        // The longer match is preferred to the later one.
        ngrams.follow(&[1, 2, 3, 4, 5, 6, 2, 3, 9, 3, 4, 8, 1, 2, 3, 4]);
        assert_eq!(ngrams.drafts(2), [5, 6]);
    }

    #[test]
    fn the_latest_occurrence_counts_and_drafts_may_overlap_with_it() {
        let mut ngrams = Ngrams::default();
        ngrams.follow(&[7, 7, 7]);
        assert_eq!(ngrams.drafts(5), [7]);
        ngrams.follow(&[1, 2, 8, 1, 2, 9, 1, 2]);
        assert_eq!(ngrams.drafts(2), [9, 1]);
    }

    #[test]
    fn another_text_is_read_anew() {
        let mut ngrams = Ngrams::default();
        ngrams.follow(&[1, 2, 3, 1, 2]);
        ngrams.follow(&[5, 1, 2]);
        assert!(ngrams.drafts(3).is_empty());
        ngrams.follow(&[]);
        assert_eq!(ngrams.matched(3), 0);
    }
}
