//! NVIDIA GPUs through CUDA.

use gemma4_conformance::cases::Case;
use gemma4_core::backend::Step;
use gemma4_core::engine::Options as EngineOptions;
use gemma4_core::model::gemma4::Gemma4;
use gemma4_core::plan::{self, MemoryPlan, Target};
use gemma4_cuda::devices::{self, Choice, DeviceReport};
use gemma4_cuda::{Cuda, CudaError, Options, Plan, Progress, Prompts, Remarks};
use indicatif::ProgressBar;

use super::{About, Chosen, Device, Memory, Purpose, Timed, only_cuda, remark};
use crate::cli::{self, BackendName, Feature, Global, Lossy};
use crate::failure::Failure;
use crate::load;

/// GPUs that kernels may run on, in the order of their numbers; empty without a driver.
pub(crate) fn list() -> Vec<DeviceReport> {
    devices::list().unwrap_or_default()
}

/// Why CUDA is not used although there is a GPU for it.
pub(crate) fn obstacle() -> Option<String> {
    devices::choose(&list(), &Choice::Best)?;
    gemma4_cuda::compile::compiler_version().err().map(|error| error.to_string())
}

/// Whether the user asks for what only wgpu has. Without its 8-bit integers CUDA is in any case.
fn only_wgpu(global: &Global) -> Option<&'static str> {
    let without = |feature| global.without.contains(&feature);
    if global.with.contains(&Lossy::Int8) {
        Some("--with int8")
    } else if without(Feature::Subgroups) {
        Some("--without subgroups")
    } else {
        None
    }
}

fn options(global: &Global, device: Choice, purpose: Purpose) -> Result<Options, Failure> {
    let arch_limit = match &global.arch_limit {
        None => None,
        Some(text) => Some(text.parse().map_err(|error| Failure::usage(format!("--arch-limit: {error}")))?),
    };
    let examine = purpose == Purpose::Examine;
    // Whoever says who multiplies halves wants halves.
    let with = global.with.contains(&Lossy::F16) || global.prompts.is_some();
    let without = global.without.contains(&Feature::F16);
    let prompts = match global.prompts {
        None | Some(cli::Prompts::Auto) => Prompts::Auto,
        Some(cli::Prompts::Tiles) => Prompts::Tiles,
        Some(cli::Prompts::Cublaslt) if without => {
            return Err(Failure::usage(
                "--prompts cublaslt multiplies 16-bit floats, and --without f16 has none",
            ));
        }
        Some(cli::Prompts::Cublaslt) => Prompts::Library,
    };
    Ok(Options {
        device,
        arch_limit,
        vram_limit: global.vram_limit,
        // What is examined is held against the bounds of f32, unless the user wants to see what halves lose.
        exact: without || examine && !with,
        prompts,
        poison: examine,
        progress: Some(progress()),
        remarks: Some(Remarks::new(remark)),
        ..Options::default()
    })
}

/// A bar that is there while kernels are compiled.
fn progress() -> Progress {
    let bar = std::sync::Mutex::new(None::<ProgressBar>);
    Progress::new(move |done, all| {
        let mut bar = bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let shown = bar.get_or_insert_with(|| load::bar(all as u64, "compiling kernels", "{pos}/{len}"));
        shown.set_length(all as u64);
        // Threads say it in any order.
        shown.set_position(shown.position().max(done as u64));
        if done == all {
            shown.finish_and_clear();
            *bar = None;
        }
    })
}

/// The device that the user asked for with `--backend cuda`.
pub(super) fn insist(global: &Global, purpose: Purpose) -> Result<Chosen, Failure> {
    if let Some(flag) = only_wgpu(global) {
        return Err(Failure::usage(format!("{flag} is about wgpu, and --backend cuda has no such choice")));
    }
    let device = match &global.device {
        Some(text) => choice(text),
        None => Choice::Best,
    };
    match Cuda::new(&options(global, device, purpose)?) {
        Ok(cuda) => {
            remark_on_library(&cuda);
            Ok(Chosen::Cuda(cuda))
        }
        Err(error @ CudaError::NoDevice { .. }) if global.device.is_some() => {
            Err(Failure::usage(format!("--device: {error}")))
        }
        Err(error @ CudaError::Option { .. }) => Err(Failure::usage(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// The device that `--backend auto` takes, if it is one of CUDA's: the user named it, or nothing speaks against it.
pub(super) fn auto(global: &Global, purpose: Purpose) -> Result<Option<Chosen>, Failure> {
    debug_assert_eq!(global.backend, BackendName::Auto);
    if only_cuda(global) {
        return insist(global, purpose).map(Some);
    }
    let reports = list();
    let wanted = global.device.as_deref().map_or(Choice::Best, choice);
    if only_wgpu(global).is_some() || devices::choose(&reports, &wanted).is_none() {
        return Ok(None);
    }
    if global.device.is_some() {
        return insist(global, purpose).map(Some);
    }
    match Cuda::new(&options(global, wanted, purpose)?) {
        Ok(cuda) => {
            remark(&format!("using {}", cuda.report().title()));
            remark_on_library(&cuda);
            Ok(Some(Chosen::Cuda(cuda)))
        }
        // What is missing can be installed; until then the GPU works through Vulkan.
        Err(
            error @ (CudaError::NoCompiler { .. }
            | CudaError::OldCompiler { .. }
            | CudaError::OlderThanCompiler { .. }
            | CudaError::OldDriver { .. }
            | CudaError::OldDevice { .. }),
        ) => {
            remark(&format!("not using CUDA: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Says why prompts are slower than they could be.
fn remark_on_library(cuda: &Cuda) {
    if let Some(obstacle) = cuda.library_obstacle() {
        remark(&format!("prompts would be read faster by NVIDIA's library: {obstacle}"));
    }
}

fn choice(text: &str) -> Choice {
    text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {})
}

impl Device for Cuda {
    const TARGET: Target = Target::Gpu;

    fn get_ready(&self, cases: &[Case]) -> Result<(), gemma4_conformance::Failure> {
        let made = self.make_kernels(cases.iter().map(|case| &case.program));
        made.map_err(gemma4_conformance::Failure::device::<Self>)
    }

    fn about(&self) -> About {
        let report = self.report();
        About {
            backend: "cuda",
            device: report.title(),
            driver: Some(report.driver.clone()),
            features: self.features(),
        }
    }

    fn another(&self) -> Result<Self, CudaError> {
        Ok(self.clone())
    }

    fn profile(&self, plan: &mut Plan, step: &Step<'_>) -> Result<Option<Vec<Timed>>, CudaError> {
        let spans = self.profile(plan, step)?;
        let timed = |span: gemma4_cuda::Span| Timed {
            op: span.op,
            entry: span.entry.to_owned(),
            seconds: (span.end_ns - span.start_ns) * 1e-9,
        };
        Ok(spans.map(|spans| spans.into_iter().map(timed).collect()))
    }

    fn memory(&self) -> Result<Option<Memory>, CudaError> {
        let memory = self.memory()?;
        let gemma4_cuda::Memory { total, free, allocated, peak } = memory;
        Ok(Some(Memory { total, free, allocated, peak }))
    }

    fn memory_plan(&self, model: &Gemma4, options: &EngineOptions) -> Result<Option<MemoryPlan>, Failure> {
        let weights = model.tensors.iter().map(gemma4_cuda::device_bytes).sum();
        let (mut shared, mut own) = (0u64, 0u64);
        for program in plan::programs(model, options)? {
            let needs = self.needs(&program)?;
            shared = shared.max(needs.shared);
            own += needs.own;
        }
        let plan = MemoryPlan::new(&model.config, options, Target::Gpu, weights, shared + own)?;
        Ok(Some(MemoryPlan { fixed: self.fixed_bytes(), ..plan }))
    }

    fn bandwidth(&self) -> Result<Option<f64>, CudaError> {
        self.bandwidth()
    }
}
