//! A model on a device: weights, cache and plans, and the steps that move sequences forward.

pub(crate) mod draft;
mod pages;
mod warm;

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{Backend, PageTable, Row, Step, Ticket};
use crate::cache::{Cache, CacheError, CacheSpec, CacheStats, PAGE, SeqId, Snapshot};
use crate::kv_type::KvType;
use crate::model::config::{Config, Span};
use crate::model::gemma4::{Gemma4, KvLayout, KvTypes, Recorded, Taps};
use crate::program::{Class, ShapeError, StateSpec};
use crate::sample::Draw;

use draft::Drafters;
pub use draft::{Ask, DraftKind, DraftOptions, Drafts, Watched};
pub use warm::Warm;

/// How a model is set up on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most tokens of a sequence.
    pub context: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Stored types of local layers.
    pub kv_local: KvTypes,
    /// Stored types of global layers.
    pub kv_global: KvTypes,
    /// Most prompt tokens of a step.
    pub chunk: usize,
    /// Places to come back to, in all sequences together.
    pub snapshots: usize,
    /// Tokens that the pages of global layers hold, in all sequences together; as many as all sequences at their
    /// longest if `None`. With fewer, a step may find no page.
    pub pool: Option<usize>,
}

/// Prompt tokens of a step unless the user or the device ([`Backend::chunk`]) says otherwise.
pub const CHUNK: usize = 2 * PAGE;

impl Options {
    /// The same with the steps of prompts that `backend` prefers, as far as the context needs them.
    #[must_use]
    pub fn on(self, backend: &impl Backend) -> Self {
        let most = self.context.next_multiple_of(PAGE).max(CHUNK);
        Self { chunk: backend.chunk().min(most), ..self }
    }
}

/// Tokens that a sequence may go back without a snapshot, at least.
pub const ROLLBACK: usize = PAGE;

/// What can go wrong on the way.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The device failed.
    #[error("the device failed")]
    Device(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cache cannot take the step.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The model cannot be recorded.
    #[error("the model cannot be recorded")]
    Shape(#[from] ShapeError),
    /// Blocks of a cache type do not fill the heads of a layer: choose another type.
    #[error("a {kv} cache needs heads of a multiple of {} values; this model has {head_dim}", kv.block_len())]
    KvType {
        /// The type.
        kv: KvType,
        /// Values of a head.
        head_dim: usize,
    },
    /// All sequences are in use.
    #[error("all {0} sequences are in use")]
    TooManySequences(usize),
    /// The drafter does not belong to the target.
    #[error(transparent)]
    Draft(Box<crate::model::drafter::DraftError>),
    /// There is no drafter of the kind that was asked.
    #[error("there is no drafter of this kind beside the model")]
    NoDrafter,
}

/// Which rows of a part are wanted at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// None: more of the prompt follows.
    None,
    /// The last.
    Last,
    /// Every one.
    All,
}

/// Tokens of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The sequence.
    pub seq: SeqId,
    /// Its next tokens.
    pub tokens: &'a [u32],
    /// Rows wanted at the head.
    pub pick: Pick,
}

/// A step that was enqueued.
#[derive(Clone, Copy, Debug)]
pub struct Enqueued {
    plan: PlanKey,
    ticket: Ticket,
    picked: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PlanKey {
    class: Class,
    rows: usize,
    picked: usize,
    hidden: bool,
}

struct Planned<B: Backend> {
    recorded: Recorded,
    plan: B::Plan,
}

/// A model on a device.
pub struct Engine<B: Backend> {
    backend: B,
    model: Gemma4,
    options: Options,
    weights: Vec<B::Weight>,
    specs: Arc<[StateSpec]>,
    states: Vec<B::State>,
    cache: Cache,
    plans: HashMap<PlanKey, Planned<B>>,
    slots: Vec<Option<SeqId>>,
    drafters: Drafters<B>,
}

impl<B: Backend + std::fmt::Debug> std::fmt::Debug for Engine<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("backend", &self.backend)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The pages and types that `options` ask for.
///
/// # Errors
///
/// [`CacheError::BadSpec`] if a size cannot work.
pub fn layout(config: &Config, options: &Options) -> Result<(CacheSpec, KvLayout), CacheError> {
    let has = |span| config.layers.iter().any(|layer| layer.span == span);
    let (window, chunk) = (config.window, options.chunk.max(PAGE));
    let mut spec = CacheSpec::for_sequences(
        options.context,
        options.sequences,
        window,
        chunk,
        ROLLBACK,
        options.snapshots,
    );
    if let Some(pool) = options.pool {
        spec.global_pages = spec.global_pages.min(pool.div_ceil(PAGE));
    }
    for span in [Span::Local, Span::Global] {
        if !has(span) {
            spec = spec.without(span);
        }
    }
    let layout = KvLayout {
        local: options.kv_local,
        global: options.kv_global,
        local_pages: spec.local_pages,
        global_pages: spec.global_pages,
    };
    Ok((spec, layout))
}

impl<B: Backend> Engine<B> {
    /// Uploads the weights and allocates the cache. `progress` hears of bytes uploaded, out of all.
    ///
    /// # Errors
    ///
    /// If the device cannot hold them.
    pub fn new(
        backend: B,
        model: Gemma4,
        options: Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, EngineError> {
        for layer in &model.config.layers {
            let types = match layer.span {
                Span::Local => options.kv_local,
                Span::Global => options.kv_global,
            };
            let head_dim = layer.head_dim;
            if let Some(kv) = [types.k, types.v].into_iter().find(|kv| kv.row_bytes(head_dim).is_none()) {
                return Err(EngineError::KvType { kv, head_dim });
            }
        }
        let (spec, layout) = layout(&model.config, &options)?;
        let specs = model.states(&layout);
        let cache = Cache::new(spec)?;
        let states: Vec<B::State> =
            specs.iter().map(|spec| backend.state(spec)).collect::<Result<_, _>>().map_err(device)?;
        let total = model.tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
        let mut done = 0;
        let mut weights = Vec::with_capacity(model.tensors.len());
        for tensor in &model.tensors {
            weights.push(backend.upload(tensor).map_err(device)?);
            done += tensor.data.len() as u64;
            progress(done, total);
        }
        let slots = vec![None; options.sequences];
        let (plans, drafters) = (HashMap::new(), Drafters::new(&specs, &states));
        Ok(Self { backend, model, options, weights, specs, states, cache, plans, slots, drafters })
    }

    /// The device.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Gemma4 {
        &self.model
    }

    /// How it was set up.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Page bookkeeping.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// How full the cache is, pages of dropped snapshots counted as free.
    pub fn cache_stats(&mut self) -> CacheStats {
        self.cache.stats()
    }

    /// Opens an empty sequence.
    ///
    /// # Errors
    ///
    /// [`EngineError::TooManySequences`].
    pub fn open(&mut self) -> Result<SeqId, EngineError> {
        self.free_slot()?;
        let seq = self.cache.open();
        self.occupy(seq)?;
        self.drafters.open(seq);
        Ok(seq)
    }

    /// Opens a sequence that starts as `snapshot`; returns how many of its tokens are still there.
    ///
    /// # Errors
    ///
    /// [`EngineError::TooManySequences`], or the snapshot is of another cache.
    pub fn open_from(&mut self, snapshot: &Snapshot) -> Result<(SeqId, usize), EngineError> {
        self.free_slot()?;
        let (seq, len) = self.cache.open_from(snapshot)?;
        self.occupy(seq)?;
        self.drafters.open_from(seq, snapshot, len);
        Ok((seq, len))
    }

    fn free_slot(&self) -> Result<usize, EngineError> {
        let full = EngineError::TooManySequences(self.slots.len());
        self.slots.iter().position(Option::is_none).ok_or(full)
    }

    fn occupy(&mut self, seq: SeqId) -> Result<(), EngineError> {
        let slot = self.free_slot()?;
        self.slots[slot] = Some(seq);
        Ok(())
    }

    /// Gives a sequence up.
    ///
    /// # Errors
    ///
    /// If there is no such sequence.
    pub fn close(&mut self, seq: SeqId) -> Result<(), EngineError> {
        self.cache.release(seq)?;
        self.drafters.close(seq);
        self.slots.iter_mut().filter(|slot| **slot == Some(seq)).for_each(|slot| *slot = None);
        Ok(())
    }

    /// Enqueues one step; the tokens count only once [`Engine::commit`] says how many are kept.
    ///
    /// `draws` has one entry for each picked row, in order; a sequence has one part.
    ///
    /// # Errors
    ///
    /// If the cache or the device cannot take it. No token counts then.
    pub fn step(
        &mut self,
        class: Class,
        parts: &[Part<'_>],
        draws: &[Draw<'_>],
        taps: Taps,
    ) -> Result<Enqueued, EngineError> {
        let (plan, picked, ticket) = self.enqueue(class, parts, draws, taps, B::run)?;
        Ok(Enqueued { plan, ticket, picked })
    }

    /// Prepares a step as [`Engine::step`] does, and lets `run` do with it what it likes: for profiles.
    ///
    /// # Errors
    ///
    /// If the cache cannot take it, or `run` fails. No token counts then.
    pub fn step_by<R>(
        &mut self,
        class: Class,
        parts: &[Part<'_>],
        draws: &[Draw<'_>],
        run: impl FnOnce(&B, &mut B::Plan, &Step<'_>) -> Result<R, B::Error>,
    ) -> Result<R, EngineError> {
        Ok(self.enqueue(class, parts, draws, Taps::None, run)?.2)
    }

    fn enqueue<R>(
        &mut self,
        class: Class,
        parts: &[Part<'_>],
        draws: &[Draw<'_>],
        taps: Taps,
        run: impl FnOnce(&B, &mut B::Plan, &Step<'_>) -> Result<R, B::Error>,
    ) -> Result<(PlanKey, usize, R), EngineError> {
        let enqueued = self.try_enqueue(class, parts, draws, taps, run);
        if enqueued.is_err() {
            // Pages that were taken for the step go back. A sequence that does not exist took none.
            for part in parts {
                let _ = self.cache.len(part.seq).and_then(|len| self.cache.rollback(part.seq, len));
            }
        }
        enqueued
    }

    fn try_enqueue<R>(
        &mut self,
        class: Class,
        parts: &[Part<'_>],
        draws: &[Draw<'_>],
        taps: Taps,
        run: impl FnOnce(&B, &mut B::Plan, &Step<'_>) -> Result<R, B::Error>,
    ) -> Result<(PlanKey, usize, R), EngineError> {
        let (mut rows, mut picked) = (Vec::new(), Vec::new());
        for part in parts {
            self.make_room(part.seq, part.tokens.len())?;
            let start = self.cache.len(part.seq)?;
            let slot = self.slots.iter().position(|slot| *slot == Some(part.seq));
            let slot = narrow(slot.ok_or(CacheError::UnknownSequence)?);
            self.cache.reserve(part.seq, part.tokens.len())?;
            for (i, &token) in part.tokens.iter().enumerate() {
                let last = i + 1 == part.tokens.len();
                if part.pick == Pick::All || part.pick == Pick::Last && last {
                    picked.push(narrow(rows.len()));
                }
                rows.push(Row { token, position: narrow(start + i), slot });
            }
        }
        let key = PlanKey {
            class,
            rows: rows.len().next_power_of_two(),
            picked: picked.len().next_power_of_two(),
            hidden: taps == Taps::Hidden,
        };
        self.prepare(key)?;
        let empty = PageTable { global: &[], local: &[] };
        let tables: Vec<PageTable<'_>> = self
            .slots
            .iter()
            .map(|slot| match slot {
                Some(seq) => Ok(PageTable {
                    global: self.cache.table(*seq, Span::Global)?,
                    local: self.cache.table(*seq, Span::Local)?,
                }),
                None => Ok(empty),
            })
            .collect::<Result<_, CacheError>>()?;
        let step = Step { rows: &rows, picked: &picked, tables: &tables, draws };
        let plan = self.plans.get_mut(&key).expect("prepared above");
        let done = run(&self.backend, &mut plan.plan, &step).map_err(device)?;
        for part in parts {
            self.drafters.wrote(part.seq, self.cache.len(part.seq)? + part.tokens.len());
        }
        Ok((key, picked.len(), done))
    }

    /// Keeps the first `kept` tokens of the step in flight.
    ///
    /// # Errors
    ///
    /// If more are kept than were enqueued.
    pub fn commit(&mut self, seq: SeqId, kept: usize) -> Result<(), EngineError> {
        Ok(self.cache.commit(seq, kept)?)
    }

    /// Runs a prompt in chunks whose borders are multiples of the page; the last row is picked and sampled.
    ///
    /// `progress` hears of tokens done, out of all; it stops the prefill by returning `false`, and then there is no
    /// step to read.
    ///
    /// # Errors
    ///
    /// If the cache or the device cannot take it; what was done before is kept.
    pub fn prefill(
        &mut self,
        seq: SeqId,
        tokens: &[u32],
        draw: &Draw<'_>,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Enqueued>, EngineError> {
        let mut done = 0;
        loop {
            let n = self.chunk(seq, tokens.len() - done)?;
            let last = done + n == tokens.len();
            let (pick, draws) =
                if last { (Pick::Last, std::slice::from_ref(draw)) } else { (Pick::None, &[][..]) };
            let part = Part { seq, tokens: &tokens[done..done + n], pick };
            let step = self.step(Class::Prefill, &[part], draws, Taps::None)?;
            self.commit(seq, n)?;
            done += n;
            if !progress(done, tokens.len()) && !last {
                return Ok(None);
            }
            if last {
                return Ok(Some(step));
            }
        }
    }

    /// Tokens of the next step of a prompt of which `left` are left.
    ///
    /// # Errors
    ///
    /// If there is no such sequence.
    pub fn chunk(&mut self, seq: SeqId, left: usize) -> Result<usize, EngineError> {
        let start = self.cache.len(seq)?;
        let n = left.min(self.options.chunk).min(self.cache.step_limit(seq)?.max(1));
        let border = (start + n) / PAGE * PAGE;
        Ok(if n < left && border > start && self.options.chunk >= PAGE { border - start } else { n })
    }

    /// Logits of the picked rows of a step, `[picked, vocab]`.
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub fn logits(&self, step: &Enqueued) -> Result<Vec<f32>, EngineError> {
        let planned = &self.plans[&step.plan];
        let mut logits = vec![0.0; step.picked * self.model.config.vocab];
        self.backend
            .read(&planned.plan, step.ticket, planned.recorded.logits, &mut logits)
            .map_err(device)?;
        Ok(logits)
    }

    /// Sampled tokens of the picked rows of a step.
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub fn tokens(&self, step: &Enqueued) -> Result<Vec<u32>, EngineError> {
        let planned = &self.plans[&step.plan];
        let mut tokens = vec![0; step.picked];
        self.backend
            .read(&planned.plan, step.ticket, planned.recorded.tokens, &mut tokens)
            .map_err(device)?;
        Ok(tokens)
    }

    /// Hidden states of the picked rows of a step that tapped them, each `[picked, hidden]`.
    ///
    /// # Errors
    ///
    /// If the device failed.
    pub fn hidden(&self, step: &Enqueued) -> Result<Vec<Vec<f32>>, EngineError> {
        let planned = &self.plans[&step.plan];
        let read = |&act| {
            let mut rows = vec![0.0; step.picked * self.model.config.hidden];
            self.backend.read(&planned.plan, step.ticket, act, &mut rows).map_err(device)?;
            Ok(rows)
        };
        planned.recorded.hidden.iter().map(read).collect()
    }

    /// Records and compiles a plan unless that was done before.
    fn prepare(&mut self, key: PlanKey) -> Result<(), EngineError> {
        if self.plans.contains_key(&key) {
            return Ok(());
        }
        let taps = if key.hidden { Taps::Hidden } else { Taps::None };
        let recorded = match key.class {
            Class::Prefill => self.model.prefill(self.drafters.specs(), key.rows, key.picked, taps)?,
            Class::Decode => self.model.verify(self.drafters.specs(), key.rows, taps)?,
        };
        let states = self.drafters.states();
        let plan = self.backend.compile(&recorded.program, &self.weights, states).map_err(device)?;
        self.plans.insert(key, Planned { recorded, plan });
        Ok(())
    }
}

fn device(error: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    EngineError::Device(Box::new(error))
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("positions and rows are counted in 32 bits")
}
