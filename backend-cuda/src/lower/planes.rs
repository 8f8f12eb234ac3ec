//! Planes of a sum, for readers that take only one.

use gemma4_core::abi::PrepareFormParams;
use gemma4_core::ops::Op;
use gemma4_core::program::Act;

use super::{Arg, Count, Launch, Lowering, ONE};
use crate::kernels::Unit;

const FILE: &str = "planes";

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![Unit::new(FILE)]
}

/// Whether all who read what `act` holds in front of op number `from` add its planes up.
pub(super) fn added_by_readers(cx: &Lowering<'_>, act: Act, from: usize) -> bool {
    let adds = |op: &Op| match op {
        Op::RmsNorm(op) => op.x == act,
        Op::NormAdd(op) => op.y == act && op.residual != act,
        Op::AttnPrepare(op) => op.qkv == act,
        Op::KvAppend(op) => op.kv == act,
        Op::Glu(op) => [op.gate.act, op.up.act].contains(&act),
        _ => false,
    };
    !cx.program.outputs.contains(&act) && cx.readers(act, from).all(adds)
}

/// Planes that `norm_add` loads together: the first, and `MORE` of `kernels/norm_add.cu`.
const OF_NORM_ADD: u32 = 6;
/// Those that others do, but for heads of 512, which take two rounds for them: the first, and `TOGETHER` of
/// `kernels/common/row.cuh` and `heads.cuh`.
const OF_OTHERS: u32 = 5;

/// The most planes of `act`, as it is in front of op number `from`, that its readers add up in one round of loads; 1 if not all of
/// them add any.
pub(super) fn most(cx: &Lowering<'_>, act: Act, from: usize) -> u32 {
    if !added_by_readers(cx, act, from) {
        return 1;
    }
    if cx.readers(act, from).all(|op| matches!(op, Op::NormAdd(_))) { OF_NORM_ADD } else { OF_OTHERS }
}

/// Adds the planes of `act`, which `op` wrote, into the first.
pub(super) fn add(op: &'static str, act: Act, cx: &mut Lowering<'_>) {
    let params = PrepareFormParams {
        cols: cx.cols(act),
        picked: cx.picked(act),
        planes: cx.planes(act),
        plane_stride: cx.plane_stride(act),
    };
    cx.launch(Launch {
        op,
        unit: Unit::new(FILE),
        entry: "planes",
        args: vec![Arg::Act(act), Arg::params(&params), Arg::Step],
        grid: [cx.each_row(act), Count::Fixed(params.cols.div_ceil(1024)), ONE],
        block: [256, 1, 1],
        shared: 0,
    });
    cx.set_planes(act, 1);
}
