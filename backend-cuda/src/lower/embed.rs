//! `embed`: a block for each row.

use gemma4_core::abi::CudaEmbedParams;
use gemma4_core::ops::embed::Embed;
use gemma4_core::ops::rms_norm::RmsNorm;
use gemma4_core::tensor::DType;

use super::rows::{block, fits, result};
use super::{Arg, Launch, Lowering, ONE, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit(dtype: DType) -> Unit {
    Unit::new("embed").with("WEIGHT", dtype.name())
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    DType::ALL.map(unit).into()
}

fn params(op: &Embed, eps: f32, cx: &Lowering<'_>) -> Arg {
    let vocab = narrow(cx.weight(op.table).rows());
    Arg::params(&CudaEmbedParams { cols: cx.cols(op.out), vocab, scale: op.scale, eps })
}

pub(super) fn embed(op: &Embed, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let [plain, prepared] = result(op.out, cx);
    let args =
        vec![Arg::View(op.table), Arg::Rows, Arg::Sampled, plain, prepared, params(op, 0.0, cx), Arg::Step];
    launch(op, "embed", args, cx);
    Ok(())
}

/// Whether a norm of the rows is part of the launch, which then prepares no rows but normed ones.
pub(super) fn fuses(op: &Embed, norm: &RmsNorm, cx: &Lowering<'_>) -> bool {
    norm.x == op.out && fits(cx.cols(op.out)) && !cx.wants_prepared(op.out)
}

/// Both ops.
pub(super) fn embed_rms_norm(op: &Embed, norm: &RmsNorm, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let [plain, prepared] = result(norm.out, cx);
    let args = vec![
        Arg::View(op.table),
        Arg::Rows,
        Arg::Sampled,
        Arg::Weight(norm.weight),
        Arg::Act(op.out),
        plain,
        prepared,
        params(op, norm.eps, cx),
        Arg::Step,
    ];
    launch(op, "embed__rms_norm", args, cx);
    Ok(())
}

fn launch(op: &Embed, entry: &'static str, args: Vec<Arg>, cx: &mut Lowering<'_>) {
    let grid = [cx.each_row(op.out), ONE, ONE];
    let unit = unit(cx.weight(op.table).dtype());
    let block = block(cx.cols(op.out));
    cx.launch(Launch { op: "embed", unit, entry, args, grid, block, shared: 0 });
}
