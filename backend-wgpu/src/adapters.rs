//! Which GPUs there are, and which one is taken.

use wgpu::{Adapter, Backend, DeviceType, Features};

use crate::device::Variants;
use crate::error::WgpuError;

/// An adapter as a person tells it from others.
#[derive(Clone, Debug)]
pub struct AdapterReport {
    /// Number for `--device`.
    pub index: usize,
    /// What the driver says of itself.
    pub info: wgpu::AdapterInfo,
    /// Its limits.
    pub limits: wgpu::Limits,
    /// Its features.
    pub features: Features,
}

impl AdapterReport {
    fn of(index: usize, adapter: &Adapter) -> Self {
        Self { index, info: adapter.get_info(), limits: adapter.limits(), features: adapter.features() }
    }

    /// Name, kind and interface, such as `NVIDIA H200 (discrete GPU, Vulkan)`.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.info)
    }

    /// What it is: `discrete GPU`, `software` and so on.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        kind(&self.info)
    }

    /// The interface that it is reached through.
    #[must_use]
    pub fn api(&self) -> &'static str {
        api(&self.info)
    }

    /// Name and version of its driver.
    #[must_use]
    pub fn driver(&self) -> String {
        format!("{} {}", self.info.driver, self.info.driver_info).trim().to_owned()
    }

    /// The variants that it has what they need for, of those in `allow`.
    #[must_use]
    pub fn variants(&self, allow: Variants) -> Variants {
        let has = |feature| self.features.contains(feature);
        // A subgroup's size is a constant of the shaders, so it must not change from one to the next.
        let fixed = self.info.subgroup_min_size == self.info.subgroup_max_size;
        Variants {
            f16: allow.f16 && has(Features::SHADER_F16),
            subgroups: allow.subgroups && has(Features::SUBGROUP) && fixed,
            int8: allow.int8,
        }
    }

    /// Whether it most likely has an instruction for dot products of four packed 8-bit integers. WGSL has them everywhere, and
    /// wgpu does not say where they are more than a notation. Discrete GPUs have had one for years (NVIDIA since Pascal, Radeon
    /// since RDNA 2, Arc), which Vulkan reaches, and D3D12 where its compiler is one that knows 16-bit floats. Elsewhere they may
    /// be slower than products in f32.
    #[must_use]
    pub fn multiplies_bytes(&self) -> bool {
        self.info.device_type == DeviceType::DiscreteGpu && reaches_bytes(self.info.backend, self.features)
    }

    /// Whether single dispatches can be timed.
    #[must_use]
    pub fn timestamps(&self) -> bool {
        self.features.contains(TIMESTAMPS)
    }

    /// Largest storage binding, in bytes.
    #[must_use]
    pub fn max_binding(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Whether it computes on a processor.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.info.device_type == DeviceType::Cpu
    }
}

/// What timing single dispatches takes.
pub(crate) const TIMESTAMPS: Features =
    Features::TIMESTAMP_QUERY.union(Features::TIMESTAMP_QUERY_INSIDE_PASSES);

/// Name, kind and interface of an adapter.
pub(crate) fn title(info: &wgpu::AdapterInfo) -> String {
    format!("{} ({}, {})", info.name, kind(info), api(info))
}

fn kind(info: &wgpu::AdapterInfo) -> &'static str {
    match info.device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software",
        DeviceType::Other => "unknown kind",
    }
}

fn api(info: &wgpu::AdapterInfo) -> &'static str {
    match info.backend {
        Backend::Vulkan => "Vulkan",
        Backend::Metal => "Metal",
        Backend::Dx12 => "D3D12",
        _ => "other",
    }
}

/// Whether shaders end in such an instruction where there is one. D3D12 has it from shader model 6.4 on, which takes the compiler
/// that 16-bit floats take: wgpu goes back to an older one where `dxcompiler.dll` is missing.
fn reaches_bytes(backend: Backend, features: Features) -> bool {
    match backend {
        Backend::Vulkan => true,
        Backend::Dx12 => features.contains(Features::SHADER_F16),
        _ => false,
    }
}

/// Which adapter is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best real GPU; a software driver only where there is nothing else.
    #[default]
    Best,
    /// The best real GPU, never a software driver.
    Gpu,
    /// The one with this number in [`list`].
    Index(usize),
    /// The best one whose name contains this text, whatever its case.
    Name(String),
}

impl std::str::FromStr for Choice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Index))
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // Validation layers slow every call down and warn of other people's bugs.
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

fn all() -> Vec<Adapter> {
    pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()))
}

/// All adapters of this machine, in the order of their numbers. Empty without a driver.
#[must_use]
pub fn list() -> Vec<AdapterReport> {
    all().iter().enumerate().map(|(index, adapter)| AdapterReport::of(index, adapter)).collect()
}

/// Larger is better: kind first, then the size of what it can bind, which follows its memory.
fn rank(report: &AdapterReport) -> (u8, u64) {
    let kind = match report.info.device_type {
        DeviceType::DiscreteGpu => 4,
        DeviceType::VirtualGpu => 3,
        DeviceType::IntegratedGpu => 2,
        DeviceType::Other => 1,
        DeviceType::Cpu => 0,
    };
    (kind, report.limits.max_buffer_size)
}

/// The one of `reports` that a choice means: of several the best, and of equals the first, for drivers list their
/// adapters in their own order of preference.
#[must_use]
pub fn choose<'a>(reports: &'a [AdapterReport], choice: &Choice) -> Option<&'a AdapterReport> {
    let fits = |report: &&AdapterReport| match choice {
        Choice::Best => true,
        Choice::Gpu => !report.is_software(),
        Choice::Index(index) => report.index == *index,
        Choice::Name(name) => report.info.name.to_lowercase().contains(&name.to_lowercase()),
    };
    reports.iter().filter(fits).rev().max_by_key(|report| rank(report))
}

/// Takes an adapter.
///
/// # Errors
///
/// [`WgpuError::NoAdapter`] lists what there is.
pub(crate) fn take(choice: &Choice) -> Result<(Adapter, AdapterReport), WgpuError> {
    let adapters = all();
    let reports: Vec<_> = adapters.iter().enumerate().map(|(i, a)| AdapterReport::of(i, a)).collect();
    let Some(report) = choose(&reports, choice).cloned() else {
        let wanted = match choice {
            Choice::Best | Choice::Gpu => "with a Vulkan, Metal or D3D12 driver".to_owned(),
            Choice::Index(index) => format!("number {index}"),
            Choice::Name(name) => format!("named `{name}`"),
        };
        let found = if reports.is_empty() {
            "none".to_owned()
        } else {
            let names: Vec<_> = reports.iter().map(|r| format!("{}: {}", r.index, r.title())).collect();
            names.join(", ")
        };
        return Err(WgpuError::NoAdapter { wanted, found });
    };
    let adapter = adapters.into_iter().nth(report.index).expect("reports are numbered like adapters");
    Ok((adapter, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_multiplied_where_an_instruction_is_reached() {
        let (none, f16) = (Features::empty(), Features::SHADER_F16);
        let reached = [(Backend::Vulkan, none), (Backend::Dx12, f16)];
        let not = [(Backend::Dx12, none), (Backend::Metal, f16), (Backend::Gl, f16)];
        assert!(reached.iter().all(|&(backend, features)| reaches_bytes(backend, features)));
        assert!(!not.iter().any(|&(backend, features)| reaches_bytes(backend, features)));
    }
}
