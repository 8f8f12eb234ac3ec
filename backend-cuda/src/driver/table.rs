//! Bytes of a file that kernels read where they are.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use gemma4_core::tensor::Bytes;

use super::{Context, HostBuffer};
use crate::error::CudaError;

/// What pages of memory are multiples of.
const PAGE: usize = 4096;

/// Bytes in main memory that kernels read: the mapped file itself, or a copy where the system or the driver does not let
/// a device read mapped files.
#[derive(Debug)]
pub(crate) enum Table {
    /// The bytes themselves, whose pages stay in memory as long as this lives.
    Mapped(Mapped),
    /// A copy.
    Copied(HostBuffer),
}

impl Table {
    /// Makes `bytes` readable for kernels; `copy` fills memory of the device's own where that is needed.
    ///
    /// # Errors
    ///
    /// [`CudaError::Pinned`].
    pub(crate) fn new(
        context: &Arc<Context>,
        what: &str,
        bytes: &Bytes,
        copy: impl FnOnce(&mut [u8]),
    ) -> Result<Self, CudaError> {
        context.bind()?;
        if let Some(mapped) = Mapped::new(context, bytes) {
            return Ok(Self::Mapped(mapped));
        }
        let mut buffer = HostBuffer::new(context, what, bytes.len())?;
        copy(&mut buffer.as_mut()[..bytes.len()]);
        Ok(Self::Copied(buffer))
    }

    /// The first byte, as kernels see it.
    pub(crate) fn address(&self) -> u64 {
        match self {
            Self::Mapped(mapped) => mapped.address,
            Self::Copied(buffer) => buffer.address(),
        }
    }
}

/// Bytes whose pages the driver has pinned.
#[derive(Debug)]
pub(crate) struct Mapped {
    context: Arc<Context>,
    /// They stay mapped as long as they are pinned.
    _bytes: Bytes,
    /// The first byte of the first page, as a number: nobody reads through it.
    start: usize,
    /// The first byte, as kernels see it.
    address: sys::CUdeviceptr,
}

impl Mapped {
    /// None where it cannot be done. The context is current.
    ///
    /// Not for other memory than mapped files: the driver refuses to copy anything to pages that it takes for read only.
    fn new(context: &Arc<Context>, bytes: &Bytes) -> Option<Self> {
        if !bytes.is_mapped() {
            return None;
        }
        let first = bytes.as_ptr().addr();
        let start = first - first % PAGE;
        let length = (first + bytes.len()).next_multiple_of(PAGE) - start;
        let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP
            | sys::CU_MEMHOSTREGISTER_PORTABLE
            | sys::CU_MEMHOSTREGISTER_READ_ONLY;
        let pages = bytes.as_ptr().wrapping_sub(first - start).cast_mut().cast::<c_void>();
        // SAFETY: facts 1 and 3. Every page of the range holds some of `bytes`, which are owned below for as long as the
        // pages are pinned; the device only reads them.
        if unsafe { sys::cuMemHostRegister_v2(pages, length, flags) } != CUresult::CUDA_SUCCESS {
            return None;
        }
        let mut mapped = Self { context: Arc::clone(context), _bytes: bytes.clone(), start, address: 0 };
        // SAFETY: facts 1 and 3; the pages are registered to be mapped, and one address is written.
        let result = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut mapped.address, pages, 0) };
        mapped.address += (first - start) as u64;
        (result == CUresult::CUDA_SUCCESS).then_some(mapped)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // The device may still read it. Where it is lost, it no longer does.
        let _ = self.context.finish();
        let pages = std::ptr::without_provenance_mut::<c_void>(self.start);
        // SAFETY: facts 1 and 2: these pages were registered, and are given back once.
        let _ = unsafe { sys::cuMemHostUnregister(pages) };
    }
}
