//! What a sequence or a snapshot holds, and from where one may go on.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::spec::CacheSpec;
use super::{NO_PAGE, PAGE, PageId};
use crate::model::config::Span;

/// A handle to a sequence, valid until it is released and only in the cache that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub(super) u64);

/// The state of a sequence at some length, kept so that others may go on from there.
///
/// Clones are the same snapshot. Its pages come back when the last clone is dropped, at the cache's next call.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Handle>);

/// Names of snapshots that are gone, for their cache to collect.
pub(super) type Dropped = Arc<Mutex<Vec<u64>>>;

#[derive(Debug)]
struct Handle {
    id: u64,
    len: usize,
    dropped: Dropped,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A vector of numbers is as good after a panic elsewhere as before.
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}

impl Snapshot {
    pub(super) fn new(id: u64, len: usize, dropped: &Dropped) -> Self {
        Self(Arc::new(Handle { id, len, dropped: Arc::clone(dropped) }))
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// Tokens of the sequence when the snapshot was taken.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a length in tokens, not a container's")]
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// Pages of a token stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Tokens.
    pub(super) len: usize,
    /// Lowest position whose local keys and values are still there.
    pub(super) oldest: usize,
    /// Page of logical page `l` at entry `l`.
    pub(super) global: Vec<PageId>,
    /// Page of logical page `l` at entry `l mod ring_pages`.
    pub(super) local: Vec<PageId>,
}

impl Held {
    pub(super) fn new(spec: &CacheSpec) -> Self {
        Self {
            len: 0,
            oldest: 0,
            global: vec![NO_PAGE; spec.table_len(Span::Global)],
            local: vec![NO_PAGE; spec.table_len(Span::Local)],
        }
    }

    pub(super) fn table(&self, span: Span) -> &[PageId] {
        match span {
            Span::Global => &self.global,
            Span::Local => &self.local,
        }
    }

    /// The entry of a logical page; `None` if the model has no such layers.
    pub(super) fn entry(&mut self, span: Span, logical: usize) -> Option<&mut PageId> {
        match span {
            Span::Global => self.global.get_mut(logical),
            Span::Local if self.local.is_empty() => None,
            Span::Local => {
                let entry = logical % self.local.len();
                Some(&mut self.local[entry])
            }
        }
    }

    /// The page of a logical page; `None` if the model has no such layers or nothing is there.
    pub(super) fn page(&self, span: Span, logical: usize) -> Option<PageId> {
        let page = match span {
            Span::Global => self.global.get(logical).copied()?,
            Span::Local if self.local.is_empty() => return None,
            Span::Local => self.local[logical % self.local.len()],
        };
        (page != NO_PAGE).then_some(page)
    }

    /// The page that a token at the current length is appended to, if it is begun already.
    pub(super) fn tail(&self, span: Span, len: usize) -> Option<PageId> {
        if len.is_multiple_of(PAGE) { None } else { self.page(span, len / PAGE) }
    }

    /// Lowest position whose local keys and values another holder may come to rely on.
    ///
    /// While this stream appends to a page, what its ring held there before is about to go: nobody may share it.
    fn lowest_shareable(&self) -> usize {
        let end = self.len.div_ceil(PAGE) * PAGE;
        self.oldest.max(end.saturating_sub(self.ring()))
    }

    /// What a new holder takes from this stream to stand at `len`, which is no more than its length.
    ///
    /// The local pages are those of the window at `len` and at the page border before it: whoever cannot append to
    /// the last page may still go on from the border.
    pub(super) fn clip(&self, spec: &CacheSpec, len: usize) -> Self {
        let mut clip = Self::new(spec);
        if len == 0 {
            return clip;
        }
        clip.len = len;
        if !clip.global.is_empty() {
            let pages = len.div_ceil(PAGE);
            clip.global[..pages].copy_from_slice(&self.global[..pages]);
        }
        if !clip.local.is_empty() {
            let border = len / PAGE * PAGE;
            let first = spec.window_start(border).max(self.lowest_shareable()) / PAGE;
            clip.oldest = self.lowest_shareable().max(first * PAGE);
            for logical in first..len.div_ceil(PAGE) {
                let entry = logical % clip.local.len();
                clip.local[entry] = self.local[entry];
            }
        }
        clip
    }

    /// The pages of a clip and how many of their leading tokens lie below its length.
    pub(super) fn clipped_pages(&self) -> impl Iterator<Item = (Span, PageId, usize)> {
        let end = self.len.div_ceil(PAGE);
        let pages = |span, range: Range<usize>| {
            range.filter_map(move |logical| {
                Some((span, self.page(span, logical)?, (self.len - logical * PAGE).min(PAGE)))
            })
        };
        pages(Span::Global, 0..end).chain(pages(Span::Local, self.oldest / PAGE..end))
    }

    /// Slots of the local ring.
    pub(super) fn ring(&self) -> usize {
        self.local.len() * PAGE
    }

    /// Smallest length above 0 at which a new holder has all local keys it needs.
    pub(super) fn lowest(&self, spec: &CacheSpec) -> usize {
        self.lowest_shareable() + spec.window - 1
    }

    /// Whether local layers may go on at `len` when `oldest` is the lowest position that they have.
    pub(super) fn window_present(spec: &CacheSpec, oldest: usize, len: usize) -> bool {
        len == 0 || spec.ring_pages == 0 || spec.window_start(len) >= oldest
    }

    /// The largest length up to `len` at which a new holder may go on, given whether it may append to the last page.
    pub(super) fn usable(&self, spec: &CacheSpec, len: usize, appendable: bool) -> usize {
        let border = len / PAGE * PAGE;
        let length = if appendable { len } else { border };
        // A lower border needs an older window: if this one is not there, no other is.
        if Self::window_present(spec, self.lowest_shareable(), length) { length } else { 0 }
    }
}

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) held: Held,
    /// Tokens that the step in flight may keep.
    pub(super) pending: usize,
}
