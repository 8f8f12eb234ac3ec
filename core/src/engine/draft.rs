//! Drafters beside the target: what they keep of its steps, and what they propose.
//!
//! An MTP assistant reads the target's own cache and one hidden state. A DFlash drafter has a cache of its own, with page
//! tables of its own: its sliding layers have another window than the target's. Every step of the target keeps the
//! features of its rows in a ring, by sequence slot and position; the drafter's keys and values are made of them later,
//! many rows at a time, for committed tokens only: when it is asked, when the ring would overwrite one, and before a
//! snapshot. So a step of the target that is not followed by a draft costs a copy.

pub(crate) mod dflash;
mod mtp;

use std::sync::Arc;

use super::{Engine, EngineError, Warm, device};
use crate::backend::Backend;
use crate::cache::{Cache, SeqId, Snapshot};
use crate::kv_type::KvType;
use crate::model::config::Span;
use crate::model::dflash::DFlash;
use crate::model::drafter::{DraftError, DraftFile};
use crate::model::gemma4::{Keeps, KvTypes};
use crate::model::mtp::Mtp;
use crate::program::{Ring, State, StateSpec};
use crate::sample::{Edit, Sampling};

use dflash::DFlashOn;
use mtp::MtpOn;

/// Kinds of drafters that come in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DraftKind {
    /// An MTP assistant: a chain, token by token.
    Mtp,
    /// A DFlash drafter: a block at once.
    DFlash,
}

/// How a drafter is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DraftOptions {
    /// Stored types of a drafter's own keys and values.
    pub kv: KvTypes,
    /// Whether rows of a block see only those before them, in all layers; as the drafter was trained if `None`.
    pub causal: Option<bool>,
}

impl Default for DraftOptions {
    fn default() -> Self {
        Self { kv: KvTypes { k: KvType::F16, v: KvType::F16 }, causal: None }
    }
}

/// What a sequence wants drafts for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The sequence.
    pub seq: SeqId,
    /// Its newest token, which is not yet in the cache.
    pub anchor: u32,
    /// Most drafts.
    pub count: usize,
    /// How the target is going to choose: drafts are drawn likewise, by the same random numbers.
    pub sampling: &'a Sampling,
    /// Changes to single logits, as after the committed tokens.
    pub edits: &'a [Edit],
}

/// What a drafter computed on the way to its drafts: for tests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watched {
    /// Logits of each row.
    pub logits: Vec<Vec<f32>>,
    /// Of an assistant what its next step begins with, of a block the hidden states after the final norm.
    pub hidden: Vec<Vec<f32>>,
}

/// Drafts that were enqueued.
#[derive(Debug)]
pub struct Drafts {
    /// How many each that asked gets.
    counts: Vec<usize>,
    /// Those that were read on the way.
    read: Vec<Vec<u32>>,
    last: Option<Unread>,
}

/// What the host has not read yet.
#[derive(Debug)]
enum Unread {
    Links(mtp::Links),
    Blocks(dflash::Ran),
}

impl Drafts {
    fn none(asks: usize) -> Self {
        Self { counts: vec![0; asks], read: vec![Vec::new(); asks], last: None }
    }

    /// How many the one that asked at this place gets.
    #[must_use]
    pub fn count(&self, at: usize) -> usize {
        self.counts.get(at).copied().unwrap_or(0)
    }
}

/// Rows of a slot that hidden states are kept for: more than any step verifies.
const HIDDEN_ROWS: usize = 64;

/// The drafters of an engine.
pub(super) struct Drafters<B: Backend> {
    specs: Arc<[StateSpec]>,
    states: Vec<B::State>,
    mtp: Option<MtpOn<B>>,
    dflash: Option<DFlashOn<B>>,
    /// What was made ready.
    pub(super) warm: Warm,
}

impl<B: Backend> Drafters<B> {
    /// None yet.
    pub(super) fn new(specs: &Arc<[StateSpec]>, states: &[B::State]) -> Self {
        Self {
            specs: Arc::clone(specs),
            states: states.to_vec(),
            mtp: None,
            dflash: None,
            warm: Warm::default(),
        }
    }

    /// Shapes of the target's pools, and behind them those of what its steps keep.
    pub(super) fn specs(&self) -> &Arc<[StateSpec]> {
        &self.specs
    }

    /// The pools themselves.
    pub(super) fn states(&self) -> &[B::State] {
        &self.states
    }

    pub(super) fn open(&mut self, seq: SeqId) {
        if let Some(dflash) = &mut self.dflash {
            dflash.open(seq);
        }
    }

    pub(super) fn open_from(&mut self, seq: SeqId, snapshot: &Snapshot, len: usize) {
        if let Some(dflash) = &mut self.dflash {
            dflash.open_from(seq, snapshot, len);
        }
    }

    pub(super) fn close(&mut self, seq: SeqId) {
        if let Some(dflash) = &mut self.dflash {
            dflash.close(seq);
        }
    }

    pub(super) fn snapshot(&mut self, seq: SeqId, snapshot: &Snapshot, target: &mut Cache) {
        if let Some(dflash) = &mut self.dflash {
            dflash.snapshot(seq, snapshot, target);
        }
    }

    pub(super) fn rollback(&mut self, seq: SeqId, len: usize) {
        if let Some(dflash) = &mut self.dflash {
            dflash.rollback(seq, len);
        }
    }

    /// A step wrote features of positions up to `end`.
    pub(super) fn wrote(&mut self, seq: SeqId, end: usize) {
        if let Some(dflash) = &mut self.dflash {
            dflash.wrote(seq, end);
        }
    }

    /// The sequence has `len` tokens whose features nobody computed.
    pub(super) fn skipped(&mut self, seq: SeqId, len: usize) {
        if let Some(dflash) = &mut self.dflash {
            dflash.skipped(seq, len);
        }
    }
}

impl<B: Backend> Engine<B> {
    /// Puts a drafter beside the target. One of each kind; a second one takes the place of the first. `progress` hears of
    /// bytes uploaded, out of all. Sequences that are open already go without.
    ///
    /// # Errors
    ///
    /// [`EngineError::Draft`] if it drafts for another model, and if the device cannot hold it; nothing has changed then.
    pub fn attach(
        &mut self,
        file: DraftFile,
        options: DraftOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), EngineError> {
        let mut upload = |tensors: &[crate::tensor::Tensor]| -> Result<Vec<B::Weight>, EngineError> {
            let total = tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
            let mut done = 0;
            let mut weights = Vec::with_capacity(tensors.len());
            for tensor in tensors {
                weights.push(self.backend.upload(tensor).map_err(device)?);
                done += tensor.data.len() as u64;
                progress(done, total);
            }
            Ok(weights)
        };
        let shared = self.model.shared().map(|weight| self.weights[weight.index()].clone());
        let slots = self.options.sequences;
        let ring_of = |name: &str, cols, rows| -> Result<(StateSpec, B::State), EngineError> {
            let spec = Ring::spec(name, cols, rows, slots);
            let state = self.backend.state(&spec).map_err(device)?;
            Ok((spec, state))
        };
        let mut keeps = self.keeps().clone();
        let at = State::new(self.drafters.specs.len());
        let (spec, state) = match file {
            DraftFile::Mtp(file) => {
                let model = Mtp::bind(*file, &self.model)?;
                let mut weights = upload(&model.tensors)?;
                weights.extend(shared.into_iter().take(1));
                let (spec, state) = ring_of("draft.hidden", self.model.config.hidden, HIDDEN_ROWS)?;
                let ring = Ring { state: at, rows: HIDDEN_ROWS };
                keeps.hidden = Some(ring);
                self.drafters.mtp = Some(MtpOn::new(model, weights, ring));
                (spec, state)
            }
            DraftFile::DFlash(file) => {
                let model = DFlash::bind(*file, &self.model, options.causal)?;
                if let Some(kv) = [options.kv.k, options.kv.v]
                    .into_iter()
                    .find(|kv| kv.row_bytes(model.config.head_dim).is_none())
                {
                    return Err(EngineError::KvType { kv, head_dim: model.config.head_dim });
                }
                let mut weights = upload(&model.tensors)?;
                weights.extend(shared);
                let rows = dflash::ring_rows(&self.options);
                let cols = model.taps().len() * self.model.config.hidden;
                let (spec, state) = ring_of("draft.features", cols, rows)?;
                let ring = Ring { state: at, rows };
                keeps.features = Some((ring, model.taps().to_vec()));
                let on = DFlashOn::new(
                    &self.backend,
                    model,
                    weights,
                    options,
                    &self.options,
                    (&spec, &state, rows),
                )?;
                self.drafters.dflash = Some(on);
                (spec, state)
            }
        };
        let specs = self.drafters.specs.iter().cloned().chain([spec]).collect();
        self.drafters.specs = specs;
        self.drafters.states.push(state);
        self.model.keep(keeps);
        // They know nothing of what is kept from now on.
        self.plans.clear();
        if let Some(mtp) = &mut self.drafters.mtp {
            mtp.forget_plans();
        }
        Ok(())
    }

    fn keeps(&self) -> &Keeps {
        self.model.keeps()
    }

    /// Most drafts that a drafter of this kind gives at once; `None` if there is none.
    #[must_use]
    pub fn most_drafts(&self, kind: DraftKind) -> Option<usize> {
        match kind {
            DraftKind::Mtp => self.drafters.mtp.as_ref().map(|_| mtp::MOST),
            DraftKind::DFlash => self.drafters.dflash.as_ref().map(|on| on.model.config.block - 1),
        }
    }

    /// The assistant beside the target.
    #[must_use]
    pub fn mtp(&self) -> Option<&Mtp> {
        self.drafters.mtp.as_ref().map(|on| &on.model)
    }

    /// The DFlash drafter beside the target.
    #[must_use]
    pub fn dflash(&self) -> Option<&DFlash> {
        self.drafters.dflash.as_ref().map(|on| &on.model)
    }

    /// Plans that have been made so far. A step that makes one takes longer than it will the next time.
    #[must_use]
    pub fn plans_made(&self) -> usize {
        let drafters = &self.drafters;
        self.plans.len()
            + drafters.mtp.as_ref().map_or(0, MtpOn::plans)
            + drafters.dflash.as_ref().map_or(0, DFlashOn::plans)
    }

    /// Drafts for each of `asks`, of different sequences without a step in flight. A sequence that the drafter knows too
    /// little of, and one without room, gets none.
    ///
    /// # Errors
    ///
    /// If the device failed. What the sequences hold has not changed then.
    pub fn propose(&mut self, kind: DraftKind, asks: &[Ask<'_>]) -> Result<Vec<Vec<u32>>, EngineError> {
        let drafts = self.enqueue_drafts(kind, asks)?;
        self.drafts(drafts)
    }

    /// The same without waiting for the last of them: a step that is enqueued next finds them on the device
    /// ([`Row::drafted`](crate::backend::Row::drafted)).
    ///
    /// # Errors
    ///
    /// As [`Engine::propose`].
    pub fn enqueue_drafts(&mut self, kind: DraftKind, asks: &[Ask<'_>]) -> Result<Drafts, EngineError> {
        match kind {
            DraftKind::Mtp => self.draft_chains(asks, &mut None),
            DraftKind::DFlash => self.draft_blocks(asks, &mut None),
        }
    }

    /// Waits for drafts and reads them, those of each that asked. None may have been enqueued since.
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub fn drafts(&self, drafts: Drafts) -> Result<Vec<Vec<u32>>, EngineError> {
        let Drafts { mut read, last, .. } = drafts;
        match last {
            Some(Unread::Links(links)) => self.read_links(&links, &mut read, &mut None)?,
            Some(Unread::Blocks(blocks)) => self.read_blocks(&blocks, &mut read, &mut None)?,
            None => {}
        }
        Ok(read)
    }

    /// The same, and what was computed on the way.
    ///
    /// # Errors
    ///
    /// As [`Engine::propose`].
    pub fn propose_watched(
        &mut self,
        kind: DraftKind,
        ask: &Ask<'_>,
    ) -> Result<(Vec<u32>, Watched), EngineError> {
        let mut watched = Some(Watched::default());
        let drafts = match kind {
            DraftKind::Mtp => self.draft_chains(std::slice::from_ref(ask), &mut watched)?,
            DraftKind::DFlash => self.draft_blocks(std::slice::from_ref(ask), &mut watched)?,
        };
        let drafts = self.drafts(drafts)?;
        Ok((drafts.into_iter().next().unwrap_or_default(), watched.unwrap_or_default()))
    }

    /// Tokens of a sequence whose keys and values the DFlash drafter has, and whether it can catch up with the target.
    #[must_use]
    pub fn drafted_context(&self, seq: SeqId) -> Option<(usize, bool)> {
        let len = self.cache.len(seq).ok()?;
        self.drafters.dflash.as_ref()?.known(seq, len)
    }

    /// Pages that the DFlash drafter's cache holds: of full layers, and of sliding ones.
    pub fn draft_cache_stats(&mut self) -> Option<crate::cache::CacheStats> {
        self.drafters.dflash.as_mut().map(|on| on.cache.stats())
    }

    /// Index of a sequence among the slots.
    fn slot_of(&self, seq: SeqId) -> Result<u32, EngineError> {
        let slot = self.slots.iter().position(|slot| *slot == Some(seq));
        Ok(super::narrow(slot.ok_or(crate::cache::CacheError::UnknownSequence)?))
    }
}

impl From<DraftError> for EngineError {
    fn from(error: DraftError) -> Self {
        Self::Draft(Box::new(error))
    }
}

/// Spans in the order of page tables.
const SPANS: [Span; 2] = [Span::Global, Span::Local];
