//! `rms_norm` and `norm_add`: a workgroup for each row.

use gemma4_core::abi::{NormParams, ROW_THREADS};
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;

use super::{Bind, Lowering, ONE};
use crate::shaders::{self, Part, Shader};

/// Widest row that fits the registers of a workgroup.
const WIDEST: u32 = 24 * ROW_THREADS;

/// Whether the variant that keeps a row in registers takes rows of this width.
fn fits(cols: u32) -> bool {
    cols.is_multiple_of(4) && cols <= WIDEST
}

fn shader(cx: &Lowering<'_>, file: Part, entry: &'static str) -> Shader {
    cx.with_reduce(Shader::new(&[cx.reduce(), file], entry))
}

pub(super) fn rms_norm(op: &RmsNorm, cx: &mut Lowering<'_>) {
    let cols = cx.cols(op.x);
    let params = NormParams { cols, eps: op.eps, ..NormParams::default() };
    let binds = vec![Bind::Act(op.x), Bind::Weight(op.weight, 0), Bind::ActMut(op.out)];
    let shader = if fits(cols) {
        shader(cx, shaders::NORM_QUADS, "rms_norm__quads")
    } else {
        shader(cx, shaders::RMS_NORM, "rms_norm")
    };
    cx.launch("rms_norm", shader, binds, &params, [cx.each_row(op.x), ONE, ONE]);
}

pub(super) fn norm_add(op: &NormAdd, cx: &mut Lowering<'_>) {
    let cols = cx.cols(op.y);
    let params = NormParams { cols, eps: op.eps, scale: op.scale, next_eps: 0.0 };
    let grid = [cx.each_row(op.residual), ONE, ONE];
    let (residual, y, weight) = (Bind::ActMut(op.residual), Bind::Act(op.y), Bind::Weight(op.weight, 0));
    if fits(cols) {
        let shader = shader(cx, shaders::NORM_QUADS, "norm_add__quads");
        cx.launch("norm_add", shader, vec![y, weight, residual], &params, grid);
    } else {
        let shader = shader(cx, shaders::NORM_ADD, "norm_add");
        cx.launch("norm_add", shader, vec![residual, y, weight], &params, grid);
    }
}

/// Whether a `norm_add` and the norm of its sum are one dispatch.
pub(super) fn fuses(add: &NormAdd, norm: &RmsNorm, cx: &Lowering<'_>) -> bool {
    norm.x == add.residual && fits(cx.cols(add.y))
}

/// Both.
pub(super) fn norm_add_rms_norm(add: &NormAdd, norm: &RmsNorm, cx: &mut Lowering<'_>) {
    let params = NormParams { cols: cx.cols(add.y), eps: add.eps, scale: add.scale, next_eps: norm.eps };
    let binds = vec![
        Bind::Act(add.y),
        Bind::Weight(add.weight, 0),
        Bind::ActMut(add.residual),
        Bind::ActMut(norm.out),
        Bind::Weight(norm.weight, 0),
    ];
    let shader = shader(cx, shaders::NORM_QUADS, "norm_add__rms_norm");
    cx.launch("norm_add", shader, binds, &params, [cx.each_row(add.residual), ONE, ONE]);
}
