//! Which GPUs there are, and which one is taken.

use wgpu::{Adapter, Backend, DeviceType};

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
    pub features: wgpu::Features,
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

    /// Whether it computes on a processor.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.info.device_type == DeviceType::Cpu
    }
}

/// Name, kind and interface of an adapter.
pub(crate) fn title(info: &wgpu::AdapterInfo) -> String {
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software",
        DeviceType::Other => "unknown kind",
    };
    let api = match info.backend {
        Backend::Vulkan => "Vulkan",
        Backend::Metal => "Metal",
        Backend::Dx12 => "D3D12",
        _ => "other",
    };
    format!("{} ({kind}, {api})", info.name)
}

/// Which adapter is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best real GPU; a software driver only where there is nothing else.
    #[default]
    Best,
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

/// Takes an adapter.
///
/// # Errors
///
/// [`WgpuError::NoAdapter`] lists what there is.
pub(crate) fn take(choice: &Choice) -> Result<(Adapter, AdapterReport), WgpuError> {
    let adapters = all();
    let reports: Vec<_> = adapters.iter().enumerate().map(|(i, a)| AdapterReport::of(i, a)).collect();
    let fits = |report: &&AdapterReport| match choice {
        Choice::Best => true,
        Choice::Index(index) => report.index == *index,
        Choice::Name(name) => report.info.name.to_lowercase().contains(&name.to_lowercase()),
    };
    // The first of the best: drivers list their adapters in their own order of preference.
    let best = reports.iter().filter(fits).rev().max_by_key(|report| rank(report));
    let Some(report) = best.cloned() else {
        let wanted = match choice {
            Choice::Best => "with a Vulkan, Metal or D3D12 driver".to_owned(),
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
