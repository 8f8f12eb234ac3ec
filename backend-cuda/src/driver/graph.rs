//! Work that was recorded once, to be done many times.

use std::sync::Arc;

use cudarc::driver::sys;

use super::Context;
use crate::error::CudaError;

/// A recorded piece of work.
#[derive(Debug)]
pub(crate) struct Graph {
    context: Arc<Context>,
    handle: sys::CUgraphExec,
}

// SAFETY: launches of a graph need a stream, and a plan that owns a graph is borrowed exclusively to launch it.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

impl Graph {
    /// Takes what a capture gave, and destroys that.
    pub(super) fn new(context: &Arc<Context>, recorded: sys::CUgraph) -> Result<Self, CudaError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: facts 1 to 3; writes one handle.
        let result = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut handle, recorded, 0) };
        // SAFETY: facts 1 to 3; the caller gave it away, and what was made of it does not need it.
        let destroyed = unsafe { sys::cuGraphDestroy(recorded) };
        context.check("preparing a captured step", result)?;
        context.check("destroying a capture", destroyed)?;
        Ok(Self { context: Arc::clone(context), handle })
    }

    pub(super) fn handle(&self) -> sys::CUgraphExec {
        self.handle
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.finish().is_ok() {
            // SAFETY: facts 1 to 3, and the device has finished.
            let result = unsafe { sys::cuGraphExecDestroy(self.handle) };
            let _ = self.context.check("destroying a graph", result);
        }
    }
}
