//! What ops that take rows one at a time have in common.

use gemma4_core::abi::{PREPARED_BLOCK, ROW_WARPS, ROW_WIDE_THREADS, WARP};
use gemma4_core::program::Act;

use super::{Arg, Lowering};
use crate::error::CudaError;

/// Whether rows of this width fit the registers of a block.
pub(super) fn fits(cols: u32) -> bool {
    cols <= ROW_WARPS * PREPARED_BLOCK
}

/// Threads of a block that takes one row of this width: a warp for each block of columns, as long as they fit.
pub(super) fn block(cols: u32) -> [u32; 3] {
    let threads = if fits(cols) { cols.div_ceil(PREPARED_BLOCK) * WARP } else { ROW_WIDE_THREADS };
    [threads, 1, 1]
}

/// The two arguments of a result: as floats and in the form of products, each if somebody wants it.
pub(super) fn result(act: Act, cx: &mut Lowering<'_>) -> [Arg; 2] {
    let plain = if cx.wants_plain(act) { Arg::Act(act) } else { Arg::Null };
    [plain, prepared(act, cx)]
}

/// The argument of a result in the form of products, if somebody wants it.
pub(super) fn prepared(act: Act, cx: &mut Lowering<'_>) -> Arg {
    let wanted = cx.wants_prepared(act);
    cx.prepared[act.index()] = wanted;
    if wanted { Arg::Prepared(act) } else { Arg::NoPrepared }
}

/// Checks that operands have one plane.
pub(super) fn whole(op: &'static str, acts: &[Act], cx: &Lowering<'_>) -> Result<(), CudaError> {
    match acts.iter().find(|act| cx.planes(**act) != 1) {
        Some(&act) => {
            Err(cx.unsupported(op, format!("{act} is a sum of {} planes, expected 1", cx.planes(act))))
        }
        None => Ok(()),
    }
}
