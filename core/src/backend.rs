//! What a device must be able to do.

use std::collections::HashSet;

use bytemuck::Pod;

use crate::abi::PLACES;
use crate::program::{Act, Program, StateSpec};
use crate::sample::Draw;
use crate::tensor::Tensor;

/// A device that runs programs.
///
/// A backend decides how: it may fuse ops, split them, overlap them, and lay weights out as it likes. What an
/// op computes is fixed by [`crate::ops`] and is not its business.
///
/// A row's result depends on nothing but the row: not on other rows of the step, their order or their
/// sequences.
pub trait Backend {
    /// A weight in the layout this device reads fastest. Cloning shares it.
    type Weight: Clone;
    /// A tensor that outlives a step. Cloning shares it.
    type State: Clone;
    /// A program made ready to run many times.
    type Plan;
    /// What can go wrong on this device.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Whether [`Backend::run`] returns long before the step is done. Then a host that enqueues the next step before it
    /// reads this one's token keeps the device busy; elsewhere it would only wait longer for the token.
    const QUEUES: bool = false;

    /// Steps of a plan after which one is as fast as it will be.
    const WARM: usize = 1;

    /// Prompt tokens of a step that this device reads at its best rate, unless the user says otherwise. More of them need
    /// more memory: activations, and room in the local rings of the cache.
    fn chunk(&self) -> usize {
        crate::engine::CHUNK
    }

    /// Copies a weight to the device. May repack it. Called while loading, never during a step.
    ///
    /// # Errors
    ///
    /// If the device cannot hold it.
    fn upload(&self, tensor: &Tensor) -> Result<Self::Weight, Self::Error>;

    /// Allocates zeroed state.
    ///
    /// # Errors
    ///
    /// If the device cannot hold it.
    fn state(&self, spec: &StateSpec) -> Result<Self::State, Self::Error>;

    /// Chooses kernels, allocates scratch, builds bind groups or captures the graph.
    ///
    /// Everything slow belongs here: `run` may not allocate on the device, compile or wait.
    ///
    /// # Errors
    ///
    /// If the device lacks what an op needs; the error names both.
    fn compile(
        &self,
        program: &Program,
        weights: &[Self::Weight],
        states: &[Self::State],
    ) -> Result<Self::Plan, Self::Error>;

    /// Enqueues one step. Steps run in the order in which they were enqueued.
    ///
    /// # Errors
    ///
    /// If the step does not fit the program ([`Step::check`]) or the device fails.
    fn run(&self, plan: &mut Self::Plan, step: &Step<'_>) -> Result<Ticket, Self::Error>;

    /// Waits for that step, not for later ones, and copies the rows that it has of one of its outputs.
    ///
    /// A plan keeps the outputs of its last two steps.
    ///
    /// # Errors
    ///
    /// If the step failed, or its outputs are gone.
    fn read<T: Pod>(
        &self,
        plan: &Self::Plan,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), Self::Error>;

    /// Copies page `page` out of a pool, after all steps enqueued so far; layout: [`StateSpec`].
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn read_page(&self, state: &Self::State, page: u32, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Overwrites page `page` of a pool, before any step enqueued later.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn write_page(&self, state: &Self::State, page: u32, from: &[u8]) -> Result<(), Self::Error>;

    /// Copies page `from` of a pool, of `bytes` bytes, over page `to`: after all steps enqueued so far, before any
    /// enqueued later. Through main memory unless the device has a shorter way.
    ///
    /// # Errors
    ///
    /// If the device fails.
    fn copy_page(&self, state: &Self::State, bytes: usize, from: u32, to: u32) -> Result<(), Self::Error> {
        let mut page = vec![0; bytes];
        self.read_page(state, from, &mut page)?;
        self.write_page(state, to, &page)
    }
}

/// Number of a step of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One row of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Token id, or [`Row::SAMPLED`], or [`Row::drafted`].
    pub token: u32,
    /// Absolute position of the token in its sequence.
    pub position: u32,
    /// Whose page tables it uses: an index into [`Step::tables`].
    pub slot: u32,
}

impl Row {
    /// Stands for the last token that was sampled for the row's slot.
    pub const SAMPLED: u32 = u32::MAX;

    /// Stands for draft number `n` of the row's slot, from 1: the latest that a drafting program drew `n` positions ahead
    /// of the slot's first row.
    ///
    /// # Panics
    ///
    /// If no device remembers so many.
    #[must_use]
    pub const fn drafted(n: u32) -> u32 {
        assert!(n > 0 && n < PLACES, "so many drafts are remembered");
        Self::SAMPLED - n
    }

    /// Which of the tokens that the device remembers of the slot the row takes, if it does not bring its own: 0 is the
    /// last one that was sampled, others are drafts.
    #[must_use]
    pub const fn place(&self) -> Option<u32> {
        let place = Self::SAMPLED - self.token;
        if place < PLACES { Some(place) } else { None }
    }
}

/// Which tokens the device remembers.
#[derive(Clone, Debug, Default)]
pub struct Drawn(HashSet<(u32, u32)>);

impl Drawn {
    /// Takes note of what a step draws, if all that it wants is there; else says the slot that lacks a token.
    ///
    /// # Errors
    ///
    /// That slot.
    pub fn note(&mut self, program: &Program, step: &Step<'_>) -> Result<(), u32> {
        let lacks = |row: &&Row| row.place().is_some_and(|place| !self.0.contains(&(row.slot, place)));
        if let Some(row) = step.rows.iter().find(lacks) {
            return Err(row.slot);
        }
        if program.ops.iter().any(|op| matches!(op, crate::ops::Op::Sample(_))) {
            let slots = step.picked.iter().map(|&row| step.rows[row as usize].slot);
            self.0.extend(slots.zip(step.places(program)));
        }
        Ok(())
    }
}

/// Where a sequence's keys and values are: page numbers by absolute page, modulo the length of the table.
#[derive(Clone, Copy, Debug)]
pub struct PageTable<'a> {
    /// Pages of global layers.
    pub global: &'a [u32],
    /// Ring of pages of local layers.
    pub local: &'a [u32],
}

/// What the host knows about a step and the device does not.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The rows. Those of one sequence hold consecutive positions; rows may come in any order.
    pub rows: &'a [Row],
    /// Rows whose logits are wanted.
    pub picked: &'a [u32],
    /// Page tables by slot.
    pub tables: &'a [PageTable<'a>],
    /// How each picked row is sampled; empty if the program does not sample.
    pub draws: &'a [Draw<'a>],
}

/// A step that does not fit its program: a bug of the caller, caught before it reaches the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step: {what} is {got}, expected {want}")]
pub struct StepError {
    /// What does not fit.
    pub what: &'static str,
    /// What the program takes.
    pub want: String,
    /// What the step has.
    pub got: u64,
}

impl Step<'_> {
    /// Where the device remembers the token of each picked row ([`Row::place`]).
    ///
    /// A program that drafts counts from the first row of the slot: an assistant's rows stay there, those of a block go on
    /// from there.
    #[must_use]
    pub fn places(&self, program: &Program) -> Vec<u32> {
        if !program.ops.iter().any(|op| matches!(op, crate::ops::Op::Sample(sample) if sample.drafts)) {
            return vec![0; self.picked.len()];
        }
        let place = |(draw, &row): (&Draw<'_>, &u32)| {
            let slot = self.rows[row as usize].slot;
            let own = self.rows.iter().filter(|row| row.slot == slot);
            let first = own.map(|row| row.position).min().unwrap_or_default();
            draw.position.saturating_sub(first).min(PLACES - 1)
        };
        self.draws.iter().zip(self.picked).map(place).collect()
    }

    /// For each row, how many positions the last row of its slot in this step is ahead of it.
    #[must_use]
    pub fn ahead(&self) -> Vec<u32> {
        let mut last = std::collections::BTreeMap::<u32, u32>::new();
        for row in self.rows {
            let last = last.entry(row.slot).or_default();
            *last = (*last).max(row.position);
        }
        self.rows.iter().map(|row| last[&row.slot] - row.position).collect()
    }

    /// Checks everything that a kernel will rely on: counts, token ids, slots and pages.
    ///
    /// # Errors
    ///
    /// Names the first thing that does not fit.
    pub fn check(&self, program: &Program) -> Result<(), StepError> {
        use crate::model::config::Span;
        use crate::ops::Op;
        let err = |what, want: String, got: u64| Err(StepError { what, want, got });
        if self.rows.is_empty() || self.rows.len() > program.rows {
            return err("number of rows", format!("1 to {}", program.rows), self.rows.len() as u64);
        }
        if self.picked.len() > program.picked {
            return err(
                "number of picked rows",
                format!("at most {}", program.picked),
                self.picked.len() as u64,
            );
        }
        if let Some(&row) = self.picked.iter().find(|&&row| row as usize >= self.rows.len()) {
            return err("picked row", format!("below {}", self.rows.len()), u64::from(row));
        }
        let samples = program.ops.iter().any(|op| matches!(op, Op::Sample(_)));
        if samples && self.draws.len() != self.picked.len() {
            return err("number of draws", self.picked.len().to_string(), self.draws.len() as u64);
        }
        let vocab = program.ops.iter().find_map(|op| match op {
            Op::Embed(embed) => Some(program.weight(embed.table).rows),
            _ => None,
        });
        // Pools that are found by page tables: not rings, and not what this program leaves alone.
        let mut paged = vec![false; program.states.len()];
        for op in &program.ops {
            let pools = match op {
                Op::Attention(op) => Some((op.k, op.v)),
                Op::AttnPrepare(op) => op.own.map(|own| (own.k, own.v)),
                Op::KvAppend(op) => Some((op.own.k, op.own.v)),
                _ => None,
            };
            if let Some((k, v)) = pools {
                (paged[k.index()], paged[v.index()]) = (true, true);
            }
        }
        for ring in program.ops.iter().filter_map(Op::ring) {
            let slots = program.state(ring.state).pages * crate::cache::PAGE / ring.rows.max(1);
            if let Some(row) = self.rows.iter().find(|row| row.slot as usize >= slots) {
                return err("slot of kept rows", format!("below {slots}"), u64::from(row.slot));
            }
        }
        for row in self.rows {
            let Some(table) = self.tables.get(row.slot as usize) else {
                return err("slot", format!("below {}", self.tables.len()), u64::from(row.slot));
            };
            if let Some(vocab) = vocab.filter(|&v| row.place().is_none() && row.token as usize >= v) {
                return err("token", format!("below {vocab}"), u64::from(row.token));
            }
            let page = row.position as usize / crate::cache::PAGE;
            for (state, _) in program.states.iter().zip(&paged).filter(|(_, paged)| **paged) {
                let (table, what) = match state.span {
                    Span::Global => (table.global, "global page"),
                    Span::Local => (table.local, "local page"),
                };
                if table.is_empty() || (state.span == Span::Global && page >= table.len()) {
                    return err(what, "a table that covers the position".into(), u64::from(row.position));
                }
                let id = table[page % table.len()];
                if id as usize >= state.pages {
                    return err(what, format!("below {}", state.pages), u64::from(id));
                }
            }
        }
        Ok(())
    }
}
