//! Who holds the pages of one group.
//!
//! A page is held by any number of readers and at most one owner. The owner appends: it alone may write, and only at
//! offsets that no reader relies on. A reader says how many leading tokens it relies on and never writes.
//!
//! Sequences own the page that they append to and the pages they filled; those that they share they read whole.
//! Snapshots only read: the last page up to their length, all others whole. When everybody else has left, a reader
//! becomes the owner the moment it wants to write.

use super::{PAGE, PageId, SeqId};

/// The holders of one page. It is free when there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Page {
    owner: Option<SeqId>,
    /// Readers that rely on the whole page.
    whole: usize,
    /// How many leading tokens each other reader relies on.
    partial: Vec<usize>,
}

impl Page {
    fn references(&self) -> usize {
        usize::from(self.owner.is_some()) + self.whole + self.partial.len()
    }
}

/// In which capacity somebody asks to append to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// A sequence that holds the page already, as owner or as reader of the whole.
    Holder(SeqId),
    /// A sequence that does not hold the page yet.
    Newcomer,
}

/// The pages of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// Pages of every pool of the group.
    count: usize,
    /// Pages that were ever taken, so that a large pool costs nothing here before it is used.
    taken: Vec<Page>,
    /// Pages that were taken and came back; the last to come goes first, as it is the likeliest to be in a device's cache.
    returned: Vec<PageId>,
}

impl Pages {
    pub(super) fn new(count: usize) -> Self {
        Self { count, taken: Vec::new(), returned: Vec::new() }
    }

    /// Pages that nobody holds.
    pub(super) fn free(&self) -> usize {
        self.count - self.used()
    }

    /// Pages that somebody holds.
    pub(super) fn used(&self) -> usize {
        self.taken.len() - self.returned.len()
    }

    /// Pages with more than one holder.
    pub(super) fn shared(&self) -> usize {
        self.taken.iter().filter(|page| page.references() > 1).count()
    }

    /// A free page for `owner`. There is one: a step counts before it takes.
    pub(super) fn take(&mut self, owner: SeqId) -> PageId {
        let id = self.returned.pop().unwrap_or_else(|| {
            assert!(self.taken.len() < self.count, "free pages are counted before one is taken");
            self.taken.push(Page::default());
            PageId::try_from(self.taken.len() - 1).expect("the number of pages was checked to fit a page id")
        });
        self.taken[id as usize].owner = Some(owner);
        id
    }

    /// Adds a reader that relies on the first `relied` tokens.
    pub(super) fn read(&mut self, id: PageId, relied: usize) {
        let page = &mut self.taken[id as usize];
        debug_assert!(page.references() > 0, "a free page has nothing to read");
        if relied < PAGE {
            page.partial.push(relied);
        } else {
            page.whole += 1;
        }
    }

    /// Removes a reader that [`Self::read`] added.
    pub(super) fn unread(&mut self, id: PageId, relied: usize) {
        let page = &mut self.taken[id as usize];
        if relied < PAGE {
            let at = page
                .partial
                .iter()
                .position(|&r| r == relied)
                .expect("a reader leaves with what it came with");
            page.partial.swap_remove(at);
        } else {
            page.whole -= 1;
        }
        self.reclaim(id);
    }

    /// Removes a sequence that holds the page as its owner or as a reader of the whole.
    pub(super) fn leave(&mut self, id: PageId, sequence: SeqId) {
        let page = &mut self.taken[id as usize];
        if page.owner == Some(sequence) {
            page.owner = None;
            self.reclaim(id);
        } else {
            self.unread(id, PAGE);
        }
    }

    fn reclaim(&mut self, id: PageId) {
        if self.taken[id as usize].references() == 0 {
            self.returned.push(id);
        }
    }

    /// Whether its only holder holds the page, so that all of it may be overwritten.
    pub(super) fn exclusive(&self, id: PageId) -> bool {
        self.taken[id as usize].references() == 1
    }

    /// Whether `claim` may write the page from `offset` on.
    ///
    /// Nobody else owns it, and nobody else relies on anything at or above `offset`.
    pub(super) fn may_append(&self, id: PageId, offset: usize, claim: Claim) -> bool {
        let page = &self.taken[id as usize];
        let whole = match (page.owner, claim) {
            (Some(owner), Claim::Holder(sequence)) if owner == sequence => page.whole,
            (Some(_), _) => return false,
            // Its own reading does not stand in its way.
            (None, Claim::Holder(_)) => page.whole - 1,
            (None, Claim::Newcomer) => page.whole,
        };
        whole == 0 && page.partial.iter().all(|&relied| relied <= offset)
    }

    /// Makes `sequence` the owner, by the `claim` that [`Self::may_append`] allowed.
    pub(super) fn own(&mut self, id: PageId, sequence: SeqId, claim: Claim) {
        let page = &mut self.taken[id as usize];
        if page.owner == Some(sequence) {
            return;
        }
        debug_assert!(page.owner.is_none(), "a page has one owner");
        if let Claim::Holder(_) = claim {
            page.whole -= 1;
        }
        page.owner = Some(sequence);
    }
}

#[cfg(test)]
impl Pages {
    /// Owner, readers of the whole and sorted partial readers of a page.
    pub(super) fn holders(&self, id: PageId) -> (Option<SeqId>, usize, Vec<usize>) {
        let page = self.taken.get(id as usize).cloned().unwrap_or_default();
        let mut partial = page.partial;
        partial.sort_unstable();
        (page.owner, page.whole, partial)
    }

    /// Overwrites who holds a page: how a test breaks the rules.
    pub(super) fn forge(&mut self, id: PageId, (owner, whole, partial): (Option<SeqId>, usize, Vec<usize>)) {
        self.taken[id as usize] = Page { owner, whole, partial };
    }
}
