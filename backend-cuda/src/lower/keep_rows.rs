//! `keep_rows`: a warp for each block of columns. What it has in common with `recall_rows` is here too.

use gemma4_core::abi::{PREPARED_BLOCK, RING_WARPS, RingParams};
use gemma4_core::ops::keep_rows::KeepRows;
use gemma4_core::program::{Act, Ring};

use super::rows::whole;
use super::{Arg, Count, Launch, Lowering, ONE, narrow};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("keep_rows")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

/// How rows of `act` lie in a ring.
pub(super) fn params(act: Act, ring: Ring, cx: &Lowering<'_>) -> RingParams {
    RingParams {
        cols: cx.cols(act),
        stride: narrow(cx.state(ring.state).spec().head_dim),
        rows: narrow(ring.rows),
        picked: cx.picked(act),
        ..RingParams::default()
    }
}

/// Blocks that give each warp a block of columns of a row.
pub(super) fn grid(act: Act, cx: &Lowering<'_>) -> [Count; 3] {
    [Count::Fixed(cx.cols(act).div_ceil(RING_WARPS * PREPARED_BLOCK)), cx.each_row(act), ONE]
}

pub(super) fn keep_rows(op: &KeepRows, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole("keep_rows", &[op.x], cx)?;
    let params = RingParams { column: narrow(op.column), ..params(op.x, op.ring, cx) };
    let args = vec![
        Arg::Act(op.x),
        Arg::Rows,
        Arg::Picked,
        Arg::State(op.ring.state),
        Arg::params(&params),
        Arg::Step,
    ];
    let grid = grid(op.x, cx);
    cx.launch(Launch {
        op: "keep_rows",
        unit: unit(),
        entry: "keep_rows",
        args,
        grid,
        block: [32 * RING_WARPS, 1, 1],
        shared: 0,
    });
    Ok(())
}
