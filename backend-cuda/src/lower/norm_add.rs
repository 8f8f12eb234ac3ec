//! `norm_add`, and the norms around it: a block or a cluster for each row.

use gemma4_core::abi::{CudaNormParams, PREPARED_BLOCK, WARP};
use gemma4_core::ops::Op;
use gemma4_core::ops::add::Add;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;
use gemma4_core::program::{Act, Class};

use super::rows::{block, fits, prepared, result};
use super::{Arg, Count, Launch, Lowering, ONE, linear, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

/// Vectors that a lane keeps of `norm_add__branches`.
const BRANCHES: u32 = 5;
/// Bytes of shared memory that a block may have everywhere, less what the kernel declares itself.
const MOST_KEPT: u32 = (99 << 10) - 1024;

/// Most blocks of a cluster that every device with clusters has.
const MOST_CLUSTER: u32 = 8;
/// Fewest times 256 columns of a row that is divided.
const FEWEST_DIVIDED: u32 = 4;

fn unit() -> Unit {
    Unit::new("norm_add")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

/// Whether a `norm_add` and these norms of its sum are one launch, which prepares no sum.
pub(super) fn fuses(add: &NormAdd, norms: &[&RmsNorm], cx: &Lowering<'_>) -> bool {
    let eps = norms.iter().map(|norm| norm.eps.to_bits());
    let mut outs: Vec<Act> = norms.iter().map(|norm| norm.out).collect();
    outs.dedup();
    fits(cx.cols(add.y))
        && norms.iter().all(|norm| norm.x == add.residual)
        && eps.clone().min() == eps.max()
        && outs.len() == norms.len()
        && !cx.wants_prepared(add.residual)
}

/// What is added, and what of its sum is normed, by a launch for so many ops.
fn params(
    add: &NormAdd,
    branch: Act,
    next: Option<&RmsNorm>,
    ops: usize,
    cx: &Lowering<'_>,
) -> CudaNormParams {
    CudaNormParams {
        cols: cx.cols(branch),
        planes: cx.planes(branch),
        plane_stride: cx.plane_stride(branch),
        picked: cx.picked(add.residual),
        settled: u32::from(cx.settled(add.residual, ops)),
        invites: u32::from(linear::next_fills_device(cx)),
        eps: add.eps,
        scale: add.scale,
        next_eps: next.map_or(0.0, |next| next.eps),
        ..CudaNormParams::default()
    }
}

/// Blocks of a cluster, and warps of each, that together have a warp for each of so many times 256 columns. As few warps as can
/// be have none, and then the blocks are as many as can be: each has the port of another multiprocessor.
fn divided(columns: u32) -> (u32, u32) {
    let fewest = columns.div_ceil(MOST_CLUSTER).max(2);
    let ways = (fewest..=fewest.max(3)).map(|warps| (columns.div_ceil(warps), warps));
    ways.min_by_key(|&(blocks, warps)| blocks * warps).expect("there is one")
}

/// Blocks for each row, and threads of each.
///
/// The planes of a wide row come slowly through the port of one multiprocessor, beside weights of the next product. Where rows are
/// many, each multiprocessor has enough to do with rows of its own.
fn shape(add: &NormAdd, cx: &Lowering<'_>) -> (Count, [u32; 3]) {
    let cols = cx.cols(add.residual);
    let columns = cols.div_ceil(PREPARED_BLOCK);
    let divides = cx.device.clusters && cx.program.class == Class::Decode;
    if !divides || !fits(cols) || columns < FEWEST_DIVIDED {
        return (ONE, block(cols));
    }
    let (blocks, warps) = divided(columns);
    (Count::Cluster(blocks), [warps * WARP, 1, 1])
}

/// Bytes of shared memory in which each lane keeps its columns of so many vectors: `Kept` of the kernel.
fn kept(vectors: u32, add: &NormAdd, cx: &Lowering<'_>) -> u32 {
    let (_, [threads, ..]) = shape(add, cx);
    vectors * threads * 32
}

fn launch(add: &NormAdd, entry: &'static str, args: Vec<Arg>, vectors: u32, cx: &mut Lowering<'_>) {
    let (blocks, block) = shape(add, cx);
    let grid = [blocks, cx.each_row(add.residual), ONE];
    let shared = if fits(cx.cols(add.y)) { kept(vectors, add, cx) } else { 0 };
    cx.launch(Launch { op: "norm_add", unit: unit(), entry, args, grid, block, shared });
}

/// The op, and up to two norms that fuse with it.
pub(super) fn norm_add(add: &NormAdd, norms: &[&RmsNorm], cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let mut args = vec![Arg::Act(add.y), Arg::Weight(add.weight)];
    args.extend(norms.iter().map(|norm| Arg::Weight(norm.weight)));
    args.push(Arg::Act(add.residual));
    // A sum that norms fuse with is not prepared.
    let sum = prepared(add.residual, cx);
    let entry = match norms {
        [] => {
            args.push(sum);
            if fits(cx.cols(add.y)) { "norm_add" } else { "norm_add__wide" }
        }
        [_] => "norm_add__rms_norm",
        [_, _] => "norm_add__two_norms",
        _ => return Err(cx.unsupported("norm_add", format!("{} norms follow it, expected 2", norms.len()))),
    };
    for norm in norms {
        args.extend(result(norm.out, cx));
    }
    args.extend([Arg::params(&params(add, add.y, norms.first().copied(), 1 + norms.len(), cx)), Arg::Step]);
    launch(add, entry, args, 2 + narrow(norms.len()), cx);
    Ok(())
}

/// Two normed branches, their sum, its `norm_add`, and perhaps a norm of what comes out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branches<'a> {
    norms: [&'a RmsNorm; 2],
    sum: &'a Add,
    add: &'a NormAdd,
    next: Option<&'a RmsNorm>,
}

impl<'a> Branches<'a> {
    /// The ops that a program goes on with, if they are such, and what comes behind them.
    pub(super) fn of(ops: &'a [Op], with_next: bool) -> Option<(Self, &'a [Op])> {
        let [Op::RmsNorm(a), Op::RmsNorm(b), Op::Add(sum), Op::NormAdd(add), rest @ ..] = ops else {
            return None;
        };
        match rest {
            [Op::RmsNorm(next), rest @ ..] if with_next => {
                Some((Self { norms: [a, b], sum, add, next: Some(next) }, rest))
            }
            _ if with_next => None,
            rest => Some((Self { norms: [a, b], sum, add, next: None }, rest)),
        }
    }

    /// Whether all of it is one launch: nothing else may read the normed branches.
    pub(super) fn fuse(&self, cx: &Lowering<'_>) -> bool {
        let &Self { norms: [a, b], sum, add, next } = self;
        let outs = [a.out, b.out];
        let eps = add.eps.to_bits();
        fuses(add, next.as_slice(), cx)
            && kept(BRANCHES, add, cx) <= MOST_KEPT
            && (outs == [sum.x, sum.y] || outs == [sum.y, sum.x])
            && add.y == sum.x
            && [a.eps.to_bits(), b.eps.to_bits()] == [eps, eps]
            && ![a.x, b.x].contains(&add.residual)
            && (cx.users(sum.x), cx.users(sum.y)) == (3, 2)
            && !outs.iter().any(|out| cx.program.outputs.contains(out))
    }

    /// The launch.
    pub(super) fn lower(&self, cx: &mut Lowering<'_>) {
        let &Self { norms: [a, b], add, next, .. } = self;
        let params = CudaNormParams {
            other_planes: cx.planes(a.x),
            other_stride: cx.plane_stride(a.x),
            ..params(add, b.x, next, 4 + usize::from(next.is_some()), cx)
        };
        let mut args = vec![
            Arg::Act(a.x),
            Arg::Weight(a.weight),
            Arg::Act(b.x),
            Arg::Weight(b.weight),
            Arg::Weight(add.weight),
            next.map_or(Arg::Null, |next| Arg::Weight(next.weight)),
            Arg::Act(add.residual),
        ];
        cx.prepared[add.residual.index()] = false;
        args.extend(next.map_or([Arg::Null, Arg::NoPrepared], |next| result(next.out, cx)));
        args.extend([Arg::params(&params), Arg::Step]);
        launch(add, "norm_add__branches", args, BRANCHES, cx);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gemma4_core::abi::ROW_WARPS;
    use gemma4_core::program::{Elem, Program, Rows, Weight, WeightSpec};
    use gemma4_core::tensor::DType;

    use super::super::report::rtx_3090;
    use super::super::{library, lower};
    use super::*;
    use crate::compile::Arch;
    use crate::device::Prompts;

    #[test]
    fn a_cluster_has_all_columns_and_few_warps_without() {
        for columns in FEWEST_DIVIDED..=ROW_WARPS {
            let (blocks, warps) = divided(columns);
            assert!((2..=MOST_CLUSTER).contains(&blocks), "{columns}: {blocks} x {warps}");
            assert!((columns..columns + 3).contains(&(blocks * warps)), "{columns}: {blocks} x {warps}");
            // One warp adds up what all of them have.
            assert!(blocks * warps <= WARP, "{columns}: {blocks} x {warps}");
        }
        let of = [6, 10, 11, 15, 21].map(divided);
        assert_eq!(of, [(3, 2), (5, 2), (6, 2), (5, 3), (7, 3)]);
    }

    /// Blocks, threads and shared memory of a `norm_add` of so many columns.
    fn launched(arch: &str, class: Class, cols: usize) -> (Count, u32, u32) {
        let spec = WeightSpec { name: "w".to_owned(), dtype: DType::F32, experts: 1, rows: 1, cols };
        let mut program = Program::new(class, 1, 1, [spec].into(), Arc::from([]));
        let [residual, y] = [0, 1].map(|_| program.act(Rows::Step, cols, Elem::F32));
        program.norm_add(residual, y, Weight::new(0), 1.0, 1e-6).expect("the shapes agree");
        program.output(residual);
        let kernels: Arch = arch.parse().expect("there is such a one");
        let clusters = kernels.has_clusters();
        let device = crate::driver::DeviceInfo { kernels, clusters, ..rtx_3090(false, Prompts::Tiles) };
        let weights: Vec<_> = program.weights.iter().map(crate::Weight::planned).collect();
        let mut lowering = Lowering::new(&device, &library::Everything, &program, &weights, &[]);
        lower(&mut lowering).expect("it has kernels");
        let launch = lowering.work[0].launch().expect("it is no product");
        (launch.grid[0], launch.block[0], launch.shared)
    }

    #[test]
    fn wide_rows_are_divided_where_they_are_few_and_there_are_clusters() {
        for arch in ["sm_90", "sm_120"] {
            assert_eq!(launched(arch, Class::Decode, 2560), (Count::Cluster(5), 64, 2 * 64 * 32));
            assert_eq!(launched(arch, Class::Prefill, 2560), (ONE, 320, 2 * 320 * 32));
            assert_eq!(launched(arch, Class::Decode, 768), (ONE, 96, 2 * 96 * 32));
            assert_eq!(launched(arch, Class::Decode, 8192).0, ONE, "it is read twice");
        }
        assert_eq!(launched("sm_89", Class::Decode, 2560), (ONE, 320, 2 * 320 * 32));
    }
}
