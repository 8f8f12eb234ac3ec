//! `attn_prepare`.

use gemma4_core::ops::attn_prepare::AttnPrepare;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn attn_prepare(_op: &AttnPrepare, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("attn_prepare", "it has no kernel"))
}
