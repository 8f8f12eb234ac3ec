//! `keep_rows` and `recall_rows`: copies to and from rows that outlive a step.

use gemma4_core::abi::{ROW_THREADS, RingParams};
use gemma4_core::ops::keep_rows::KeepRows;
use gemma4_core::ops::recall_rows::RecallRows;
use gemma4_core::program::{Act, Ring, Rows};

use super::{Bind, Count, Lowering, ONE, narrow};
use crate::shaders::{self, Shader};

fn params(cx: &Lowering<'_>, act: Act, ring: Ring) -> RingParams {
    RingParams {
        cols: cx.cols(act),
        stride: narrow(cx.state(ring.state).row_words()),
        rows: narrow(ring.rows),
        picked: u32::from(cx.program.spec(act).rows == Rows::Picked),
        ..RingParams::default()
    }
}

fn grid(cx: &Lowering<'_>, act: Act) -> [Count; 3] {
    [Count::Fixed(cx.cols(act).div_ceil(4 * ROW_THREADS)), cx.each_row(act), ONE]
}

pub(super) fn keep_rows(op: &KeepRows, cx: &mut Lowering<'_>) {
    let params = RingParams { column: narrow(op.column), ..params(cx, op.x, op.ring) };
    let binds = vec![Bind::Act(op.x), Bind::Rows, Bind::Picked, Bind::StateMut(op.ring.state)];
    let shader = Shader::new(&[shaders::KEEP_ROWS], "keep_rows");
    cx.launch("keep_rows", shader, binds, &params, grid(cx, op.x));
}

pub(super) fn recall_rows(op: &RecallRows, cx: &mut Lowering<'_>) {
    let params = RingParams { back: op.back, ..params(cx, op.out, op.ring) };
    let binds = vec![Bind::State(op.ring.state), Bind::Rows, Bind::ActMut(op.out)];
    let shader = Shader::new(&[shaders::RECALL_ROWS], "recall_rows");
    cx.launch("recall_rows", shader, binds, &params, grid(cx, op.out));
}
