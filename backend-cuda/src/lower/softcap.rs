//! `softcap`: a thread for four columns. In front of `sample` it is part of that launch.

use gemma4_core::abi::{CudaElementParams, ELEMENT_THREADS};
use gemma4_core::ops::softcap::Softcap;

use super::add::element_grid;
use super::rows::whole;
use super::{Arg, Launch, Lowering};
use crate::error::CudaError;
use crate::kernels::Unit;

fn unit() -> Unit {
    Unit::new("softcap")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

pub(super) fn softcap(op: &Softcap, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole("softcap", &[op.x], cx)?;
    cx.prepared[op.x.index()] = false;
    let params = CudaElementParams { cols: cx.cols(op.x), picked: cx.picked(op.x), cap: op.cap };
    let args = vec![Arg::Act(op.x), Arg::params(&params), Arg::Step];
    let grid = element_grid(op.x, cx);
    cx.launch(Launch {
        op: "softcap",
        unit: unit(),
        entry: "softcap",
        args,
        grid,
        block: [ELEMENT_THREADS, 1, 1],
        shared: 0,
    });
    Ok(())
}
