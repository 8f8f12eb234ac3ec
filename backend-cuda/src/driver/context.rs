//! Devices, and the context that everything on one of them belongs to.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::symbols;
use crate::compile::Arch;
use crate::device::Prompts;
use crate::error::CudaError;

/// What an error of the driver is called, and what it means.
pub(super) fn describe(result: CUresult) -> String {
    let text = |text: Result<&CStr, DriverError>| {
        text.map_or("unknown".to_owned(), |text| text.to_string_lossy().into_owned())
    };
    let error = DriverError(result);
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}

/// Fails if a call did that does not leave a device unusable.
pub(super) fn succeed(what: &str, result: CUresult) -> Result<(), CudaError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(CudaError::Lost(format!("{what}: {}", describe(other)))),
    }
}

/// What the driver says of a device that need not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceInfo {
    /// Number of the driver.
    pub(crate) ordinal: i32,
    pub(crate) name: String,
    /// Compute capability.
    pub(crate) capability: (u32, u32),
    /// Memory in bytes.
    pub(crate) memory: u64,
    pub(crate) multiprocessors: u32,
    /// Most shared memory of a block, in bytes.
    pub(crate) shared: u32,
    /// Level 2 cache, in bytes.
    pub(crate) cache: u64,
    /// Whether products are exact to `f32`; an option, not a property.
    pub(crate) exact: bool,
    /// Who multiplies prompts that are not; an option too, and never the library where that is not there.
    pub(crate) prompts: Prompts,
    /// What kernels are compiled for: the device, or something older. Their memory follows from it.
    pub(crate) kernels: Arch,
    /// Whether their blocks may be clusters.
    pub(crate) clusters: bool,
}

/// All devices, in the driver's order: the fastest first.
///
/// # Errors
///
/// If there is no driver, or it fails.
pub(crate) fn devices() -> Result<Vec<DeviceInfo>, CudaError> {
    symbols::driver()?;
    let mut count: c_int = 0;
    // SAFETY: fact 1; needs no context and writes one integer.
    succeed("counting devices", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    (0..count).map(info).collect()
}

fn info(ordinal: i32) -> Result<DeviceInfo, CudaError> {
    let mut device = 0;
    // SAFETY: fact 1; needs no context and writes one integer.
    succeed("finding a device", unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    let mut name = [0 as c_char; 256];
    // SAFETY: fact 1; writes at most 256 characters with their end.
    succeed("naming a device", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 256, device) })?;
    // SAFETY: the driver has ended the text with a zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let mut memory = 0;
    // SAFETY: fact 1; writes one integer.
    succeed("measuring a device", unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, device) })?;
    let attribute = |attribute: Attribute| {
        let mut value: c_int = 0;
        // SAFETY: fact 1; writes one integer.
        succeed("asking a device", unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) })?;
        Ok::<_, CudaError>(u32::try_from(value).unwrap_or(0))
    };
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    Ok(DeviceInfo {
        ordinal,
        name,
        capability,
        memory: memory as u64,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        cache: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        exact: false,
        prompts: Prompts::Tiles,
        kernels: Arch::of(capability),
        clusters: false,
    })
}

/// An opened device: its primary context.
#[derive(Debug)]
pub(crate) struct Context {
    device: sys::CUdevice,
    handle: sys::CUcontext,
    /// Most memory that may be in use on the device, in bytes.
    limit: Option<u64>,
    /// Why nothing works any more.
    lost: Mutex<Option<String>>,
    /// Bytes that buffers hold, and the most that they ever held.
    allocated: AtomicU64,
    peak: AtomicU64,
}

// SAFETY: the driver's functions may be called from any thread; a handle is a name, not memory of ours.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What there is, or what may be used of it.
    pub total: u64,
    /// What is left of that.
    pub free: u64,
    /// What this program holds in buffers.
    pub allocated: u64,
    /// The most that it ever held.
    pub peak: u64,
}

impl Context {
    /// Opens a device. `limit` makes it as small as that.
    pub(crate) fn open(ordinal: i32, limit: Option<u64>) -> Result<Arc<Self>, CudaError> {
        symbols::driver()?;
        let mut device = 0;
        // SAFETY: fact 1; needs no context and writes one integer.
        succeed("finding the device", unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: fact 1; the device is the driver's own number, and one handle is written.
        let result = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut handle, device) };
        succeed("opening the device", result)?;
        Ok(Arc::new(Self {
            device,
            handle,
            limit,
            lost: Mutex::new(None),
            allocated: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }))
    }

    /// Makes this thread use the device.
    ///
    /// # Errors
    ///
    /// [`CudaError::Lost`] if anything failed before.
    pub(crate) fn bind(&self) -> Result<(), CudaError> {
        self.alive()?;
        // SAFETY: facts 1 and 2.
        self.check("selecting the device", unsafe { sys::cuCtxSetCurrent(self.handle) })
    }

    /// Fails if anything failed before.
    pub(crate) fn alive(&self) -> Result<(), CudaError> {
        match &*self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(text) => Err(CudaError::Lost(text.clone())),
            None => Ok(()),
        }
    }

    /// Remembers the first failure: the driver refuses most calls after one, and what is in memory cannot be trusted.
    pub(super) fn check(&self, what: &str, result: CUresult) -> Result<(), CudaError> {
        if result == CUresult::CUDA_SUCCESS {
            return Ok(());
        }
        let text = format!("{what}: {}", describe(result));
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        Err(CudaError::Lost(lost.get_or_insert(text).clone()))
    }

    /// Waits until the device has done everything.
    pub(crate) fn finish(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: facts 1 and 3.
        self.check("waiting for the device", unsafe { sys::cuCtxSynchronize() })
    }

    /// What is free and what is used.
    pub(crate) fn memory(&self) -> Result<Memory, CudaError> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: facts 1 and 3; writes two integers.
        let result = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        self.check("asking for free memory", result)?;
        let (free, total) = (free as u64, total as u64);
        let used = total.saturating_sub(free);
        let most = self.limit.map_or(total, |limit| limit.min(total));
        Ok(Memory {
            total: most,
            free: most.saturating_sub(used).min(free),
            allocated: self.allocated.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
        })
    }

    /// The most memory that may be used, where that was set.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Counts a buffer in.
    pub(super) fn took(&self, bytes: u64) {
        let now = self.allocated.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Counts a buffer out.
    pub(super) fn gave(&self, bytes: u64) {
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: facts 1 and 2. A failure means that the device is gone, and with it what would be released.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}
