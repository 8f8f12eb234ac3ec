//! Places on the device that prompts can go on from.
//!
//! A place is a snapshot of the cache: it takes no pages of its own, but keeps those of its tokens from being reused.
//! Ends of prompts and answers are most likely to be come back to; places inside prompts, behind each turn, are there
//! for turns that are edited. When pages are short, the least recently used place goes first, those inside prompts that
//! nobody has come back to before all others.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gemma4_core::backend::Backend;
use gemma4_core::cache::{PAGE, Snapshot};
use gemma4_core::engine::Engine;
use gemma4_core::vault::Wanted;

/// Most places; each takes some KiB of main memory beside its pages.
const MOST: usize = 1024;

/// Conversations that were evicted and are remembered, to say so.
const REMEMBERED: usize = 64;

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Inside a prompt.
    Inner,
    /// The end of a prompt or an answer, or one that was come back to.
    End,
}

/// A place.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) id: u64,
    tokens: Arc<[u32]>,
    pub(super) snapshot: Snapshot,
    /// Leading tokens that were computed as a prompt.
    pub(super) exact: usize,
    pub(super) kind: Kind,
    /// Whether it is on its way to the folder, or there.
    pub(super) saved: bool,
    used: u64,
}

impl Kept {
    pub(super) fn len(&self) -> usize {
        self.snapshot.len()
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens[..self.len()]
    }
}

/// A place that has something of a prompt.
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub(super) id: u64,
    pub(super) snapshot: Snapshot,
    pub(super) exact: usize,
    /// Leading tokens that can be gone on from.
    pub(super) len: usize,
}

/// What the device has of a prompt.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookup {
    /// The place with most of it in usable form.
    pub(super) best: Option<Best>,
    /// The place with most of it, usable or not: its pages of global layers can be shared.
    pub(super) base: Option<Best>,
    /// Most tokens in common with any place.
    pub(super) common: usize,
    /// Whether that place ends there, so that what follows is new and not edited.
    pub(super) ends: bool,
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    kept: Vec<Kept>,
    gone: VecDeque<(Arc<[u32]>, usize)>,
    clock: u64,
}

impl Shelf {
    pub(super) fn count(&self) -> usize {
        self.kept.len()
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Keeps a place; one that is there already is only marked as used.
    pub(super) fn keep(&mut self, tokens: &Arc<[u32]>, snapshot: Snapshot, exact: usize, kind: Kind) -> u64 {
        let used = self.tick();
        let wanted = &tokens[..snapshot.len()];
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.tokens() == wanted) {
            kept.used = used;
            kept.kind = kept.kind.max(kind);
            if exact > kept.exact {
                (kept.snapshot, kept.exact, kept.saved) = (snapshot, exact, false);
            }
            return kept.id;
        }
        let tokens = Arc::clone(tokens);
        self.kept.push(Kept { id: used, tokens, snapshot, exact, kind, saved: false, used });
        used
    }

    /// Lets all places of `old` refer to `new`, which begins with it: one copy of a conversation is enough.
    pub(super) fn rebase(&mut self, old: &Arc<[u32]>, new: &Arc<[u32]>) {
        for kept in self.kept.iter_mut().filter(|kept| Arc::ptr_eq(&kept.tokens, old)) {
            kept.tokens = Arc::clone(new);
        }
    }

    pub(super) fn get(&self, id: u64) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.id == id)
    }

    pub(super) fn mark_saved(&mut self, id: u64) {
        self.kept.iter_mut().filter(|kept| kept.id == id).for_each(|kept| kept.saved = true);
    }

    /// Somebody goes on from this place.
    pub(super) fn touch(&mut self, id: u64) {
        let used = self.tick();
        for kept in self.kept.iter_mut().filter(|kept| kept.id == id) {
            (kept.used, kept.kind) = (used, Kind::End);
        }
    }

    /// What the device has of a prompt.
    pub(super) fn find<B: Backend>(&self, engine: &mut Engine<B>, wanted: &Wanted<'_>) -> Lookup {
        let mut found = Lookup::default();
        // Places of one conversation share its tokens, so they are compared once.
        let mut compared: HashMap<*const u32, usize> = HashMap::new();
        for kept in &self.kept {
            let all =
                *compared.entry(kept.tokens.as_ptr()).or_insert_with(|| common(&kept.tokens, wanted.tokens));
            let common = all.min(kept.len());
            let limit = if wanted.exact { kept.exact } else { common };
            let len = common.min(limit).min(wanted.most);
            let of = |len| Best { id: kept.id, snapshot: kept.snapshot.clone(), exact: kept.exact, len };
            let ends = common == kept.len();
            if (common, ends) > (found.common, found.ends) {
                (found.common, found.ends) = (common, ends);
            }
            // A snapshot in hand keeps its pages: one without a page to share would be in the way.
            if len >= PAGE && found.base.as_ref().is_none_or(|base| base.len < len) {
                found.base = Some(of(len));
            }
            let better = found.best.as_ref().is_none_or(|best| (best.len, best.id) < (len, kept.id));
            if len > 0 && better && engine.branches_at(&kept.snapshot, len).unwrap_or(false) {
                found.best = Some(of(len));
            }
        }
        found
    }

    /// Most tokens that a prompt has in common with what had to go.
    pub(super) fn evicted(&self, tokens: &[u32]) -> usize {
        self.gone.iter().map(|(gone, len)| common(&gone[..*len], tokens)).max().unwrap_or(0)
    }

    /// The place that goes first.
    pub(super) fn victim(&self) -> Option<&Kept> {
        self.kept.iter().min_by_key(|kept| (kept.kind, kept.used))
    }

    /// Whether there are more places than there should be.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() > MOST
    }

    /// Removes a place. Its pages come back at the cache's next call.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(at) = self.kept.iter().position(|kept| kept.id == id) else { return };
        let kept = self.kept.swap_remove(at);
        if kept.kind == Kind::End {
            self.gone.push_back((Arc::clone(&kept.tokens), kept.len()));
            if self.gone.len() > REMEMBERED {
                self.gone.pop_front();
            }
        }
    }

    /// Removes a place that another makes superfluous, without a memory of it.
    pub(super) fn replace(&mut self, id: u64) {
        self.kept.retain(|kept| kept.id != id);
    }

    /// Removes everything, also the memory of what is gone; says how many tokens there were.
    pub(super) fn clear(&mut self) -> usize {
        let tokens = self.kept.iter().map(Kept::len).sum();
        self.kept.clear();
        self.gone.clear();
        tokens
    }

    /// Places that are worth keeping, the least recently used first.
    pub(super) fn by_use(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.kept.iter().filter(|kept| kept.kind == Kind::End).collect();
        all.sort_by_key(|kept| kept.used);
        all.iter().map(|kept| kept.id).collect()
    }
}

/// Leading tokens that two streams have in common.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
