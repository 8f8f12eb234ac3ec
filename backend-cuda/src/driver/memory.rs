//! Memory of the device, and memory of the host that the device reads and writes.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::context::describe;
use super::{Context, Event};
use crate::error::CudaError;

/// Memory of the device. It is freed when this is dropped and the device has done everything it was told.
#[derive(Debug)]
pub(crate) struct Buffer {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    bytes: u64,
}

impl Buffer {
    /// Allocates at least `bytes` bytes, whose contents are anything; `what` says for what.
    ///
    /// # Errors
    ///
    /// [`CudaError::OutOfMemory`].
    pub(crate) fn new(context: &Arc<Context>, what: &str, bytes: u64) -> Result<Self, CudaError> {
        let bytes = bytes.next_multiple_of(256).max(256);
        context.bind()?;
        let refuse =
            |free| CudaError::OutOfMemory { what: what.to_owned(), bytes, free, limit: context.limit() };
        if context.limit().is_some() {
            let free = context.memory()?.free;
            if bytes > free {
                return Err(refuse(free));
            }
        }
        let size = usize::try_from(bytes).map_err(|_| refuse(0))?;
        let mut address = 0;
        // SAFETY: facts 1 and 3; writes one address.
        match unsafe { sys::cuMemAlloc_v2(&raw mut address, size) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(refuse(context.memory()?.free)),
            result => {
                context.check("allocating memory", result)?;
                context.took(bytes);
                Ok(Self { context: Arc::clone(context), address, bytes })
            }
        }
    }

    /// Its first byte, as kernels see it.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address of a range.
    ///
    /// # Panics
    ///
    /// If the range is not within it.
    pub(super) fn range(&self, at: u64, bytes: usize) -> sys::CUdeviceptr {
        let end = at.checked_add(bytes as u64);
        assert!(end.is_some_and(|end| end <= self.bytes), "a copy stays within its buffer");
        self.address + at
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.context.gave(self.bytes);
        // On a device that is lost there is nothing to free, and the driver would refuse it.
        if self.context.finish().is_ok() {
            // SAFETY: facts 1 to 3, and the device has just finished everything that may use it.
            let result = unsafe { sys::cuMemFree_v2(self.address) };
            let _ = self.context.check("freeing memory", result);
        }
    }
}

/// Memory of the host that stays where it is and that the device can reach.
#[derive(Debug)]
pub(crate) struct HostBuffer {
    context: Arc<Context>,
    memory: NonNull<u8>,
    bytes: usize,
    /// As kernels see it.
    address: sys::CUdeviceptr,
}

// SAFETY: it owns its memory, which any thread may use.
unsafe impl Send for HostBuffer {}
// SAFETY: through a shared reference it is only read, byte by byte, by copying.
unsafe impl Sync for HostBuffer {}

impl HostBuffer {
    /// Allocates `bytes` bytes of zeros.
    ///
    /// # Errors
    ///
    /// [`CudaError::Pinned`].
    pub(crate) fn new(context: &Arc<Context>, what: &str, bytes: usize) -> Result<Self, CudaError> {
        let bytes = bytes.next_multiple_of(256).max(256);
        context.bind()?;
        let refuse = |result: CUresult| CudaError::Pinned {
            what: what.to_owned(),
            bytes: bytes as u64,
            reason: describe(result),
        };
        let mut memory: *mut c_void = std::ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: facts 1 and 3; writes one address.
        let result = unsafe { sys::cuMemHostAlloc(&raw mut memory, bytes, flags) };
        let Some(memory) = NonNull::new(memory.cast::<u8>()).filter(|_| result == CUresult::CUDA_SUCCESS)
        else {
            return Err(refuse(result));
        };
        let mut buffer = Self { context: Arc::clone(context), memory, bytes, address: 0 };
        // SAFETY: facts 1 and 3; the memory was allocated to be mapped, and one address is written.
        let result =
            unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut buffer.address, memory.as_ptr().cast(), 0) };
        if result != CUresult::CUDA_SUCCESS {
            return Err(refuse(result));
        }
        buffer.as_mut().fill(0);
        Ok(buffer)
    }

    /// Its first byte, as kernels see it.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its contents, while no kernel uses it.
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is ours, `bytes` long, was zeroed or filled before it is read, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.bytes) }
    }

    /// Copies from its start what a kernel has written.
    ///
    /// # Panics
    ///
    /// If it is shorter than `into`.
    pub(crate) fn copy_to(&self, into: &mut [u8]) {
        assert!(into.len() <= self.bytes, "an output is as long as its buffer");
        // SAFETY: both ranges are valid for so many bytes and belong to different allocations. The bytes were zeroed when
        // they were allocated; the device has finished writing them, as callers wait for the event behind the kernel.
        unsafe { std::ptr::copy_nonoverlapping(self.memory.as_ptr(), into.as_mut_ptr(), into.len()) };
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        // The device may still read or write it. Where it is lost, it no longer does.
        let _ = self.context.finish();
        // SAFETY: facts 1 and 2; the context is current unless it is lost, and then the driver refuses.
        let _ = unsafe { sys::cuMemFreeHost(self.memory.as_ptr().cast()) };
    }
}

/// Memory of the host from which the device copies.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(super) memory: HostBuffer,
    /// After the last copy out of it.
    pub(super) copied: Event,
}

impl Staging {
    /// `bytes` bytes.
    pub(crate) fn new(context: &Arc<Context>, what: &str, bytes: usize) -> Result<Self, CudaError> {
        Ok(Self { memory: HostBuffer::new(context, what, bytes)?, copied: Event::new(context)? })
    }

    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Waits until what was in it has been copied, and gives it out to be filled.
    pub(crate) fn fill(&mut self) -> Result<&mut [u8], CudaError> {
        self.copied.wait()?;
        Ok(self.memory.as_mut())
    }

    /// The address of a range.
    ///
    /// # Panics
    ///
    /// If the range is not within it.
    pub(super) fn range(&self, range: &Range<usize>) -> *const c_void {
        assert!(range.start <= range.end && range.end <= self.memory.bytes, "a copy stays within its buffer");
        // SAFETY: the start lies within the allocation.
        unsafe { self.memory.memory.as_ptr().add(range.start) }.cast_const().cast()
    }
}
