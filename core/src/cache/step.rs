//! Steps of one sequence: making room for tokens, keeping them, taking them back.

use super::pages::{Claim, Pages};
use super::sequence::{Held, Sequence};
use super::{Cache, CacheError, NO_PAGE, PAGE, PageId, SeqId};
use crate::model::config::Span;

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

impl Cache {
    /// Most tokens of the next step, 0 if the context is full.
    ///
    /// Never less than the `step` that [`CacheSpec::for_sequences`](super::CacheSpec::for_sequences) was given, but at
    /// the context's end.
    ///
    /// # Errors
    ///
    /// [`CacheError::UnknownSequence`].
    pub fn step_limit(&mut self, seq: SeqId) -> Result<usize, CacheError> {
        self.collect();
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
            let replaced = held.page(Span::Local, logical).is_some_and(|page| !self.local.exclusive(page));
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
        let Self { sequences, global, local, spec, .. } = &*self;
        let held = &sequences.get(&seq).ok_or(CacheError::UnknownSequence)?.held;
        let len = held.len;
        if n > spec.max_context - len {
            let len = len.saturating_add(n);
            return Err(CacheError::ContextFull { len, max_context: spec.max_context });
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
            if spec.table_len(span) == 0 { 0 } else { begun.clone().filter(fresh).count() }
        };
        for (group, pages, span) in [("global", global, Span::Global), ("local", local, Span::Local)] {
            let needed = missing(span, pages);
            if needed > pages.free() {
                return Err(CacheError::OutOfPages { group, needed, free: pages.free() });
            }
        }

        let Self { sequences, global, local, .. } = self;
        let sequence = sequences.get_mut(&seq).ok_or(CacheError::UnknownSequence)?;
        let mut step = StepPages::default();
        for logical in begun {
            if let Some(entry) = sequence.held.entry(Span::Global, logical).filter(|entry| **entry == NO_PAGE)
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
        if !sequence.held.local.is_empty() {
            // Tokens that will be rejected take just as much: `oldest` never goes down.
            let lost = end.saturating_sub(sequence.held.ring());
            sequence.held.oldest = sequence.held.oldest.max(lost);
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
            return Err(CacheError::NotReserved { kept, reserved: sequence.pending });
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
            return Err(CacheError::Beyond { asked: len, len: sequence.held.len });
        }
        if !Held::window_present(&spec, oldest, len) {
            return Err(CacheError::TooFarBack { asked: len, lowest: oldest + spec.window - 1 });
        }
        let border = len / PAGE * PAGE;
        let kept = if self.appendable(&sequence.held, len, Claim::Holder(seq)) { len } else { border };
        if !Held::window_present(&spec, oldest, kept) {
            return Err(CacheError::SharedPage { asked: len, border });
        }
        self.truncate(seq, kept)?;
        Ok(kept)
    }

    /// Drops what a sequence holds above `len`, where it may go on.
    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), CacheError> {
        let Self { sequences, global, local, .. } = self;
        let Sequence { held, pending } = sequences.get_mut(&seq).ok_or(CacheError::UnknownSequence)?;
        *pending = 0;
        held.len = len;
        let first = len.div_ceil(PAGE);
        for page in held.global.iter_mut().skip(first).filter(|page| **page != NO_PAGE) {
            global.leave(std::mem::replace(page, NO_PAGE), seq);
        }
        if len == 0 {
            for page in held.local.iter_mut().filter(|page| **page != NO_PAGE) {
                local.leave(std::mem::replace(page, NO_PAGE), seq);
            }
            held.oldest = 0;
            return Ok(());
        }
        let (ring, entries) = (held.ring(), held.local.len());
        for logical in first..first + entries {
            // What this page was begun with is above `len`; what its entry held before may still be in the window.
            let stale = (logical + 1) * PAGE <= held.oldest + ring;
            if let Some(entry) = held.entry(Span::Local, logical).filter(|entry| stale && **entry != NO_PAGE)
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
}

/// The pages of positions `start..end`, cut at page borders.
fn runs(held: &Held, span: Span, start: usize, end: usize) -> Vec<PageRun> {
    (start / PAGE..end.div_ceil(PAGE))
        .filter_map(|logical| {
            let (from, to) = (start.max(logical * PAGE), end.min((logical + 1) * PAGE));
            let page = held.page(span, logical)?;
            (from < to).then_some(PageRun { page, offset: from - logical * PAGE, rows: to - from })
        })
        .collect()
}
