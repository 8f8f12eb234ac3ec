//! `add`.

use gemma4_core::ops::add::Add;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn add(_op: &Add, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("add", "it has no kernel"))
}
