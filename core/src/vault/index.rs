//! Which conversations a vault has, which pages they share, and who goes first.

use std::collections::HashMap;

use super::{Key, Manifest, VaultStats};
use crate::cache::ring::window_start;

/// Most conversations: a prompt is compared with each.
const MOST: usize = 8192;

/// What a prompt needs of a kept conversation.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The prompt.
    pub tokens: &'a [u32],
    /// Most of its tokens that are of use.
    pub most: usize,
    /// Whether generated tokens are of no use.
    pub exact: bool,
    /// Sliding window of the model; 0 if it has none.
    pub window: usize,
}

/// A conversation that has some of what is wanted.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its name.
    pub key: Key,
    /// What it is made of.
    pub manifest: Manifest,
    /// Leading tokens that it can give.
    pub len: usize,
    /// Leading tokens that it has in common with the prompt.
    pub common: usize,
}

/// What a conversation leaves behind: its name, and pages that no other has.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) key: Key,
    pub(super) pages: Vec<Key>,
}

#[derive(Debug)]
struct Entry {
    manifest: Manifest,
    used: u64,
}

#[derive(Debug)]
struct Held {
    bytes: u64,
    conversations: usize,
}

/// The bookkeeping of a vault.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) limit: u64,
    entries: HashMap<Key, Entry>,
    pages: HashMap<Key, Held>,
    bytes: u64,
    clock: u64,
}

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, entries: HashMap::new(), pages: HashMap::new(), bytes: 0, clock: 0 }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn has_page(&self, key: &Key) -> bool {
        self.pages.contains_key(key)
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.entries.keys().copied().collect()
    }

    pub(super) fn touch(&mut self, key: &Key) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.used = self.clock;
        }
    }

    pub(super) fn insert(&mut self, manifest: Manifest) {
        self.clock += 1;
        let entry = Entry { manifest, used: self.clock };
        let key = entry.manifest.key();
        for page in &entry.manifest.pages {
            let held = self.pages.entry(page.key).or_insert_with(|| {
                self.bytes += page.bytes as u64;
                Held { bytes: page.bytes as u64, conversations: 0 }
            });
            held.conversations += 1;
        }
        if self.entries.insert(key, entry).is_some() {
            // It was here already: its pages were counted twice.
            self.release(&key);
        }
    }

    /// Counts the pages of an entry once less; returns those that nobody else has.
    fn release(&mut self, key: &Key) -> Vec<Key> {
        let Self { entries, pages, bytes, .. } = self;
        let mut free = Vec::new();
        for page in entries.get(key).map_or(&[][..], |entry| &entry.manifest.pages) {
            if let Some(held) = pages.get_mut(&page.key) {
                held.conversations -= 1;
                if held.conversations == 0 {
                    *bytes -= held.bytes;
                    pages.remove(&page.key);
                    free.push(page.key);
                }
            }
        }
        free
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Gone> {
        let pages = self.release(key);
        self.entries.remove(key)?;
        Some(Gone { key: *key, pages })
    }

    /// Removes the least recently used until the limit is kept.
    pub(super) fn shrink(&mut self) -> Vec<Gone> {
        let mut all = Vec::new();
        while self.bytes > self.limit || self.entries.len() > MOST {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key);
            match oldest.and_then(|key| self.remove(&key)) {
                Some(gone) => all.push(gone),
                None => break,
            }
        }
        all
    }

    pub(super) fn find(&mut self, wanted: &Wanted<'_>) -> Option<Found> {
        let usable = |entry: &Entry| {
            let manifest = &entry.manifest;
            let common = common(&manifest.tokens, wanted.tokens);
            let most = if wanted.exact { manifest.exact } else { common };
            let len = common.min(most).min(wanted.most);
            let window = if wanted.window == 0 { len } else { window_start(len, wanted.window) };
            (len > 0 && window >= manifest.oldest).then_some((len, common))
        };
        let best = self.entries.iter().filter_map(|(key, entry)| {
            usable(entry).map(|(len, common)| ((len, entry.used), (*key, common)))
        });
        let ((len, _), (key, common)) = best.max_by_key(|(rank, _)| *rank)?;
        self.touch(&key);
        let manifest = self.entries.get(&key)?.manifest.clone();
        Some(Found { key, manifest, len, common })
    }

    pub(super) fn common(&self, tokens: &[u32]) -> usize {
        self.entries.values().map(|entry| common(&entry.manifest.tokens, tokens)).max().unwrap_or(0)
    }

    pub(super) fn stats(&self) -> VaultStats {
        VaultStats {
            conversations: self.entries.len(),
            pages: self.pages.len(),
            bytes: self.bytes,
            limit: self.limit,
        }
    }
}

/// Leading tokens that two streams have in common.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
