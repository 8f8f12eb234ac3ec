//! A program ready to run: every pipeline, buffer and bind group is made here, and a step only replays them.

use std::collections::HashMap;
use std::sync::Arc;

use gemma4_core::abi::step::{self, Sections};
use gemma4_core::backend::{Step, Ticket};
use gemma4_core::ops::Op;
use gemma4_core::program::{Act, Program, Rows};
use rayon::prelude::*;
use wgpu::BufferUsages as Usage;

use crate::device::{Device, Pipeline};
use crate::error::WgpuError;
use crate::lower::{self, Bind, Count, Launch, Lowering};
use crate::schedule::Schedule;

/// A program bound to its weights and states.
#[derive(Debug)]
pub struct Plan {
    pub(crate) program: Arc<Program>,
    dispatches: Vec<Dispatch>,
    uniforms: wgpu::BindGroup,
    sections: Sections,
    step: wgpu::Buffer,
    /// Contents of `step`, kept to be filled anew.
    bytes: Vec<u8>,
    draws: Draws,
    buffers: Buffers,
    outputs: Vec<Output>,
    next: u64,
    kept: [Option<Kept>; KEPT_STEPS],
}

/// Steps whose outputs a plan keeps: one that is read and one that runs ahead.
const KEPT_STEPS: usize = 2;

/// Parameters of a dispatch start at multiples of this.
const PARAMS: usize = 256;

/// Outputs up to this many bytes are copied to where the host can map them with every step.
const SMALL: u64 = 64 << 10;

#[derive(Debug)]
struct Dispatch {
    op: &'static str,
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    /// Kept to make `group` again when the buffer of draws grows.
    binds: Option<Vec<Bind>>,
    offset: u32,
    grid: [Count; 3],
    /// Buffers that the dispatches from here to the next barrier read; empty unless they overlap.
    read: Vec<usize>,
}

/// Buffers that a plan owns or shares.
#[derive(Debug)]
struct Buffers {
    schedule: Schedule,
    /// Activations and scratch.
    memory: Vec<wgpu::Buffer>,
    weights: Vec<crate::Weight>,
    states: Vec<crate::State>,
    sampled: wgpu::Buffer,
}

/// Settings of draws; grows when a step needs more than any before.
#[derive(Debug)]
struct Draws {
    buffer: wgpu::Buffer,
    used: bool,
}

/// Where an output is kept for the host, for each of the last steps.
#[derive(Debug)]
struct Output {
    act: Act,
    copies: Vec<wgpu::Buffer>,
    mappable: bool,
}

#[derive(Clone, Debug)]
struct Kept {
    ticket: u64,
    submission: wgpu::SubmissionIndex,
    rows: usize,
    picked: usize,
}

/// Time that one dispatch took.
#[derive(Clone, Debug)]
pub struct Span {
    /// Name of the op.
    pub op: &'static str,
    /// Name of the entry point.
    pub entry: String,
    /// From the start of the step to its start, in nanoseconds.
    pub start_ns: f64,
    /// From the start of the step to its end, in nanoseconds.
    pub end_ns: f64,
}

impl Plan {
    pub(crate) fn new(
        device: &Device,
        program: &Program,
        weights: &[crate::Weight],
        states: &[crate::State],
        sampled: &wgpu::Buffer,
    ) -> Result<Self, WgpuError> {
        let program = &program.ordered();
        let mut lowering = Lowering::new(device, program, weights, states);
        lower::lower(&mut lowering)?;
        let Lowering { launches, scratch, .. } = lowering;
        let mut schedule = Schedule::new(program, launches, &scratch);
        let mut reads = vec![Vec::new(); schedule.launches.len()];
        for level in &schedule.levels {
            reads[level.start] = schedule.read_by(level);
        }
        let launches = std::mem::take(&mut schedule.launches);
        let pipelines = pipelines(device, &launches)?;

        let poison = vec![0xFFu8; if device.poison { 1 << 20 } else { 0 }];
        let allocate = |what: &str, bytes: u64| {
            let buffer = device.storage(what, bytes)?;
            if bytes > device.max_binding {
                let limit = "max_storage_buffer_binding_size";
                return Err(device.limit(what, bytes, "bytes", device.max_binding, limit));
            }
            for start in (0..buffer.size()).step_by(poison.len().max(1)).take_while(|_| device.poison) {
                let len = (buffer.size() - start).min(poison.len() as u64);
                device.queue.write_buffer(&buffer, start, &poison[..usize::try_from(len).unwrap_or(0)]);
            }
            Ok(buffer)
        };
        let memory = schedule.buffers.iter().map(|&bytes| allocate("an activation or scratch", bytes));
        let memory = memory.collect::<Result<Vec<_>, WgpuError>>()?;
        let buffers = Buffers {
            schedule,
            memory,
            weights: weights.to_vec(),
            states: states.to_vec(),
            sampled: sampled.clone(),
        };

        let sections = Sections::of(program, 0);
        let step =
            device.buffer("a step", sections.end, Usage::STORAGE | Usage::UNIFORM | Usage::COPY_DST)?;
        let draws = Draws {
            buffer: device.storage("settings of draws", 4096)?,
            used: program.ops.iter().any(|op| matches!(op, Op::Sample(_))),
        };
        let (params, offsets) = parameters(&launches);
        let params = device.filled("parameters", &params, Usage::UNIFORM);
        let uniform = |buffer, size| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset: 0,
                size: wgpu::BufferSize::new(size),
            })
        };
        let uniforms = device.gpu.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("uniforms"),
            layout: &device.uniforms(),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: uniform(&params, PARAMS as u64) },
                wgpu::BindGroupEntry { binding: 1, resource: uniform(&step, PARAMS as u64) },
            ],
        });
        let mut plan = Self {
            program: Arc::new(program.clone()),
            dispatches: Vec::with_capacity(launches.len()),
            uniforms,
            sections,
            step,
            bytes: Vec::new(),
            draws,
            buffers,
            outputs: Vec::new(),
            next: 0,
            kept: [const { None }; KEPT_STEPS],
        };
        let all = launches.into_iter().zip(pipelines).zip(offsets).zip(reads);
        for (((launch, pipeline), offset), read) in all {
            let group = plan.group(device, &pipeline, &launch.binds);
            let binds = launch.binds.iter().any(|bind| matches!(bind, Bind::Draws)).then_some(launch.binds);
            let (op, grid) = (launch.op, launch.grid);
            plan.dispatches.push(Dispatch { op, pipeline, group, binds, offset, grid, read });
        }
        plan.outputs = program
            .outputs
            .iter()
            .map(|&act| {
                let bytes = (program.capacity(act) * program.cols(act) * 4) as u64;
                let mappable = bytes <= SMALL;
                let usage = if mappable { Usage::MAP_READ } else { Usage::COPY_SRC };
                let copy = || device.buffer("an output", bytes, usage | Usage::COPY_DST);
                let copies = (0..KEPT_STEPS).map(|_| copy()).collect::<Result<_, _>>()?;
                Ok(Output { act, copies, mappable })
            })
            .collect::<Result<_, WgpuError>>()?;
        device.check()?;
        Ok(plan)
    }

    fn group(&self, device: &Device, pipeline: &Pipeline, binds: &[Bind]) -> wgpu::BindGroup {
        let entries: Vec<_> = (0..)
            .zip(binds)
            .map(|(binding, bind)| wgpu::BindGroupEntry { binding, resource: self.resource(bind) })
            .collect();
        device.gpu.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.layout,
            entries: &entries,
        })
    }

    fn resource(&self, bind: &Bind) -> wgpu::BindingResource<'_> {
        let buffers = &self.buffers;
        let section = |start: u64, end: u64| {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &self.step,
                offset: start,
                size: wgpu::BufferSize::new(end - start),
            })
        };
        let Sections { rows, picked, tables, end, .. } = self.sections;
        match bind {
            Bind::Act(act) | Bind::ActMut(act) => {
                buffers.memory[buffers.schedule.act(*act)].as_entire_binding()
            }
            Bind::Weight(weight, part) => {
                buffers.weights[weight.index()].parts()[*part].buffer.as_entire_binding()
            }
            Bind::State(state) | Bind::StateMut(state) => {
                buffers.states[state.index()].buffer().as_entire_binding()
            }
            Bind::Scratch(scratch) | Bind::ScratchMut(scratch) => {
                buffers.memory[buffers.schedule.scratch(*scratch)].as_entire_binding()
            }
            Bind::Rows => section(rows, picked),
            Bind::Picked => section(picked, tables),
            Bind::Tables => section(tables, end),
            Bind::Draws => self.draws.buffer.as_entire_binding(),
            Bind::Sampled | Bind::SampledMut => buffers.sampled.as_entire_binding(),
        }
    }

    /// Sends what the host knows of the step.
    fn upload(&mut self, device: &Device, step: &Step<'_>) -> Result<(), WgpuError> {
        self.sections.write(step, &mut self.bytes)?;
        device.queue.write_buffer(&self.step, 0, &self.bytes);
        if !self.draws.used {
            return Ok(());
        }
        let draws = step::draws(&self.program, step);
        let bytes: &[u8] = bytemuck::cast_slice(&draws);
        if bytes.len() as u64 > self.draws.buffer.size() {
            let size = (bytes.len() as u64).next_power_of_two();
            self.draws.buffer = device.storage("settings of draws", size)?;
            for i in 0..self.dispatches.len() {
                let dispatch = &self.dispatches[i];
                if let Some(binds) = &dispatch.binds {
                    let group = self.group(device, &dispatch.pipeline, binds);
                    self.dispatches[i].group = group;
                }
            }
        }
        device.queue.write_buffer(&self.draws.buffer, 0, bytes);
        Ok(())
    }

    pub(crate) fn run(&mut self, device: &Device, step: &Step<'_>) -> Result<Ticket, WgpuError> {
        self.upload(device, step)?;
        let mut encoder = device.gpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.encode(&mut pass, step, |_, _| ());
        }
        let at = usize::try_from(self.next).unwrap_or(0) % KEPT_STEPS;
        let (rows, picked) = (step.rows.len(), step.picked.len());
        for output in &self.outputs {
            let bytes = self.bytes_of(output.act, rows, picked);
            let from = &self.buffers.memory[self.buffers.schedule.act(output.act)];
            if bytes > 0 {
                encoder.copy_buffer_to_buffer(from, 0, &output.copies[at], 0, bytes);
            }
        }
        let submission = device.queue.submit([encoder.finish()]);
        let ticket = self.next;
        self.next += 1;
        self.kept[at] = Some(Kept { ticket, submission, rows, picked });
        device.check()?;
        Ok(Ticket(ticket))
    }

    /// Encodes all dispatches; `mark` is called before each, and once after the last.
    fn encode(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        step: &Step<'_>,
        mut mark: impl FnMut(&mut wgpu::ComputePass<'_>, usize),
    ) {
        let keys = step.rows.iter().map(|row| row.position + 1).max().unwrap_or(0);
        let splits = |size: u32, first: u32| keys.div_ceil(size).saturating_sub(first);
        let count = |count: Count| match count {
            Count::Fixed(n) => n,
            Count::Rows { of, per, times } => {
                let rows = match of {
                    Rows::Step => step.rows.len(),
                    Rows::Picked => step.picked.len(),
                };
                lower::narrow(rows).div_ceil(per) * times
            }
            Count::Splits { keys, first, most } => splits(keys, first).min(most),
            Count::AnySplit { keys, first } => splits(keys, first).min(1),
        };
        let mut current: Option<&Arc<Pipeline>> = None;
        for (i, dispatch) in self.dispatches.iter().enumerate() {
            mark(pass, i);
            if !dispatch.read.is_empty() {
                let ready = dispatch.read.iter().map(|&buffer| wgpu::BufferTransition {
                    buffer: &self.buffers.memory[buffer],
                    state: wgpu::BufferUses::STORAGE_READ_ONLY,
                });
                pass.transition_resources(ready, std::iter::empty());
            }
            let [x, y, z] = dispatch.grid.map(count);
            if x == 0 || y == 0 || z == 0 {
                continue;
            }
            if current.is_none_or(|current| !Arc::ptr_eq(current, &dispatch.pipeline)) {
                pass.set_pipeline(&dispatch.pipeline.compute);
                current = Some(&dispatch.pipeline);
            }
            pass.set_bind_group(0, &dispatch.group, &[]);
            pass.set_bind_group(1, &self.uniforms, &[dispatch.offset]);
            pass.dispatch_workgroups(x, y, z);
        }
        mark(pass, self.dispatches.len());
    }

    fn bytes_of(&self, act: Act, rows: usize, picked: usize) -> u64 {
        let spec = self.program.spec(act);
        let rows = match spec.rows {
            Rows::Step => rows,
            Rows::Picked => picked,
        };
        (rows * spec.cols * 4) as u64
    }

    pub(crate) fn read(
        &self,
        device: &Device,
        ticket: Ticket,
        act: Act,
        into: &mut [u8],
    ) -> Result<(), WgpuError> {
        let kept = self.kept.iter().flatten().find(|kept| kept.ticket == ticket.0);
        let kept = kept.ok_or(WgpuError::Gone(ticket.0))?;
        let at = usize::try_from(ticket.0).unwrap_or(0) % KEPT_STEPS;
        let want = self.bytes_of(act, kept.rows, kept.picked);
        let output = self.outputs.iter().find(|output| output.act == act);
        let Some(output) = output.filter(|_| want == into.len() as u64) else {
            let want = usize::try_from(want).unwrap_or(usize::MAX);
            return Err(WgpuError::OutputSize { act, want, got: into.len() });
        };
        if want == 0 {
            return Ok(());
        }
        if output.mappable {
            return fetch(device, &output.copies[at], kept.submission.clone(), into);
        }
        download(device, &output.copies[at], 0, into)
    }

    /// Runs a step as [`Plan::run`] does and says when each dispatch ran. `None` if the device cannot time them.
    pub(crate) fn profile(
        &mut self,
        device: &Device,
        step: &Step<'_>,
    ) -> Result<Option<Vec<Span>>, WgpuError> {
        if !device.timestamps {
            return Ok(None);
        }
        self.upload(device, step)?;
        let count = lower::narrow(self.dispatches.len() + 1);
        let set = device.gpu.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = u64::from(count) * 8;
        let resolved = device.buffer("timestamps", bytes, Usage::QUERY_RESOLVE | Usage::COPY_SRC)?;
        let mut encoder = device.gpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.encode(&mut pass, step, |pass, i| pass.write_timestamp(&set, lower::narrow(i)));
        }
        encoder.resolve_query_set(&set, 0..count, &resolved, 0);
        device.queue.submit([encoder.finish()]);
        let mut ticks = vec![0u64; count as usize];
        download(device, &resolved, 0, bytemuck::cast_slice_mut(&mut ticks))?;
        let period = f64::from(device.queue.get_timestamp_period());
        let time = |i: usize| ticks[i].wrapping_sub(ticks[0]) as f64 * period;
        let spans = self.dispatches.iter().enumerate().map(|(i, dispatch)| Span {
            op: dispatch.op,
            entry: dispatch.pipeline.entry.to_owned(),
            start_ns: time(i),
            end_ns: time(i + 1),
        });
        Ok(Some(spans.collect()))
    }

    /// Dispatches of a step.
    #[must_use]
    pub fn dispatches(&self) -> usize {
        self.dispatches.len()
    }
}

/// The pipelines of all launches. Those that are new are compiled side by side: a driver takes milliseconds for each.
fn pipelines(device: &Device, launches: &[Launch]) -> Result<Vec<Arc<Pipeline>>, WgpuError> {
    let mut places = HashMap::new();
    let mut distinct = Vec::new();
    let each: Vec<usize> = launches
        .iter()
        .map(|launch| {
            *places.entry(&launch.shader).or_insert_with(|| {
                distinct.push(launch);
                distinct.len() - 1
            })
        })
        .collect();
    let compiled: Vec<_> = distinct
        .par_iter()
        .map(|launch| {
            let access: Vec<_> = launch.binds.iter().map(Bind::access).collect();
            device.pipeline(&launch.shader, &access)
        })
        .collect::<Result<_, _>>()?;
    Ok(each.into_iter().map(|i| Arc::clone(&compiled[i])).collect())
}

/// The parameters of all launches in one buffer, and where each starts.
fn parameters(launches: &[Launch]) -> (Vec<u8>, Vec<u32>) {
    let mut bytes = Vec::new();
    let mut offsets = Vec::new();
    for launch in launches {
        offsets.push(lower::narrow(bytes.len()));
        bytes.extend_from_slice(&launch.params);
        bytes.resize(bytes.len().next_multiple_of(PARAMS).max(PARAMS), 0);
    }
    bytes.resize(bytes.len().max(PARAMS), 0);
    (bytes, offsets)
}

/// Waits for a submission and copies a mappable buffer.
fn fetch(
    device: &Device,
    buffer: &wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    into: &mut [u8],
) -> Result<(), WgpuError> {
    let slice = buffer.slice(..(into.len() as u64).next_multiple_of(4));
    slice.map_async(wgpu::MapMode::Read, |_| ());
    let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
    device.gpu.poll(wait).map_err(|error| WgpuError::Lost(error.to_string()))?;
    device.check()?;
    {
        let view = slice.get_mapped_range().map_err(|error| WgpuError::Lost(error.to_string()))?;
        into.copy_from_slice(&view[..into.len()]);
    }
    buffer.unmap();
    Ok(())
}

/// Copies a range of any buffer to the host, after all steps enqueued so far.
pub(crate) fn download(
    device: &Device,
    from: &wgpu::Buffer,
    offset: u64,
    into: &mut [u8],
) -> Result<(), WgpuError> {
    let bytes = (into.len() as u64).next_multiple_of(4);
    let staging = device.buffer("a download", bytes, Usage::MAP_READ | Usage::COPY_DST)?;
    let mut encoder = device.gpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(from, offset, &staging, 0, bytes);
    let submission = device.queue.submit([encoder.finish()]);
    fetch(device, &staging, submission, into)
}
