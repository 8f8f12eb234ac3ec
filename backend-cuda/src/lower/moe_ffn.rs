//! `moe_ffn`.

use gemma4_core::ops::moe_ffn::MoeFfn;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

/// Whether the op reads its input in the form of products.
pub(super) fn reads_prepared(_op: &MoeFfn, _cx: &Lowering<'_>) -> bool {
    false
}

pub(super) fn moe_ffn(_op: &MoeFfn, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("moe_ffn", "it has no kernel"))
}
