//! The opened GPU: its limits, the shader variants it can run, and its pipelines.

mod probe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::util::DeviceExt as _;

use crate::adapters::{self, AdapterReport, Choice};
use crate::error::WgpuError;
use crate::shaders::Shader;

/// How the device is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which adapter.
    pub adapter: Choice,
    /// Variants that may be used where the adapter has what they need.
    pub allow: Variants,
    /// Whether products of prompts are of 8-bit integers too where the adapter
    /// [multiplies them fast](AdapterReport::multiplies_bytes), unless they are of f16, or `allow` is core features alone.
    pub bytes_where_fast: bool,
    /// Bindings are treated as no larger than this, in bytes: for tests of splitting.
    pub max_binding: Option<u64>,
    /// Scratch starts as NaN, so that a value that was never written is noticed: for tests.
    pub poison: bool,
    /// Changes the text of every shader before it is compiled: for tests, to see that a mistake is noticed.
    pub edit: Option<ShaderEdit>,
}

/// Makes another text of a shader's text.
#[derive(Clone)]
pub struct ShaderEdit(Arc<EditText>);

type EditText = dyn Fn(&Shader, String) -> String + Send + Sync;

impl ShaderEdit {
    /// The change that `edit` makes.
    pub fn new(edit: impl Fn(&Shader, String) -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(edit))
    }
}

impl std::fmt::Debug for ShaderEdit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShaderEdit")
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            adapter: Choice::Best,
            allow: Variants::EXACT,
            bytes_where_fast: false,
            max_binding: None,
            poison: false,
            edit: None,
        }
    }
}

/// Optional abilities that shaders have entry points for. Core WebGPU is what is left without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variants {
    /// Products of prompts in 16-bit floats: faster, with an error of some parts in a thousand.
    pub f16: bool,
    /// Sums and shuffles among the invocations of a subgroup.
    pub subgroups: bool,
    /// Products of prompts in 8-bit integers, four of them packed: faster where that is one instruction, with an error of some
    /// parts in a thousand.
    pub int8: bool,
}

impl Variants {
    /// Everything.
    pub const ALL: Self = Self { f16: true, subgroups: true, int8: true };
    /// What costs no exactness: the default.
    pub const EXACT: Self = Self { f16: false, subgroups: true, int8: false };
    /// Core features alone.
    pub const CORE: Self = Self { f16: false, subgroups: false, int8: false };
}

/// An opened GPU.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) report: AdapterReport,
    pub(crate) gpu: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// Limits that were granted.
    pub(crate) limits: wgpu::Limits,
    /// Variants in use.
    pub(crate) variants: Variants,
    /// Invocations of a subgroup where `variants.subgroups` is set: the same for every shader.
    pub(crate) subgroup: u32,
    /// Largest binding, in bytes.
    pub(crate) max_binding: u64,
    pub(crate) poison: bool,
    /// Whether single dispatches can be timed.
    pub(crate) timestamps: bool,
    /// Whether subnormal halves are numbers; WGSL lets a device take them for zeros, so it was tried.
    pub(crate) subnormal_halves: bool,
    edit: Option<ShaderEdit>,
    pipelines: Mutex<HashMap<Shader, Arc<Pipeline>>>,
    lost: Arc<Mutex<Option<String>>>,
}

/// A compiled entry point.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) entry: &'static str,
    pub(crate) compute: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// How an entry point uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

impl Device {
    pub(crate) fn open(options: &Options) -> Result<Self, WgpuError> {
        use wgpu::Features;
        let (adapter, report) = adapters::take(&options.adapter)?;
        let info = &report.info;
        let mut variants = report.variants(options.allow);
        variants.int8 |= options.bytes_where_fast
            && options.allow != Variants::CORE
            && !variants.f16
            && report.multiplies_bytes();
        let timestamps = report.timestamps();
        let mut features = Features::empty();
        features.set(Features::SHADER_F16, variants.f16);
        features.set(Features::SUBGROUP, variants.subgroups);
        features.set(adapters::TIMESTAMPS, timestamps);
        let mut limits = adapter.limits();
        if options.allow == Variants::CORE {
            // Lowerings fit themselves to what a workgroup may have, so that a test of core features is one of core
            // limits too.
            let core = wgpu::Limits::default();
            for (have, least) in [
                (&mut limits.max_compute_workgroup_storage_size, core.max_compute_workgroup_storage_size),
                (
                    &mut limits.max_compute_invocations_per_workgroup,
                    core.max_compute_invocations_per_workgroup,
                ),
                (&mut limits.max_storage_buffers_per_shader_stage, core.max_storage_buffers_per_shader_stage),
            ] {
                *have = least.min(*have);
            }
        }
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("gemma4"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) = pollster::block_on(request)
            .map_err(|source| WgpuError::Open { adapter: info.name.clone(), source })?;
        let lost = Arc::new(Mutex::new(None));
        let note = {
            let lost = Arc::clone(&lost);
            move |text: String| {
                lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
            }
        };
        let on_error = note.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| on_error(error.to_string())));
        device.set_device_lost_callback(move |reason, text| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(text);
            }
        });
        let granted = report.max_binding();
        let mut opened = Self {
            gpu: device,
            queue,
            variants,
            subgroup: info.subgroup_min_size,
            max_binding: options.max_binding.map_or(granted, |most| most.min(granted)) / 256 * 256,
            poison: options.poison,
            timestamps,
            edit: options.edit.clone(),
            pipelines: Mutex::default(),
            lost,
            limits,
            report,
            subnormal_halves: false,
        };
        opened.subnormal_halves = options.allow != Variants::CORE && probe::subnormal_halves(&opened)?;
        Ok(opened)
    }

    /// The first thing that went wrong outside of a call, if anything did.
    pub(crate) fn check(&self) -> Result<(), WgpuError> {
        match self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(text) => Err(WgpuError::Lost(text)),
            None => Ok(()),
        }
    }

    /// Allocates a buffer of at least `bytes` bytes for shaders, zeroed; `what` says for what.
    pub(crate) fn storage(&self, what: &str, bytes: u64) -> Result<wgpu::Buffer, WgpuError> {
        use wgpu::BufferUsages as Usage;
        self.buffer(what, bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST)
    }

    /// Allocates a buffer for any use.
    pub(crate) fn buffer(
        &self,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, WgpuError> {
        let size = bytes.next_multiple_of(16).max(16);
        if size > self.limits.max_buffer_size {
            return Err(self.limit(what, size, "bytes", self.limits.max_buffer_size, "max_buffer_size"));
        }
        let scope = self.gpu.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size,
            usage,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => Err(WgpuError::OutOfMemory { what: what.to_owned(), bytes: size }),
        }
    }

    /// A buffer with these contents.
    pub(crate) fn filled(&self, what: &str, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.gpu.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: Some(what), contents, usage })
    }

    /// The error of a limit that is too small.
    pub(crate) fn limit(
        &self,
        what: &str,
        need: u64,
        unit: &'static str,
        have: u64,
        limit: &'static str,
    ) -> WgpuError {
        WgpuError::Limit {
            what: what.to_owned(),
            need,
            unit,
            adapter: self.report.info.name.clone(),
            have,
            limit,
            advice: "use a shorter --ctx, a smaller --kv type, another --device, or --backend cpu",
        }
    }

    /// The compiled entry point, from the cache if it was compiled before.
    pub(crate) fn pipeline(&self, shader: &Shader, access: &[Access]) -> Result<Arc<Pipeline>, WgpuError> {
        let known = || self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = known().get(shader) {
            return Ok(Arc::clone(pipeline));
        }
        let most = self.limits.max_storage_buffers_per_shader_stage;
        if access.len() > most as usize {
            let have = u64::from(most);
            let limit = "max_storage_buffers_per_shader_stage";
            return Err(self.limit(shader.entry, access.len() as u64, "bindings", have, limit));
        }
        // Others are compiled meanwhile. If it is this one as well, everybody takes the first.
        let pipeline = Arc::new(self.compile(shader, access)?);
        Ok(Arc::clone(known().entry(shader.clone()).or_insert(pipeline)))
    }

    /// Every entry point that was compiled so far.
    pub(crate) fn shaders(&self) -> Vec<Shader> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn compile(&self, shader: &Shader, access: &[Access]) -> Result<Pipeline, WgpuError> {
        let scope = self.gpu.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.gpu.push_error_scope(wgpu::ErrorFilter::Internal);
        let source = shader.source();
        let source = match &self.edit {
            Some(ShaderEdit(edit)) => edit(shader, source),
            None => source,
        };
        let module = self.gpu.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(shader.entry),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let storage = access
            .iter()
            .map(|&access| wgpu::BufferBindingType::Storage { read_only: access == Access::Read });
        let layout = self.layout(&storage.map(|ty| (ty, false)).collect::<Vec<_>>());
        let uniforms = self.uniforms();
        let pipeline_layout = self.gpu.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(shader.entry),
            bind_group_layouts: &[Some(&layout), Some(&uniforms)],
            immediate_size: 0,
        });
        let constants: Vec<(&str, f64)> =
            shader.constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let pipeline = self.gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.entry),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(shader.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every shader writes workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        let errors = [pollster::block_on(internal.pop()), pollster::block_on(scope.pop())];
        match errors.into_iter().flatten().next() {
            None => Ok(Pipeline { entry: shader.entry, compute: pipeline, layout }),
            Some(error) => {
                Err(WgpuError::Shader { shader: shader.entry.to_owned(), message: error.to_string() })
            }
        }
    }

    fn layout(&self, types: &[(wgpu::BufferBindingType, bool)]) -> wgpu::BindGroupLayout {
        let entries: Vec<_> = (0..)
            .zip(types)
            .map(|(binding, &(ty, has_dynamic_offset))| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
                count: None,
            })
            .collect();
        self.gpu.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
    }

    /// Layout of group 1, the same for every shader: its parameters at an offset, and the state of the step.
    pub(crate) fn uniforms(&self) -> wgpu::BindGroupLayout {
        let uniform = wgpu::BufferBindingType::Uniform;
        self.layout(&[(uniform, true), (uniform, false)])
    }
}
