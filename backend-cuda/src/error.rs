//! What can go wrong on a GPU.

use gemma4_core::backend::StepError;
use gemma4_core::plan::Size;
use gemma4_core::program::Act;

/// What this backend cannot do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no CUDA driver.
    #[error(
        "there is no NVIDIA driver on this machine ({library} is not found); install the driver of your GPU, or use \
         --backend wgpu or --backend cpu"
    )]
    NoDriver {
        /// The library that was looked for.
        library: &'static str,
    },
    /// The driver lacks a function.
    #[error(
        "the NVIDIA driver (CUDA {version}) is too old: it has no {symbol}; update it to one for CUDA 12 or newer, or use \
         --backend wgpu"
    )]
    OldDriver {
        /// CUDA version of the driver.
        version: String,
        /// The function that is missing.
        symbol: &'static str,
    },
    /// There is no compiler for kernels.
    #[error(
        "NVRTC, the compiler of CUDA kernels, is not found ({searched}); install it with `pip install {package}`, or \
         install a CUDA toolkit and set CUDA_HOME to its folder"
    )]
    NoCompiler {
        /// Where it was looked for.
        searched: String,
        /// What pip calls it.
        package: &'static str,
    },
    /// The compiler lacks a function.
    #[error(
        "NVRTC {version} is too old: it has no {symbol}; install a newer one with `pip install {package}`"
    )]
    OldCompiler {
        /// Its version.
        version: String,
        /// The function that is missing.
        symbol: &'static str,
        /// What pip calls a newer one.
        package: &'static str,
    },
    /// There is no library of products.
    #[error(
        "cuBLASLt, NVIDIA's library of matrix products, is not found ({searched}); install it with `pip install {package}`, \
         or do without it (--prompts tiles)"
    )]
    NoLibrary {
        /// Where it was looked for.
        searched: String,
        /// What pip calls it.
        package: &'static str,
    },
    /// The library of products does not do what it should.
    #[error("cuBLASLt: {0}; do without it (--prompts tiles)")]
    Library(String),
    /// The compiler makes code that the driver cannot read.
    #[error(
        "NVRTC {compiler} makes code that the NVIDIA driver (CUDA {driver}) cannot run; update the driver, or install an \
         NVRTC of its age with `pip install {package}` in place of the newer one"
    )]
    OlderThanCompiler {
        /// CUDA version of the driver.
        driver: String,
        /// Version of NVRTC.
        compiler: String,
        /// What pip calls one that fits.
        package: &'static str,
    },
    /// No GPU, or none of that name.
    #[error("no CUDA GPU {wanted}; this machine has {found}; choose with --device, or use --backend wgpu")]
    NoDevice {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The GPU is older than the kernels.
    #[error(
        "{name} has compute capability {capability}, and CUDA kernels need 8.0 (Ampere) or newer; use --backend wgpu, \
         which runs on it through Vulkan"
    )]
    OldDevice {
        /// Name of the GPU.
        name: String,
        /// Its compute capability.
        capability: String,
    },
    /// An option that makes no sense on this GPU.
    #[error("{option} {got}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        got: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The device, or what it was told to use of it, has too little memory left.
    #[error(
        "{what} of {} does not fit: {} of GPU memory are free{}; use a shorter --ctx, a smaller --kv type or a smaller \
         model",
        Size(*bytes),
        Size(*free),
        limit.map_or(String::new(), |limit| format!(" below --vram-limit {}", Size(limit)))
    )]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Its size.
        bytes: u64,
        /// What is left, in bytes.
        free: u64,
        /// Most that may be used, in bytes.
        limit: Option<u64>,
    },
    /// Main memory cannot be pinned for the GPU to read.
    #[error("{what} of {} cannot be locked in main memory: {reason}", Size(*bytes))]
    Pinned {
        /// What it is for.
        what: String,
        /// Its size.
        bytes: u64,
        /// What the driver said.
        reason: String,
    },
    /// A kernel does not compile: a bug of this program.
    #[error("kernel {unit} does not compile for {arch}: {message}")]
    Compile {
        /// File and macros.
        unit: String,
        /// Architecture.
        arch: String,
        /// The first error of the compiler.
        message: String,
    },
    /// The driver does not load a compiled kernel.
    #[error("the driver does not load kernel {unit}: {reason}")]
    Load {
        /// File and macros.
        unit: String,
        /// What the driver said.
        reason: String,
    },
    /// A launch does not fit its kernel: a bug of this program.
    #[error("kernel {entry}: {what}")]
    Launch {
        /// Entry point.
        entry: String,
        /// What does not fit.
        what: String,
    },
    /// An op, or a shape or type of it, that has no kernel.
    #[error("{op} cannot run on CUDA: {reason}")]
    Unsupported {
        /// Name of the op.
        op: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The step does not fit the program.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A row wants the last sampled token of a slot that has none.
    #[error("slot {0} has sampled no token yet")]
    NothingSampled(u32),
    /// A plan keeps the outputs of two steps.
    #[error("the outputs of step {0} are no longer kept")]
    Gone(u64),
    /// An output is read into a slice of another size, or is none.
    #[error("output {act} has {want} bytes, not {got}")]
    OutputSize {
        /// The output.
        act: Act,
        /// Its size in bytes.
        want: usize,
        /// Size asked for.
        got: usize,
    },
    /// The device failed, and everything on it is lost: start anew.
    #[error("the GPU stopped working: {0}")]
    Lost(String),
}
