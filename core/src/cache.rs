//! Which page of the KV cache holds which tokens: tables, references and lengths, never the keys themselves.
//!
//! Every layer that owns keys and values has a pool of pages for each; page `p` of a group is page `p` in the pools
//! of all its layers, so a sequence needs one table for its global layers and one for its local ones. A global table
//! grows with the sequence. A local table is a ring of `ring_pages` entries: the tokens of logical page `l` are in
//! the page at entry `l mod ring_pages` ([`ring`] has the arithmetic).
//!
//! # Sharing
//!
//! Pages are only appended to, so a page may have many readers beside the one owner that appends to it, and nothing
//! has to be copied but the one page in whose middle a sequence [branches off](Cache::branch). The rules, which
//! `cache/tests/sharing.rs` breaks on purpose:
//!
//! - A sequence owns the page that it appends to, and nobody relies on anything in it at or above the sequence's
//!   length. Every other page it holds, it owns or reads whole. A snapshot reads all its pages, the last one up to
//!   its length.
//! - Two sequences never append to one page. Who goes on from a snapshot in the middle of a page becomes its owner
//!   if there is none; otherwise it takes a copy of the page, or starts at the page border below and computes the
//!   rest anew.
//! - A page of the ring is overwritten in place only by its single holder. If somebody else holds it, the sequence
//!   takes a fresh page and the old one goes as a whole.
//! - `oldest` is the lowest position whose local keys a sequence still has. In place, the write of position `h`
//!   takes position `h - R`; a page that goes as a whole takes all 256. A step never takes what one of its own
//!   queries sees, and going back to `len` needs `max(0, len + 1 - window) >= oldest`.
//! - Going back below what a snapshot relies on in the same page means going back to the page border: the page
//!   cannot be written there, and a fresh one would lack its first tokens.
//!
//! # A step
//!
//! [`reserve`](Cache::reserve), run the step, [`commit`](Cache::commit). Rejected tokens stay in their pages as
//! garbage above the length, are overwritten by the next step, and count for `oldest`. Pages above the length stay
//! with the sequence until [`rollback`](Cache::rollback): a host that runs a step ahead reserves for both steps, and
//! for both again right after each commit, and gets the same pages.

mod branch;
mod error;
mod pages;
pub mod ring;
mod sequence;
mod spec;
mod step;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::config::Span;
pub use branch::{Branch, Contents, HeldPage, PageCopy};
pub use error::CacheError;
use pages::{Claim, Pages};
use sequence::{Dropped, Held, Sequence};
pub use sequence::{SeqId, Snapshot};
pub use spec::CacheSpec;
pub use step::{PageRun, StepPages};

/// Tokens of a page.
pub const PAGE: usize = 256;

/// Number of a page in every pool of its group.
pub type PageId = u32;

/// Entry of a page table that holds nothing. No kernel may follow it.
pub const NO_PAGE: PageId = PageId::MAX;

/// Pages of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStats {
    /// Pages that somebody holds.
    pub used: usize,
    /// Pages that nobody holds.
    pub free: usize,
    /// Pages with more than one holder.
    pub shared: usize,
}

/// How full a cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Pages of global layers.
    pub global: GroupStats,
    /// Pages of local layers.
    pub local: GroupStats,
    /// Open sequences.
    pub sequences: usize,
    /// Live snapshots.
    pub snapshots: usize,
}

/// Names of sequences and snapshots, never given twice in a process: a handle of another cache is unknown.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// The pages of a model's KV cache and who holds them. See the [module](self) for the rules.
#[derive(Debug)]
pub struct Cache {
    spec: CacheSpec,
    global: Pages,
    local: Pages,
    sequences: BTreeMap<SeqId, Sequence>,
    snapshots: BTreeMap<u64, Held>,
    dropped: Dropped,
}

impl Cache {
    /// An empty cache.
    ///
    /// # Errors
    ///
    /// [`CacheError::BadSpec`] if the ring is too small for its window or larger than the context.
    pub fn new(spec: CacheSpec) -> Result<Self, CacheError> {
        spec.check()?;
        Ok(Self {
            spec,
            global: Pages::new(spec.global_pages),
            local: Pages::new(spec.local_pages),
            sequences: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            dropped: Dropped::default(),
        })
    }

    /// Its sizes.
    #[must_use]
    pub fn spec(&self) -> &CacheSpec {
        &self.spec
    }

    /// Opens an empty sequence. It takes no pages yet.
    pub fn open(&mut self) -> SeqId {
        self.insert(Held::new(&self.spec))
    }

    /// Gives a sequence's pages back, but for those that others hold.
    ///
    /// # Errors
    ///
    /// [`CacheError::UnknownSequence`], also if it was released before.
    pub fn release(&mut self, seq: SeqId) -> Result<(), CacheError> {
        self.collect();
        let sequence = self.sequences.remove(&seq).ok_or(CacheError::UnknownSequence)?;
        for span in SPANS {
            let pages = self.pages_mut(span);
            for &page in sequence.held.table(span).iter().filter(|&&page| page != NO_PAGE) {
                pages.leave(page, seq);
            }
        }
        Ok(())
    }

    /// Tokens of a sequence.
    ///
    /// # Errors
    ///
    /// [`CacheError::UnknownSequence`].
    pub fn len(&self, seq: SeqId) -> Result<usize, CacheError> {
        Ok(self.sequence(seq)?.held.len)
    }

    /// A sequence's page table: the tokens of logical page `l` are in the page at entry `l mod` its length.
    ///
    /// Its length never changes; entries without a page are [`NO_PAGE`]. Empty if the model has no such layers.
    ///
    /// # Errors
    ///
    /// [`CacheError::UnknownSequence`].
    pub fn table(&self, seq: SeqId, span: Span) -> Result<&[PageId], CacheError> {
        Ok(self.sequence(seq)?.held.table(span))
    }

    /// Keeps the state of a sequence at its current length. Takes no pages.
    ///
    /// # Errors
    ///
    /// [`CacheError::StepInFlight`], [`CacheError::UnknownSequence`].
    pub fn snapshot(&mut self, seq: SeqId) -> Result<Snapshot, CacheError> {
        self.snapshot_at(seq, self.len(seq)?)
    }

    /// Keeps the state that a sequence had at `len` tokens. Takes no pages.
    ///
    /// # Errors
    ///
    /// [`CacheError::TooFarBack`] if local keys are lost, [`CacheError::Beyond`], [`CacheError::StepInFlight`],
    /// [`CacheError::UnknownSequence`].
    pub fn snapshot_at(&mut self, seq: SeqId, len: usize) -> Result<Snapshot, CacheError> {
        self.collect();
        let held = self.settled(seq, len)?;
        if held.usable(&self.spec, len, true) != len {
            return Err(CacheError::TooFarBack { asked: len, lowest: held.lowest(&self.spec) });
        }
        let clip = held.clip(&self.spec, len);
        for (span, page, relied) in clip.clipped_pages() {
            self.pages_mut(span).read(page, relied);
        }
        let id = name();
        self.snapshots.insert(id, clip);
        Ok(Snapshot::new(id, len, &self.dropped))
    }

    /// Opens a sequence that goes on from a snapshot, and says how many of its tokens are there.
    ///
    /// All of them, if the sequence may append to the last page; else those up to the page border below, if the
    /// local keys before it are left; else none.
    ///
    /// # Errors
    ///
    /// [`CacheError::UnknownSnapshot`].
    pub fn open_from(&mut self, snapshot: &Snapshot) -> Result<(SeqId, usize), CacheError> {
        self.open_from_at(snapshot, snapshot.len())
    }

    /// Opens a sequence that goes on from the first `len` tokens of a snapshot; see [`Self::open_from`].
    ///
    /// # Errors
    ///
    /// [`CacheError::Beyond`], [`CacheError::UnknownSnapshot`].
    pub fn open_from_at(&mut self, snapshot: &Snapshot, len: usize) -> Result<(SeqId, usize), CacheError> {
        let usable = self.usable_of(snapshot, len)?;
        let held = self.snapshots.get(&snapshot.id()).ok_or(CacheError::UnknownSnapshot)?;
        let clip = held.clip(&self.spec, usable);
        Ok((self.adopt(clip), usable))
    }

    /// How many tokens [`Self::open_from_at`] would find.
    ///
    /// # Errors
    ///
    /// [`CacheError::Beyond`], [`CacheError::UnknownSnapshot`].
    pub fn usable_of(&mut self, snapshot: &Snapshot, len: usize) -> Result<usize, CacheError> {
        self.collect();
        let held = self.snapshots.get(&snapshot.id()).ok_or(CacheError::UnknownSnapshot)?;
        if len > held.len {
            return Err(CacheError::Beyond { asked: len, len: held.len });
        }
        Ok(held.usable(&self.spec, len, self.appendable(held, len, Claim::Newcomer)))
    }

    /// Opens a sequence that goes on from the first `len` tokens of another, and says how many of them are there.
    ///
    /// As the other one appends to its own last page, these are at most those up to a page border.
    ///
    /// # Errors
    ///
    /// [`CacheError::Beyond`], [`CacheError::StepInFlight`], [`CacheError::UnknownSequence`].
    pub fn fork(&mut self, seq: SeqId, len: usize) -> Result<(SeqId, usize), CacheError> {
        self.collect();
        let held = self.settled(seq, len)?;
        let usable = held.usable(&self.spec, len, self.appendable(held, len, Claim::Newcomer));
        let clip = held.clip(&self.spec, usable);
        Ok((self.adopt(clip), usable))
    }

    /// Whether somebody still has the snapshot of this number.
    pub(crate) fn is_held(&mut self, snapshot: u64) -> bool {
        self.collect();
        self.snapshots.contains_key(&snapshot)
    }

    /// How full the cache is.
    pub fn stats(&mut self) -> CacheStats {
        self.collect();
        let group =
            |pages: &Pages| GroupStats { used: pages.used(), free: pages.free(), shared: pages.shared() };
        CacheStats {
            global: group(&self.global),
            local: group(&self.local),
            sequences: self.sequences.len(),
            snapshots: self.snapshots.len(),
        }
    }

    fn sequence(&self, seq: SeqId) -> Result<&Sequence, CacheError> {
        self.sequences.get(&seq).ok_or(CacheError::UnknownSequence)
    }

    /// What a sequence without a step in flight holds, if it has `len` tokens.
    fn settled(&self, seq: SeqId, len: usize) -> Result<&Held, CacheError> {
        let Sequence { held, pending, .. } = self.sequence(seq)?;
        if *pending > 0 {
            return Err(CacheError::StepInFlight { reserved: *pending });
        }
        if len > held.len {
            return Err(CacheError::Beyond { asked: len, len: held.len });
        }
        Ok(held)
    }

    fn pages_mut(&mut self, span: Span) -> &mut Pages {
        match span {
            Span::Global => &mut self.global,
            Span::Local => &mut self.local,
        }
    }

    /// Whether `claim` may append at `len` to the page that `held` has there, in both groups.
    fn appendable(&self, held: &Held, len: usize, claim: Claim) -> bool {
        let may = |span, pages: &Pages| {
            held.tail(span, len).is_none_or(|page| pages.may_append(page, len % PAGE, claim))
        };
        may(Span::Global, &self.global) && may(Span::Local, &self.local)
    }

    /// Opens a sequence with a clip of another stream, whose last page it may append to.
    fn adopt(&mut self, clip: Held) -> SeqId {
        let seq = SeqId(name());
        self.adopt_as(seq, clip);
        seq
    }

    /// The same for a sequence that has a name already, and may own pages of the clip.
    fn adopt_as(&mut self, seq: SeqId, clip: Held) {
        let pages: Vec<_> = clip.clipped_pages().collect();
        self.insert_as(seq, clip);
        for (span, page, relied) in pages {
            if relied < PAGE {
                self.pages_mut(span).own(page, seq, Claim::Newcomer);
            } else {
                self.pages_mut(span).read(page, PAGE);
            }
        }
    }

    fn insert(&mut self, held: Held) -> SeqId {
        let seq = SeqId(name());
        self.insert_as(seq, held);
        seq
    }

    fn insert_as(&mut self, seq: SeqId, held: Held) {
        self.sequences.insert(seq, Sequence { held, pending: 0 });
    }

    /// Takes back the pages of snapshots whose last handle is gone.
    fn collect(&mut self) {
        let dropped = std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        for id in dropped {
            let held = self.snapshots.remove(&id).expect("a snapshot is dropped once");
            for (span, page, relied) in held.clipped_pages() {
                self.pages_mut(span).unread(page, relied);
            }
        }
    }
}

/// Both groups.
const SPANS: [Span; 2] = [Span::Global, Span::Local];

fn name() -> u64 {
    NAMES.fetch_add(1, Ordering::Relaxed)
}
