//! Pools of the KV cache on the device.

mod layout;

use std::sync::Arc;

use gemma4_core::program::StateSpec;

use crate::device::Device;
use crate::driver::Buffer;
use crate::error::CudaError;

/// A pool on the device. Clones share it.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: StateSpec,
    /// None where a program is lowered without a device.
    buffer: Option<Buffer>,
}

impl State {
    pub(crate) fn new(device: &Device, spec: &StateSpec) -> Result<Self, CudaError> {
        let buffer = device.zeroed(&spec.name, spec.bytes())?;
        Ok(Self { inner: Arc::new(Inner { spec: spec.clone(), buffer: Some(buffer) }) })
    }

    /// A pool that no memory is allocated for.
    pub(crate) fn planned(spec: &StateSpec) -> Self {
        Self { inner: Arc::new(Inner { spec: spec.clone(), buffer: None }) }
    }

    pub(crate) fn spec(&self) -> &StateSpec {
        &self.inner.spec
    }

    /// Its memory.
    ///
    /// # Panics
    ///
    /// If there is none: such a state is never bound to a plan.
    pub(crate) fn buffer(&self) -> &Buffer {
        self.inner.buffer.as_ref().expect("states of a plan have memory")
    }

    fn start(&self, page: u32) -> u64 {
        u64::from(page) * self.spec().page_bytes() as u64
    }

    pub(crate) fn read_page(&self, device: &Device, page: u32, into: &mut [u8]) -> Result<(), CudaError> {
        let mut bytes = vec![0; self.spec().page_bytes()];
        device.stream.download(self.buffer(), self.start(page), &mut bytes)?;
        layout::to_file(self.spec(), &bytes, into);
        Ok(())
    }

    /// Copies a page over another without leaving the device.
    pub(crate) fn copy_page(&self, device: &Device, from: u32, to: u32) -> Result<(), CudaError> {
        if from == to {
            return Ok(());
        }
        device.stream.copy(self.buffer(), self.start(from), self.start(to), self.spec().page_bytes())
    }

    pub(crate) fn write_page(&self, device: &Device, page: u32, from: &[u8]) -> Result<(), CudaError> {
        let mut bytes = vec![0; self.spec().page_bytes()];
        layout::to_device(self.spec(), from, &mut bytes);
        device.stream.upload_now(&bytes, self.buffer(), self.start(page))
    }
}
