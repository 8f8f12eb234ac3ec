//! Ops whose outputs depend on one element of each operand: `add`, `softcap`, `glu`, `gather_rows`.

use gemma4_core::abi::{ElementParams, GluParams};
use gemma4_core::ops::add::Add;
use gemma4_core::ops::gather_rows::GatherRows;
use gemma4_core::ops::glu::{Activation, Glu};
use gemma4_core::ops::softcap::Softcap;
use gemma4_core::program::Act;

use super::{Bind, Count, Lowering, ONE, narrow};
use crate::shaders::{self, Shader};

/// Elements of a workgroup: four for each invocation.
const ELEMENTS: u32 = 4 * gemma4_core::abi::ROW_THREADS;

/// Workgroups along a row, and rows.
fn grid(cx: &Lowering<'_>, act: Act) -> [Count; 3] {
    [Count::Fixed(cx.cols(act).div_ceil(ELEMENTS)), cx.each_row(act), ONE]
}

pub(super) fn add(op: &Add, cx: &mut Lowering<'_>) {
    let params = ElementParams { cols: cx.cols(op.x), cap: 0.0 };
    let binds = vec![Bind::ActMut(op.x), Bind::Act(op.y)];
    cx.launch("add", Shader::new(&[shaders::ADD], "add"), binds, &params, grid(cx, op.x));
}

pub(super) fn softcap(op: &Softcap, cx: &mut Lowering<'_>) {
    let params = ElementParams { cols: cx.cols(op.x), cap: op.cap };
    let shader = Shader::new(&[shaders::ACTIVATION, shaders::SOFTCAP], "softcap");
    cx.launch("softcap", shader, vec![Bind::ActMut(op.x)], &params, grid(cx, op.x));
}

pub(super) fn glu(op: &Glu, cx: &mut Lowering<'_>) {
    let params = GluParams {
        cols: cx.cols(op.out),
        gate_cols: cx.cols(op.gate.act),
        gate_start: narrow(op.gate.start),
        up_cols: cx.cols(op.up.act),
        up_start: narrow(op.up.start),
    };
    let binds = vec![Bind::Act(op.gate.act), Bind::Act(op.up.act), Bind::ActMut(op.out)];
    let silu = u32::from(op.activation == Activation::Silu);
    let shader = Shader::new(&[shaders::ACTIVATION, shaders::GLU], "glu").with("SILU", silu);
    cx.launch("glu", shader, binds, &params, grid(cx, op.out));
}

pub(super) fn gather_rows(op: &GatherRows, cx: &mut Lowering<'_>) {
    let params = ElementParams { cols: cx.cols(op.x), cap: 0.0 };
    let binds = vec![Bind::Act(op.x), Bind::Picked, Bind::ActMut(op.out)];
    let shader = Shader::new(&[shaders::GATHER_ROWS], "gather_rows");
    cx.launch("gather_rows", shader, binds, &params, grid(cx, op.out));
}
