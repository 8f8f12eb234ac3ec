//! `route`.

use gemma4_core::ops::route::Route;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn route(_op: &Route, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("route", "it has no kernel"))
}
