//! Which page of the KV cache holds which tokens: tables, references and lengths, never the keys themselves.
//!
//! Every layer that owns keys and values has a pool of pages for each; page `p` of a group is page `p` in the pools
//! of all its layers, so a sequence needs one table for its global layers and one for its local ones. A global table
//! grows with the sequence. A local table is a ring of `ring_pages` entries: the tokens of logical page `l` are in
//! the page at entry `l mod ring_pages` ([`ring`] has the arithmetic).
//!
//! # Sharing
//!
//! Pages are only appended to, so a page may have many readers beside the one owner that appends to it; nothing is
//! ever copied. The rules, each with the test that breaks it on purpose in `cache/tests.rs`:
//!
//! - A sequence owns the page that it appends to, and nobody relies on anything in it at or above the sequence's
//!   length. Every other page it holds, it owns or reads whole. A snapshot reads all its pages, the last one up to
//!   its length.
//! - Two sequences never append to one page. Who goes on from a snapshot in the middle of a page becomes its owner
//!   if there is none; otherwise it starts at the page border below and computes the rest anew.
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
//! garbage above the length, are overwritten by the next step, and count for `oldest`. Pages above the length stay with the
//! sequence until [`rollback`](Cache::rollback): a host that runs a step ahead reserves for both steps, and for
//! both again after each commit, and gets the same pages.

mod pages;
pub mod ring;
mod sequence;
mod spec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::config::Span;
use pages::{Claim, Pages};
use sequence::{Dropped, Held, Sequence};
pub use sequence::{SeqId, Snapshot};
pub use spec::CacheSpec;

/// Tokens of a page.
pub const PAGE: usize = 256;

/// Number of a page in every pool of its group.
pub type PageId = u32;

/// Entry of a page table that holds nothing. No kernel may follow it.
pub const NO_PAGE: PageId = PageId::MAX;

/// A step, or a place to go to, that the cache cannot have. The cache is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Sizes that cannot work.
    #[error("KV cache: {what} is {found}, expected {expected}")]
    BadSpec {
        /// Which size.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What it may be.
        expected: String,
    },
    /// The sequence was released, or belongs to another cache.
    #[error("KV cache: there is no such sequence")]
    UnknownSequence,
    /// The snapshot belongs to another cache.
    #[error("KV cache: the snapshot belongs to another cache")]
    UnknownSnapshot,
    /// Every page is held: release a sequence or drop a snapshot.
    #[error("KV cache: {needed} more {group} pages needed, {free} free")]
    OutOfPages {
        /// Kind of layers.
        group: &'static str,
        /// Pages that the step takes.
        needed: usize,
        /// Pages that nobody holds.
        free: usize,
    },
    /// The sequence would be longer than the context: shorten the prompt or open a larger context.
    #[error("KV cache: {len} tokens do not fit a context of {max_context}")]
    ContextFull {
        /// Tokens of the sequence after the step.
        len: usize,
        /// Most tokens of a sequence.
        max_context: usize,
    },
    /// The step would overwrite local keys that its own first tokens see: take it in pieces.
    #[error(
        "KV cache: a step of {asked} tokens is longer than {limit}, the most that the local ring takes here"
    )]
    StepTooLong {
        /// Tokens of the step.
        asked: usize,
        /// Most tokens of a step at this length.
        limit: usize,
    },
    /// More tokens kept than were reserved.
    #[error("KV cache: {kept} tokens kept of a step of {reserved}")]
    NotReserved {
        /// Tokens to keep.
        kept: usize,
        /// Tokens of the step in flight.
        reserved: usize,
    },
    /// A step is in flight: commit it first.
    #[error("KV cache: a step of {reserved} tokens is in flight")]
    StepInFlight {
        /// Tokens of the step in flight.
        reserved: usize,
    },
    /// The sequence is shorter.
    #[error("KV cache: position {asked} is beyond the {len} tokens of the sequence")]
    Beyond {
        /// Length asked for.
        asked: usize,
        /// Tokens there are.
        len: usize,
    },
    /// Local keys that the length needs are overwritten: go back less far, or to 0.
    #[error(
        "KV cache: cannot go back to {asked} tokens: local keys are left for {lowest} and more, or for 0"
    )]
    TooFarBack {
        /// Length asked for.
        asked: usize,
        /// Smallest length above 0 for which all local keys are left.
        lowest: usize,
    },
    /// Others rely on the page of that length, and the page border below it is too far back: go back to 0.
    #[error("KV cache: cannot go back to {asked} tokens: the page is shared and {border} is too far back")]
    SharedPage {
        /// Length asked for.
        asked: usize,
        /// The page border below it.
        border: usize,
    },
}

/// Consecutive tokens inside one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The page.
    pub page: PageId,
    /// First token's place in the page.
    pub offset: usize,
    /// Tokens.
    pub rows: usize,
}

/// Where the tokens of a step go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPages {
    /// Global pages in the order of positions; empty if the model has no global layers.
    pub global: Vec<PageRun>,
    /// Local pages in the order of positions; empty if the model has no local layers.
    pub local: Vec<PageRun>,
    /// Global pages that this call took: their contents are anybody's.
    pub fresh_global: Vec<PageId>,
    /// Local pages that this call took.
    pub fresh_local: Vec<PageId>,
}

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

    /// Most tokens of the next step, 0 if the context is full.
    ///
    /// Never less than the `step` that [`CacheSpec::for_sequences`] was given, but at the context's end.
    ///
    /// # Errors
    ///
    /// [`CacheError::UnknownSequence`].
    pub fn step_limit(&self, seq: SeqId) -> Result<usize, CacheError> {
        let held = &self.sequence(seq)?.held;
        Ok(self.limit(held))
    }

    fn limit(&self, held: &Held) -> usize {
        let Held { len, .. } = *held;
        let max_context = self.spec.max_context;
        if self.spec.ring_pages == 0 {
            return max_context - len;
        }
        // The last token of the step takes the position one ring below it, and a page that goes as a whole takes the
        // positions one ring below its last slot. All of them must be out of the first token's window.
        let reach = self.spec.window_start(len) + self.spec.ring_slots();
        let mut end = reach.min(max_context);
        for logical in len.div_ceil(PAGE)..end.div_ceil(PAGE) {
            let replaced = held
                .page(Span::Local, logical)
                .is_some_and(|page| !self.local.exclusive(page));
            if replaced && (logical + 1) * PAGE > reach {
                end = logical * PAGE;
                break;
            }
        }
        end - len
    }

    /// Makes positions `len..len + n` of a sequence writable, for a step that starts at its current length.
    ///
    /// Until [`Self::commit`] the length stays. Reserving again before that is a step that may be longer.
    ///
    /// # Errors
    ///
    /// [`CacheError::ContextFull`], [`CacheError::StepTooLong`] with the limit, [`CacheError::OutOfPages`] or
    /// [`CacheError::UnknownSequence`]; nothing has changed then.
    pub fn reserve(&mut self, seq: SeqId, n: usize) -> Result<StepPages, CacheError> {
        self.collect();
        let Self {
            sequences,
            global,
            local,
            spec,
            ..
        } = &*self;
        let held = &sequences.get(&seq).ok_or(CacheError::UnknownSequence)?.held;
        let len = held.len;
        if n > spec.max_context - len {
            let len = len.saturating_add(n);
            return Err(CacheError::ContextFull {
                len,
                max_context: spec.max_context,
            });
        }
        let limit = self.limit(held);
        if n > limit {
            return Err(CacheError::StepTooLong { asked: n, limit });
        }
        let end = len + n;
        // The logical pages that the step begins. The page it starts in, if that is begun, is its own already.
        let begun = len.div_ceil(PAGE)..end.div_ceil(PAGE);
        let missing = |span, pages: &Pages| {
            let writable = |page| span == Span::Global || pages.exclusive(page);
            let fresh = |&logical: &usize| !held.page(span, logical).is_some_and(writable);
            if spec.table_len(span) == 0 {
                0
            } else {
                begun.clone().filter(fresh).count()
            }
        };
        for (group, pages, span) in [("global", global, Span::Global), ("local", local, Span::Local)] {
            let needed = missing(span, pages);
            if needed > pages.free() {
                return Err(CacheError::OutOfPages {
                    group,
                    needed,
                    free: pages.free(),
                });
            }
        }

        let Self {
            sequences,
            global,
            local,
            ..
        } = self;
        let sequence = sequences.get_mut(&seq).ok_or(CacheError::UnknownSequence)?;
        let mut step = StepPages::default();
        for logical in begun {
            if let Some(entry) = sequence
                .held
                .entry(Span::Global, logical)
                .filter(|entry| **entry == NO_PAGE)
            {
                *entry = global.take(seq);
                step.fresh_global.push(*entry);
            }
            let Some(entry) = sequence.held.entry(Span::Local, logical) else {
                continue;
            };
            if *entry != NO_PAGE && local.exclusive(*entry) {
                local.own(*entry, seq, Claim::Holder(seq));
                continue;
            }
            let old = std::mem::replace(entry, local.take(seq));
            step.fresh_local.push(*entry);
            if old != NO_PAGE {
                local.leave(old, seq);
                let lost = ((logical + 1) * PAGE).saturating_sub(sequence.held.ring());
                sequence.held.oldest = sequence.held.oldest.max(lost);
            }
        }
        if n > 0 {
            sequence.written = sequence.written.max(end);
            if !sequence.held.local.is_empty() {
                let lost = sequence.written.saturating_sub(sequence.held.ring());
                sequence.held.oldest = sequence.held.oldest.max(lost);
            }
        }
        sequence.pending = sequence.pending.max(n);
        step.global = runs(&sequence.held, Span::Global, len, end);
        step.local = runs(&sequence.held, Span::Local, len, end);
        Ok(step)
    }

    /// Ends the step in flight: its first `kept` tokens belong to the sequence, the others are rejected.
    ///
    /// # Errors
    ///
    /// [`CacheError::NotReserved`] if the step had fewer tokens, [`CacheError::UnknownSequence`].
    pub fn commit(&mut self, seq: SeqId, kept: usize) -> Result<(), CacheError> {
        let sequence = self.sequences.get_mut(&seq).ok_or(CacheError::UnknownSequence)?;
        if kept > sequence.pending {
            return Err(CacheError::NotReserved {
                kept,
                reserved: sequence.pending,
            });
        }
        sequence.held.len += kept;
        sequence.pending = 0;
        Ok(())
    }

    /// Takes a sequence back to `len` tokens and returns its new length, which is `len` or the page border below.
    ///
    /// The border, if somebody else relies on the page that `len` lies in beyond `len`, or appends to it. A step in
    /// flight is forgotten. Going back to 0 always works.
    ///
    /// # Errors
    ///
    /// [`CacheError::TooFarBack`] or [`CacheError::SharedPage`] if local keys are lost, [`CacheError::Beyond`],
    /// [`CacheError::UnknownSequence`]; nothing has changed then.
    pub fn rollback(&mut self, seq: SeqId, len: usize) -> Result<usize, CacheError> {
        self.collect();
        let Self { spec, .. } = *self;
        let sequence = self.sequence(seq)?;
        let Held { oldest, .. } = sequence.held;
        if len > sequence.held.len {
            return Err(CacheError::Beyond {
                asked: len,
                len: sequence.held.len,
            });
        }
        if !Held::window_present(&spec, oldest, len) {
            return Err(CacheError::TooFarBack {
                asked: len,
                lowest: oldest + spec.window - 1,
            });
        }
        let border = len / PAGE * PAGE;
        let kept = if self.appendable(&sequence.held, len, Claim::Holder(seq)) {
            len
        } else {
            border
        };
        if !Held::window_present(&spec, oldest, kept) {
            return Err(CacheError::SharedPage { asked: len, border });
        }
        self.truncate(seq, kept)?;
        Ok(kept)
    }

    /// Drops what a sequence holds above `len`, where it may go on.
    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), CacheError> {
        let Self {
            sequences,
            global,
            local,
            ..
        } = self;
        let Sequence {
            held,
            pending,
            written,
        } = sequences.get_mut(&seq).ok_or(CacheError::UnknownSequence)?;
        *pending = 0;
        held.len = len;
        let first = len.div_ceil(PAGE);
        for page in held
            .global
            .iter_mut()
            .skip(first)
            .filter(|page| **page != NO_PAGE)
        {
            global.leave(std::mem::replace(page, NO_PAGE), seq);
        }
        if len == 0 {
            for page in held.local.iter_mut().filter(|page| **page != NO_PAGE) {
                local.leave(std::mem::replace(page, NO_PAGE), seq);
            }
            (held.oldest, *written) = (0, 0);
            return Ok(());
        }
        let ring = held.ring();
        for logical in first..written.div_ceil(PAGE) {
            // A page that was begun above `len` may still have the end of its predecessor in the ring.
            let stale = (logical + 1) * PAGE <= held.oldest + ring;
            if let Some(entry) = held
                .entry(Span::Local, logical)
                .filter(|entry| stale && **entry != NO_PAGE)
            {
                local.leave(std::mem::replace(entry, NO_PAGE), seq);
            }
        }
        for (span, pages) in [(Span::Global, global), (Span::Local, local)] {
            if let Some(page) = held.tail(span, len) {
                pages.own(page, seq, Claim::Holder(seq));
            }
        }
        Ok(())
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
            return Err(CacheError::TooFarBack {
                asked: len,
                lowest: held.lowest(&self.spec),
            });
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
        self.collect();
        let usable = self.usable_of(snapshot, len)?;
        let held = self
            .snapshots
            .get(&snapshot.id())
            .ok_or(CacheError::UnknownSnapshot)?;
        let clip = held.clip(&self.spec, usable);
        Ok((self.adopt(clip), usable))
    }

    /// How many tokens [`Self::open_from_at`] would find.
    ///
    /// # Errors
    ///
    /// [`CacheError::Beyond`], [`CacheError::UnknownSnapshot`].
    pub fn usable_of(&self, snapshot: &Snapshot, len: usize) -> Result<usize, CacheError> {
        let held = self
            .snapshots
            .get(&snapshot.id())
            .ok_or(CacheError::UnknownSnapshot)?;
        if len > held.len {
            return Err(CacheError::Beyond {
                asked: len,
                len: held.len,
            });
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

    /// How full the cache is.
    pub fn stats(&mut self) -> CacheStats {
        self.collect();
        let group = |pages: &Pages| GroupStats {
            used: pages.used(),
            free: pages.free(),
            shared: pages.shared(),
        };
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
            return Err(CacheError::Beyond {
                asked: len,
                len: held.len,
            });
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
            held.tail(span, len)
                .is_none_or(|page| pages.may_append(page, len % PAGE, claim))
        };
        may(Span::Global, &self.global) && may(Span::Local, &self.local)
    }

    /// Opens a sequence with a clip of another stream, whose last page it may append to.
    fn adopt(&mut self, clip: Held) -> SeqId {
        let pages: Vec<_> = clip.clipped_pages().collect();
        let seq = self.insert(clip);
        for (span, page, relied) in pages {
            if relied < PAGE {
                self.pages_mut(span).own(page, seq, Claim::Newcomer);
            } else {
                self.pages_mut(span).read(page, PAGE);
            }
        }
        seq
    }

    fn insert(&mut self, held: Held) -> SeqId {
        let seq = SeqId(name());
        self.sequences.insert(seq, Sequence::new(held));
        seq
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

/// The pages of positions `start..end`, cut at page borders.
fn runs(held: &Held, span: Span, start: usize, end: usize) -> Vec<PageRun> {
    (start / PAGE..end.div_ceil(PAGE))
        .filter_map(|logical| {
            let (from, to) = (start.max(logical * PAGE), end.min((logical + 1) * PAGE));
            let page = held.page(span, logical)?;
            (from < to).then_some(PageRun {
                page,
                offset: from - logical * PAGE,
                rows: to - from,
            })
        })
        .collect()
}
