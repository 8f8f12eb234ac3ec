//! What a program becomes, without a device: for checks on machines that have none.

use gemma4_core::program::Program;

use super::{Arg, Lowering, Work, library, lower, prepared};
use crate::compile::Arch;
use crate::device::Prompts;
use crate::driver::DeviceInfo;
use crate::error::CudaError;
use crate::kernels::Unit;

/// One launch of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchReport {
    /// Name of the op.
    pub op: &'static str,
    /// What it is compiled from.
    pub unit: Unit,
    /// Entry point.
    pub entry: &'static str,
    /// Bytes of each argument.
    pub arguments: Vec<usize>,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

/// The launches of a program on an RTX 3090, or on one whose multiprocessors were of another architecture; `exact` and `prompts` as
/// in [`Options`](crate::Options). Products by a library are none, and it is taken to offer all of them.
///
/// # Errors
///
/// If an op has no kernel for what it is asked.
pub fn launches(
    program: &Program,
    exact: bool,
    prompts: Prompts,
    kernels: Arch,
) -> Result<Vec<LaunchReport>, CudaError> {
    let (shared, clusters) = (kernels.block_memory(), kernels.has_clusters());
    let device = DeviceInfo { shared, kernels, clusters, ..rtx_3090(exact, prompts) };
    let work = planned(&device, program)?;
    let report = |launch: &super::Launch| LaunchReport {
        op: launch.op,
        unit: launch.unit.clone(),
        entry: launch.entry,
        arguments: launch.args.iter().map(bytes).collect(),
        threads: launch.block.iter().product(),
        shared: launch.shared,
    };
    Ok(work.iter().filter_map(Work::launch).map(report).collect())
}

/// What a program needs compiled on a device whose library offers all products.
pub(crate) fn units(device: &DeviceInfo, program: &Program) -> Result<Vec<Unit>, CudaError> {
    Ok(planned(device, program)?.iter().filter_map(Work::launch).map(|launch| launch.unit.clone()).collect())
}

/// What a program becomes whose weights and states are not there yet.
fn planned(device: &DeviceInfo, program: &Program) -> Result<Vec<Work>, CudaError> {
    let program = program.ordered();
    let weights: Vec<_> = program.weights.iter().map(crate::Weight::planned).collect();
    let states: Vec<_> = program.states.iter().map(crate::State::planned).collect();
    let mut lowering = Lowering::new(device, &library::Everything, &program, &weights, &states);
    lower(&mut lowering)?;
    Ok(lowering.work)
}

pub(super) fn rtx_3090(exact: bool, prompts: Prompts) -> DeviceInfo {
    let capability = (8, 6);
    DeviceInfo {
        ordinal: 0,
        name: "NVIDIA GeForce RTX 3090".to_owned(),
        capability,
        memory: 24 << 30,
        multiprocessors: 82,
        shared: 99 << 10,
        cache: 6 << 20,
        exact,
        prompts,
        kernels: Arch::of(capability),
        clusters: false,
    }
}

/// Bytes of an argument.
fn bytes(arg: &Arg) -> usize {
    match arg {
        Arg::Prepared(_) | Arg::PreparedIn(..) | Arg::NoPrepared => prepared::BYTES,
        Arg::View(_) => crate::weights::VIEW,
        Arg::Views(_) => 3 * crate::weights::VIEW,
        Arg::Params(params) => params.len(),
        Arg::Act(_)
        | Arg::Null
        | Arg::Weight(_)
        | Arg::HostTable(_)
        | Arg::State(_)
        | Arg::Scratch(_)
        | Arg::Rows
        | Arg::Picked
        | Arg::Tables
        | Arg::Draws
        | Arg::Sampled
        | Arg::Step => 8,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gemma4_core::kv_type::KvType;
    use gemma4_core::model::config::Span;
    use gemma4_core::ops::attention::Mask;
    use gemma4_core::ops::attn_prepare::{Heads, OwnKeys, Values};
    use gemma4_core::ops::glu::Columns;
    use gemma4_core::ops::moe_ffn::GateUp;
    use gemma4_core::program::{Class, Elem, Rows, State, StateSpec, Weight, WeightSpec};
    use gemma4_core::tensor::DType;

    use super::*;

    /// The kernels of a layer's attention in a program of so many rows; between its projections and the rest may be a norm.
    fn kernels(rows: usize, norm_between: bool) -> Vec<&'static str> {
        let spec =
            |rows, cols| WeightSpec { name: "w".to_owned(), dtype: DType::F32, experts: 1, rows, cols };
        let weights: Arc<[WeightSpec]> = [spec(1024, 256), spec(1, 256), spec(1, 128), spec(1, 1024)].into();
        let state = |name: &str| StateSpec {
            name: name.to_owned(),
            kv_heads: 1,
            head_dim: 256,
            kv_type: KvType::F16,
            span: Span::Global,
            pages: 1,
        };
        let states: Arc<[StateSpec]> = [state("k"), state("v")].into();
        let mut program = Program::new(Class::Decode, rows, rows, weights, states);
        let [projections, norm, frequency, other] = [0, 1, 2, 3].map(Weight::new);
        let x = program.act(Rows::Step, 256, Elem::F32);
        let (k, v) = (State::new(0), State::new(1));
        let heads = Heads { heads: 2, kv_heads: 1, head_dim: 256 };
        let own = OwnKeys { k_norm: norm, values: Values::Projected, k, v };
        let mut raw = program.linear(x, &[projections]).expect("the shapes agree");
        if norm_between {
            raw = program.rms_norm(raw, other, 1e-6).expect("the shapes agree");
        }
        let q = program.attn_prepare(raw, heads, (norm, frequency), Some(own), 1e-6);
        let q = q.expect("the shapes agree");
        let out = program.attention(q, heads, (k, v), Mask::Causal).expect("the shapes agree");
        program.output(out);

        let device = rtx_3090(false, Prompts::Tiles);
        let weights: Vec<_> = program.weights.iter().map(crate::Weight::planned).collect();
        let states: Vec<_> = program.states.iter().map(crate::State::planned).collect();
        let mut lowering = Lowering::new(&device, &library::Everything, &program, &weights, &states);
        lower(&mut lowering).expect("it has kernels");
        lowering.work.iter().map(Work::entry).collect()
    }

    #[test]
    fn a_row_alone_has_its_heads_prepared_where_they_attend() {
        assert_eq!(kernels(1, false).last(), Some(&"attn_prepare__attention"));
        assert_eq!(
            kernels(2, false)[kernels(2, false).len() - 2..],
            ["attn_prepare__rows", "attention__rows"]
        );
        // Keys are copied before the kernel in front is done: only behind a product is nothing known to write them.
        assert_eq!(kernels(1, true)[kernels(1, true).len() - 2..], ["attn_prepare__rows", "attention"]);
    }

    /// Who reads a gated unit but the product behind it.
    #[derive(Clone, Copy)]
    enum Other {
        Nobody,
        Host,
        Product,
    }

    /// The kernels of a product, a gated unit of so many columns of it, and a product of that in a program of two rows.
    fn gated(class: Class, cols: usize, exact: bool, other: Other) -> Vec<&'static str> {
        let spec =
            |rows, cols| WeightSpec { name: "w".to_owned(), dtype: DType::F16, experts: 1, rows, cols };
        let weights: Arc<[WeightSpec]> = [spec(cols, 1024), spec(512, cols)].into();
        let mut program = Program::new(class, 2, 2, weights, [].into());
        let (x, up) =
            (program.act(Rows::Step, 1024, Elem::F32), program.act(Rows::Step, cols + 8, Elem::F32));
        let gate = program.linear(x, &[Weight::new(0)]).expect("the shapes agree");
        let columns = (Columns { act: gate, start: 0 }, Columns { act: up, start: 8 });
        let unit = program.glu(columns.0, columns.1, cols).expect("the columns fit");
        let out = program.linear(unit, &[Weight::new(1)]).expect("the shapes agree");
        program.output(out);
        match other {
            Other::Nobody => {}
            Other::Host => program.output(unit),
            Other::Product => {
                let second = program.linear(unit, &[Weight::new(1)]).expect("the shapes agree");
                program.output(second);
            }
        }

        let work = planned(&rtx_3090(exact, Prompts::Tiles), &program).expect("it has kernels");
        work.iter().map(Work::entry).collect()
    }

    #[test]
    fn a_unit_of_one_block_is_gated_where_it_is_multiplied() {
        let fused = ["prepare", "linear__4", "linear__glu_4"];
        let apart = ["prepare", "linear__4", "glu", "linear__4"];
        for exact in [false, true] {
            let alone = |cols| gated(Class::Decode, cols, exact, Other::Nobody);
            assert_eq!(alone(256), fused);
            assert_eq!(alone(28), fused);
            assert_eq!(alone(30), apart, "no whole number of four values");
            assert_eq!(alone(260), apart, "two blocks");
            assert_eq!(gated(Class::Decode, 256, exact, Other::Host), apart);
            assert_eq!(gated(Class::Decode, 256, exact, Other::Product)[..4], apart);
        }
        assert_eq!(gated(Class::Prefill, 256, true, Other::Nobody), apart, "a prompt");
    }

    #[test]
    fn planes_that_are_added_up_have_had_memory_too() {
        let spec =
            |rows, cols| WeightSpec { name: "w".to_owned(), dtype: DType::F32, experts: 4, rows, cols };
        let weights: Arc<[WeightSpec]> = [spec(64, 32), spec(32, 32)].into();
        let mut program = Program::new(Class::Decode, 1, 1, weights, [].into());
        let x = program.act(Rows::Step, 32, Elem::F32);
        let experts = program.act(Rows::Step, 3, Elem::U32);
        let shares = program.act(Rows::Step, 3, Elem::F32);
        let both = GateUp::Fused(Weight::new(0));
        let out = program.moe_ffn(x, (experts, shares), both, Weight::new(1)).expect("the shapes agree");
        program.output(out);

        let device = rtx_3090(false, Prompts::Tiles);
        let weights: Vec<_> = program.weights.iter().map(crate::Weight::planned).collect();
        let mut lowering = Lowering::new(&device, &library::Everything, &program, &weights, &[]);
        lower(&mut lowering).expect("it has kernels");
        // The experts' results are planes of the output, before the first becomes their sum.
        assert_eq!((lowering.planes(out), lowering.most_planes(out)), (1, 3));
    }
}
