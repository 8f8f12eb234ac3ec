//! The opened GPU: its queues, its compiled kernels, and the scratch memory that plans share.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::compile::{Arch, Compiler, Folder, Progress};
use crate::devices::{self, Choice, DeviceReport};
use crate::driver::{Algorithm, Buffer, Context, DeviceInfo, Library, Module, Shape, Stream, symbols};
use crate::error::CudaError;
use crate::kernels::{self, Unit};
use crate::lower::library::{self, Answers, Offers};
use crate::weights::Uploader;

/// Who multiplies prompts, where their products are of halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prompts {
    /// Whoever was measured to be faster on the architecture, for each shape of a weight.
    #[default]
    Auto,
    /// Kernels of this program, on the blocks of the file.
    Tiles,
    /// NVIDIA's cuBLASLt, on weights that are made halves for it, wherever it can.
    Library,
}

impl FromStr for Prompts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "tiles" => Ok(Self::Tiles),
            "cublaslt" => Ok(Self::Library),
            other => Err(format!("`{other}` is none of auto, tiles and cublaslt")),
        }
    }
}

/// Hears what whoever waits for the device may want to know.
#[derive(Clone)]
pub struct Remarks(Arc<dyn Fn(&str) + Send + Sync>);

impl Remarks {
    /// Calls `hear` with a sentence, from any thread.
    pub fn new(hear: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }
}

impl fmt::Debug for Remarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remarks")
    }
}

/// How the device is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which GPU.
    pub device: Choice,
    /// Kernels are compiled for no newer architecture than this.
    pub arch_limit: Option<Arch>,
    /// The GPU is treated as if it had no more memory than this, in bytes.
    pub vram_limit: Option<u64>,
    /// Products are exact to `f32`; otherwise activations of decoding are 16-bit integers, and operands of prompts are
    /// halves, with errors of some parts in a thousand.
    pub exact: bool,
    /// Who multiplies prompts that are not exact.
    pub prompts: Prompts,
    /// Decoding steps are captured and replayed; otherwise kernels are always launched one by one.
    pub graphs: bool,
    /// Scratch is NaN when a step begins, so that a value that was never written is noticed: for tests.
    pub poison: bool,
    /// The GPU is treated as if it had no more multiprocessors than this: for tests of how work is shared out.
    pub multiprocessors: Option<u32>,
    /// Where compiled kernels are kept.
    pub cache: Folder,
    /// Hears of kernels that are being compiled.
    pub progress: Option<Progress>,
    /// Hears, once, if NVIDIA's library does not multiply prompts that it was measured to be faster at.
    pub remarks: Option<Remarks>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: Choice::Best,
            arch_limit: None,
            vram_limit: None,
            exact: false,
            prompts: Prompts::Auto,
            graphs: true,
            poison: false,
            multiprocessors: None,
            cache: Folder::User,
            progress: None,
            remarks: None,
        }
    }
}

/// Scratch memory of all plans of a device: steps run one after another, and none needs what another left.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    buffer: Option<Buffer>,
    /// Changes whenever the memory moves.
    generation: u64,
}

impl Arena {
    /// The memory, and which one it is.
    pub(crate) fn get(&self) -> Option<(&Buffer, u64)> {
        self.buffer.as_ref().map(|buffer| (buffer, self.generation))
    }

    /// Makes it at least so large. What plans know of where it is may be out of date afterwards.
    pub(crate) fn reserve(&mut self, context: &Arc<Context>, bytes: u64) -> Result<(), CudaError> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.bytes() >= bytes) {
            return Ok(());
        }
        // First the old one goes, for both together may not fit.
        self.buffer = None;
        self.generation += 1;
        self.buffer = Some(Buffer::new(context, "scratch memory", bytes)?);
        Ok(())
    }
}

/// Why there is no library.
#[derive(Debug)]
pub(crate) enum Absent {
    /// Nobody wants it.
    Unwanted,
    /// It does not work, and nobody insists on it.
    Missing(CudaError),
}

/// An opened GPU.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) report: DeviceReport,
    pub(crate) info: DeviceInfo,
    pub(crate) compiler: Compiler,
    pub(crate) graphs: bool,
    /// Kernels may begin while the one before them still runs, for which they wait themselves.
    pub(crate) follows: bool,
    pub(crate) poison: bool,
    modules: Mutex<HashMap<Unit, Arc<Module>>>,
    library: Result<Library, Absent>,
    algorithms: Mutex<Answers<Algorithm>>,
    remarks: Option<Remarks>,
    arena: Mutex<Arena>,
    pub(crate) uploader: Mutex<Option<Uploader>>,
    /// Where steps run.
    pub(crate) stream: Stream,
    /// Where outputs are copied, beside later steps.
    pub(crate) downloads: Stream,
    /// Where steps are captured; only while [`Device::arena`] is held.
    pub(crate) recorder: Stream,
    pub(crate) context: Arc<Context>,
}

impl Device {
    pub(crate) fn open(options: &Options) -> Result<Self, CudaError> {
        let (mut info, report) = devices::take(&options.device)?;
        info.exact = options.exact;
        info.multiprocessors = options.multiprocessors.unwrap_or(u32::MAX).min(info.multiprocessors);
        let driver = symbols::driver()?;
        let progress = options.progress.clone();
        let compiler = Compiler::new(report.arch(), options.arch_limit, driver, &options.cache, progress)?;
        let context = Context::open(info.ordinal, options.vram_limit)?;
        (info.kernels, info.clusters) = (compiler.arch(), compiler.clusters());
        let library = match options.prompts {
            _ if options.exact => Err(Absent::Unwanted),
            Prompts::Library => Ok(Library::open(&context)?),
            Prompts::Auto if library::is_faster_on(info.kernels) => match Library::open(&context) {
                Err(error @ (CudaError::NoLibrary { .. } | CudaError::Library(_))) => {
                    Err(Absent::Missing(error))
                }
                opened => Ok(opened?),
            },
            Prompts::Auto | Prompts::Tiles => Err(Absent::Unwanted),
        };
        info.prompts = if library.is_ok() { options.prompts } else { Prompts::Tiles };
        // Captures know of it since CUDA 12.3.
        let follows = compiler.follows() && driver >= (12, 3);
        Ok(Self {
            library,
            algorithms: Mutex::default(),
            remarks: options.remarks.clone(),
            report,
            info,
            compiler,
            graphs: options.graphs,
            follows,
            poison: options.poison,
            modules: Mutex::default(),
            arena: Mutex::default(),
            uploader: Mutex::default(),
            stream: Stream::new(&context)?,
            downloads: Stream::new(&context)?,
            recorder: Stream::new(&context)?,
            context,
        })
    }

    /// The code of these units, compiled unless it was before; in the order of `units`.
    pub(crate) fn modules(&self, units: &[Unit]) -> Result<Vec<Arc<Module>>, CudaError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: Vec<Unit> =
            units.iter().filter(|unit| !modules.contains_key(unit)).cloned().collect();
        missing.sort();
        missing.dedup();
        if !missing.is_empty() {
            let listed = kernels::units();
            if let Some(unit) = missing.iter().find(|unit| !unit.is_one_of(&listed)) {
                let what = format!("{unit} is no unit that its op lists");
                return Err(CudaError::Launch { entry: unit.file.to_owned(), what });
            }
            let loaded = self.compiler.each(&missing, |unit, image| {
                Ok(Arc::new(Module::load(&self.context, &unit.to_string(), &image)?))
            })?;
            modules.extend(missing.into_iter().zip(loaded));
        }
        Ok(units.iter().map(|unit| Arc::clone(&modules[unit])).collect())
    }

    /// NVIDIA's library of products.
    ///
    /// # Errors
    ///
    /// If it is not there: then no lowering asks for it.
    pub(crate) fn library(&self) -> Result<&Library, CudaError> {
        self.library.as_ref().map_err(|_| CudaError::Library("it was not opened".to_owned()))
    }

    /// Why the library is not used although it was measured to be faster.
    pub(crate) fn library_obstacle(&self) -> Option<&CudaError> {
        match &self.library {
            Err(Absent::Missing(error)) => Some(error),
            Err(Absent::Unwanted) | Ok(_) => None,
        }
    }

    /// How the library multiplies a shape; `None` if it does not, and nobody insists on it.
    pub(crate) fn algorithm(&self, shape: Shape) -> Result<Option<Algorithm>, CudaError> {
        let library = self.library()?;
        let remark = |text: &str| {
            if let Some(Remarks(hear)) = &self.remarks {
                hear(text);
            }
        };
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        algorithms.of(shape, self.info.prompts, || library.choose(shape), remark)
    }

    /// The scratch memory of plans, which stays where it is as long as the guard lives.
    pub(crate) fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of zeros.
    pub(crate) fn zeroed(&self, what: &str, bytes: u64) -> Result<Buffer, CudaError> {
        let buffer = Buffer::new(&self.context, what, bytes)?;
        self.stream.set(&buffer, 0..buffer.bytes(), 0)?;
        Ok(buffer)
    }
}

impl Offers for Device {
    fn offers(&self, shape: Shape) -> bool {
        // What is an error is said where the product gets its arguments.
        !matches!(self.algorithm(shape), Ok(None))
    }
}
