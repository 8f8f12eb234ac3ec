//! The reference, called as a device that queues steps: what the host did between them is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Pod;
use gemma4_core::backend::{Backend, Step, Ticket};
use gemma4_core::program::{Act, Program, StateSpec};
use gemma4_core::reference::{Loaded, Plan, Pool, Reference, ReferenceError};
use gemma4_core::tensor::Tensor;

/// What such a device saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Rows of tokens that the host had not read: the last that was sampled for a slot.
    pub sampled: AtomicUsize,
    /// Rows of drafts that the host had not asked for.
    pub drafted: AtomicUsize,
    /// Steps that were enqueued when all before them had been waited for: the device had nothing to do.
    pub idle: AtomicUsize,
    /// Steps.
    pub steps: AtomicUsize,
    /// Number of the latest step that was waited for.
    waited: AtomicUsize,
}

impl Seen {
    /// Reads a counter.
    #[must_use]
    pub fn get(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::Relaxed)
    }
}

/// The device. Clones share what they have seen, and what they remember.
#[derive(Clone, Debug)]
pub struct Queue {
    reference: Arc<Reference>,
    /// What it saw.
    pub seen: Arc<Seen>,
}

impl Queue {
    /// A device that has seen nothing.
    #[must_use]
    pub fn new(reference: Reference) -> Self {
        Self { reference: Arc::new(reference), seen: Arc::default() }
    }
}

/// A plan, and which of all steps its own were.
#[derive(Debug)]
pub struct Queued {
    plan: Plan,
    steps: Vec<usize>,
}

impl Backend for Queue {
    type Weight = Loaded;
    type State = Pool;
    type Plan = Queued;
    type Error = ReferenceError;

    const QUEUES: bool = true;

    fn upload(&self, tensor: &Tensor) -> Result<Loaded, ReferenceError> {
        self.reference.upload(tensor)
    }

    fn state(&self, spec: &StateSpec) -> Result<Pool, ReferenceError> {
        self.reference.state(spec)
    }

    fn compile(
        &self,
        program: &Program,
        weights: &[Loaded],
        states: &[Pool],
    ) -> Result<Queued, ReferenceError> {
        Ok(Queued { plan: self.reference.compile(program, weights, states)?, steps: Vec::new() })
    }

    fn run(&self, plan: &mut Queued, step: &Step<'_>) -> Result<Ticket, ReferenceError> {
        let ticket = self.reference.run(&mut plan.plan, step)?;
        let count =
            |place: fn(u32) -> bool| step.rows.iter().filter(|row| row.place().is_some_and(place)).count();
        self.seen.sampled.fetch_add(count(|place| place == 0), Ordering::Relaxed);
        self.seen.drafted.fetch_add(count(|place| place > 0), Ordering::Relaxed);
        let before = self.seen.steps.fetch_add(1, Ordering::Relaxed);
        if self.seen.waited.load(Ordering::Relaxed) == before {
            self.seen.idle.fetch_add(1, Ordering::Relaxed);
        }
        plan.steps.push(before + 1);
        Ok(ticket)
    }

    fn read<T: Pod>(
        &self,
        plan: &Queued,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), ReferenceError> {
        let step = usize::try_from(ticket.0).ok().and_then(|at| plan.steps.get(at));
        self.seen.waited.fetch_max(step.copied().unwrap_or_default(), Ordering::Relaxed);
        self.reference.read(&plan.plan, ticket, output, into)
    }

    fn read_page(&self, state: &Pool, page: u32, into: &mut [u8]) -> Result<(), ReferenceError> {
        self.reference.read_page(state, page, into)
    }

    fn write_page(&self, state: &Pool, page: u32, from: &[u8]) -> Result<(), ReferenceError> {
        self.reference.write_page(state, page, from)
    }
}
