//! Places to come back to, and the pages behind them: sharing, copying, reading and writing.

use std::ops::Range;

use super::{Engine, EngineError, device};
use crate::backend::Backend;
use crate::cache::{CacheError, PAGE, SeqId, Snapshot};
use crate::model::config::Span;
use crate::program::StateSpec;

impl<B: Backend> Engine<B> {
    /// Keeps the first `len` tokens of a sequence to come back to.
    ///
    /// # Errors
    ///
    /// If the local window at that length is gone.
    pub fn snapshot_at(&mut self, seq: SeqId, len: usize) -> Result<Snapshot, EngineError> {
        self.follow(seq)?;
        let snapshot = self.cache.snapshot_at(seq, len)?;
        self.drafters.snapshot(seq, &snapshot, &mut self.cache);
        Ok(snapshot)
    }

    /// Goes back to `len` tokens, or a little less where the cache cannot end there; returns the length reached.
    ///
    /// # Errors
    ///
    /// If the local window at that length is gone.
    pub fn rollback(&mut self, seq: SeqId, len: usize) -> Result<usize, EngineError> {
        let reached = self.cache.rollback(seq, len)?;
        self.drafters.rollback(seq, reached);
        Ok(reached)
    }

    /// Opens a sequence that goes on from exactly the first `len` tokens of a snapshot, if their local window is left.
    ///
    /// Pages are shared; the one in whose middle `len` lies is copied if others rely on it.
    ///
    /// # Errors
    ///
    /// [`EngineError::TooManySequences`]; [`CacheError::TooFarBack`], [`CacheError::OutOfPages`] or another of
    /// [`Cache::branch`](crate::cache::Cache::branch); the device failed. No sequence is open then.
    pub fn branch(&mut self, snapshot: &Snapshot, len: usize) -> Result<SeqId, EngineError> {
        self.free_slot()?;
        let branch = self.cache.branch(snapshot, len)?;
        self.occupy(branch.seq)?;
        self.drafters.open(branch.seq);
        self.drafters.skipped(branch.seq, len);
        for copy in branch.copies {
            if let Err(error) = self.copy_page(copy.span, copy.from, copy.to) {
                self.close(branch.seq)?;
                return Err(error);
            }
        }
        Ok(branch.seq)
    }

    /// Whether [`Engine::branch`] can go on at `len`.
    ///
    /// # Errors
    ///
    /// [`CacheError::Beyond`], [`CacheError::UnknownSnapshot`].
    pub fn branches_at(&mut self, snapshot: &Snapshot, len: usize) -> Result<bool, CacheError> {
        self.cache.branches_at(snapshot, len)
    }

    /// Opens a sequence of `len` tokens and fills its pages with what `page` gives for a kind of layer and a logical
    /// page, in the form of [`Engine::read_page`]. Its first global pages are those of `base`, as many as it says, and
    /// its local ones begin with that of position `oldest`.
    ///
    /// # Errors
    ///
    /// [`EngineError::TooManySequences`], one of [`Cache::restore`](crate::cache::Cache::restore), or the device
    /// failed. `Ok(None)` if `page` had nothing or something of the wrong size. No sequence is open then.
    pub fn restore(
        &mut self,
        len: usize,
        oldest: usize,
        base: Option<(&Snapshot, usize)>,
        page: &mut dyn FnMut(Span, usize) -> Option<Vec<u8>>,
    ) -> Result<Option<SeqId>, EngineError> {
        self.free_slot()?;
        let seq = self.cache.restore(len, oldest, base)?;
        self.occupy(seq)?;
        self.drafters.open(seq);
        self.drafters.skipped(seq, len);
        let shared = base.map_or(0, |(_, pages)| pages);
        let filled = self.fill(seq, shared..len.div_ceil(PAGE), oldest / PAGE, page);
        if !matches!(filled, Ok(true)) {
            self.close(seq)?;
        }
        Ok(filled?.then_some(seq))
    }

    fn fill(
        &self,
        seq: SeqId,
        global: Range<usize>,
        first_local: usize,
        page: &mut dyn FnMut(Span, usize) -> Option<Vec<u8>>,
    ) -> Result<bool, EngineError> {
        let local = first_local..global.end;
        for (span, range) in [(Span::Global, global), (Span::Local, local)] {
            let table = self.cache.table(seq, span)?;
            if table.is_empty() {
                continue;
            }
            for logical in range {
                match page(span, logical) {
                    Some(bytes) if bytes.len() == self.page_bytes(span) => {
                        self.write_page(span, table[logical % table.len()], &bytes)?;
                    }
                    _ => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    fn copy_page(&self, span: Span, from: u32, to: u32) -> Result<(), EngineError> {
        for (spec, state) in self.specs.iter().zip(&self.states).filter(|(spec, _)| spec.span == span) {
            self.backend.copy_page(state, spec.page_bytes(), from, to).map_err(device)?;
        }
        Ok(())
    }

    /// Copies a page of every pool of one kind of layer out, pools in order.
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub fn read_page(&self, span: Span, page: u32) -> Result<Vec<u8>, EngineError> {
        let mut bytes = Vec::new();
        for (spec, state) in self.specs.iter().zip(&self.states).filter(|(spec, _)| spec.span == span) {
            let start = bytes.len();
            bytes.resize(start + spec.page_bytes(), 0);
            self.backend.read_page(state, page, &mut bytes[start..]).map_err(device)?;
        }
        Ok(bytes)
    }

    /// Overwrites a page of every pool of one kind of layer with what [`Engine::read_page`] gave.
    ///
    /// # Errors
    ///
    /// If the device failed.
    ///
    /// # Panics
    ///
    /// If `bytes` is not [`Engine::page_bytes`] long.
    pub fn write_page(&self, span: Span, page: u32, mut bytes: &[u8]) -> Result<(), EngineError> {
        for (spec, state) in self.specs.iter().zip(&self.states).filter(|(spec, _)| spec.span == span) {
            let (part, rest) = bytes.split_at(spec.page_bytes());
            self.backend.write_page(state, page, part).map_err(device)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Bytes of a page in all pools of one kind of layer.
    #[must_use]
    pub fn page_bytes(&self, span: Span) -> usize {
        self.specs.iter().filter(|spec| spec.span == span).map(StateSpec::page_bytes).sum()
    }

    /// Advances the bookkeeping by `tokens` without computing them: their pages are about to be written.
    ///
    /// # Errors
    ///
    /// If the cache cannot take them.
    pub fn skip(&mut self, seq: SeqId, tokens: usize) -> Result<(), EngineError> {
        let mut left = tokens;
        while left > 0 {
            let n = self.chunk(seq, left)?;
            self.cache.reserve(seq, n)?;
            self.cache.commit(seq, n)?;
            left -= n;
        }
        self.drafters.skipped(seq, self.cache.len(seq)?);
        Ok(())
    }
}
