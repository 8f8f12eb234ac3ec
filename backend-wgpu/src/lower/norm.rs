//! `rms_norm` and `norm_add`: a workgroup for each row.

use gemma4_core::abi::NormParams;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;

use super::{Bind, Lowering, ONE};
use crate::error::WgpuError;
use crate::shaders::{self, Shader};

pub(super) fn rms_norm(op: &RmsNorm, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let params = NormParams { cols: cx.cols(op.x), eps: op.eps, ..NormParams::default() };
    let binds = vec![Bind::Act(op.x), Bind::Weight(op.weight, 0), Bind::ActMut(op.out)];
    let shader = Shader::new(&[shaders::REDUCE, shaders::RMS_NORM], "rms_norm");
    cx.launch("rms_norm", shader, binds, &params, [cx.each_row(op.x), ONE, ONE]);
    Ok(())
}

pub(super) fn norm_add(op: &NormAdd, cx: &mut Lowering<'_>) -> Result<(), WgpuError> {
    let params = NormParams { cols: cx.cols(op.y), eps: op.eps, scale: op.scale, next_eps: 0.0 };
    let binds = vec![Bind::ActMut(op.residual), Bind::Act(op.y), Bind::Weight(op.weight, 0)];
    let shader = Shader::new(&[shaders::REDUCE, shaders::NORM_ADD], "norm_add");
    cx.launch("norm_add", shader, binds, &params, [cx.each_row(op.residual), ONE, ONE]);
    Ok(())
}
