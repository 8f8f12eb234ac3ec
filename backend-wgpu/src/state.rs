//! Pools of the KV cache on the device.
//!
//! A page is `[kv_heads, PAGE]` rows, each of `row_words` words.

use std::sync::Arc;

use gemma4_core::program::StateSpec;

use crate::device::Device;
use crate::error::WgpuError;

/// A pool on the device.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: StateSpec,
    buffer: wgpu::Buffer,
}

impl State {
    pub(crate) fn new(device: &Device, spec: &StateSpec) -> Result<Self, WgpuError> {
        let bytes = (row_words(spec) * 4 * spec.kv_heads * gemma4_core::cache::PAGE * spec.pages) as u64;
        if bytes > device.max_binding {
            let limit = "max_storage_buffer_binding_size";
            return Err(device.limit(&spec.name, bytes, "bytes", device.max_binding, limit));
        }
        let buffer = device.storage(&spec.name, bytes)?;
        Ok(Self { inner: Arc::new(Inner { spec: spec.clone(), buffer }) })
    }

    pub(crate) fn spec(&self) -> &StateSpec {
        &self.inner.spec
    }

    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        &self.inner.buffer
    }

    /// Words of one stored head on the device.
    pub(crate) fn row_words(&self) -> usize {
        row_words(&self.inner.spec)
    }

    /// Bytes of a page on the device.
    pub(crate) fn page_bytes(&self) -> usize {
        self.row_words() * 4 * self.inner.spec.kv_heads * gemma4_core::cache::PAGE
    }

    /// A page of the device in the layout of [`StateSpec`].
    pub(crate) fn unpack(&self, device: &[u8], page: &mut [u8]) {
        let bytes = self.inner.spec.row_bytes();
        for (from, to) in device.chunks_exact(self.row_words() * 4).zip(page.chunks_exact_mut(bytes)) {
            to.copy_from_slice(&from[..bytes]);
        }
    }

    /// The reverse of [`State::unpack`].
    pub(crate) fn pack(&self, page: &[u8]) -> Vec<u8> {
        let bytes = self.inner.spec.row_bytes();
        let mut device = vec![0; self.page_bytes()];
        for (from, to) in page.chunks_exact(bytes).zip(device.chunks_exact_mut(self.row_words() * 4)) {
            to[..bytes].copy_from_slice(from);
        }
        device
    }
}

fn row_words(spec: &StateSpec) -> usize {
    spec.row_bytes().div_ceil(4)
}
