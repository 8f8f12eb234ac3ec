//! Pools of the KV cache on the device.

use std::sync::Arc;

use gemma4_core::program::StateSpec;

/// A pool on the device. Clones share it.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: StateSpec,
}

impl State {
    pub(crate) fn spec(&self) -> &StateSpec {
        &self.inner.spec
    }
}
