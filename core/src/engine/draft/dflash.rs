//! Blocks of a DFlash drafter, and the keys and values that it makes of committed tokens.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::{Engine, EngineError, Options, ROLLBACK, device, narrow};
use super::{Ask, DraftOptions, Drafts, SPANS, Unread, Watched};
use crate::backend::{Backend, PageTable, Row, Step, Ticket};
use crate::cache::{Cache, CacheError, CacheSpec, PAGE, SeqId, Snapshot};
use crate::model::config::Span;
use crate::model::dflash::{DFlash, DFlashBlock, DFlashConfig};
use crate::program::{Class, Ring, State, StateSpec};
use crate::sample::Draw;

/// A drafter on a device.
pub(super) struct DFlashOn<B: Backend> {
    pub(super) model: DFlash,
    pub(super) cache: Cache,
    weights: Vec<B::Weight>,
    specs: Arc<[StateSpec]>,
    states: Vec<B::State>,
    features: Ring,
    followers: HashMap<SeqId, Follower>,
    /// What the drafter had where the target kept a snapshot, by its number.
    snapshots: HashMap<u64, Snapshot>,
    blocks: HashMap<usize, (DFlashBlock, B::Plan)>,
    contexts: HashMap<Class, B::Plan>,
}

/// The drafter's side of a sequence.
#[derive(Clone, Copy, Debug)]
struct Follower {
    /// The sequence in the drafter's cache.
    seq: SeqId,
    /// Lowest position since which every token's features were kept.
    begun: usize,
    /// End of the highest position whose features were ever kept.
    high: usize,
}

/// Committed tokens whose keys and values are made at once.
const CONTEXT_ROWS: usize = PAGE;

/// Rows up to which they are made in the decode class, whose kernels are for few rows.
const FEW: usize = 16;

/// The pages of a drafter's own cache: a window of its own for its sliding layers.
pub(crate) fn layout(config: &DFlashConfig, options: &Options) -> CacheSpec {
    let has = |span| config.layers.contains(&span);
    let window = if has(Span::Local) { config.window.min(options.context) } else { 0 };
    let step = CONTEXT_ROWS.max(config.block);
    let (sequences, snapshots) = (options.sequences, options.snapshots);
    let spec = CacheSpec::for_sequences(options.context, sequences, window, step, ROLLBACK, snapshots);
    SPANS.into_iter().filter(|&span| !has(span)).fold(spec, CacheSpec::without)
}

/// Rows of a slot that features are kept for: a whole step of a prompt, at least.
pub(crate) fn ring_rows(options: &Options) -> usize {
    options.chunk.min(options.context).div_ceil(PAGE).max(1) * PAGE
}

impl<B: Backend> DFlashOn<B> {
    /// Allocates its cache. The ring of features is the last state of its programs.
    pub(super) fn new(
        backend: &B,
        model: DFlash,
        weights: Vec<B::Weight>,
        draft: DraftOptions,
        options: &Options,
        (ring, ring_state, ring_rows): (&StateSpec, &B::State, usize),
    ) -> Result<Self, EngineError> {
        let spec = layout(&model.config, options);
        let mut specs = model.states(draft.kv, spec.local_pages, spec.global_pages);
        let mut states =
            specs.iter().map(|spec| backend.state(spec)).collect::<Result<Vec<_>, _>>().map_err(device)?;
        let features = Ring { state: State::new(specs.len()), rows: ring_rows };
        specs.push(ring.clone());
        states.push(ring_state.clone());
        Ok(Self {
            model,
            cache: Cache::new(spec)?,
            weights,
            specs: specs.into(),
            states,
            features,
            followers: HashMap::new(),
            snapshots: HashMap::new(),
            blocks: HashMap::new(),
            contexts: HashMap::new(),
        })
    }

    pub(super) fn plans(&self) -> usize {
        self.blocks.len() + self.contexts.len()
    }

    pub(super) fn open(&mut self, seq: SeqId) {
        let follower = Follower { seq: self.cache.open(), begun: 0, high: 0 };
        self.followers.insert(seq, follower);
    }

    /// A sequence that begins with `len` tokens of a snapshot.
    pub(super) fn open_from(&mut self, seq: SeqId, snapshot: &Snapshot, len: usize) {
        let own = self.snapshots.get(&snapshot.id());
        let opened = own.and_then(|own| self.cache.open_from_at(own, len.min(own.len())).ok());
        let here = opened.map_or_else(|| self.cache.open(), |(seq, _)| seq);
        self.followers.insert(seq, Follower { seq: here, begun: len, high: len });
    }

    pub(super) fn close(&mut self, seq: SeqId) {
        if let Some(follower) = self.followers.remove(&seq) {
            let released = self.cache.release(follower.seq);
            debug_assert!(released.is_ok(), "a follower's sequence is open");
        }
    }

    /// Keeps what the drafter has at the target's snapshot, if it has as much.
    pub(super) fn snapshot(&mut self, seq: SeqId, snapshot: &Snapshot, target: &mut Cache) {
        self.snapshots.retain(|&id, _| target.is_held(id));
        let Some(follower) = self.followers.get(&seq) else { return };
        if let Ok(own) = self.cache.snapshot_at(follower.seq, snapshot.len()) {
            self.snapshots.insert(snapshot.id(), own);
        }
    }

    pub(super) fn rollback(&mut self, seq: SeqId, len: usize) {
        let Some(follower) = self.followers.get_mut(&seq) else { return };
        // Whatever comes from here on is computed again, and its features are kept.
        follower.begun = follower.begun.min(len);
        if self.cache.len(follower.seq).is_ok_and(|known| known > len)
            && self.cache.rollback(follower.seq, len).is_err()
        {
            let fresh = self.cache.open();
            let old = std::mem::replace(&mut follower.seq, fresh);
            let released = self.cache.release(old);
            debug_assert!(released.is_ok(), "a follower's sequence is open");
        }
    }

    pub(super) fn wrote(&mut self, seq: SeqId, end: usize) {
        if let Some(follower) = self.followers.get_mut(&seq) {
            follower.high = follower.high.max(end);
        }
    }

    pub(super) fn skipped(&mut self, seq: SeqId, len: usize) {
        if let Some(follower) = self.followers.get_mut(&seq) {
            (follower.begun, follower.high) = (len, len);
        }
    }

    /// Tokens that the drafter has of a sequence with `len`, and whether it can have all of them.
    pub(super) fn known(&self, seq: SeqId, len: usize) -> Option<(usize, bool)> {
        let follower = self.followers.get(&seq)?;
        let known = self.cache.len(follower.seq).ok()?;
        let there = known >= follower.begun && known + self.features.rows >= follower.high;
        Some((known, known == len || there))
    }

    /// Page tables of all slots.
    fn tables(&self, slots: &[Option<SeqId>]) -> Result<Vec<PageTable<'_>>, CacheError> {
        slots
            .iter()
            .map(|slot| match slot.as_ref().and_then(|seq| self.followers.get(seq)) {
                Some(follower) => Ok(PageTable {
                    global: self.cache.table(follower.seq, Span::Global)?,
                    local: self.cache.table(follower.seq, Span::Local)?,
                }),
                None => Ok(PageTable { global: &[], local: &[] }),
            })
            .collect()
    }

    /// Enqueues the keys and values of `n` committed positions from `start` on.
    fn append(
        &mut self,
        backend: &B,
        slots: &[Option<SeqId>],
        slot: u32,
        start: usize,
        n: usize,
    ) -> Result<(), EngineError> {
        // Few tokens follow each round, many follow plain steps: two plans are enough, and made early.
        let key = if n <= FEW { Class::Decode } else { Class::Prefill };
        if !self.contexts.contains_key(&key) {
            let rows = if n <= FEW { FEW } else { CONTEXT_ROWS };
            let program = self.model.context(&self.specs, self.features, key, rows)?;
            let plan = backend.compile(&program, &self.weights, &self.states).map_err(device)?;
            self.contexts.insert(key, plan);
        }
        let rows: Vec<Row> =
            (start..start + n).map(|at| Row { token: 0, position: narrow(at), slot }).collect();
        let mut plan = self.contexts.remove(&key).expect("made above");
        let ran = self.tables(slots).map_err(EngineError::from).and_then(|tables| {
            let step = Step { rows: &rows, picked: &[], tables: &tables, draws: &[] };
            backend.run(&mut plan, &step).map_err(device)
        });
        self.contexts.insert(key, plan);
        ran.map(|_| ())
    }

    /// Enqueues blocks.
    fn run_blocks(
        &mut self,
        backend: &B,
        slots: &[Option<SeqId>],
        blocks: &Blocks<'_>,
    ) -> Result<(usize, Ticket), EngineError> {
        let Blocks { rows, picked, draws, .. } = blocks;
        // All rows of a block but its first are picked.
        let key = rows.len().next_power_of_two();
        if !self.blocks.contains_key(&key) {
            let block = self.model.block(&self.specs, key, key)?;
            let plan = backend.compile(&block.program, &self.weights, &self.states).map_err(device)?;
            self.blocks.insert(key, (block, plan));
        }
        let (block, mut plan) = self.blocks.remove(&key).expect("made above");
        let ran = self.tables(slots).map_err(EngineError::from).and_then(|tables| {
            let step = Step { rows, picked, tables: &tables, draws };
            backend.run(&mut plan, &step).map_err(device)
        });
        self.blocks.insert(key, (block, plan));
        Ok((key, ran?))
    }
}

/// Blocks that were enqueued.
#[derive(Debug)]
pub(super) struct Ran {
    plan: usize,
    ticket: Ticket,
    /// Whose each block is among what was asked, and how many of its rows were picked.
    of: Vec<(usize, usize)>,
}

/// Blocks of several sequences, ready to be run together.
#[derive(Default)]
struct Blocks<'a> {
    rows: Vec<Row>,
    picked: Vec<u32>,
    draws: Vec<Draw<'a>>,
    /// Whose each block is among what was asked, its sequence in the drafter's cache, and its drafts.
    of: Vec<(usize, SeqId, usize)>,
}

impl<B: Backend> Engine<B> {
    /// Lets the drafter catch up with a sequence where a step of `rows` tokens would overwrite features that it still
    /// needs.
    pub(in crate::engine) fn make_room(&mut self, seq: SeqId, rows: usize) -> Result<(), EngineError> {
        let Some(on) = &self.drafters.dflash else { return Ok(()) };
        let len = self.cache.len(seq)?;
        match on.known(seq, len) {
            Some((known, true)) if len + rows > known + on.features.rows => self.follow(seq).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Runs the step that reads many tokens at once, as a drafter does after plain steps, and keeps nothing of it.
    pub(in crate::engine) fn warm_context(&mut self, seq: SeqId) -> Result<(), EngineError> {
        let slot = self.slot_of(seq)?;
        let Some(on) = &mut self.drafters.dflash else { return Ok(()) };
        let own = on.followers[&seq].seq;
        let (start, rows) = (on.cache.len(own)?, FEW + 1);
        if on.cache.reserve(own, rows).is_err() {
            return Ok(());
        }
        let ran = on.append(&self.backend, &self.slots, slot, start, rows);
        on.cache.commit(own, 0)?;
        ran
    }

    /// Makes the drafter's keys and values of all committed tokens that lack them; whether it has all of them now.
    pub(in crate::engine) fn follow(&mut self, seq: SeqId) -> Result<bool, EngineError> {
        let Some(on) = &mut self.drafters.dflash else { return Ok(false) };
        let len = self.cache.len(seq)?;
        let Some((mut known, true)) = on.known(seq, len) else { return Ok(false) };
        let slot = self.slots.iter().position(|slot| *slot == Some(seq));
        let slot = narrow(slot.ok_or(CacheError::UnknownSequence)?);
        let own = on.followers[&seq].seq;
        while known < len {
            let n = (len - known).min(CONTEXT_ROWS).min(on.cache.step_limit(own)?);
            // Snapshots may hold the pages that are wanted. Then there are no drafts, and the text goes on.
            if n == 0 || on.cache.reserve(own, n).is_err() {
                return Ok(false);
            }
            let ran = on.append(&self.backend, &self.slots, slot, known, n);
            on.cache.commit(own, if ran.is_ok() { n } else { 0 })?;
            ran?;
            known += n;
        }
        Ok(true)
    }

    /// Blocks of all sequences in one step.
    pub(super) fn draft_blocks(
        &mut self,
        asks: &[Ask<'_>],
        watched: &mut Option<Watched>,
    ) -> Result<Drafts, EngineError> {
        let mut drafts = Drafts::none(asks.len());
        let mut blocks = Blocks::default();
        for (at, ask) in asks.iter().enumerate() {
            let start = self.cache.len(ask.seq)?;
            let room = self.options.context.saturating_sub(start + 1);
            if ask.count == 0 || room == 0 || start == 0 || !self.follow(ask.seq)? {
                continue;
            }
            let slot = self.slot_of(ask.seq)?;
            let Some(on) = &mut self.drafters.dflash else { return Err(EngineError::NoDrafter) };
            let count = ask.count.min(on.model.config.block - 1).min(room);
            let own = on.followers[&ask.seq].seq;
            debug_assert_eq!(on.cache.len(own), Ok(start), "the drafter stands where the target does");
            if on.cache.reserve(own, count + 1).is_err() {
                continue;
            }
            for j in 0..=count {
                let token = if j == 0 { ask.anchor } else { on.model.config.mask_token };
                let position = narrow(start + j);
                if j > 0 || watched.is_some() {
                    blocks.picked.push(narrow(blocks.rows.len()));
                    let (sampling, edits) = (ask.sampling, ask.edits);
                    blocks.draws.push(Draw { sampling, position, edits, allowed: None });
                }
                blocks.rows.push(Row { token, position, slot });
            }
            blocks.of.push((at, own, count));
        }
        if blocks.of.is_empty() {
            return Ok(drafts);
        }
        let Some(on) = &mut self.drafters.dflash else { return Err(EngineError::NoDrafter) };
        let ran = on.run_blocks(&self.backend, &self.slots, &blocks);
        for &(_, own, _) in &blocks.of {
            // What a block wrote is garbage above the length: the next tokens that are kept overwrite it.
            on.cache.commit(own, 0)?;
        }
        let (plan, ticket) = ran?;
        let first = usize::from(watched.is_some());
        blocks.of.iter().for_each(|&(at, _, count)| drafts.counts[at] = count);
        let of = blocks.of.iter().map(|&(at, _, count)| (at, count + first)).collect();
        let ran = Ran { plan, ticket, of };
        if watched.is_some() {
            self.read_blocks(&ran, &mut drafts.read, watched)?;
        } else {
            drafts.last = Some(Unread::Blocks(ran));
        }
        Ok(drafts)
    }

    /// Waits for blocks and reads the tokens of their picked rows; the first of what is watched is no draft.
    pub(super) fn read_blocks(
        &self,
        ran: &Ran,
        drafts: &mut [Vec<u32>],
        watched: &mut Option<Watched>,
    ) -> Result<(), EngineError> {
        let Some(on) = &self.drafters.dflash else { return Err(EngineError::NoDrafter) };
        let (block, plan) = &on.blocks[&ran.plan];
        let picked = ran.of.iter().map(|&(_, picked)| picked).sum();
        let mut tokens = vec![0u32; picked];
        self.backend.read(plan, ran.ticket, block.tokens, &mut tokens).map_err(device)?;
        let mut tokens = tokens.into_iter();
        for &(at, picked) in &ran.of {
            let first = usize::from(watched.is_some());
            drafts[at] = tokens.by_ref().take(picked).skip(first).collect();
        }
        let Some(watched) = watched else { return Ok(()) };
        for (act, into) in [(block.logits, &mut watched.logits), (block.hidden, &mut watched.hidden)] {
            let cols = block.program.cols(act);
            let mut values = vec![0.0f32; picked * cols];
            self.backend.read(plan, ran.ticket, act, &mut values).map_err(device)?;
            into.extend(values.chunks_exact(cols).map(<[f32]>::to_vec));
        }
        Ok(())
    }
}
