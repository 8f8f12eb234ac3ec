//! The form that products on tensor cores read, where the writer of an activation did not end in it.

use gemma4_core::abi::PrepareFormParams;
use gemma4_core::program::Act;

use super::{Arg, Launch, Lowering, ONE};
use crate::kernels::Unit;

const FILE: &str = "prepare";

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![Unit::new(FILE)]
}

/// Prepares `act` for `op` unless that is done.
pub(super) fn prepare(op: &'static str, act: Act, cx: &mut Lowering<'_>) {
    if cx.is_prepared(act) {
        return;
    }
    let params = PrepareFormParams {
        cols: cx.cols(act),
        picked: cx.picked(act),
        planes: cx.planes(act),
        plane_stride: cx.plane_stride(act),
    };
    cx.launch(Launch {
        op,
        unit: Unit::new(FILE),
        entry: "prepare",
        args: vec![Arg::Act(act), Arg::Prepared(act), Arg::params(&params), Arg::Step],
        grid: [cx.each_row(act), ONE, ONE],
        block: [256, 1, 1],
        shared: 0,
    });
    cx.set_prepared(act);
}
