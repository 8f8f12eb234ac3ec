//! The backend that is the specification: it interprets a program with the reference function of each op.
//!
//! It is also the CPU backend (`--backend cpu`): rows, outputs and heads run in parallel, and every sum keeps
//! its own fixed order, so a row has the same bits in any company and on any number of threads.

mod pool;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;

use crate::backend::{Backend, Row, Step, StepError, Ticket};
use crate::ops::attention::{Attention, Rotated};
use crate::ops::attn_prepare::AttnPrepare;
use crate::ops::keep_rows::KeepRows;
use crate::ops::kv_append::KvAppend;
use crate::ops::moe_ffn::GateUp;
use crate::ops::{self, Op};
use crate::program::{Act, Program, Rows, Slots, State, StateSpec, Weight};
use crate::quant;
use crate::sample;
use crate::tensor::Tensor;

pub use pool::Pool;

/// Tokens of sequence slots, by place: the last one that was sampled, and drafts.
type Remembered = HashMap<(u32, u32), u32>;

/// The reference backend.
#[derive(Debug)]
pub struct Reference {
    threads: rayon::ThreadPool,
    sampled: Mutex<Remembered>,
    distortion: Option<Distortion>,
}

/// What happens to every entry of the cache before it is stored: noise, to learn what a loss of its size costs, or a
/// mistake, to see that a test notices it.
///
/// It is called with the pool, the absolute position and the entry, `[kv_heads, head_dim]`.
#[derive(Clone)]
pub struct Distortion(Arc<Distort>);

type Distort = dyn Fn(&StateSpec, u32, &mut [f32]) + Send + Sync;

impl Distortion {
    /// The distortion that `distort` is.
    pub fn new(distort: impl Fn(&StateSpec, u32, &mut [f32]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(distort))
    }
}

impl std::fmt::Debug for Distortion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Distortion")
    }
}

/// What the reference cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The threads cannot be started.
    #[error("cannot start the worker threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The step does not fit the program.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A key or value is NaN or infinite: the weights are damaged, or the model overflows.
    #[error("{state}: the entry of position {position} is not finite; the weights may be damaged")]
    NotFinite {
        /// The pool.
        state: String,
        /// Absolute position.
        position: u32,
    },
    /// A row wants the last sampled token of a slot that has none.
    #[error("slot {0} has sampled no token yet")]
    NothingSampled(u32),
    /// A plan keeps the outputs of two steps.
    #[error("the outputs of step {0} are no longer kept")]
    Gone(u64),
    /// An output is read into a slice of another size.
    #[error("output {act} has {want} bytes, not {got}")]
    OutputSize {
        /// The output.
        act: Act,
        /// Its size in bytes.
        want: usize,
        /// Size asked for.
        got: usize,
    },
}

/// A weight as the file holds it; vectors are decoded once.
#[derive(Clone, Debug)]
pub struct Loaded {
    tensor: Tensor,
    vector: Arc<[f32]>,
}

/// A program bound to its weights and states.
#[derive(Debug)]
pub struct Plan {
    program: Arc<Program>,
    weights: Vec<Loaded>,
    states: Vec<Pool>,
    slots: Slots,
    scratch: Vec<Vec<f32>>,
    next: u64,
    kept: VecDeque<(u64, HashMap<Act, Vec<f32>>)>,
}

/// Steps whose outputs a plan keeps: one that is read and one that runs ahead.
const KEPT_STEPS: usize = 2;

impl Reference {
    /// A reference backend on `threads` threads, or one a core.
    ///
    /// # Errors
    ///
    /// If the threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self, ReferenceError> {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .thread_name(|i| format!("gemma4-cpu-{i}"))
            .build()?;
        Ok(Self { threads, sampled: Mutex::default(), distortion: None })
    }

    /// Its threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// The same with whatever is stored distorted.
    #[must_use]
    pub fn with_distortion(self, distortion: Distortion) -> Self {
        Self { distortion: Some(distortion), ..self }
    }
}

impl Backend for Reference {
    type Weight = Loaded;
    type State = Pool;
    type Plan = Plan;
    type Error = ReferenceError;

    fn upload(&self, tensor: &Tensor) -> Result<Loaded, ReferenceError> {
        let mut vector = Vec::new();
        if tensor.experts == 1 && tensor.rows == 1 {
            vector.resize(tensor.cols, 0.0);
            quant::decode(tensor.dtype, &tensor.data, &mut vector);
        }
        Ok(Loaded { tensor: tensor.clone(), vector: vector.into() })
    }

    fn state(&self, spec: &StateSpec) -> Result<Pool, ReferenceError> {
        Ok(Pool::new(spec.clone(), self.distortion.clone()))
    }

    fn compile(
        &self,
        program: &Program,
        weights: &[Loaded],
        states: &[Pool],
    ) -> Result<Plan, ReferenceError> {
        let slots = Slots::of(program);
        let scratch = slots.elements.iter().map(|&n| vec![f32::NAN; n]).collect();
        Ok(Plan {
            program: Arc::new(program.clone()),
            weights: weights.to_vec(),
            states: states.to_vec(),
            slots,
            scratch,
            next: 0,
            kept: VecDeque::new(),
        })
    }

    fn run(&self, plan: &mut Plan, step: &Step<'_>) -> Result<Ticket, ReferenceError> {
        step.check(&plan.program)?;
        let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens: Vec<u32> = step
            .rows
            .iter()
            .map(|row| match row.place() {
                Some(place) => {
                    let token = sampled.get(&(row.slot, place)).copied();
                    token.ok_or(ReferenceError::NothingSampled(row.slot))
                }
                None => Ok(row.token),
            })
            .collect::<Result<_, _>>()?;
        let program = plan.program.clone();
        let last = &mut *sampled;
        self.threads
            .install(|| program.ops.iter().try_for_each(|op| plan.execute(op, step, &tokens, last)))?;
        let kept = program.outputs.iter().map(|&act| (act, plan.get(act, step).to_vec())).collect();
        let ticket = Ticket(plan.next);
        plan.next += 1;
        plan.kept.push_back((ticket.0, kept));
        if plan.kept.len() > KEPT_STEPS {
            plan.kept.pop_front();
        }
        Ok(ticket)
    }

    fn read<T: Pod>(
        &self,
        plan: &Plan,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), ReferenceError> {
        let kept = plan.kept.iter().find(|(number, _)| *number == ticket.0);
        let values =
            kept.and_then(|(_, outputs)| outputs.get(&output)).ok_or(ReferenceError::Gone(ticket.0))?;
        let (from, into): (&[u8], &mut [u8]) = (bytemuck::cast_slice(values), bytemuck::cast_slice_mut(into));
        if from.len() != into.len() {
            return Err(ReferenceError::OutputSize { act: output, want: from.len(), got: into.len() });
        }
        into.copy_from_slice(from);
        Ok(())
    }

    fn read_page(&self, state: &Pool, page: u32, into: &mut [u8]) -> Result<(), ReferenceError> {
        state.read_page(page, into);
        Ok(())
    }

    fn write_page(&self, state: &Pool, page: u32, from: &[u8]) -> Result<(), ReferenceError> {
        state.write_page(page, from);
        Ok(())
    }
}

impl Plan {
    /// Elements that `act` has in this step.
    fn len(&self, act: Act, step: &Step<'_>) -> usize {
        let spec = self.program.spec(act);
        let rows = match spec.rows {
            Rows::Step => step.rows.len(),
            Rows::Picked => step.picked.len(),
        };
        rows * spec.cols
    }

    fn get(&self, act: Act, step: &Step<'_>) -> &[f32] {
        &self.scratch[self.slots.of[act.index()]][..self.len(act, step)]
    }

    /// Takes the buffer of `act` out to be written; [`Plan::put`] returns it.
    fn take(&mut self, act: Act) -> Vec<f32> {
        std::mem::take(&mut self.scratch[self.slots.of[act.index()]])
    }

    fn put(&mut self, act: Act, buffer: Vec<f32>) {
        self.scratch[self.slots.of[act.index()]] = buffer;
    }

    /// Runs `f` on the elements of `act`, which it may overwrite, beside the rest of the plan.
    fn write<R>(&mut self, act: Act, step: &Step<'_>, f: impl FnOnce(&Self, &mut [f32]) -> R) -> R {
        let len = self.len(act, step);
        let mut buffer = self.take(act);
        let result = f(self, &mut buffer[..len]);
        self.put(act, buffer);
        result
    }

    fn tensor(&self, weight: Weight) -> &Tensor {
        &self.weights[weight.index()].tensor
    }

    fn vector(&self, weight: Weight) -> &[f32] {
        &self.weights[weight.index()].vector
    }

    fn pool(&self, state: State) -> &Pool {
        &self.states[state.index()]
    }

    fn execute(
        &mut self,
        op: &Op,
        step: &Step<'_>,
        tokens: &[u32],
        sampled: &mut Remembered,
    ) -> Result<(), ReferenceError> {
        match op {
            Op::Embed(op) => self.write(op.out, step, |plan, out| {
                ops::embed::reference(tokens, plan.tensor(op.table), op.scale, out);
            }),
            Op::PleInputs(op) => self.write(op.out, step, |plan, out| {
                let context = plan.get(op.context, step);
                let (table, norm) = (plan.tensor(op.table), plan.vector(op.norm));
                ops::ple_inputs::reference(tokens, context, table, norm, op.hidden, op.eps, out);
            }),
            Op::RmsNorm(op) => self.write(op.out, step, |plan, out| {
                ops::rms_norm::reference(plan.get(op.x, step), plan.vector(op.weight), op.eps, out);
            }),
            Op::NormAdd(op) => self.write(op.residual, step, |plan, residual| {
                let (y, weight) = (plan.get(op.y, step), plan.vector(op.weight));
                ops::norm_add::reference(residual, y, weight, op.scale, op.eps);
            }),
            Op::Add(op) => self.write(op.x, step, |plan, x| ops::add::reference(x, plan.get(op.y, step))),
            Op::Linear(op) => self.write(op.out, step, |plan, out| {
                let weights: Vec<&Tensor> = op.weights.iter().map(|&w| plan.tensor(w)).collect();
                ops::linear::reference(plan.get(op.x, step), &weights, out);
            }),
            Op::AttnPrepare(op) => return self.attn_prepare(op, step),
            Op::KvAppend(op) => return self.kv_append(op, step),
            Op::Attention(op) => self.attention(op, step),
            Op::Glu(op) => self.write(op.out, step, |plan, out| {
                let operand =
                    |c: ops::glu::Columns| (plan.get(c.act, step), plan.program.cols(c.act), c.start);
                let cols = plan.program.cols(op.out);
                ops::glu::reference(op.activation, operand(op.gate), operand(op.up), cols, out);
            }),
            Op::Route(op) => {
                let mut experts = self.take(op.experts);
                let len = self.len(op.experts, step);
                self.write(op.weights, step, |plan, weights| {
                    let [scale, expert_scale] = [op.scale, op.expert_scale].map(|w| plan.vector(w));
                    let experts = bytemuck::cast_slice_mut(&mut experts[..len]);
                    let (x, proj) = (plan.get(op.x, step), plan.tensor(op.proj));
                    ops::route::reference(x, scale, proj, expert_scale, op.eps, experts, weights);
                });
                self.put(op.experts, experts);
            }
            Op::MoeFfn(op) => self.write(op.out, step, |plan, out| {
                let gate_up = match op.gate_up {
                    GateUp::Fused(both) => vec![plan.tensor(both)],
                    GateUp::Split { gate, up } => vec![plan.tensor(gate), plan.tensor(up)],
                };
                let experts: &[u32] = bytemuck::cast_slice(plan.get(op.experts, step));
                let (x, weights) = (plan.get(op.x, step), plan.get(op.weights, step));
                ops::moe_ffn::reference(x, experts, weights, &gate_up, plan.tensor(op.down), out);
            }),
            Op::GatherRows(op) => self.write(op.out, step, |plan, out| {
                ops::gather_rows::reference(plan.get(op.x, step), step.picked, plan.program.cols(op.x), out);
            }),
            Op::KeepRows(op) => self.keep_rows(op, step),
            Op::RecallRows(op) => self.write(op.out, step, |plan, out| {
                let cols = plan.program.cols(op.out);
                let pool = plan.pool(op.ring.state);
                for (out, row) in out.chunks_exact_mut(cols).zip(step.rows) {
                    pool.recall(op.ring.row(row.slot, row.position - op.back), out);
                }
            }),
            Op::CentroidHead(op) => self.write(op.out, step, |plan, out| {
                let (x, scores) = (plan.get(op.x, step), plan.get(op.scores, step));
                let (table, ordering) = (plan.tensor(op.table), plan.vector(op.ordering));
                ops::centroid_head::reference(x, scores, table, ordering, op.top_k, out);
            }),
            Op::Softcap(op) => self.write(op.x, step, |_, x| ops::softcap::reference(x, op.cap)),
            Op::Sample(op) => self.write(op.out, step, |plan, out| {
                let logits = plan.get(op.logits, step);
                let rows = logits.chunks_exact(plan.program.cols(op.logits));
                let out: &mut [u32] = bytemuck::cast_slice_mut(out);
                let picked = step.draws.iter().zip(step.picked).zip(step.places(&plan.program));
                for ((out, logits), ((draw, &row), place)) in out.iter_mut().zip(rows).zip(picked) {
                    *out = sample::sample(&mut logits.to_vec(), draw);
                    sampled.insert((step.rows[row as usize].slot, place), *out);
                }
            }),
        }
        Ok(())
    }

    fn attn_prepare(&mut self, op: &AttnPrepare, step: &Step<'_>) -> Result<(), ReferenceError> {
        let positions: Vec<u32> = step.rows.iter().map(|row| row.position).collect();
        self.write(op.out, step, |plan, out| {
            let norms = (plan.vector(op.q_norm), plan.vector(op.frequency));
            let own = op.own.map(|own| (plan.vector(own.k_norm), own.values));
            let qkv = plan.get(op.qkv, step);
            let rows = ops::attn_prepare::reference(qkv, &positions, op.heads, norms, own, op.eps, out);
            let Some(own) = op.own else { return Ok(()) };
            let (keys, values): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            plan.pool(own.k).append(step, &keys)?;
            plan.pool(own.v).append(step, &values)
        })
    }

    fn kv_append(&self, op: &KvAppend, step: &Step<'_>) -> Result<(), ReferenceError> {
        let positions: Vec<u32> = step.rows.iter().map(|row| row.position).collect();
        let (heads, own) = ((op.kv_heads, op.head_dim), op.own);
        let norms = (self.vector(own.k_norm), self.vector(op.frequency));
        let kv = self.get(op.kv, step);
        let rows = ops::kv_append::reference(kv, &positions, heads, norms, own.values, op.eps);
        let (keys, values): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        self.pool(own.k).append(step, &keys)?;
        self.pool(own.v).append(step, &values)
    }

    fn keep_rows(&self, op: &KeepRows, step: &Step<'_>) {
        let (x, cols, pool) = (self.get(op.x, step), self.program.cols(op.x), self.pool(op.ring.state));
        let ahead = step.ahead();
        let kept = |r: usize| {
            let row = step.rows[r];
            ((ahead[r] as usize) < op.ring.rows).then(|| op.ring.row(row.slot, row.position))
        };
        let rows: Vec<usize> = match self.program.spec(op.x).rows {
            Rows::Step => (0..step.rows.len()).collect(),
            Rows::Picked => step.picked.iter().map(|&row| row as usize).collect(),
        };
        for (x, row) in x.chunks_exact(cols).zip(rows) {
            if let Some(at) = kept(row) {
                pool.keep(at, op.column, x);
            }
        }
    }

    fn attention(&mut self, op: &Attention, step: &Step<'_>) {
        use rayon::prelude::*;
        let heads = op.heads;
        let group = heads.heads / heads.kv_heads;
        let part = group * heads.head_dim;
        self.write(op.out, step, |plan, out| {
            let q = plan.get(op.q, step);
            let (k, v) = (plan.pool(op.k), plan.pool(op.v));
            let rotated = Rotated { keys: k.rotated(), values: v.rotated() };
            let sees: Vec<Range<u32>> = step
                .rows
                .iter()
                .zip(step.ahead())
                .map(|(row, ahead)| {
                    op.mask.first(row.position)..op.reach.last(op.mask, row.position, ahead) + 1
                })
                .collect();
            let seen = pool::Seen::decode(k, v, &sees, step);
            let tasks: Vec<(Range<usize>, usize)> = neighbours(step.rows, (QUERIES / group).max(1))
                .flat_map(|rows| (0..heads.kv_heads).map(move |head| (rows.clone(), head)))
                .collect();
            let done: Vec<Vec<f32>> = tasks
                .par_iter()
                .map(|(rows, head)| {
                    let of_row = |row: usize| &q[(row * heads.kv_heads + head) * part..][..part];
                    let q: Vec<f32> = rows.clone().flat_map(of_row).copied().collect();
                    let seen = seen.of(step.rows[rows.start].slot, *head);
                    ops::attention::reference(&q, &sees[rows.clone()], seen, rotated, heads.head_dim)
                })
                .collect();
            for ((rows, head), done) in tasks.into_iter().zip(done) {
                for (row, done) in rows.zip(done.chunks_exact(part)) {
                    out[(row * heads.kv_heads + head) * part..][..part].copy_from_slice(done);
                }
            }
        });
    }
}

/// Query heads that one task of attention takes.
const QUERIES: usize = 16;

/// Runs of rows of one sequence, at most `most` rows each.
fn neighbours(rows: &[Row], most: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    rows.chunk_by(|a, b| a.slot == b.slot).flat_map(move |run| {
        let first = start;
        start += run.len();
        (first..start).step_by(most).map(move |at| at..start.min(at + most)).collect::<Vec<_>>()
    })
}
