//! The compiler.

use std::ffi::{CString, c_char, c_int};

use cudarc::nvrtc::result::NvrtcError;
use cudarc::nvrtc::sys::{self, nvrtcResult};

use super::symbols;
use crate::error::CudaError;

/// What is compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// Name for messages.
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    /// Names and texts of what it may include.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) options: &'a [String],
}

/// What to make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Output {
    /// Machine code of one architecture.
    Machine,
    /// PTX, which the driver translates.
    Ptx,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) image: Vec<u8>,
    /// What the compiler had to say.
    pub(crate) log: String,
}

/// Major and minor version of the compiler.
pub(crate) fn version() -> Result<(u32, u32), CudaError> {
    symbols::compiler()?;
    let (mut major, mut minor): (c_int, c_int) = (0, 0);
    // SAFETY: the function is there, as `compiler` made sure; writes two integers.
    succeed(unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) })?;
    Ok((u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0)))
}

/// Architectures that it makes machine code for: 86 is `sm_86`.
pub(crate) fn architectures() -> Result<Vec<u32>, CudaError> {
    symbols::compiler()?;
    let mut count: c_int = 0;
    // SAFETY: as in `version`; writes one integer.
    succeed(unsafe { sys::nvrtcGetNumSupportedArchs(&raw mut count) })?;
    let mut numbers: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: as in `version`; writes as many integers as it said.
    succeed(unsafe { sys::nvrtcGetSupportedArchs(numbers.as_mut_ptr()) })?;
    Ok(numbers.into_iter().filter_map(|number| u32::try_from(number).ok()).collect())
}

fn succeed(result: nvrtcResult) -> Result<(), CudaError> {
    match result {
        nvrtcResult::NVRTC_SUCCESS => Ok(()),
        other => Err(CudaError::Lost(format!("NVRTC: {}", NvrtcError(other)))),
    }
}

/// A program, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by `nvrtcCreateProgram` and destroyed here only.
        let _ = unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
    }
}

/// Compiles; may be called from several threads.
///
/// # Errors
///
/// The log as the inner error, if the source is wrong; as the outer one, whatever else went wrong.
pub(crate) fn compile(source: &Source<'_>, output: Output) -> Result<Result<Compiled, String>, CudaError> {
    symbols::compiler()?;
    let text = |text: &str| {
        CString::new(text).map_err(|_| CudaError::Lost("a kernel contains a zero character".to_owned()))
    };
    let (code, name) = (text(source.text)?, text(source.name)?);
    let texts = source.headers.iter().map(|(_, body)| text(body)).collect::<Result<Vec<_>, _>>()?;
    let names = source.headers.iter().map(|(name, _)| text(name)).collect::<Result<Vec<_>, _>>()?;
    let options = source.options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
    let (text_pointers, name_pointers, option_pointers) =
        (pointers(&texts), pointers(&names), pointers(&options));

    let count = |pointers: &[*const c_char]| c_int::try_from(pointers.len()).expect("a handful");
    let mut program = Program(std::ptr::null_mut());
    // SAFETY: the function is there; all texts end with a zero and live to the end of this function, which is longer than
    // the program does; the lists are as long as `count` says; one handle is written.
    let created = unsafe {
        sys::nvrtcCreateProgram(
            &raw mut program.0,
            code.as_ptr(),
            name.as_ptr(),
            count(&text_pointers),
            text_pointers.as_ptr(),
            name_pointers.as_ptr(),
        )
    };
    if created != nvrtcResult::NVRTC_SUCCESS {
        // There is nothing to destroy.
        std::mem::forget(program);
        succeed(created)?;
        return Ok(Err(String::new()));
    }
    // SAFETY: the program was made above; options end with a zero and outlive the call.
    let compiled =
        unsafe { sys::nvrtcCompileProgram(program.0, count(&option_pointers), option_pointers.as_ptr()) };
    let log = log(&program)?;
    match compiled {
        nvrtcResult::NVRTC_SUCCESS => {}
        nvrtcResult::NVRTC_ERROR_COMPILATION => return Ok(Err(log)),
        other => return Ok(Err(format!("{}\n{log}", NvrtcError(other)))),
    }
    let image = match output {
        Output::Machine => image(&program, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)?,
        Output::Ptx => image(&program, sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)?,
    };
    Ok(Ok(Compiled { image, log }))
}

fn log(program: &Program) -> Result<String, CudaError> {
    let mut bytes = image(program, sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)?;
    // It ends with a zero.
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks how long something is, and then for it.
fn image(
    program: &Program,
    size: unsafe fn(sys::nvrtcProgram, *mut usize) -> nvrtcResult,
    get: unsafe fn(sys::nvrtcProgram, *mut c_char) -> nvrtcResult,
) -> Result<Vec<u8>, CudaError> {
    let mut bytes = 0;
    // SAFETY: `size` is one of NVRTC's functions that write a size, and the program is alive.
    succeed(unsafe { size(program.0, &raw mut bytes) })?;
    let mut image = vec![0u8; bytes];
    // SAFETY: `get` is the function beside it, and writes as many bytes as that one said.
    succeed(unsafe { get(program.0, image.as_mut_ptr().cast()) })?;
    Ok(image)
}
