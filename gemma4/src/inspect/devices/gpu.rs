//! GPUs that wgpu reaches.

use std::fmt::{self, Write as _};

use gemma4_core::plan::Size;
use gemma4_wgpu::adapters::{self, AdapterReport, Choice};
use serde::Serialize;

use crate::cli::Global;
use crate::device::gpu;

#[derive(Debug, Serialize)]
pub(super) struct Device {
    /// For `--device`.
    number: usize,
    name: String,
    kind: &'static str,
    api: &'static str,
    driver: String,
    /// Largest storage binding, in bytes.
    max_binding: u64,
    /// Largest buffer, in bytes.
    max_buffer: u64,
    /// Memory of a workgroup, in bytes.
    workgroup_memory: u32,
    /// Invocations of a workgroup.
    workgroup_invocations: u32,
    /// Storage buffers of a shader.
    storage_buffers: u32,
    f16: bool,
    /// Invocations of a subgroup, if shaders can use subgroups.
    subgroup: Option<u32>,
    int8: bool,
    timestamps: bool,
}

/// All of them, numbered from `first` on, and the number of the best real one.
pub(super) fn all(first: usize, global: &Global) -> (Vec<Device>, Option<usize>) {
    let reports = adapters::list();
    let best = adapters::choose(&reports, &Choice::Gpu).map(|report| first + report.index);
    (reports.iter().map(|report| Device::of(report, first, global)).collect(), best)
}

impl Device {
    fn of(report: &AdapterReport, first: usize, global: &Global) -> Self {
        let variants = report.variants(gpu::present(global));
        let limits = &report.limits;
        Self {
            number: first + report.index,
            name: report.info.name.clone(),
            kind: report.kind(),
            api: report.api(),
            driver: report.driver(),
            max_binding: report.max_binding(),
            max_buffer: limits.max_buffer_size,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            f16: variants.f16,
            subgroup: variants.subgroups.then_some(report.info.subgroup_min_size),
            int8: variants.int8 && report.multiplies_bytes(),
            timestamps: report.timestamps(),
        }
    }

    pub(super) fn write(&self, out: &mut String, auto: bool) -> fmt::Result {
        let Self { number, name, kind, api, driver, .. } = self;
        let mark = if auto { ", taken by --backend auto" } else { "" };
        writeln!(out, "{number}  {name} ({kind}, {api}{mark})")?;
        writeln!(out, "   driver     {driver}")?;
        writeln!(
            out,
            "   buffers    up to {}, bound up to {}",
            Size(self.max_buffer),
            Size(self.max_binding)
        )?;
        writeln!(
            out,
            "   workgroup  {} of memory, {} invocations, {} storage buffers",
            Size(self.workgroup_memory.into()),
            self.workgroup_invocations,
            self.storage_buffers
        )?;
        let features = [
            self.f16.then(|| "f16".to_owned()),
            self.subgroup.map(|size| format!("subgroups of {size}")),
            self.int8.then(|| "int8 dot products".to_owned()),
            self.timestamps.then(|| "timestamps".to_owned()),
        ];
        let features: Vec<String> = features.into_iter().flatten().collect();
        let features =
            if features.is_empty() { "none of the optional ones".to_owned() } else { features.join(", ") };
        writeln!(out, "   features   {features}\n")
    }
}
