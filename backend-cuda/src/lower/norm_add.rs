//! `norm_add`, and the norms around it: a block for each row.

use gemma4_core::abi::CudaNormParams;
use gemma4_core::ops::Op;
use gemma4_core::ops::add::Add;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;
use gemma4_core::program::Act;

use super::rows::{block, fits, prepared, result};
use super::{Arg, Launch, Lowering, ONE, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

/// Vectors that a lane keeps of `norm_add__branches`.
const BRANCHES: u32 = 5;
/// Bytes of shared memory that a block may have everywhere, less what the kernel declares itself.
const MOST_KEPT: u32 = (99 << 10) - 1024;

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
        eps: add.eps,
        scale: add.scale,
        next_eps: next.map_or(0.0, |next| next.eps),
        ..CudaNormParams::default()
    }
}

/// Bytes of shared memory in which each lane keeps its columns of so many vectors: `Kept` of the kernel.
fn kept(vectors: u32, add: &NormAdd, cx: &Lowering<'_>) -> u32 {
    let [threads, ..] = block(cx.cols(add.residual));
    vectors * threads * 32
}

fn launch(add: &NormAdd, entry: &'static str, args: Vec<Arg>, vectors: u32, cx: &mut Lowering<'_>) {
    let grid = [cx.each_row(add.residual), ONE, ONE];
    let block = block(cx.cols(add.residual));
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
        let users = |act: Act| {
            cx.program.ops.iter().filter(|op| op.reads().contains(&act) || op.writes().contains(&act)).count()
        };
        let eps = add.eps.to_bits();
        fuses(add, next.as_slice(), cx)
            && kept(BRANCHES, add, cx) <= MOST_KEPT
            && (outs == [sum.x, sum.y] || outs == [sum.y, sum.x])
            && add.y == sum.x
            && [a.eps.to_bits(), b.eps.to_bits()] == [eps, eps]
            && ![a.x, b.x].contains(&add.residual)
            && (users(sum.x), users(sum.y)) == (3, 2)
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
