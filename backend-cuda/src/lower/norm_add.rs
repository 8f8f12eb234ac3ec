//! `norm_add`, with up to two norms of its sum.

use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

/// Whether a `norm_add` and these norms behind it are one launch.
pub(super) fn fuses(_add: &NormAdd, _norms: &[&RmsNorm], _cx: &Lowering<'_>) -> bool {
    false
}

/// The op, and the norms that fuse with it.
pub(super) fn norm_add(_add: &NormAdd, _norms: &[&RmsNorm], cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("norm_add", "it has no kernel"))
}
