//! GPUs that the CUDA driver knows.

use std::fmt::{self, Write as _};

use gemma4_core::plan::Size;
use gemma4_cuda::CudaError;
use gemma4_cuda::devices::{self, Choice, DeviceReport};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Device {
    /// For `--device`.
    number: usize,
    name: String,
    kind: &'static str,
    api: &'static str,
    driver: String,
    /// `sm_86` and so on.
    arch: String,
    /// Whether kernels run on it.
    usable: bool,
    /// In bytes.
    memory: u64,
    multiprocessors: u32,
    /// Shared memory of a block, in bytes.
    shared_memory: u32,
    /// Level 2 cache, in bytes.
    cache: u64,
    /// Version of NVIDIA's library of products.
    cublaslt: Option<String>,
    /// Why it is not used.
    cublaslt_obstacle: Option<String>,
}

/// All of them, and the number of the one that is best.
pub(super) fn all() -> (Vec<Device>, Option<usize>) {
    let reports = crate::device::cuda::list();
    let best = devices::choose(&reports, &Choice::Best).map(|report| report.index);
    let of = |report: &DeviceReport| Device::of(report, gemma4_cuda::library_version());
    (reports.iter().map(of).collect(), best)
}

impl Device {
    fn of(report: &DeviceReport, library: Result<String, CudaError>) -> Self {
        Self {
            number: report.index,
            name: report.name.clone(),
            kind: "GPU",
            api: "CUDA",
            driver: report.driver.clone(),
            arch: report.arch().to_string(),
            usable: report.is_usable(),
            memory: report.memory,
            multiprocessors: report.multiprocessors,
            shared_memory: report.shared,
            cache: report.cache,
            cublaslt_obstacle: library.as_ref().err().map(ToString::to_string),
            cublaslt: library.ok(),
        }
    }

    pub(super) fn write(&self, out: &mut String, auto: bool) -> fmt::Result {
        let Self { number, name, api, driver, arch, memory, multiprocessors, .. } = self;
        let mark = if auto { ", taken by --backend auto" } else { "" };
        let usable = if self.usable { "" } else { ", too old for this program" };
        writeln!(out, "{number}  {name} ({api}, {arch}{usable}{mark})")?;
        writeln!(out, "   driver     {driver}")?;
        writeln!(out, "   memory     {}, level 2 cache {}", Size(*memory), Size(self.cache))?;
        writeln!(
            out,
            "   blocks     {multiprocessors} multiprocessors, {} of shared memory",
            Size(self.shared_memory.into())
        )?;
        let obstacle = || format!("not used: {}", self.cublaslt_obstacle.as_deref().unwrap_or("not found"));
        writeln!(out, "   cuBLASLt   {}\n", self.cublaslt.clone().unwrap_or_else(obstacle))
    }
}
