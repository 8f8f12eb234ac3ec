//! GPUs that the CUDA driver knows.

use std::fmt::{self, Write as _};

use gemma4_core::plan::Size;
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
}

/// All of them, and the number of the one that is best.
pub(super) fn all() -> (Vec<Device>, Option<usize>) {
    let reports = crate::device::cuda::list();
    let best = devices::choose(&reports, &Choice::Best).map(|report| report.index);
    (reports.iter().map(Device::of).collect(), best)
}

impl Device {
    fn of(report: &DeviceReport) -> Self {
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
            "   blocks     {multiprocessors} multiprocessors, {} of shared memory\n",
            Size(self.shared_memory.into())
        )
    }
}
