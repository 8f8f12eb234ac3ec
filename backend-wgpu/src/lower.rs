//! From ops to dispatches.
//!
//! The files below say which entry points an op becomes, with which operands and counts. What fuses with what is
//! decided in [`lower`], longest pattern first.

mod attention;
mod attn_prepare;
mod centroid_head;
mod elementwise;
mod embed;
mod linear;
mod linear_tiles;
mod moe_ffn;
mod norm;
mod ple_gate;
mod ple_inputs;
mod rings;
mod route;
mod sample;

use gemma4_core::ops::Op;
use gemma4_core::program::{Act, Program, Rows, State, Weight};

use crate::device::{Access, Device};
use crate::error::WgpuError;
use crate::shaders::{self, Shader};

/// A storage buffer of a dispatch.
#[derive(Clone, Debug)]
pub(crate) enum Bind {
    /// An activation, read.
    Act(Act),
    /// An activation, written, or read and written.
    ActMut(Act),
    /// Part `.1` of a weight, read.
    Weight(Weight, usize),
    /// A pool of the cache, read.
    State(State),
    /// A pool of the cache, written.
    StateMut(State),
    /// Scratch of this program beyond its activations, read.
    Scratch(Scratch),
    /// Scratch, written.
    ScratchMut(Scratch),
    /// `array<RowInfo>`: the rows of the step.
    Rows,
    /// `array<u32>`: picked rows.
    Picked,
    /// `array<u32>`: page tables; see [`gemma4_core::abi::step`].
    Tables,
    /// `array<u32>`: settings of the draws; see [`gemma4_core::abi::step`].
    Draws,
    /// `array<u32>`: remembered tokens of each slot, read.
    Sampled,
    /// The same, written.
    SampledMut,
}

impl Bind {
    pub(crate) fn access(&self) -> Access {
        match self {
            Bind::ActMut(_) | Bind::StateMut(_) | Bind::ScratchMut(_) | Bind::SampledMut => Access::ReadWrite,
            _ => Access::Read,
        }
    }
}

/// A scratch buffer of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scratch(pub(crate) usize);

/// Workgroups along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Always so many.
    Fixed(u32),
    /// `ceil(rows / per) * times`, with the rows of this step.
    Rows {
        /// Which rows.
        of: Rows,
        /// Rows of a workgroup.
        per: u32,
        /// Workgroups for each of those groups of rows.
        times: u32,
    },
    /// Splits of the keys up to the last position of this step, less `first`, at most `most`.
    Splits {
        /// Keys of a split.
        keys: u32,
        /// Splits before those.
        first: u32,
        /// Most of them.
        most: u32,
    },
    /// 1 if those splits are any.
    AnySplit {
        /// Keys of a split.
        keys: u32,
        /// Splits before those.
        first: u32,
    },
}

/// One dispatch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Name of the op, for profiles.
    pub(crate) op: &'static str,
    pub(crate) shader: Shader,
    /// Group 0, in the order of the bindings.
    pub(crate) binds: Vec<Bind>,
    /// The op's parameter struct.
    pub(crate) params: Vec<u8>,
    pub(crate) grid: [Count; 3],
}

/// A program on its way to dispatches.
pub(crate) struct Lowering<'a> {
    pub(crate) device: &'a Device,
    pub(crate) program: &'a Program,
    pub(crate) weights: &'a [crate::Weight],
    pub(crate) states: &'a [crate::State],
    pub(crate) launches: Vec<Launch>,
    /// Bytes of each scratch buffer.
    pub(crate) scratch: Vec<u64>,
}

impl<'a> Lowering<'a> {
    /// Nothing yet.
    pub(crate) fn new(
        device: &'a Device,
        program: &'a Program,
        weights: &'a [crate::Weight],
        states: &'a [crate::State],
    ) -> Self {
        Self { device, program, weights, states, launches: Vec::new(), scratch: Vec::new() }
    }

    /// Adds a dispatch.
    pub(crate) fn launch<P: bytemuck::Pod>(
        &mut self,
        op: &'static str,
        mut shader: Shader,
        binds: Vec<Bind>,
        params: &P,
        grid: [Count; 3],
    ) {
        if !self.device.subnormal_halves {
            for part in shader.parts.iter_mut().filter(|part| **part == shaders::SMALL_HALVES) {
                *part = shaders::SMALL_INTEGERS;
            }
        }
        let params = bytemuck::bytes_of(params).to_vec();
        self.launches.push(Launch { op, shader, binds, params, grid });
    }

    /// A new scratch buffer of so many bytes.
    pub(crate) fn scratch(&mut self, bytes: u64) -> Scratch {
        self.scratch.push(bytes);
        Scratch(self.scratch.len() - 1)
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

    /// How sums over a workgroup are taken.
    pub(crate) fn reduce(&self) -> shaders::Part {
        if self.device.variants.subgroups { shaders::REDUCE_SUBGROUP } else { shaders::REDUCE }
    }

    /// The constants of [`Lowering::reduce`].
    pub(crate) fn with_reduce(&self, shader: Shader) -> Shader {
        if self.device.variants.subgroups { shader.with("SUBGROUP", self.device.subgroup) } else { shader }
    }

    /// One workgroup for each row of `act`.
    pub(crate) fn each_row(&self, act: Act) -> Count {
        self.rows(act, 1, 1)
    }

    /// `times` workgroups for every `per` rows of `act`.
    pub(crate) fn rows(&self, act: Act, per: u32, times: u32) -> Count {
        Count::Rows { of: self.program.spec(act).rows, per, times }
    }
}

/// Sizes of models fit 32 bits; WGSL has no others.
pub(crate) fn narrow(size: usize) -> u32 {
    u32::try_from(size).expect("sizes of a model fit 32 bits")
}

/// `ONE` workgroup along an axis.
pub(crate) const ONE: Count = Count::Fixed(1);

/// Lowers a whole program.
pub(crate) fn lower(cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let program = cx.program;
    let mut rest = program.ops.as_slice();
    while let [op, tail @ ..] = rest {
        if let Some((branches, after)) = norm::branches(rest, cx) {
            branches.launch(cx);
            rest = after;
            continue;
        }
        if let Some((gated, after)) = ple_gate::gated(rest, cx) {
            gated.launch(cx);
            rest = after;
            continue;
        }
        rest = tail;
        match (op, tail) {
            (Op::NormAdd(add), [Op::RmsNorm(one), Op::RmsNorm(two), after @ ..])
                if norm::takes_two(add, [one, two], cx) =>
            {
                rest = after;
                norm::norm_add_two_norms(add, [one, two], cx);
            }
            (Op::NormAdd(add), [Op::RmsNorm(norm), after @ ..]) if norm::fuses(add, norm, cx) => {
                rest = after;
                norm::norm_add_rms_norm(add, norm, cx);
            }
            (Op::Linear(linear), [Op::Glu(glu), after @ ..]) if linear::fuses(linear, glu, cx) => {
                rest = after;
                linear::linear_glu(linear, glu, cx);
            }
            (Op::Linear(linear), [Op::Glu(glu), after @ ..]) if linear::gates(linear, glu, cx) => {
                rest = after;
                linear::linear_gate(linear, glu, cx);
            }
            (Op::Linear(linear), [Op::Softcap(softcap), after @ ..]) if linear::caps(linear, softcap, cx) => {
                rest = after;
                linear::linear_softcap(linear, softcap, cx);
            }
            (Op::Linear(linear), [Op::AttnPrepare(prepare), after @ ..])
                if linear::parts_with_values(linear, prepare, cx) =>
            {
                rest = after;
                linear::linear_values_apart(linear, prepare, cx)?;
            }
            (Op::GatherRows(gather), [Op::RmsNorm(norm), after @ ..]) if norm::picks(gather, norm, cx) => {
                rest = after;
                norm::picked_rms_norm(gather, norm, cx);
            }
            (op, _) => single(op, cx)?,
        }
    }
    Ok(())
}

/// Lowers an op that stands alone.
fn single(op: &Op, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    match op {
        Op::Add(op) => elementwise::add(op, cx),
        Op::Attention(op) => attention::attention(op, cx)?,
        Op::AttnPrepare(op) => attn_prepare::attn_prepare(op, None, cx)?,
        Op::CentroidHead(op) => centroid_head::centroid_head(op, cx),
        Op::Embed(op) => embed::embed(op, cx),
        Op::GatherRows(op) => elementwise::gather_rows(op, cx),
        Op::Glu(op) => elementwise::glu(op, cx),
        Op::KeepRows(op) => rings::keep_rows(op, cx),
        Op::KvAppend(op) => attn_prepare::kv_append(op, cx)?,
        Op::Linear(op) => linear::linear(op, cx),
        Op::MoeFfn(op) => moe_ffn::moe_ffn(op, cx)?,
        Op::NormAdd(op) => norm::norm_add(op, cx),
        Op::PleInputs(op) => ple_inputs::ple_inputs(op, cx),
        Op::RecallRows(op) => rings::recall_rows(op, cx),
        Op::RmsNorm(op) => norm::rms_norm(op, cx),
        Op::Route(op) => route::route(op, cx)?,
        Op::Sample(op) => sample::sample(op, cx),
        Op::Softcap(op) => elementwise::softcap(op, cx),
    }
    Ok(())
}
