//! From ops to launches.
//!
//! The files below say which kernels an op becomes, with which arguments and grids. What fuses with what is decided in
//! [`lower`], longest pattern first.
#![expect(clippy::unnecessary_wraps, reason = "all ops are lowered alike, and some can be refused")]

mod add;
mod attention;
mod attn_prepare;
mod centroid_head;
mod embed;
mod gather_rows;
mod glu;
mod group;
mod keep_rows;
mod kv_append;
pub(crate) mod library;
mod linear;
mod moe_ffn;
mod norm_add;
mod planes;
mod ple_inputs;
mod prepare;
mod prepared;
mod recall_rows;
mod report;
mod rms_norm;
mod route;
mod rows;
mod sample;
mod softcap;

use gemma4_core::ops::Op;
use gemma4_core::program::{Act, Class, Program, Rows, State, Weight};

use crate::driver::{DeviceInfo, Shape};
use crate::error::CudaError;
use crate::kernels::Unit;
use group::Group;

pub(crate) use prepared::{Parts, Prepared};
pub(crate) use report::units as units_of;
pub use report::{LaunchReport, launches};

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// An activation, read or written: the address of its first plane.
    Act(Act),
    /// An activation in the form that products read: a [`Prepared`] by value.
    Prepared(Act),
    /// The same for what has a place in scratch.
    PreparedIn(Scratch, Prepared),
    /// A [`Prepared`] that says that the form is not wanted.
    NoPrepared,
    /// An address that says that something is not wanted.
    Null,
    /// The `f32` values of a weight that is a vector.
    Weight(Weight),
    /// A matrix: a `WeightView` by value.
    View(Weight),
    /// Three matrices: a `Stack` by value.
    Views([Weight; 3]),
    /// Rows of a weight in main memory, as the file has them.
    HostTable(Weight),
    /// A pool of the cache.
    State(State),
    /// Scratch beyond activations.
    Scratch(Scratch),
    /// `RowInfo[]`: the rows of the step.
    Rows,
    /// `unsigned[]`: picked rows.
    Picked,
    /// `unsigned[]`: page tables, behind a `TableInfo[SLOTS]`; see [`gemma4_core::abi::step`].
    Tables,
    /// `unsigned[]`: settings of the draws; see [`gemma4_core::abi::step`].
    Draws,
    /// `unsigned[PLACES][SLOTS]`: remembered tokens of each slot, read or written.
    Sampled,
    /// `StepState*`.
    Step,
    /// A struct of [`gemma4_core::abi`] by value.
    Params(Vec<u8>),
}

impl Arg {
    /// A struct of [`gemma4_core::abi`] by value.
    pub(crate) fn params<P: bytemuck::Pod>(params: &P) -> Self {
        Self::Params(bytemuck::bytes_of(params).to_vec())
    }
}

/// A scratch buffer of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scratch {
    /// Memory from the first launch that names it to the last.
    Op(usize),
    /// Memory of the plan, from one step to the next.
    Plan(usize),
}

/// Blocks along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Always so many.
    Fixed(u32),
    /// Always so many, along the first axis: together they are a cluster, whose blocks run at once and reach one another's
    /// shared memory.
    Cluster(u32),
    /// `ceil(rows / per) * times`: the rows of this step where kernels are launched one by one, and as many as a step
    /// may have where launches are captured once for all steps.
    Rows {
        /// Which rows.
        of: Rows,
        /// Rows of a block.
        per: u32,
        /// Blocks for each of those groups of rows.
        times: u32,
    },
}

/// `ONE` block along an axis.
pub(crate) const ONE: Count = Count::Fixed(1);

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Name of the op, for profiles.
    pub(crate) op: &'static str,
    /// File and defines.
    pub(crate) unit: Unit,
    /// The `__global__` function: name of the op, with its variant after two underscores.
    pub(crate) entry: &'static str,
    /// What it takes, in order.
    pub(crate) args: Vec<Arg>,
    pub(crate) grid: [Count; 3],
    /// Threads of a block.
    pub(crate) block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub(crate) shared: u32,
}

impl Launch {
    /// Blocks of a cluster.
    pub(crate) fn cluster(&self) -> u32 {
        match self.grid[0] {
            Count::Cluster(blocks) => blocks,
            Count::Fixed(_) | Count::Rows { .. } => 1,
        }
    }
}

/// A product that NVIDIA's library does: `out[r, first + o] = factor * sum over c of x[r, c] * weight[o, c]`.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    /// Name of the op, for profiles.
    pub(crate) op: &'static str,
    /// `[rows, cols]` halves.
    pub(crate) x: Scratch,
    /// `[outputs, cols]` halves.
    pub(crate) weight: Scratch,
    /// The output, one plane.
    pub(crate) out: Act,
    /// Memory that the library may use.
    pub(crate) workspace: Scratch,
    /// Column of the first output.
    pub(crate) first: u32,
    pub(crate) shape: Shape,
    pub(crate) factor: f32,
}

/// One thing to enqueue.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Launch(Launch),
    Product(Product),
}

impl Work {
    /// The launch that it is, unless it is a product by the library.
    pub(crate) fn launch(&self) -> Option<&Launch> {
        match self {
            Work::Launch(launch) => Some(launch),
            Work::Product(_) => None,
        }
    }

    /// Name of the op.
    pub(crate) fn op(&self) -> &'static str {
        match self {
            Work::Launch(launch) => launch.op,
            Work::Product(product) => product.op,
        }
    }

    /// Name of the kernel, or of the library.
    pub(crate) fn entry(&self) -> &'static str {
        match self {
            Work::Launch(launch) => launch.entry,
            Work::Product(_) => "cublaslt",
        }
    }
}

/// A program on its way to launches.
#[derive(Debug)]
pub(crate) struct Lowering<'a> {
    pub(crate) device: &'a DeviceInfo,
    /// What NVIDIA's library multiplies.
    pub(crate) offers: &'a dyn library::Offers,
    pub(crate) program: &'a Program,
    pub(crate) weights: &'a [crate::Weight],
    pub(crate) states: &'a [crate::State],
    pub(crate) work: Vec<Work>,
    /// Bytes of each scratch buffer of ops.
    pub(crate) scratch: Vec<u64>,
    /// Bytes of each scratch buffer of the plan, and whether it starts as zeros.
    pub(crate) kept: Vec<(u64, bool)>,
    /// Planes of each activation as it is now.
    planes: Vec<u32>,
    /// The most planes that each ever has: what its memory must hold.
    most_planes: Vec<u32>,
    /// Activations that were written in the form of products.
    pub(crate) prepared: Vec<bool>,
    /// Choices of experts that were sorted as soon as they were made, and what came of it.
    sorted: Option<(Act, [Scratch; 2])>,
    /// The first op after those that are being lowered.
    next: usize,
}

impl<'a> Lowering<'a> {
    /// Nothing yet.
    pub(crate) fn new(
        device: &'a DeviceInfo,
        offers: &'a dyn library::Offers,
        program: &'a Program,
        weights: &'a [crate::Weight],
        states: &'a [crate::State],
    ) -> Self {
        Self {
            device,
            offers,
            program,
            weights,
            states,
            work: Vec::new(),
            scratch: Vec::new(),
            kept: Vec::new(),
            planes: vec![1; program.acts.len()],
            most_planes: vec![1; program.acts.len()],
            prepared: vec![false; program.acts.len()],
            sorted: None,
            next: 0,
        }
    }

    /// Adds a launch.
    pub(crate) fn launch(&mut self, mut launch: Launch) {
        if self.device.exact {
            launch.unit = launch.unit.exact();
        }
        self.work.push(Work::Launch(launch));
    }

    /// Adds a product by the library.
    pub(crate) fn product(&mut self, product: Product) {
        self.work.push(Work::Product(product));
    }

    /// A scratch buffer of so many bytes from the first launch that names it to the last: others may use the same memory.
    pub(crate) fn scratch(&mut self, bytes: u64) -> Scratch {
        self.scratch.push(bytes);
        Scratch::Op(self.scratch.len() - 1)
    }

    /// A scratch buffer that keeps its contents from one step to the next, of zeros at first if `zeroed`.
    pub(crate) fn kept(&mut self, bytes: u64, zeroed: bool) -> Scratch {
        self.kept.push((bytes, zeroed));
        Scratch::Plan(self.kept.len() - 1)
    }

    /// Planes of an activation, which its readers add up in order.
    pub(crate) fn planes(&self, act: Act) -> u32 {
        self.planes[act.index()]
    }

    /// Says that `act` is written as so many planes, from one to the next [`Lowering::plane_stride`] elements.
    pub(crate) fn set_planes(&mut self, act: Act, planes: u32) {
        self.planes[act.index()] = planes;
        let most = &mut self.most_planes[act.index()];
        *most = planes.max(*most);
    }

    /// The most planes that an activation ever has.
    pub(crate) fn most_planes(&self, act: Act) -> u32 {
        self.most_planes[act.index()]
    }

    /// Elements from one plane of an activation to the next.
    pub(crate) fn plane_stride(&self, act: Act) -> u32 {
        narrow(self.program.capacity(act) * self.program.cols(act))
    }

    /// How many ops of the program read or write `act`.
    pub(crate) fn users(&self, act: Act) -> usize {
        self.program.ops.iter().filter(|op| op.reads().contains(&act) || op.writes().contains(&act)).count()
    }

    /// The ops that read what `act` holds in front of op number `from`.
    fn readers(&self, act: Act, from: usize) -> impl Iterator<Item = &'a Op> {
        let ops = &self.program.ops[from.min(self.program.ops.len())..];
        // What an op reads and writes is read before it is written.
        let until = ops.iter().position(|op| op.writes().contains(&act)).map_or(ops.len(), |at| at + 1);
        ops[..until].iter().filter(move |op| op.reads().contains(&act))
    }

    /// Whether the last launch in front of the `count` ops that are being lowered is a product's: what other ops write is
    /// then there before these begin, and may be read before they wait (`kernels/common/chain.cuh`).
    pub(crate) fn behind_linear(&self, count: usize) -> bool {
        self.in_front(count).is_some_and(|op| matches!(op, Op::Linear(_)))
    }

    /// Whether `act` is there before these ops begin: a product is in front of them, and of something else.
    pub(crate) fn settled(&self, act: Act, count: usize) -> bool {
        self.behind_linear(count) && self.in_front(count).is_some_and(|op| !op.writes().contains(&act))
    }

    /// The op in front of the `count` that are being lowered.
    fn in_front(&self, count: usize) -> Option<&'a Op> {
        self.next.checked_sub(count + 1).map(|at| &self.program.ops[at])
    }

    /// Whether values are bytes in products. Generated and drafted rows always are, and rows of a prompt where products are
    /// to be exact.
    pub(crate) fn split(&self) -> bool {
        self.program.class == Class::Decode || self.device.exact
    }

    /// Whether somebody reads `act` as it is: a later op other than a product that reads it prepared, or the host.
    ///
    /// Rows of one half a value have one scale each, which takes a pass of its own over the row: products read them plain.
    pub(crate) fn wants_plain(&self, act: Act) -> bool {
        let prepared = |op: &Op| self.split() && self.reads_prepared(op, act);
        self.program.outputs.contains(&act) || self.readers(act, self.next).any(|op| !prepared(op))
    }

    /// Whether a later product reads `act` prepared.
    pub(crate) fn wants_prepared(&self, act: Act) -> bool {
        self.split() && self.readers(act, self.next).any(|op| self.reads_prepared(op, act))
    }

    /// Whether `op` reads `act` in the form of products.
    fn reads_prepared(&self, op: &Op, act: Act) -> bool {
        match op {
            Op::Linear(op) => op.x == act && linear::reads_prepared(op, self),
            Op::MoeFfn(op) => op.x == act && moe_ffn::reads_prepared(op, self),
            _ => false,
        }
    }

    /// The form of `act` for products.
    pub(crate) fn prepared_form(&self, act: Act) -> Prepared {
        let weights = self.program.ops.iter().flat_map(|op| match op {
            Op::Linear(op) if op.x == act => op.weights.clone(),
            Op::MoeFfn(op) if op.x == act => op.gate_up.weights(),
            _ => Vec::new(),
        });
        self.form(self.program.capacity(act), self.program.cols(act), weights)
    }

    /// The form of `[rows, cols]` for products with `weights`.
    pub(crate) fn form(
        &self,
        rows: usize,
        cols: usize,
        weights: impl IntoIterator<Item = Weight>,
    ) -> Prepared {
        let mut weights = weights.into_iter();
        let parts = match self.split() {
            false => Parts::Half,
            true if weights.any(|weight| linear::takes_halves(self.weight(weight))) => Parts::DigitsAndHalves,
            true => Parts::Digits,
        };
        Prepared::of(rows, cols, parts, self.device.exact)
    }

    /// Whether `act` was written in the form of products.
    pub(crate) fn is_prepared(&self, act: Act) -> bool {
        self.prepared[act.index()]
    }

    /// Says that `act` is written in the form of products.
    pub(crate) fn set_prepared(&mut self, act: Act) {
        self.prepared[act.index()] = true;
    }

    pub(crate) fn weight(&self, weight: Weight) -> &crate::Weight {
        &self.weights[weight.index()]
    }

    pub(crate) fn state(&self, state: State) -> &crate::State {
        &self.states[state.index()]
    }

    /// Width of an activation.
    pub(crate) fn cols(&self, act: Act) -> u32 {
        narrow(self.program.cols(act))
    }

    /// 1 if the rows of `act` are the picked ones: what kernels choose `StepState::picked` by.
    pub(crate) fn picked(&self, act: Act) -> u32 {
        u32::from(self.program.spec(act).rows == Rows::Picked)
    }

    /// One block for each row of `act`.
    pub(crate) fn each_row(&self, act: Act) -> Count {
        self.rows(act, 1, 1)
    }

    /// `times` blocks for every `per` rows of `act`.
    pub(crate) fn rows(&self, act: Act, per: u32, times: u32) -> Count {
        Count::Rows { of: self.program.spec(act).rows, per, times }
    }

    /// The error of an op that this backend cannot run.
    #[expect(clippy::unused_self, reason = "whoever lowers an op has one")]
    pub(crate) fn unsupported(&self, op: &'static str, reason: impl Into<String>) -> CudaError {
        CudaError::Unsupported { op, reason: reason.into() }
    }
}

/// Sizes of models fit 32 bits.
pub(crate) fn narrow(size: usize) -> u32 {
    u32::try_from(size).expect("sizes of a model fit 32 bits")
}

/// Every unit of every op: what is compiled ahead of a release, and all that a lowering may launch.
pub(crate) fn units() -> Vec<Unit> {
    [
        add::units(),
        attention::units(),
        attn_prepare::units(),
        centroid_head::units(),
        embed::units(),
        gather_rows::units(),
        glu::units(),
        keep_rows::units(),
        kv_append::units(),
        library::units(),
        linear::units(),
        moe_ffn::units(),
        norm_add::units(),
        planes::units(),
        ple_inputs::units(),
        prepare::units(),
        recall_rows::units(),
        rms_norm::units(),
        route::units(),
        sample::units(),
        softcap::units(),
    ]
    .concat()
}

/// Lowers a whole program.
pub(crate) fn lower(cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let program = cx.program;
    let mut rest = program.ops.as_slice();
    while !rest.is_empty() {
        let (group, after) = Group::first(rest, cx);
        let ops = &rest[..rest.len() - after.len()];
        let written: Vec<Act> = ops.iter().flat_map(Op::writes).collect();
        for &act in &written {
            cx.prepared[act.index()] = false;
            // What an op adds to in place, it also reads.
            if !ops.iter().any(|op| op.reads().contains(&act)) {
                cx.planes[act.index()] = 1;
            }
        }
        group.lower(cx)?;
        for act in written {
            if cx.planes(act) > 1 && !planes::added_by_readers(cx, act, cx.next) {
                planes::add(ops[0].name(), act, cx);
            }
        }
        rest = after;
    }
    Ok(())
}

/// Lowers an op that stands alone.
fn single(op: &Op, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    match op {
        Op::Add(op) => add::add(op, cx),
        Op::Attention(op) => attention::attention(op, cx),
        Op::AttnPrepare(op) => attn_prepare::attn_prepare(op, cx),
        Op::CentroidHead(op) => centroid_head::centroid_head(op, cx),
        Op::Embed(op) => embed::embed(op, cx),
        Op::GatherRows(op) => gather_rows::gather_rows(op, cx),
        Op::Glu(op) => glu::glu(op, cx),
        Op::KeepRows(op) => keep_rows::keep_rows(op, cx),
        Op::KvAppend(op) => kv_append::kv_append(op, cx),
        Op::Linear(op) => linear::linear(op, cx),
        Op::MoeFfn(op) => moe_ffn::moe_ffn(op, cx),
        Op::NormAdd(op) => norm_add::norm_add(op, &[], cx),
        Op::PleInputs(op) => ple_inputs::ple_inputs(op, cx),
        Op::RecallRows(op) => recall_rows::recall_rows(op, cx),
        Op::RmsNorm(op) => rms_norm::rms_norm(op, cx),
        Op::Route(op) => route::route(op, cx),
        Op::Sample(op) => sample::sample(op, None, cx),
        Op::Softcap(op) => softcap::softcap(op, cx),
    }
}
