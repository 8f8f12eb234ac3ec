//! A program ready to run: kernels are compiled, memory is placed and arguments are known, and a step only launches.
//!
//! Outputs are kept for two steps, so a plan has two sides, which take turns: each has its own outputs, and launches with
//! their addresses as arguments. Generated rows run as one captured graph a side, from the second step on.

mod arguments;
mod memory;
mod needs;

use std::sync::Arc;

use gemma4_core::abi::step::{self, Sections};
use gemma4_core::backend::{Step, Ticket};
use gemma4_core::ops::Op;
use gemma4_core::program::{Act, Class, Elem, Program, Rows};

use crate::device::{Arena, Device};
use crate::driver::{Buffer, Event, Function, Graph, HostBuffer, Staging, Stream};
use crate::error::CudaError;
use crate::lower::{self, Count, Lowering, Prepared, Work};

use arguments::{Bound, functions};
use memory::Places;
use needs::{Thing, act_bytes, places};

pub use needs::PlanBytes;
pub(crate) use needs::{FIXED_BYTES, LIBRARY_BYTES, needs};

/// Steps whose outputs a plan keeps: one that is read and one that runs ahead.
const KEPT_STEPS: usize = 2;

/// Bytes that the settings of draws may take beyond a [`DrawInfo`](gemma4_core::abi::DrawInfo) each, at first.
const DRAWS: u64 = 4096;

/// Byte of floats that are NaN.
const POISON: u8 = 0xFF;

/// A program bound to its weights and states.
#[derive(Debug)]
pub struct Plan {
    /// Before everything that their graphs name.
    sides: [Side; KEPT_STEPS],
    pub(crate) program: Arc<Program>,
    work: Vec<Work>,
    /// The entry point of each launch; none of products.
    functions: Vec<Option<Function>>,
    /// Forms of prepared activations.
    forms: Vec<Prepared>,
    places: Places<Thing>,
    /// Which scratch memory arguments point into.
    generation: u64,
    kept: Vec<Buffer>,
    weights: Vec<crate::Weight>,
    states: Vec<crate::State>,
    sampled: Arc<Buffer>,
    outputs: Vec<Output>,
    sections: Sections,
    step: Buffer,
    /// Contents of `step`, kept to be filled anew.
    bytes: Vec<u8>,
    samples: bool,
    next: u64,
}

/// Every second step.
#[derive(Debug)]
struct Side {
    graph: Option<Graph>,
    calls: Vec<Bound>,
    staging: Staging,
    /// After its last step.
    done: Event,
    kept: Option<Kept>,
}

/// A step whose outputs are still there.
#[derive(Clone, Copy, Debug)]
struct Kept {
    ticket: u64,
    rows: usize,
    picked: usize,
}

/// Where an output of each side is.
#[derive(Debug)]
struct Output {
    act: Act,
    memory: [OutputMemory; KEPT_STEPS],
}

#[derive(Debug)]
enum OutputMemory {
    /// On the device, copied when it is read.
    Device(Buffer),
    /// In main memory, written by the kernel itself: no copy stands between two steps.
    Host(HostBuffer),
}

impl OutputMemory {
    fn address(&self) -> u64 {
        match self {
            OutputMemory::Device(buffer) => buffer.address(),
            OutputMemory::Host(buffer) => buffer.address(),
        }
    }
}

/// Time that one launch took.
#[derive(Clone, Debug)]
pub struct Span {
    /// Name of the op.
    pub op: &'static str,
    /// Name of the entry point.
    pub entry: &'static str,
    /// From the start of the step to its start, in nanoseconds.
    pub start_ns: f64,
    /// From the start of the step to its end, in nanoseconds.
    pub end_ns: f64,
}

impl Plan {
    pub(crate) fn new(
        device: &Device,
        program: &Program,
        weights: &[crate::Weight],
        states: &[crate::State],
        sampled: &Arc<Buffer>,
    ) -> Result<Self, CudaError> {
        let program = Arc::new(program.ordered());
        let mut lowering = Lowering::new(&device.info, device, &program, weights, states);
        lower::lower(&mut lowering)?;
        let forms: Vec<Prepared> =
            (0..program.acts.len()).map(|act| lowering.prepared_form(Act::new(act))).collect();
        let places = places(&lowering);
        let output_bytes: Vec<u64> = program.outputs.iter().map(|&act| act_bytes(&lowering, act)).collect();
        let Lowering { work, kept, .. } = lowering;
        let functions = functions(device, &work)?;
        let kept = kept.iter().map(|&(bytes, zeroed)| {
            if zeroed || !device.poison {
                return device.zeroed("memory of a step", bytes);
            }
            let buffer = Buffer::new(&device.context, "memory of a step", bytes)?;
            device.stream.set(&buffer, 0..buffer.bytes(), POISON)?;
            Ok(buffer)
        });
        let kept = kept.collect::<Result<Vec<_>, CudaError>>()?;
        let output = |(&act, bytes)| Output::new(device, act, program.spec(act).elem, bytes);
        let outputs = program.outputs.iter().zip(output_bytes).map(output).collect::<Result<Vec<_>, _>>()?;
        let samples = program.ops.iter().any(|op| matches!(op, Op::Sample(_)));
        let draws = if samples { DRAWS + program.picked as u64 * 48 } else { 0 };
        let sections = Sections::of(&program, draws);
        let side = || Side::new(device, &sections);
        let mut plan = Self {
            sides: [side()?, side()?],
            step: Buffer::new(&device.context, "a step", sections.end)?,
            work,
            functions,
            forms,
            places,
            generation: 0,
            kept,
            weights: weights.to_vec(),
            states: states.to_vec(),
            sampled: Arc::clone(sampled),
            outputs,
            sections,
            bytes: Vec::new(),
            samples,
            next: 0,
            program,
        };
        // What does not fit or does not bind is said now, not by the first step.
        plan.rebind(device, &mut device.arena())?;
        Ok(plan)
    }

    /// Resolves all arguments if scratch memory has moved, or never was there.
    fn rebind(&mut self, device: &Device, arena: &mut Arena) -> Result<(), CudaError> {
        arena.reserve(&device.context, self.places.bytes.max(1))?;
        let Some((memory, generation)) = arena.get() else {
            return Err(CudaError::Lost("there is no scratch memory".to_owned()));
        };
        if self.generation == generation {
            return Ok(());
        }
        let base = memory.address();
        for at in 0..KEPT_STEPS {
            self.sides[at].graph = None;
            let calls = self.work.iter().zip(&self.functions);
            let calls = calls.map(|(work, function)| self.bind(device, work, function.as_ref(), (base, at)));
            self.sides[at].calls = calls.collect::<Result<Vec<_>, _>>()?;
        }
        self.generation = generation;
        Ok(())
    }

    /// Sends what the host knows of the step.
    fn upload(&mut self, device: &Device, step: &Step<'_>, side: usize) -> Result<(), CudaError> {
        self.sections.write(step, &mut self.bytes)?;
        if self.samples {
            let draws = step::draws(&self.program, step);
            let draws: &[u8] = bytemuck::cast_slice(&draws);
            if draws.len() as u64 > self.sections.tables - self.sections.draws {
                self.grow(device, draws.len() as u64)?;
                self.sections.write(step, &mut self.bytes)?;
            }
            let start = usize::try_from(self.sections.draws).expect("a step is small");
            self.bytes[start..start + draws.len()].copy_from_slice(draws);
        }
        let staging = &mut self.sides[side].staging;
        let used = self.bytes.len();
        staging.fill()?[..used].copy_from_slice(&self.bytes);
        device.stream.upload(staging, 0..used, &self.step, 0)
    }

    /// Makes room for more settings of draws than any step had before.
    fn grow(&mut self, device: &Device, draws: u64) -> Result<(), CudaError> {
        let sections = Sections::of(&self.program, draws.next_power_of_two());
        for side in &mut self.sides {
            side.graph = None;
            side.staging = Staging::new(&device.context, "a step", size(sections.end))?;
        }
        self.step = Buffer::new(&device.context, "a step", sections.end)?;
        self.sections = sections;
        // No memory has this number.
        self.generation = 0;
        self.rebind(device, &mut device.arena())
    }

    /// Runs a step and keeps its outputs.
    pub(crate) fn run(&mut self, device: &Device, step: &Step<'_>) -> Result<Ticket, CudaError> {
        let captured = device.graphs && self.program.class == Class::Decode && self.next > 0;
        self.begin(device, step, |plan, side, poison| {
            if captured {
                plan.replay(device, side, poison)
            } else {
                plan.launch((device, &device.stream), poison, side, |rows| actual(step, rows), |_| Ok(()))
            }
        })
    }

    /// What every step begins and ends with.
    fn begin(
        &mut self,
        device: &Device,
        step: &Step<'_>,
        run: impl FnOnce(&mut Self, usize, Option<&Buffer>) -> Result<(), CudaError>,
    ) -> Result<Ticket, CudaError> {
        let side = usize::try_from(self.next % KEPT_STEPS as u64).expect("there are two");
        self.sides[side].kept = None;
        self.upload(device, step, side)?;
        // Held until everything is enqueued, so that nobody moves the memory meanwhile.
        let mut arena = device.arena();
        self.rebind(device, &mut arena)?;
        let poison = arena.get().map(|(memory, _)| memory).filter(|_| device.poison);
        run(self, side, poison)?;
        device.stream.record(&mut self.sides[side].done)?;
        let ticket = self.next;
        self.next += 1;
        self.sides[side].kept = Some(Kept { ticket, rows: step.rows.len(), picked: step.picked.len() });
        Ok(Ticket(ticket))
    }

    /// Replays the captured launches of a side, after capturing them if they are not.
    fn replay(&mut self, device: &Device, side: usize, poison: Option<&Buffer>) -> Result<(), CudaError> {
        if self.sides[side].graph.is_none() {
            let capacity = |rows| match rows {
                Rows::Step => self.program.rows,
                Rows::Picked => self.program.picked,
            };
            let stream = &device.recorder;
            let launch = || self.launch((device, stream), poison, side, capacity, |_| Ok(()));
            let graph = stream.capture(launch)?;
            self.sides[side].graph = Some(graph);
        }
        match &self.sides[side].graph {
            Some(graph) => device.stream.replay(graph),
            None => Ok(()),
        }
    }

    /// Launches everything, for as many rows as `rows` says; `mark` is called before each launch, and after the last.
    /// `poison` is scratch memory that is to be NaN before.
    fn launch(
        &self,
        (device, stream): (&Device, &Stream),
        poison: Option<&Buffer>,
        side: usize,
        rows: impl Fn(Rows) -> usize,
        mut mark: impl FnMut(usize) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        if let Some(memory) = poison {
            self.poison(stream, memory, side)?;
        }
        let count = |count: Count| match count {
            Count::Fixed(n) | Count::Cluster(n) => n,
            Count::Rows { of, per, times } => lower::narrow(rows(of)).div_ceil(per) * times,
        };
        for (at, (work, call)) in self.work.iter().zip(&self.sides[side].calls).enumerate() {
            mark(at)?;
            match (work, call) {
                (Work::Launch(launch), Bound::Call(call)) => {
                    let grid = launch.grid.map(count);
                    if !grid.contains(&0) {
                        stream.launch(call, grid)?;
                    }
                }
                (Work::Product(product), Bound::Product { shape, algorithm, operands }) => {
                    let now = lower::narrow(rows(self.program.spec(product.out).rows));
                    if now > 0 {
                        let with = (*shape, algorithm);
                        device.library()?.multiply(stream, with, now, *operands, product.factor)?;
                    }
                }
                _ => unreachable!("calls are made of the work beside them"),
            }
        }
        mark(self.work.len())
    }

    /// Makes what a step leaves behind NaN before the next one.
    fn poison(&self, stream: &Stream, memory: &Buffer, side: usize) -> Result<(), CudaError> {
        stream.set(memory, 0..self.places.bytes, POISON)?;
        for output in &self.outputs {
            if let OutputMemory::Device(buffer) = &output.memory[side] {
                stream.set(buffer, 0..buffer.bytes(), POISON)?;
            }
        }
        Ok(())
    }

    fn bytes_of(&self, act: Act, kept: Kept) -> usize {
        let spec = self.program.spec(act);
        let rows = match spec.rows {
            Rows::Step => kept.rows,
            Rows::Picked => kept.picked,
        };
        rows * spec.cols * 4
    }

    pub(crate) fn read(
        &self,
        device: &Device,
        ticket: Ticket,
        act: Act,
        into: &mut [u8],
    ) -> Result<(), CudaError> {
        let side = usize::try_from(ticket.0 % KEPT_STEPS as u64).expect("there are two");
        let kept = self.sides[side].kept.filter(|kept| kept.ticket == ticket.0);
        let kept = kept.ok_or(CudaError::Gone(ticket.0))?;
        let want = self.bytes_of(act, kept);
        let output = self.outputs.iter().find(|output| output.act == act);
        let Some(output) = output.filter(|_| want == into.len()) else {
            return Err(CudaError::OutputSize { act, want, got: into.len() });
        };
        self.sides[side].done.wait()?;
        match &output.memory[side] {
            OutputMemory::Host(buffer) => {
                buffer.copy_to(into);
                Ok(())
            }
            OutputMemory::Device(_) if want == 0 => Ok(()),
            OutputMemory::Device(buffer) => device.downloads.download(buffer, 0, into),
        }
    }

    /// Runs a step as [`Plan::run`] does without capturing it, and says when each launch ran. `None` if the driver is too
    /// old to say.
    pub(crate) fn profile(
        &mut self,
        device: &Device,
        step: &Step<'_>,
    ) -> Result<Option<Vec<Span>>, CudaError> {
        let events = (0..=self.work.len()).map(|_| Event::timed(&device.context));
        let mut events = events.collect::<Result<Vec<_>, _>>()?;
        self.begin(device, step, |plan, side, poison| {
            let mark = |at: usize| device.stream.record(&mut events[at]);
            plan.launch((device, &device.stream), poison, side, |rows| actual(step, rows), mark)
        })?;
        device.stream.finish()?;
        let mut times = Vec::with_capacity(events.len());
        for event in &events {
            let Some(milliseconds) = event.since(&events[0])? else { return Ok(None) };
            times.push(milliseconds * 1e6);
        }
        let spans = self.work.iter().zip(times.windows(2)).map(|(work, times)| Span {
            op: work.op(),
            entry: work.entry(),
            start_ns: times[0],
            end_ns: times[1],
        });
        Ok(Some(spans.collect()))
    }

    /// Launches of a step.
    #[must_use]
    pub fn launches(&self) -> usize {
        self.work.len()
    }

    /// Bytes of scratch memory that a step needs; plans of a device share it.
    #[must_use]
    pub fn scratch_bytes(&self) -> u64 {
        self.places.bytes
    }
}

impl Side {
    fn new(device: &Device, sections: &Sections) -> Result<Self, CudaError> {
        Ok(Self {
            graph: None,
            calls: Vec::new(),
            staging: Staging::new(&device.context, "a step", size(sections.end))?,
            done: Event::new(&device.context)?,
            kept: None,
        })
    }
}

impl Output {
    fn new(device: &Device, act: Act, elem: Elem, bytes: u64) -> Result<Self, CudaError> {
        let memory = || {
            let what = "an output";
            Ok::<_, CudaError>(match elem {
                Elem::U32 => OutputMemory::Host(HostBuffer::new(&device.context, what, size(bytes))?),
                Elem::F32 => OutputMemory::Device(device.zeroed(what, bytes)?),
            })
        };
        Ok(Self { act, memory: [memory()?, memory()?] })
    }
}

/// Rows of a step.
fn actual(step: &Step<'_>, rows: Rows) -> usize {
    match rows {
        Rows::Step => step.rows.len(),
        Rows::Picked => step.picked.len(),
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a step is small")
}
