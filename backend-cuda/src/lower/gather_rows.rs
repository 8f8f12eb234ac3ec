//! `gather_rows`: a thread for four columns. In front of a norm it is part of that launch.

use gemma4_core::abi::{CudaElementParams, ELEMENT_THREADS};
use gemma4_core::ops::gather_rows::GatherRows;

use super::add::element_grid;
use super::rows::whole;
use super::{Arg, Launch, Lowering};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("gather_rows")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

pub(super) fn gather_rows(op: &GatherRows, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole("gather_rows", &[op.x], cx)?;
    let params = CudaElementParams { cols: cx.cols(op.x), picked: cx.picked(op.out), cap: 0.0 };
    let args = vec![Arg::Act(op.x), Arg::Picked, Arg::Act(op.out), Arg::params(&params), Arg::Step];
    let grid = element_grid(op.out, cx);
    cx.launch(Launch {
        op: "gather_rows",
        unit: unit(),
        entry: "gather_rows",
        args,
        grid,
        block: [ELEMENT_THREADS, 1, 1],
        shared: 0,
    });
    Ok(())
}
