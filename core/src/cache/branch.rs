//! Going on from any place of a kept conversation: from the middle of a page that others rely on, by a copy of that one
//! page; and from pages that were saved elsewhere.

use super::pages::Claim;
use super::sequence::{Held, Snapshot};
use super::{Cache, CacheError, NO_PAGE, PAGE, PageId, SPANS, SeqId, name};
use crate::model::config::Span;

/// A sequence that goes on from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The sequence.
    pub seq: SeqId,
    /// Pages whose contents the caller copies before the sequence's first step; at most one of each group.
    pub copies: Vec<PageCopy>,
}

/// A page to be copied in all pools of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// Its group.
    pub span: Span,
    /// Where the tokens are.
    pub from: PageId,
    /// Where they are wanted.
    pub to: PageId,
}

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Its pages, the global ones first, both by rising tokens.
    pub pages: Vec<HeldPage>,
    /// Lowest position whose local keys are in them.
    pub oldest: usize,
}

/// A page that a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPage {
    /// Its group.
    pub span: Span,
    /// Which tokens it has: those from `logical * PAGE` on.
    pub logical: usize,
    /// The page.
    pub page: PageId,
    /// How many of its leading tokens the snapshot relies on.
    pub tokens: usize,
}

impl Cache {
    /// Whether [`Self::branch`] can go on at `len`: whether the local window there is left.
    ///
    /// # Errors
    ///
    /// [`CacheError::Beyond`], [`CacheError::UnknownSnapshot`].
    pub fn branches_at(&mut self, snapshot: &Snapshot, len: usize) -> Result<bool, CacheError> {
        self.collect();
        let held = self.held(snapshot, len)?;
        Ok(held.usable(&self.spec, len, true) == len)
    }

    /// Opens a sequence that goes on from exactly the first `len` tokens of a snapshot.
    ///
    /// All pages are shared. Only where `len` lies inside a page that the sequence may not append to does it get a
    /// page of its own, which the caller has to fill: see [`Branch::copies`].
    ///
    /// # Errors
    ///
    /// [`CacheError::TooFarBack`] if the local window at `len` is gone, [`CacheError::OutOfPages`] if there is none for
    /// the copy, [`CacheError::Beyond`], [`CacheError::UnknownSnapshot`]; nothing has changed then.
    pub fn branch(&mut self, snapshot: &Snapshot, len: usize) -> Result<Branch, CacheError> {
        self.collect();
        let held = self.held(snapshot, len)?;
        if held.usable(&self.spec, len, true) != len {
            return Err(CacheError::TooFarBack { asked: len, lowest: held.lowest(&self.spec) });
        }
        let mut clip = held.clip(&self.spec, len);
        let mut copied = Vec::new();
        for (group, pages, span) in
            [("global", &self.global, Span::Global), ("local", &self.local, Span::Local)]
        {
            let tail = clip.tail(span, len);
            let taken = tail.filter(|&page| !pages.may_append(page, len % PAGE, Claim::Newcomer));
            if let Some(from) = taken {
                if pages.free() == 0 {
                    return Err(CacheError::OutOfPages { group, needed: 1, free: 0 });
                }
                copied.push((span, from));
            }
        }
        let seq = SeqId(name());
        let mut copies = Vec::new();
        for (span, from) in copied {
            let to = self.pages_mut(span).take(seq);
            if let Some(entry) = clip.entry(span, len / PAGE) {
                *entry = to;
            }
            copies.push(PageCopy { span, from, to });
        }
        self.adopt_as(seq, clip);
        Ok(Branch { seq, copies })
    }

    /// Opens a sequence of `len` tokens whose keys are about to be written into its pages: all global ones but the
    /// first few, which are those of a snapshot that begins with the same tokens, and the local ones from the page of
    /// position `oldest` on. That is what [`Self::contents`] of a snapshot said.
    ///
    /// # Errors
    ///
    /// [`CacheError::TooFarBack`] if those local pages do not hold the window at `len`, [`CacheError::StepTooLong`] if
    /// they are more than the ring has, [`CacheError::ContextFull`], [`CacheError::OutOfPages`],
    /// [`CacheError::Beyond`] if the snapshot or the sequence has fewer whole pages than are to be shared, [`CacheError::UnknownSnapshot`];
    /// nothing has changed then.
    pub fn restore(
        &mut self,
        len: usize,
        oldest: usize,
        base: Option<(&Snapshot, usize)>,
    ) -> Result<SeqId, CacheError> {
        self.collect();
        let spec = self.spec;
        if len > spec.max_context {
            return Err(CacheError::ContextFull { len, max_context: spec.max_context });
        }
        let end = len.div_ceil(PAGE);
        let mut clip = Held::new(&spec);
        clip.len = len;
        let shared = match base {
            Some((snapshot, pages)) if !clip.global.is_empty() => {
                let tokens = pages.saturating_mul(PAGE);
                let held = self.held(snapshot, tokens)?;
                if tokens > len {
                    return Err(CacheError::Beyond { asked: tokens, len });
                }
                clip.global[..pages].copy_from_slice(&held.global[..pages]);
                pages
            }
            _ => 0,
        };
        let local = (oldest / PAGE).min(end)..end;
        if !clip.local.is_empty() && len > 0 {
            clip.oldest = oldest;
            if local.len() > spec.ring_pages {
                let (asked, limit) = (local.len() * PAGE, spec.ring_slots());
                return Err(CacheError::StepTooLong { asked, limit });
            }
            if !Held::window_present(&spec, clip.oldest, len) {
                return Err(CacheError::TooFarBack {
                    asked: len,
                    lowest: oldest.saturating_add(spec.window) - 1,
                });
            }
        }
        let fresh = |span| match span {
            Span::Global => shared..end,
            Span::Local => local.clone(),
        };
        for (group, pages, span) in
            [("global", &self.global, Span::Global), ("local", &self.local, Span::Local)]
        {
            let needed = if clip.table(span).is_empty() { 0 } else { fresh(span).len() };
            if needed > pages.free() {
                return Err(CacheError::OutOfPages { group, needed, free: pages.free() });
            }
        }
        let seq = SeqId(name());
        for &page in clip.global.iter().take(shared) {
            self.global.read(page, PAGE);
        }
        for span in SPANS {
            for logical in fresh(span) {
                if let Some(entry) = clip.entry(span, logical) {
                    *entry = self.pages_mut(span).take(seq);
                }
            }
        }
        self.insert_as(seq, clip);
        Ok(seq)
    }

    /// What a snapshot holds.
    ///
    /// # Errors
    ///
    /// [`CacheError::UnknownSnapshot`].
    pub fn contents(&self, snapshot: &Snapshot) -> Result<Contents, CacheError> {
        let held = self.held(snapshot, 0)?;
        let mut pages = Vec::new();
        for span in SPANS {
            let first = if span == Span::Global { 0 } else { held.oldest / PAGE };
            for logical in first..held.len.div_ceil(PAGE) {
                if let Some(page) = held.page(span, logical).filter(|&page| page != NO_PAGE) {
                    let tokens = (held.len - logical * PAGE).min(PAGE);
                    pages.push(HeldPage { span, logical, page, tokens });
                }
            }
        }
        Ok(Contents { pages, oldest: held.oldest })
    }

    /// What a snapshot holds, if it has `len` tokens.
    fn held(&self, snapshot: &Snapshot, len: usize) -> Result<&Held, CacheError> {
        let held = self.snapshots.get(&snapshot.id()).ok_or(CacheError::UnknownSnapshot)?;
        if len > held.len {
            return Err(CacheError::Beyond { asked: len, len: held.len });
        }
        Ok(held)
    }
}
