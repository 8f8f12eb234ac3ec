//! `glu`: a warp for each block of columns.

use gemma4_core::abi::{CudaGluParams, GLU_WARPS, PREPARED_BLOCK, WARP};
use gemma4_core::ops::glu::{Activation, Glu};

use super::rows::result;
use super::{Arg, Count, Launch, Lowering, ONE, linear, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("glu")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

/// Its operands, which may have planes.
pub(super) fn params(op: &Glu, cx: &Lowering<'_>) -> CudaGluParams {
    CudaGluParams {
        cols: cx.cols(op.out),
        gate_cols: cx.cols(op.gate.act),
        gate_start: narrow(op.gate.start),
        gate_planes: cx.planes(op.gate.act),
        gate_stride: cx.plane_stride(op.gate.act),
        up_cols: cx.cols(op.up.act),
        up_start: narrow(op.up.start),
        up_planes: cx.planes(op.up.act),
        up_stride: cx.plane_stride(op.up.act),
        picked: cx.picked(op.out),
        silu: u32::from(op.activation == Activation::Silu),
        invites: u32::from(linear::next_copies(cx)),
    }
}

/// Whether rows of operands start at 16 bytes, and end there.
pub(super) fn has_quads(params: &CudaGluParams) -> bool {
    let widths = params.cols | params.gate_cols | params.gate_start | params.up_cols | params.up_start;
    widths.is_multiple_of(4)
}

pub(super) fn glu(op: &Glu, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let params = params(op, cx);
    let [plain, prepared] = result(op.out, cx);
    let args =
        vec![Arg::Act(op.gate.act), Arg::Act(op.up.act), plain, prepared, Arg::params(&params), Arg::Step];
    let grid = [Count::Fixed(params.cols.div_ceil(GLU_WARPS * PREPARED_BLOCK)), cx.each_row(op.out), ONE];
    let block = [GLU_WARPS * WARP, 1, 1];
    cx.launch(Launch { op: "glu", unit: unit(), entry: "glu", args, grid, block, shared: 0 });
    Ok(())
}
