//! `add`: a thread for four columns.

use gemma4_core::abi::{CudaElementParams, ELEMENT_THREADS};
use gemma4_core::ops::add::Add;
use gemma4_core::program::Act;

use super::rows::whole;
use super::{Arg, Count, Launch, Lowering, ONE};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("add")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

/// Blocks of ops that give each thread four columns of `act`: along a row, and rows.
pub(super) fn element_grid(act: Act, cx: &Lowering<'_>) -> [Count; 3] {
    [Count::Fixed(cx.cols(act).div_ceil(4 * ELEMENT_THREADS)), cx.each_row(act), ONE]
}

pub(super) fn add(op: &Add, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole("add", &[op.x, op.y], cx)?;
    cx.prepared[op.x.index()] = false;
    let params = CudaElementParams { cols: cx.cols(op.x), picked: cx.picked(op.x), cap: 0.0 };
    let args = vec![Arg::Act(op.x), Arg::Act(op.y), Arg::params(&params), Arg::Step];
    let grid = element_grid(op.x, cx);
    cx.launch(Launch {
        op: "add",
        unit: unit(),
        entry: "add",
        args,
        grid,
        block: [ELEMENT_THREADS, 1, 1],
        shared: 0,
    });
    Ok(())
}
