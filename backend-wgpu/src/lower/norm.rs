//! `rms_norm` and `norm_add`: a workgroup for each row.

use gemma4_core::abi::{NormParams, ROW_THREADS};
use gemma4_core::ops::Op;
use gemma4_core::ops::add::Add;
use gemma4_core::ops::gather_rows::GatherRows;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;
use gemma4_core::program::{Act, Weight};

use super::{Bind, Lowering, ONE};
use crate::shaders::{self, Part, Shader};

/// Widest row that fits the registers of a workgroup.
const WIDEST: u32 = 24 * ROW_THREADS;

/// Whether the variant that keeps a row in registers takes rows of this width.
fn fits(cols: u32) -> bool {
    cols.is_multiple_of(4) && cols <= WIDEST
}

/// Most invocations that share a row.
const MOST: u32 = 1024;

/// Invocations that share a row of so many quads, and the quads of each. Sums of the core shaders are for `ROW_THREADS`.
fn shares(quads: u32, cx: &Lowering<'_>) -> (u32, u32) {
    let device = cx.device;
    if !device.variants.subgroups {
        return (ROW_THREADS, quads.div_ceil(ROW_THREADS));
    }
    let limits = &device.limits;
    let most =
        MOST.min(limits.max_compute_invocations_per_workgroup).min(limits.max_compute_workgroup_size_x);
    let each = quads.div_ceil(most / device.subgroup * device.subgroup);
    (quads.div_ceil(each).next_multiple_of(device.subgroup), each)
}

/// An entry point for rows of so many columns, which [fit](fits).
fn shader(cx: &Lowering<'_>, cols: u32, files: &[Part], entry: &'static str) -> Shader {
    let (threads, each) = shares(cols / 4, cx);
    let shader =
        cx.with_reduce(Shader::new(&[&[cx.reduce()], files].concat(), entry)).with("ROW_QUADS", each);
    if threads == ROW_THREADS { shader } else { shader.with("REDUCE_THREADS", threads) }
}

/// One for rows of any width.
fn any_shader(cx: &Lowering<'_>, file: Part, entry: &'static str) -> Shader {
    cx.with_reduce(Shader::new(&[cx.reduce(), file], entry))
}

pub(super) fn rms_norm(op: &RmsNorm, cx: &mut Lowering<'_>) {
    let cols = cx.cols(op.x);
    let params = NormParams { cols, eps: op.eps, ..NormParams::default() };
    let binds = vec![Bind::Act(op.x), Bind::Weight(op.weight, 0), Bind::ActMut(op.out)];
    let shader = if fits(cols) {
        shader(cx, cols, &[shaders::NORM_QUADS], "rms_norm__quads")
    } else {
        any_shader(cx, shaders::RMS_NORM, "rms_norm")
    };
    cx.launch("rms_norm", shader, binds, &params, [cx.each_row(op.x), ONE, ONE]);
}

pub(super) fn norm_add(op: &NormAdd, cx: &mut Lowering<'_>) {
    let cols = cx.cols(op.y);
    let params = NormParams { cols, eps: op.eps, scale: op.scale, next_eps: 0.0 };
    let grid = [cx.each_row(op.residual), ONE, ONE];
    let (residual, y, weight) = (Bind::ActMut(op.residual), Bind::Act(op.y), Bind::Weight(op.weight, 0));
    if fits(cols) {
        let shader = shader(cx, cols, &[shaders::NORM_QUADS], "norm_add__quads");
        cx.launch("norm_add", shader, vec![y, weight, residual], &params, grid);
    } else {
        let shader = any_shader(cx, shaders::NORM_ADD, "norm_add");
        cx.launch("norm_add", shader, vec![residual, y, weight], &params, grid);
    }
}

/// Whether rows are picked by the norm that follows.
pub(super) fn picks(gather: &GatherRows, norm: &RmsNorm, cx: &Lowering<'_>) -> bool {
    norm.x == gather.out && fits(cx.cols(norm.x)) && cx.program.read_once(gather.out)
}

/// Both.
pub(super) fn picked_rms_norm(gather: &GatherRows, norm: &RmsNorm, cx: &mut Lowering<'_>) {
    let params = NormParams { cols: cx.cols(norm.x), eps: norm.eps, ..NormParams::default() };
    let binds = vec![Bind::Act(gather.x), Bind::Weight(norm.weight, 0), Bind::ActMut(norm.out), Bind::Picked];
    let shader = shader(cx, params.cols, &[shaders::NORM_QUADS], "rms_norm__picked");
    cx.launch("rms_norm", shader, binds, &params, [cx.each_row(norm.out), ONE, ONE]);
}

/// Whether a `norm_add` and the norm of its sum are one dispatch.
pub(super) fn fuses(add: &NormAdd, norm: &RmsNorm, cx: &Lowering<'_>) -> bool {
    norm.x == add.residual && fits(cx.cols(add.y))
}

/// Both.
pub(super) fn norm_add_rms_norm(add: &NormAdd, norm: &RmsNorm, cx: &mut Lowering<'_>) {
    let params = NormParams { cols: cx.cols(add.y), eps: add.eps, scale: add.scale, next_eps: norm.eps };
    let binds = vec![
        Bind::Act(add.y),
        Bind::Weight(add.weight, 0),
        Bind::ActMut(add.residual),
        Bind::ActMut(norm.out),
        Bind::Weight(norm.weight, 0),
    ];
    let shader = shader(cx, params.cols, &[shaders::NORM_QUADS], "norm_add__rms_norm");
    cx.launch("norm_add", shader, binds, &params, [cx.each_row(add.residual), ONE, ONE]);
}

/// Whether another norm of the sum joins them.
pub(super) fn takes_two(add: &NormAdd, [first, second]: [&RmsNorm; 2], cx: &Lowering<'_>) -> bool {
    let same = |norm: &RmsNorm| (norm.x, norm.eps.to_bits());
    fuses(add, first, cx) && same(first) == same(second) && first.out != second.out
}

/// All three.
pub(super) fn norm_add_two_norms(add: &NormAdd, [first, second]: [&RmsNorm; 2], cx: &mut Lowering<'_>) {
    let others = [Bind::ActMut(second.out), Bind::Weight(second.weight, 0)];
    join(add, first, add.y, &others, "norm_add__two_norms", cx);
}

/// Two normed branches, their sum, and the `norm_add` and the norm that follow.
pub(super) struct Branches<'a> {
    pub(super) norms: [&'a RmsNorm; 2],
    pub(super) sum: &'a Add,
    pub(super) add: &'a NormAdd,
    pub(super) next: &'a RmsNorm,
}

impl Branches<'_> {
    /// Whether all of it is one dispatch: nothing else may read the branches.
    pub(super) fn fuse(&self, cx: &Lowering<'_>) -> bool {
        let &Self { norms: [a, b], sum, add, next } = self;
        let outs = [a.out, b.out];
        let users = |act: Act| {
            cx.program.ops.iter().filter(|op| op.reads().contains(&act) || op.writes().contains(&act)).count()
        };
        let eps = add.eps.to_bits();
        fuses(add, next, cx)
            && (outs == [sum.x, sum.y] || outs == [sum.y, sum.x])
            && add.y == sum.x
            && [a.eps.to_bits(), b.eps.to_bits()] == [eps, eps]
            && ![a.x, b.x].contains(&add.residual)
            && (users(sum.x), users(sum.y)) == (3, 2)
            && !outs.iter().any(|out| cx.program.outputs.contains(out))
    }

    /// The dispatch.
    pub(super) fn launch(&self, cx: &mut Lowering<'_>) {
        let [a, b] = self.norms;
        let others = [Bind::Act(a.x), Bind::Weight(a.weight, 0), Bind::Weight(b.weight, 0)];
        join(self.add, self.next, b.x, &others, "norm_add__branches", cx);
    }
}

/// A `norm_add` of `y` with `weight` and scale 1, then another, and the norm of that: in one dispatch.
pub(super) fn norm_add_twice(y: Act, weight: Weight, add: &NormAdd, norm: &RmsNorm, cx: &mut Lowering<'_>) {
    let others = [Bind::Act(y), Bind::Weight(weight, 0)];
    join(add, norm, add.y, &others, "norm_add__twice", cx);
}

/// An entry point that is more than `norm_add__rms_norm` by some bindings. `x` is the branch, or one of two.
fn join(add: &NormAdd, norm: &RmsNorm, x: Act, others: &[Bind], entry: &'static str, cx: &mut Lowering<'_>) {
    let params = NormParams { cols: cx.cols(add.y), eps: add.eps, scale: add.scale, next_eps: norm.eps };
    let mut binds = vec![
        Bind::Act(x),
        Bind::Weight(add.weight, 0),
        Bind::ActMut(add.residual),
        Bind::ActMut(norm.out),
        Bind::Weight(norm.weight, 0),
    ];
    binds.extend_from_slice(others);
    let shader = shader(cx, params.cols, &[shaders::NORM_QUADS, shaders::NORM_JOIN], entry);
    cx.launch("norm_add", shader, binds, &params, [cx.each_row(add.residual), ONE, ONE]);
}

/// The ops of [`Branches`], where these are the next ones; with what comes after them.
pub(super) fn branches<'a>(ops: &'a [Op], cx: &Lowering<'_>) -> Option<(Branches<'a>, &'a [Op])> {
    let [Op::RmsNorm(a), Op::RmsNorm(b), Op::Add(sum), Op::NormAdd(add), Op::RmsNorm(next), after @ ..] = ops
    else {
        return None;
    };
    let all = Branches { norms: [a, b], sum, add, next };
    all.fuse(cx).then_some((all, after))
}
