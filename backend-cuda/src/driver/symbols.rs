//! Whether the libraries are there and have what is called.

use std::ffi::c_int;
use std::path::Path;
use std::sync::OnceLock;

use cudarc::cublaslt::sys as cublaslt;
use cudarc::driver::sys as cuda;
use cudarc::nvrtc::sys as nvrtc;
use libloading::Library;

use crate::error::CudaError;
use crate::library;

/// Functions of the driver that this crate calls. All of them are in drivers for CUDA 12.0.
const DRIVER: [&str; 44] = [
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// Functions of NVRTC that this crate calls.
const COMPILER: [&str; 12] = [
    "nvrtcVersion",
    "nvrtcCompileProgram",
    "nvrtcCreateProgram",
    "nvrtcDestroyProgram",
    "nvrtcGetCUBIN",
    "nvrtcGetCUBINSize",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetPTX",
    "nvrtcGetPTXSize",
    "nvrtcGetProgramLog",
    "nvrtcGetProgramLogSize",
    "nvrtcGetSupportedArchs",
];

/// Functions of cuBLASLt that this crate calls. All of them are in 12.0 and 13.10, with the same types.
const PRODUCTS: [&str; 15] = [
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoConfigGetAttribute",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// What pip calls the newest NVRTC that this build of cudarc finds.
const NEWEST: &str = "nvidia-cuda-nvrtc";

/// A CUDA version as people write it.
pub(crate) fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// Makes sure that every function of the driver is there, and returns its CUDA version.
///
/// # Errors
///
/// [`CudaError::NoDriver`], [`CudaError::OldDriver`], or what the driver says when it starts.
pub(crate) fn driver() -> Result<(u32, u32), CudaError> {
    static FOUND: OnceLock<(u32, u32)> = OnceLock::new();
    if let Some(&version) = FOUND.get() {
        return Ok(version);
    }
    // SAFETY: opens and closes libraries of the driver, whose initialisers NVIDIA writes to be run at any time.
    let present = unsafe { cuda::is_culib_present() };
    if !present {
        let library = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        return Err(CudaError::NoDriver { library });
    }
    // SAFETY: as above; it was there a moment ago.
    let library = unsafe { cuda::culib() };
    if !has(library, "cuDriverGetVersion") {
        return Err(CudaError::OldDriver { version: "unknown".to_owned(), symbol: "cuDriverGetVersion" });
    }
    let mut number: c_int = 0;
    // SAFETY: the function is there (checked above), needs no context, and writes one integer.
    let result = unsafe { cuda::cuDriverGetVersion(&raw mut number) };
    let number = if result == cuda::CUresult::CUDA_SUCCESS { u32::try_from(number).unwrap_or(0) } else { 0 };
    let found = (number / 1000, number % 1000 / 10);
    if let Some(symbol) = DRIVER.into_iter().find(|symbol| !has(library, symbol)) {
        return Err(CudaError::OldDriver { version: version(found), symbol });
    }
    // SAFETY: fact 1 of `driver` holds from here on, and this needs no context.
    let result = unsafe { cuda::cuInit(0) };
    match result {
        cuda::CUresult::CUDA_SUCCESS => Ok(*FOUND.get_or_init(|| found)),
        // A driver without a card.
        cuda::CUresult::CUDA_ERROR_NO_DEVICE => {
            Err(CudaError::NoDevice { wanted: "in this machine".to_owned(), found: "none".to_owned() })
        }
        other => {
            Err(CudaError::Lost(format!("the driver does not start: {}", super::context::describe(other))))
        }
    }
}

/// Whether the driver has a function that older ones lack. Only after [`driver`].
pub(super) fn driver_has(symbol: &str) -> bool {
    // SAFETY: `driver` has loaded the library.
    let library = unsafe { cuda::culib() };
    has(library, symbol)
}

/// Makes sure that every function of NVRTC is there.
///
/// One that the loader finds is taken; otherwise the usual places are searched, for an NVRTC of the driver's age first.
///
/// # Errors
///
/// [`CudaError::NoCompiler`] or [`CudaError::OldCompiler`].
pub(crate) fn compiler() -> Result<(), CudaError> {
    static FOUND: OnceLock<()> = OnceLock::new();
    if FOUND.get().is_some() {
        return Ok(());
    }
    locate("nvrtc", compiler_present)
        .map_err(|(searched, driver)| CudaError::NoCompiler { searched, package: package(driver) })?;
    // SAFETY: it was there a moment ago, and its initialisers may be run at any time.
    let library = unsafe { nvrtc::culib() };
    if let Some(symbol) = COMPILER.into_iter().find(|symbol| !has(library, symbol)) {
        return Err(CudaError::OldCompiler {
            version: "of this machine".to_owned(),
            symbol,
            package: NEWEST,
        });
    }
    FOUND.get_or_init(|| ());
    Ok(())
}

/// Makes sure that the loader finds a library; otherwise says where it was looked for, and the driver's major version.
fn locate(name: &str, present: fn() -> bool) -> Result<(), (String, Option<u32>)> {
    if present() {
        return Ok(());
    }
    let driver = driver().ok().map(|(major, _)| major);
    let (found, searched) = library::files(name, driver);
    for path in found {
        for companion in library::companions(name, &path) {
            preload(&companion);
        }
        preload(&path);
        if present() {
            return Ok(());
        }
    }
    Err((searched, driver))
}

/// Makes sure that every function of cuBLASLt is there, as [`compiler`] does for NVRTC.
///
/// # Errors
///
/// [`CudaError::NoLibrary`], or [`CudaError::Library`] if it is too old.
pub(super) fn library() -> Result<(), CudaError> {
    static FOUND: OnceLock<()> = OnceLock::new();
    if FOUND.get().is_some() {
        return Ok(());
    }
    // It is half a gigabyte, which takes a tenth of a second to load: kept, so that asking whether it is there does not
    // load it again.
    let driver = driver().ok().map(|(major, _)| major);
    let _ = library::names("cublasLt", driver).iter().any(|name| preload(Path::new(name)));
    locate("cublasLt", library_present).map_err(|(searched, driver)| {
        let package =
            if driver.is_some_and(|major| major < 13) { "nvidia-cublas-cu12" } else { "nvidia-cublas" };
        CudaError::NoLibrary { searched, package }
    })?;
    // SAFETY: it was there a moment ago, and its initialisers may be run at any time.
    let library = unsafe { cublaslt::culib() };
    if let Some(symbol) = PRODUCTS.into_iter().find(|symbol| !has(library, symbol)) {
        return Err(CudaError::Library(format!("it is too old and has no {symbol}")));
    }
    FOUND.get_or_init(|| ());
    Ok(())
}

fn library_present() -> bool {
    // SAFETY: opens and closes cuBLASLt, whose initialisers NVIDIA writes to be run at any time.
    unsafe { cublaslt::is_culib_present() }
}

/// What pip calls the NVRTC for a driver.
pub(crate) fn package(driver_major: Option<u32>) -> &'static str {
    match driver_major {
        Some(..=12) => "nvidia-cuda-nvrtc-cu12",
        _ => NEWEST,
    }
}

fn compiler_present() -> bool {
    // SAFETY: opens and closes NVRTC, whose initialisers NVIDIA writes to be run at any time.
    unsafe { nvrtc::is_culib_present() }
}

/// Loads a library for the rest of the process, so that the loader finds it by its name; says whether it could.
#[cfg(unix)]
fn preload(path: &Path) -> bool {
    use libloading::os::unix;
    // SAFETY: as in `compiler_present`; the path is a file of that name in a folder where NVIDIA's libraries are installed,
    // or a name that the loader knows one by.
    let opened = unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_GLOBAL) };
    // One that does not load is passed over; the search ends with an error if there is no other.
    opened.map(std::mem::forget).is_ok()
}

#[cfg(not(unix))]
fn preload(_: &Path) -> bool {
    false
}

fn has(library: &Library, symbol: &str) -> bool {
    // SAFETY: the address is compared with nothing and never called.
    unsafe { library.get::<*const ()>(symbol) }.is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Functions that are looked for where they are called, as older drivers lack them.
    const OPTIONAL: [&str; 2] = ["cuEventElapsedTime_v2", "cuFuncGetParamInfo"];

    /// Functions that cudarc calls for us.
    const BY_CUDARC: [&str; 2] = ["cuGetErrorName", "cuGetErrorString"];

    /// Functions that the sources of this folder call, by how their names begin.
    fn called(start: &str) -> BTreeSet<&'static str> {
        let here = include_str!("symbols.rs").split("#[cfg(test)]").next().expect("there is a beginning");
        let sources = [
            include_str!("context.rs"),
            include_str!("cublaslt.rs"),
            include_str!("graph.rs"),
            include_str!("launch.rs"),
            include_str!("memory.rs"),
            include_str!("module.rs"),
            include_str!("nvrtc.rs"),
            include_str!("stream.rs"),
            include_str!("table.rs"),
            include_str!("../devices.rs"),
            here,
        ];
        let mut names = BTreeSet::new();
        for (source, path) in sources.iter().flat_map(|source| ["sys::", "cuda::"].map(|path| (source, path)))
        {
            for rest in source.split(path).skip(1) {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                // Called, or handed to somebody who calls it: a type has something else behind it.
                if rest.starts_with(start) && rest[end..].starts_with(['(', ',', ')']) {
                    names.insert(&rest[..end]);
                }
            }
        }
        names
    }

    #[test]
    fn what_is_called_is_what_is_looked_for() {
        let (called_products, called_driver): (BTreeSet<_>, BTreeSet<_>) =
            called("cu").into_iter().partition(|name| name.starts_with("cublas"));
        let functions = called_products.into_iter().filter(|name| !name.ends_with("_t"));
        assert_eq!(functions.collect::<Vec<_>>(), PRODUCTS);
        for name in &called_driver {
            let looked_for = DRIVER.contains(name) || OPTIONAL.contains(name);
            assert!(looked_for || *name == "culib", "{name} is called and not looked for");
        }
        for name in DRIVER.iter().chain(&OPTIONAL) {
            assert!(
                called_driver.contains(name) || BY_CUDARC.contains(name),
                "{name} is looked for and never called"
            );
        }
        let mut called_compiler = called("nvrtc");
        assert!(called_compiler.remove("nvrtcProgram"), "the one type that looks like a function");
        assert_eq!(called_compiler, COMPILER.into_iter().collect());
    }
}
