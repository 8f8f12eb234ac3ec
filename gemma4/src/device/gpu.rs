//! GPUs through wgpu.

use gemma4_conformance::cases::{self, Case};
use gemma4_core::backend::Step;
use gemma4_core::plan::Target;
use gemma4_wgpu::adapters::Choice;
use gemma4_wgpu::{Options, Plan, Variants, Wgpu, WgpuError};

use super::{About, Chosen, Device, Purpose, Timed, before_adapters, cpu, remark};
use crate::cli::{BackendName, Feature, Global, Lossy};
use crate::failure::Failure;

/// The variants that are used on any adapter: those that cost no exactness, and others that the user asked for.
fn allowed(global: &Global) -> Variants {
    let on = present(global);
    Variants {
        f16: on.f16 && (Variants::EXACT.f16 || global.with.contains(&Lossy::F16)),
        subgroups: on.subgroups,
        int8: on.int8 && (Variants::EXACT.int8 || global.with.contains(&Lossy::Int8)),
    }
}

/// All variants but those that the user wants to do without.
pub(crate) fn present(global: &Global) -> Variants {
    let on = |feature| !global.without.contains(&feature);
    Variants { f16: on(Feature::F16), subgroups: on(Feature::Subgroups), int8: on(Feature::Int8) }
}

pub(super) fn choose(global: &Global, purpose: Purpose) -> Result<Chosen, Failure> {
    let auto = global.backend == BackendName::Auto && global.device.is_none();
    let adapter = match &global.device {
        Some(device) => numbered(device, before_adapters())?,
        None if auto => Choice::Gpu,
        None => Choice::Best,
    };
    let options = Options {
        adapter,
        allow: allowed(global),
        // What is examined is held against the bounds of f32.
        bytes_where_fast: purpose == Purpose::Use && present(global).int8,
        poison: purpose == Purpose::Examine,
        ..Options::default()
    };
    match Wgpu::new(&options) {
        Ok(gpu) => {
            if auto {
                remark(&format!("using {}", gpu.adapter().title()));
            }
            Ok(Chosen::Wgpu(gpu))
        }
        Err(WgpuError::NoAdapter { found, .. }) if auto => {
            // A software driver would be slower than our own code.
            let found = if found == "none" { String::new() } else { format!(" (only {found})") };
            remark(&format!("using the processor: there is no GPU with a driver{found}"));
            Ok(Chosen::Cpu(cpu(global)?))
        }
        // One that is there and does not open is not passed over in silence: the user expects its speed.
        Err(error @ WgpuError::Open { .. }) if auto => {
            Err(Failure::Failed(format!("{}; --backend cpu works without it", Failure::from(error)).into()))
        }
        Err(error @ WgpuError::NoAdapter { .. }) if global.device.is_some() => {
            Err(Failure::usage(format!("--device: {error}")))
        }
        Err(error) => Err(error.into()),
    }
}

/// The adapter that `--device` means, if `before` devices of another interface come first in its numbers.
fn numbered(device: &str, before: usize) -> Result<Choice, Failure> {
    match device.parse().unwrap_or_else(|never: std::convert::Infallible| match never {}) {
        Choice::Index(number) => number.checked_sub(before).map(Choice::Index).ok_or_else(|| {
            Failure::usage(format!("--device {number} is a device of CUDA, not of --backend wgpu"))
        }),
        name => Ok(name),
    }
}

impl Device for Wgpu {
    const TARGET: Target = Target::Gpu;

    fn get_ready(&self, cases: &[Case]) -> Result<(), gemma4_conformance::Failure> {
        cases::compile_together(self, cases)
    }

    fn about(&self) -> About {
        let report = self.adapter();
        let Variants { f16, int8, .. } = self.variants();
        let subgroup = self.subgroup().map(|size| format!("subgroups of {size}"));
        let features =
            [f16.then(|| "f16".to_owned()), subgroup, int8.then(|| "int8 dot products".to_owned())];
        About {
            backend: "wgpu",
            device: report.title(),
            driver: Some(report.driver()),
            features: features.into_iter().flatten().collect(),
        }
    }

    fn another(&self) -> Result<Self, WgpuError> {
        Ok(self.clone())
    }

    fn profile(&self, plan: &mut Plan, step: &Step<'_>) -> Result<Option<Vec<Timed>>, WgpuError> {
        let spans = self.profile(plan, step)?;
        let timed = |span: gemma4_wgpu::Span| Timed {
            op: span.op,
            entry: span.entry,
            seconds: (span.end_ns - span.start_ns) * 1e-9,
        };
        Ok(spans.map(|spans| spans.into_iter().map(timed).collect()))
    }
}
