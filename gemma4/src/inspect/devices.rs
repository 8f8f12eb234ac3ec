//! GPUs of this machine.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "wgpu")]
mod gpu;

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::cli::Global;

const NOTHING: &str = "\
No GPU that this program can use: none has a driver for CUDA, Vulkan, Metal or D3D12. On Linux, install the driver of the
GPU's maker, or for AMD and Intel the package mesa-vulkan-drivers, and the Vulkan loader (package libvulkan1). Without
one, the processor computes (--backend cpu).
";

/// All GPUs, as `--json` prints them: those of CUDA first, and once more those of them that Vulkan reaches too.
#[derive(Debug, Serialize)]
pub(super) struct Devices {
    /// Number of the device that `--backend auto` takes; none if that is the processor.
    auto: Option<usize>,
    devices: Vec<Device>,
    /// Why no device of CUDA is taken although there are some.
    cuda_obstacle: Option<String>,
}

/// A GPU, as an interface shows it.
#[derive(Debug, Serialize)]
#[serde(tag = "backend", rename_all = "lowercase")]
enum Device {
    #[cfg(feature = "cuda")]
    Cuda(cuda::Device),
    #[cfg(feature = "wgpu")]
    Wgpu(gpu::Device),
}

impl Devices {
    #[cfg_attr(not(feature = "wgpu"), expect(unused_variables, reason = "features are those of adapters"))]
    pub(super) fn of_this_machine(global: &Global) -> Self {
        let mut found = Self { auto: None, devices: Vec::new(), cuda_obstacle: None };
        #[cfg(feature = "cuda")]
        {
            found.cuda_obstacle = crate::device::cuda::obstacle();
            let (devices, best) = cuda::all();
            found.auto = best.filter(|_| found.cuda_obstacle.is_none());
            found.devices.extend(devices.into_iter().map(Device::Cuda));
        }
        #[cfg(feature = "wgpu")]
        {
            let (devices, best) = gpu::all(found.devices.len(), global);
            found.auto = found.auto.or(best);
            found.devices.extend(devices.into_iter().map(Device::Wgpu));
        }
        found
    }

    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        for (number, device) in self.devices.iter().enumerate() {
            let auto = self.auto == Some(number);
            match device {
                #[cfg(feature = "cuda")]
                Device::Cuda(device) => device.write(&mut out, auto)?,
                #[cfg(feature = "wgpu")]
                Device::Wgpu(device) => device.write(&mut out, auto)?,
            }
        }
        if let Some(obstacle) = &self.cuda_obstacle {
            writeln!(out, "CUDA is not used: {obstacle}.\n")?;
        }
        match (self.auto, self.devices.is_empty()) {
            (_, true) => out += NOTHING,
            (None, _) => {
                out += "--backend auto takes the processor: there is no GPU that works, and a software driver is slower. \
                        --backend wgpu\ntakes the software driver, which is good for tests.\n";
            }
            (Some(number), _) => writeln!(out, "--backend auto takes number {number}.")?,
        }
        Ok(out)
    }
}
