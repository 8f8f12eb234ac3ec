//! From `--backend` and `--device` to a device, and what this program needs of one beside steps.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod gpu;

use std::io::Write;

use gemma4_conformance::cases::Case;
use gemma4_core::backend::{Backend, Step};
use gemma4_core::engine::Options;
use gemma4_core::model::gemma4::Gemma4;
use gemma4_core::plan::{MemoryPlan, Target};
use gemma4_core::reference::{Reference, ReferenceError};
use serde::Serialize;

use crate::cli::{BackendName, Global};
use crate::failure::Failure;

/// What commands need of a backend beside what a step needs.
pub(crate) trait Device: Backend + Sized {
    /// Where its weights are.
    const TARGET: Target;

    /// What is computed on, for reports.
    fn about(&self) -> About;

    /// The same device once more, without what this one has sampled.
    fn another(&self) -> Result<Self, Self::Error>;

    /// Runs a step and says when each dispatch ran; `None` if this device cannot time them.
    fn profile(&self, plan: &mut Self::Plan, step: &Step<'_>) -> Result<Option<Vec<Timed>>, Self::Error>;

    /// Gets ready for these cases, where that is faster together than one after the other.
    fn get_ready(&self, _: &[Case]) -> Result<(), gemma4_conformance::Failure> {
        Ok(())
    }

    /// Its memory; `None` if it does not say.
    fn memory(&self) -> Result<Option<Memory>, Self::Error> {
        Ok(None)
    }

    /// What a model takes of that memory; `None` if it cannot be told before.
    fn memory_plan(&self, _: &Gemma4, _: &Options) -> Result<Option<MemoryPlan>, Failure> {
        Ok(None)
    }

    /// Bytes a second that it reads from its memory, measured now; `None` if it cannot be.
    fn bandwidth(&self) -> Result<Option<f64>, Self::Error> {
        Ok(None)
    }
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// What there is, or may be used.
    pub(crate) total: u64,
    /// What is left of it.
    pub(crate) free: u64,
    /// What this program has allocated.
    pub(crate) allocated: u64,
    /// The most that it had.
    pub(crate) peak: u64,
}

/// A device as a report names it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct About {
    /// As on the command line.
    pub(crate) backend: &'static str,
    /// Name, kind and interface.
    pub(crate) device: String,
    /// Name and version of the driver.
    pub(crate) driver: Option<String>,
    /// Optional features in use.
    pub(crate) features: Vec<String>,
}

/// One dispatch of a step.
#[derive(Clone, Debug)]
pub(crate) struct Timed {
    pub(crate) op: &'static str,
    pub(crate) entry: String,
    pub(crate) seconds: f64,
}

/// A device of one of the kinds that this build has. [`with`] makes code over any of them.
pub(crate) enum Chosen {
    Cpu(Reference),
    #[cfg(feature = "cuda")]
    Cuda(gemma4_cuda::Cuda),
    #[cfg(feature = "wgpu")]
    Wgpu(gemma4_wgpu::Wgpu),
}

/// Runs `$body` with `$device` as what was chosen, whatever its type: the one place that tells the kinds apart.
macro_rules! with {
    ($chosen:expr, $device:ident => $body:expr) => {
        match $chosen {
            $crate::device::Chosen::Cpu($device) => $body,
            #[cfg(feature = "cuda")]
            $crate::device::Chosen::Cuda($device) => $body,
            #[cfg(feature = "wgpu")]
            $crate::device::Chosen::Wgpu($device) => $body,
        }
    };
}
pub(crate) use with;

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be used.
    Use,
    /// To be examined: what was never written is NaN.
    Examine,
}

/// The device that the user asked for. `auto` is the best real GPU, and the processor where there is none.
///
/// Which one that is and why is said on stderr, if that is a terminal and the user left the choice to us.
pub(crate) fn choose(global: &Global, purpose: Purpose) -> Result<Chosen, Failure> {
    match global.backend {
        BackendName::Cpu => {
            let flags = [
                (global.device.is_some(), "--device"),
                (!global.with.is_empty(), "--with"),
                (!global.without.is_empty(), "--without"),
                (global.arch_limit.is_some(), "--arch-limit"),
                (global.prompts.is_some(), "--prompts"),
                (global.vram_limit.is_some(), "--vram-limit"),
            ];
            for (given, flag) in flags {
                if given {
                    return Err(Failure::usage(format!("{flag} is about GPUs, and --backend cpu uses none")));
                }
            }
            Ok(Chosen::Cpu(cpu(global)?))
        }
        BackendName::Cuda => insist_on_cuda(global, purpose),
        BackendName::Auto => match cuda_if_it_works(global, purpose)? {
            Some(cuda) => Ok(cuda),
            None => gpu_or_cpu(global, purpose),
        },
        BackendName::Wgpu => {
            if only_cuda(global) {
                return Err(Failure::usage(
                    "--arch-limit, --vram-limit and --prompts are about CUDA, not --backend wgpu",
                ));
            }
            gpu_or_cpu(global, purpose)
        }
    }
}

/// Whether the user asks for what only CUDA has.
fn only_cuda(global: &Global) -> bool {
    global.arch_limit.is_some() || global.vram_limit.is_some() || global.prompts.is_some()
}

#[cfg(feature = "cuda")]
fn insist_on_cuda(global: &Global, purpose: Purpose) -> Result<Chosen, Failure> {
    cuda::insist(global, purpose)
}

#[cfg(feature = "cuda")]
fn cuda_if_it_works(global: &Global, purpose: Purpose) -> Result<Option<Chosen>, Failure> {
    cuda::auto(global, purpose)
}

#[cfg(not(feature = "cuda"))]
fn insist_on_cuda(_: &Global, _: Purpose) -> Result<Chosen, Failure> {
    Err(no_cuda())
}

#[cfg(not(feature = "cuda"))]
fn cuda_if_it_works(global: &Global, _: Purpose) -> Result<Option<Chosen>, Failure> {
    if only_cuda(global) { Err(no_cuda()) } else { Ok(None) }
}

#[cfg(not(feature = "cuda"))]
fn no_cuda() -> Failure {
    Failure::usage("this build has no cuda backend (its feature `cuda` is off)")
}

#[cfg(feature = "wgpu")]
fn gpu_or_cpu(global: &Global, purpose: Purpose) -> Result<Chosen, Failure> {
    gpu::choose(global, purpose)
}

#[cfg(not(feature = "wgpu"))]
fn gpu_or_cpu(global: &Global, _: Purpose) -> Result<Chosen, Failure> {
    let flags = global.device.is_some() || !global.with.is_empty() || !global.without.is_empty();
    if global.backend == BackendName::Wgpu || flags {
        return Err(Failure::usage(
            "this build has no wgpu backend (its feature `wgpu` is off); use --backend cpu",
        ));
    }
    Ok(Chosen::Cpu(cpu(global)?))
}

/// How many devices of CUDA come before the adapters of wgpu in the numbers of `--device`.
#[cfg(feature = "wgpu")]
pub(crate) fn before_adapters() -> usize {
    #[cfg(feature = "cuda")]
    return cuda::list().len();
    #[cfg(not(feature = "cuda"))]
    return 0;
}

fn cpu(global: &Global) -> Result<Reference, ReferenceError> {
    Reference::new(global.threads.map(usize::from))
}

/// A remark for whoever sits at the terminal.
pub(crate) fn remark(text: &str) {
    let mut stderr = anstream::stderr();
    if stderr.is_terminal() {
        // Whoever closed stderr does not want to know.
        let _ = writeln!(stderr, "{text}");
    }
}

impl Device for Reference {
    const TARGET: Target = Target::Cpu;

    fn about(&self) -> About {
        let s = if self.threads() == 1 { "" } else { "s" };
        About {
            backend: "cpu",
            device: format!("the processor, {} thread{s}", self.threads()),
            driver: None,
            features: Vec::new(),
        }
    }

    fn another(&self) -> Result<Self, ReferenceError> {
        Reference::new(Some(self.threads()))
    }

    fn profile(&self, _: &mut Self::Plan, _: &Step<'_>) -> Result<Option<Vec<Timed>>, ReferenceError> {
        Ok(None)
    }
}
