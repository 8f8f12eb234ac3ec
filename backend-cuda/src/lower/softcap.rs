//! `softcap`.

use gemma4_core::ops::softcap::Softcap;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn softcap(_op: &Softcap, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("softcap", "it has no kernel"))
}
