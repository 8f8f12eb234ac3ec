//! Compiled code on the device.

use std::ffi::{CString, c_int};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute as Attribute, CUresult};

use super::context::describe;
use super::{Context, symbols};
use crate::error::CudaError;

/// Shared memory that a block may have without asking, in bytes.
const SHARED: u32 = 48 << 10;

/// A compiled unit on the device.
#[derive(Debug)]
pub(crate) struct Module {
    context: Arc<Context>,
    handle: sys::CUmodule,
}

// SAFETY: modules may be used from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Loads machine code, or PTX that the driver translates; `unit` names it.
    ///
    /// # Errors
    ///
    /// [`CudaError::Load`].
    pub(crate) fn load(context: &Arc<Context>, unit: &str, image: &[u8]) -> Result<Self, CudaError> {
        context.bind()?;
        let load = |reason| CudaError::Load { unit: unit.to_owned(), reason };
        // PTX is a text that ends with a zero, and machine code says itself how long it is.
        let machine = image.starts_with(b"\x7fELF") && image.len() >= 64;
        if !machine && image.last() != Some(&0) {
            return Err(load("it is neither machine code nor PTX".to_owned()));
        }
        let mut handle = std::ptr::null_mut();
        // SAFETY: facts 1 and 3; the image is complete, as checked above and by the checksum of the cache, and is not needed
        // after the call; writes one handle.
        match unsafe { sys::cuModuleLoadData(&raw mut handle, image.as_ptr().cast()) } {
            CUresult::CUDA_SUCCESS => Ok(Self { context: Arc::clone(context), handle }),
            result => Err(load(describe(result))),
        }
    }

    /// Its entry point `name`.
    pub(crate) fn function(self: &Arc<Self>, name: &str) -> Result<Function, CudaError> {
        self.context.bind()?;
        let missing = |reason: String| CudaError::Launch { entry: name.to_owned(), what: reason };
        let text = CString::new(name).map_err(|error| missing(error.to_string()))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: facts 1 to 3; the name ends with a zero, and one handle is written.
        match unsafe { sys::cuModuleGetFunction(&raw mut handle, self.handle, text.as_ptr()) } {
            CUresult::CUDA_SUCCESS => {
                Ok(Function { module: Arc::clone(self), handle, name: name.to_owned() })
            }
            result => Err(missing(describe(result))),
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.finish().is_ok() {
            // SAFETY: facts 1 to 3, and no kernel of it runs any more.
            let result = unsafe { sys::cuModuleUnload(self.handle) };
            let _ = self.context.check("unloading kernels", result);
        }
    }
}

/// An entry point.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    module: Arc<Module>,
    handle: sys::CUfunction,
    name: String,
}

// SAFETY: functions may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    pub(super) fn handle(&self) -> sys::CUfunction {
        self.handle
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn attribute(&self, attribute: Attribute) -> Result<u32, CudaError> {
        self.module.context.bind()?;
        let mut value: c_int = 0;
        // SAFETY: facts 1 to 3; writes one integer.
        let result = unsafe { sys::cuFuncGetAttribute(&raw mut value, attribute, self.handle) };
        self.module.context.check("asking a kernel", result)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// Bytes of each of its parameters; `None` if the driver is too old to say.
    pub(super) fn parameters(&self) -> Result<Option<Vec<usize>>, CudaError> {
        if !symbols::driver_has("cuFuncGetParamInfo") {
            return Ok(None);
        }
        self.module.context.bind()?;
        let mut sizes = Vec::new();
        loop {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: facts 1 (checked above) to 3; writes two integers.
            let result =
                unsafe { sys::cuFuncGetParamInfo(self.handle, sizes.len(), &raw mut offset, &raw mut size) };
            match result {
                // There is no parameter of this number.
                CUresult::CUDA_ERROR_INVALID_VALUE => return Ok(Some(sizes)),
                result => self.module.context.check("asking a kernel for its parameters", result)?,
            }
            sizes.push(size);
        }
    }

    /// Makes blocks of so many threads and bytes of dynamic shared memory possible.
    pub(super) fn allow(&self, threads: u32, shared: u32) -> Result<(), CudaError> {
        let refuse = |what| Err(CudaError::Launch { entry: self.name.clone(), what });
        let most = self.attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        if threads == 0 || threads > most {
            return refuse(format!("blocks of {threads} threads, at most {most} are possible"));
        }
        let fixed = self.attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        if fixed + shared <= SHARED {
            return Ok(());
        }
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // It is the kernel's, and launches of other plans may need more.
        if shared <= self.attribute(attribute)? {
            return Ok(());
        }
        let bytes = c_int::try_from(shared).unwrap_or(c_int::MAX);
        // SAFETY: facts 1 to 3.
        match unsafe { sys::cuFuncSetAttribute(self.handle, attribute, bytes) } {
            CUresult::CUDA_SUCCESS => Ok(()),
            result => refuse(format!("{shared} bytes of shared memory: {}", describe(result))),
        }
    }
}
