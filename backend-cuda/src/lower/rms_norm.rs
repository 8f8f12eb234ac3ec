//! `rms_norm`: a block for each row.

use gemma4_core::abi::CudaNormParams;
use gemma4_core::ops::gather_rows::GatherRows;
use gemma4_core::ops::rms_norm::RmsNorm;

use super::rows::{block, fits, result, whole};
use super::{Arg, Launch, Lowering, ONE};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("rms_norm")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

fn params(op: &RmsNorm, cx: &Lowering<'_>) -> Arg {
    Arg::params(&CudaNormParams {
        cols: cx.cols(op.x),
        planes: cx.planes(op.x),
        plane_stride: cx.plane_stride(op.x),
        picked: cx.picked(op.out),
        eps: op.eps,
        ..CudaNormParams::default()
    })
}

pub(super) fn rms_norm(op: &RmsNorm, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let cols = cx.cols(op.x);
    let [plain, prepared] = result(op.out, cx);
    let args = vec![Arg::Act(op.x), Arg::Weight(op.weight), plain, prepared, params(op, cx), Arg::Step];
    let entry = if fits(cols) { "rms_norm" } else { "rms_norm__wide" };
    let grid = [cx.each_row(op.out), ONE, ONE];
    cx.launch(Launch { op: "rms_norm", unit: unit(), entry, args, grid, block: block(cols), shared: 0 });
    Ok(())
}

/// Whether the norm of gathered rows gathers them itself: it copies them, but prepares none of them.
pub(super) fn gathers(gather: &GatherRows, norm: &RmsNorm, cx: &Lowering<'_>) -> bool {
    norm.x == gather.out && fits(cx.cols(norm.x)) && !cx.wants_prepared(gather.out)
}

/// Both ops.
pub(super) fn gather_rows_rms_norm(
    gather: &GatherRows,
    norm: &RmsNorm,
    cx: &mut Lowering<'_>,
) -> Result<(), CudaError> {
    whole("gather_rows", &[gather.x], cx)?;
    let cols = cx.cols(norm.x);
    let copy = if cx.wants_plain(gather.out) { Arg::Act(gather.out) } else { Arg::Null };
    let [plain, prepared] = result(norm.out, cx);
    let args = vec![
        Arg::Act(gather.x),
        Arg::Picked,
        Arg::Weight(norm.weight),
        copy,
        plain,
        prepared,
        params(norm, cx),
        Arg::Step,
    ];
    let grid = [cx.each_row(norm.out), ONE, ONE];
    let entry = "gather_rows__rms_norm";
    cx.launch(Launch { op: "rms_norm", unit: unit(), entry, args, grid, block: block(cols), shared: 0 });
    Ok(())
}
