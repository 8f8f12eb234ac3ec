//! Programs run on a backend without the engine: pages, rows and ops are in the test's hands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use gemma4_core::backend::{Backend, PageTable, Row, Step};
use gemma4_core::cache::PAGE;
use gemma4_core::model::config::Span;
use gemma4_core::model::gemma4::{Gemma4, KvLayout, Recorded, Taps};
use gemma4_core::program::{Act, Class, Program, State, StateSpec};
use gemma4_core::sample::{Draw, Sampling};

use crate::Failure;
use crate::tiny::{Kv, Tiny};

/// Changes a recorded program before it is compiled.
pub type Edit = dyn Fn(&mut Program);

/// Leaves a program as it is.
pub fn unchanged(_: &mut Program) {}

/// A model on a device with one sequence, whose pages are chosen here: `ring` local pages, used over and over, and
/// enough global ones, both in an order that is not that of their numbers.
pub struct Stream<'a, B: Backend> {
    backend: B,
    model: Gemma4,
    specs: Arc<[StateSpec]>,
    weights: Vec<B::Weight>,
    states: Vec<B::State>,
    plans: HashMap<(Class, usize), (Recorded, B::Plan)>,
    edit: &'a Edit,
    global: Vec<u32>,
    local: Vec<u32>,
    len: usize,
}

impl<B: Backend> std::fmt::Debug for Stream<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("len", &self.len).finish_non_exhaustive()
    }
}

/// `count` page numbers in an order without a pattern.
fn shuffled(count: usize) -> Vec<u32> {
    let step = (count / 2 + 1..=count).find(|&step| gcd(step, count) == 1).unwrap_or(1);
    (0..count).map(|i| u32::try_from((i * step + 1) % count).expect("few pages")).collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<'a, B: Backend> Stream<'a, B> {
    /// An empty sequence of at most `context` tokens with `ring` local pages; `edit` changes every program.
    ///
    /// # Errors
    ///
    /// If the device cannot hold it.
    pub fn new(
        backend: B,
        tiny: &Tiny,
        kv: Kv,
        ring: usize,
        context: usize,
        edit: &'a Edit,
    ) -> Result<Self, Failure> {
        let model = tiny.model();
        let pages = context.div_ceil(PAGE);
        let layout = KvLayout { local: kv.local, global: kv.global, local_pages: ring, global_pages: pages };
        let specs = model.states(&layout);
        let weights = model.tensors.iter().map(|tensor| backend.upload(tensor)).collect::<Result<_, _>>();
        let states = specs.iter().map(|spec| backend.state(spec)).collect::<Result<_, _>>();
        Ok(Self {
            weights: weights.map_err(Failure::device::<B>)?,
            states: states.map_err(Failure::device::<B>)?,
            backend,
            model,
            specs,
            plans: HashMap::new(),
            edit,
            global: shuffled(pages),
            local: shuffled(ring),
            len: 0,
        })
    }

    /// Tokens that count.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Goes back to `len` tokens: the others stay in their pages and count no more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The pools.
    #[must_use]
    pub fn specs(&self) -> &[StateSpec] {
        &self.specs
    }

    /// Runs one step over `tokens`, which then count, and returns the logits of all of them.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn step(&mut self, class: Class, tokens: &[u32]) -> Result<Vec<f32>, Failure> {
        let order: Vec<usize> = (0..tokens.len()).collect();
        self.step_in_order(class, tokens, &order)
    }

    /// The same with the rows in another order; the logits are in the order of `tokens` all the same.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn step_in_order(
        &mut self,
        class: Class,
        tokens: &[u32],
        order: &[usize],
    ) -> Result<Vec<f32>, Failure> {
        let logits = self.read(class, tokens, order, |recorded| recorded.logits)?;
        let vocab = logits.len() / tokens.len();
        let mut sorted = vec![0.0; logits.len()];
        for (row, &place) in logits.chunks_exact(vocab).zip(order) {
            sorted[place * vocab..(place + 1) * vocab].copy_from_slice(row);
        }
        self.len += tokens.len();
        Ok(sorted)
    }

    fn read(
        &mut self,
        class: Class,
        tokens: &[u32],
        order: &[usize],
        output: impl Fn(&Recorded) -> Act,
    ) -> Result<Vec<f32>, Failure> {
        let capacity = tokens.len().next_power_of_two();
        if !self.plans.contains_key(&(class, capacity)) {
            let mut recorded = match class {
                Class::Prefill => self.model.prefill(&self.specs, capacity, capacity, Taps::None)?,
                Class::Decode => self.model.verify(&self.specs, capacity, Taps::None)?,
            };
            (self.edit)(&mut recorded.program);
            let plan = self.backend.compile(&recorded.program, &self.weights, &self.states);
            self.plans.insert((class, capacity), (recorded, plan.map_err(Failure::device::<B>)?));
        }
        let rows: Vec<Row> = order
            .iter()
            .map(|&i| Row { token: tokens[i], position: narrow(self.len + i), slot: 0 })
            .collect();
        let picked: Vec<u32> = (0..rows.len()).map(narrow).collect();
        let sampling = Sampling::default();
        let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
        let tables = [PageTable { global: &self.global, local: &self.local }];
        let draws = vec![draw; picked.len()];
        let step = Step { rows: &rows, picked: &picked, tables: &tables, draws: &draws };
        let (recorded, plan) = self.plans.get_mut(&(class, capacity)).expect("inserted above");
        let act = output(recorded);
        let ticket = self.backend.run(plan, &step).map_err(Failure::device::<B>)?;
        let mut values = vec![0.0; rows.len() * recorded.program.cols(act)];
        self.backend.read(plan, ticket, act, &mut values).map_err(Failure::device::<B>)?;
        Ok(values)
    }

    /// Feeds `tokens` in steps of `size` and returns the logits of all of them.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn feed(&mut self, class: Class, tokens: &[u32], size: usize) -> Result<Vec<f32>, Failure> {
        let mut logits = Vec::new();
        for piece in tokens.chunks(size) {
            logits.extend(self.step(class, piece)?);
        }
        Ok(logits)
    }

    /// Overwrites the cache with 0xFF, a NaN in every type, wherever the next query sees nothing: pages that hold
    /// nothing, tokens that do not count, and tokens out of the window of position [`Stream::len`].
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn poison(&mut self) -> Result<(), Failure> {
        let window = self.model.config.window;
        for (index, spec) in self.specs.clone().iter().enumerate() {
            let (table, first) = match spec.span {
                Span::Global => (&self.global, 0),
                Span::Local => (&self.local, (self.len + 1).saturating_sub(window)),
            };
            let visible: HashSet<(u32, usize)> = (first..self.len)
                .map(|position| (table[position / PAGE % table.len()], position % PAGE))
                .collect();
            let state = &self.states[State::new(index).index()];
            for page in 0..narrow(spec.pages) {
                let mut bytes = vec![0; spec.page_bytes()];
                self.backend.read_page(state, page, &mut bytes).map_err(Failure::device::<B>)?;
                for (i, entry) in bytes.chunks_exact_mut(spec.row_bytes()).enumerate() {
                    if !visible.contains(&(page, i % PAGE)) {
                        entry.fill(0xFF);
                    }
                }
                self.backend.write_page(state, page, &bytes).map_err(Failure::device::<B>)?;
            }
        }
        Ok(())
    }

    /// Decoded entries of pool `index` at the positions that count and are still in the pool,
    /// `[positions, kv_heads, head_dim]`, in the domain they are stored in.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn entries(&self, index: usize) -> Result<Vec<f32>, Failure> {
        let spec = &self.specs[index];
        let table = match spec.span {
            Span::Global => &self.global,
            Span::Local => &self.local,
        };
        let first = self.len.saturating_sub(table.len() * PAGE);
        let mut out = vec![0.0; (self.len - first) * spec.kv_heads * spec.head_dim];
        let mut pages: HashMap<u32, Vec<u8>> = HashMap::new();
        for page in 0..narrow(spec.pages) {
            let mut bytes = vec![0; spec.page_bytes()];
            self.backend.read_page(&self.states[index], page, &mut bytes).map_err(Failure::device::<B>)?;
            pages.insert(page, bytes);
        }
        for (position, out) in (first..self.len).zip(out.chunks_exact_mut(spec.kv_heads * spec.head_dim)) {
            let bytes = &pages[&table[position / PAGE % table.len()]];
            for (head, out) in out.chunks_exact_mut(spec.head_dim).enumerate() {
                let at = (head * PAGE + position % PAGE) * spec.row_bytes();
                spec.kv_type.decode(&bytes[at..at + spec.row_bytes()], out);
            }
        }
        Ok(out)
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("positions and pages are counted in thousands")
}
