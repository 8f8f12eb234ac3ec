//! Sizes of a cache, in pages and tokens.

use super::ring::{padded, ring_slots, window_start};
use super::{CacheError, NO_PAGE, PAGE};
use crate::model::config::Span;

/// Sizes of a [`Cache`](super::Cache).
///
/// A model without global layers has no global pages, one without local layers has neither local pages nor a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Pages of every pool of a global layer; 0 if the model has none.
    pub global_pages: usize,
    /// Pages of every pool of a local layer.
    pub local_pages: usize,
    /// Entries of a local page table; 0 if the model has no local layers.
    pub ring_pages: usize,
    /// Sliding window of local layers, in tokens, the token itself included.
    pub window: usize,
    /// Most tokens of a sequence.
    pub max_context: usize,
}

impl CacheSpec {
    /// Pages for `sequences` sequences of at most `context` tokens, written at most `step` tokens at a time.
    ///
    /// `window` is 0 if the model has no local layers. After any step at least `slack` tokens may be taken back;
    /// right after the ring gave up a page that a snapshot holds, that is `step - 1 + slack - 255` instead.
    /// `snapshots` of them may be held without a sequence running out of local pages. Their global pages are taken
    /// to be those of the live sequences, but for one page each, where they branch off; snapshots of conversations
    /// that are no longer live hold more and have to be dropped when a step finds no page.
    ///
    /// A page that a snapshot holds leaves the ring as a whole, up to 255 positions earlier than if it were
    /// overwritten slot by slot. So `slack` counts as 255 at least: then a step of `step` tokens is never refused.
    #[must_use]
    pub fn for_sequences(
        context: usize,
        sequences: usize,
        window: usize,
        step: usize,
        slack: usize,
        snapshots: usize,
    ) -> Self {
        let ring_pages = if window == 0 {
            0
        } else {
            ring_slots(window, step.max(1), slack.max(PAGE - 1), context) / PAGE
        };
        // The pages of the window before a page border, and the page after it.
        let held = ring_pages.min(window.saturating_sub(1).div_ceil(PAGE) + 1);
        Self {
            global_pages: sequences.saturating_mul(context.div_ceil(PAGE)).saturating_add(snapshots),
            local_pages: sequences.saturating_mul(ring_pages).saturating_add(snapshots.saturating_mul(held)),
            ring_pages,
            window,
            max_context: context,
        }
    }

    /// The same without the pages of one kind of layers, for a model that has none of them.
    #[must_use]
    pub fn without(self, span: Span) -> Self {
        match span {
            Span::Global => Self { global_pages: 0, ..self },
            Span::Local => Self { local_pages: 0, ring_pages: 0, window: 0, ..self },
        }
    }

    /// Slots of a local ring, in tokens; 0 if the model has no local layers.
    #[must_use]
    pub fn ring_slots(&self) -> usize {
        self.ring_pages.saturating_mul(PAGE)
    }

    /// Entries of a page table.
    #[must_use]
    pub fn table_len(&self, span: Span) -> usize {
        match span {
            Span::Global if self.global_pages == 0 => 0,
            Span::Global => self.max_context.div_ceil(PAGE),
            Span::Local => self.ring_pages,
        }
    }

    /// Checks what the rules of sharing rest on.
    ///
    /// A ring that wraps has `window + 255` slots or more. Then the page that a sequence appends to never stands for
    /// a second page that its window still needs, and a page that leaves the ring as a whole when the first token of
    /// its successor comes takes nothing with it that this token sees.
    pub(super) fn check(&self) -> Result<(), CacheError> {
        let err = |what, found, expected| Err(CacheError::BadSpec { what, found, expected });
        let most = NO_PAGE as usize;
        for (what, found) in [
            ("global pages", self.global_pages),
            ("local pages", self.local_pages),
            ("maximum context in tokens", self.max_context),
        ] {
            if found >= most {
                return err(what, found, format!("less than {most}"));
            }
        }
        if self.max_context == 0 {
            return err("maximum context in tokens", 0, "at least 1".into());
        }
        if self.ring_pages == 0 {
            return Ok(());
        }
        if self.window == 0 {
            return err("sliding window in tokens", 0, "at least 1 where there is a local ring".into());
        }
        let least = padded(self.window.saturating_add(PAGE - 1)).min(padded(self.max_context)) / PAGE;
        let most = padded(self.max_context) / PAGE;
        if self.ring_pages < least || self.ring_pages > most {
            return err("ring in pages", self.ring_pages, format!("{least} to {most}"));
        }
        Ok(())
    }

    /// Lowest position that local layers need to go on at `position`.
    pub(super) fn window_start(&self, position: usize) -> usize {
        window_start(position, self.window)
    }
}
