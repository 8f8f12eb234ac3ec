//! `recall_rows`: a warp for each block of columns.

use gemma4_core::abi::{RING_WARPS, RingParams};
use gemma4_core::ops::recall_rows::RecallRows;

use super::keep_rows::{grid, params};
use super::rows::result;
use super::{Arg, Launch, Lowering};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("recall_rows")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

pub(super) fn recall_rows(op: &RecallRows, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    let params = RingParams { back: op.back, ..params(op.out, op.ring, cx) };
    let [plain, prepared] = result(op.out, cx);
    let args = vec![Arg::State(op.ring.state), Arg::Rows, plain, prepared, Arg::params(&params), Arg::Step];
    let grid = grid(op.out, cx);
    cx.launch(Launch {
        op: "recall_rows",
        unit: unit(),
        entry: "recall_rows",
        args,
        grid,
        block: [32 * RING_WARPS, 1, 1],
        shared: 0,
    });
    Ok(())
}
