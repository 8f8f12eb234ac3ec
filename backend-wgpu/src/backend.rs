//! The backend itself.

use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use gemma4_core::abi;
use gemma4_core::backend::{Backend, Drawn, Step, Ticket};
use gemma4_core::cache::PAGE;
use gemma4_core::engine;
use gemma4_core::program::{Act, Program, StateSpec};
use gemma4_core::tensor::Tensor;

use crate::adapters::AdapterReport;
use crate::device::{Device, Options, Variants};
use crate::error::WgpuError;
use crate::plan::{self, Plan, Span};
use crate::shaders::Shader;
use crate::{State, Weight};

/// A GPU.
///
/// Cloning shares the device, its compiled shaders and the tokens that it sampled last.
#[derive(Clone, Debug)]
pub struct Wgpu {
    device: Arc<Device>,
    /// Tokens of each slot: the last one that was sampled, and drafts.
    sampled: wgpu::Buffer,
    /// Which of them there are.
    has_sampled: Arc<Mutex<Drawn>>,
}

impl Wgpu {
    /// Opens an adapter.
    ///
    /// # Errors
    ///
    /// If there is none, or its driver refuses.
    pub fn new(options: &Options) -> Result<Self, WgpuError> {
        let device = Device::open(options)?;
        let sampled = device.storage("sampled tokens", u64::from(abi::SLOTS * abi::PLACES) * 4)?;
        Ok(Self { device: Arc::new(device), sampled, has_sampled: Arc::default() })
    }

    /// The adapter that was taken.
    #[must_use]
    pub fn adapter(&self) -> &AdapterReport {
        &self.device.report
    }

    /// Shader variants in use.
    #[must_use]
    pub fn variants(&self) -> Variants {
        self.device.variants
    }

    /// Invocations of a subgroup, where shaders use subgroups.
    #[must_use]
    pub fn subgroup(&self) -> Option<u32> {
        self.device.variants.subgroups.then_some(self.device.subgroup)
    }

    /// Every entry point that was compiled so far, in no order: what a portability check looks at.
    #[must_use]
    pub fn shaders(&self) -> Vec<Shader> {
        self.device.shaders()
    }

    /// Runs a step and says when each dispatch ran; `None` if the device cannot time them.
    ///
    /// # Errors
    ///
    /// As [`Backend::run`].
    pub fn profile(&self, plan: &mut Plan, step: &Step<'_>) -> Result<Option<Vec<Span>>, WgpuError> {
        self.check(plan, step)?;
        plan.profile(&self.device, step)
    }

    fn check(&self, plan: &Plan, step: &Step<'_>) -> Result<(), WgpuError> {
        step.check(&plan.program)?;
        let mut sampled = self.has_sampled.lock().unwrap_or_else(PoisonError::into_inner);
        sampled.note(&plan.program, step).map_err(WgpuError::NothingSampled)
    }

    fn page(state: &State, page: u32) -> u64 {
        u64::from(page) * state.page_bytes() as u64
    }
}

impl Backend for Wgpu {
    type Weight = Weight;
    type State = State;
    type Plan = Plan;
    type Error = WgpuError;

    const QUEUES: bool = true;

    /// Tiles of many rows read the weights once for all of them; on an H200, steps of 2048 rows are a fifth to a half faster
    /// than those of 512. What shares its memory with the processor has less of both.
    fn chunk(&self) -> usize {
        match self.device.report.info.device_type {
            wgpu::DeviceType::DiscreteGpu => 8 * PAGE,
            _ => engine::CHUNK,
        }
    }

    fn upload(&self, tensor: &Tensor) -> Result<Weight, WgpuError> {
        Weight::upload(&self.device, tensor)
    }

    fn state(&self, spec: &StateSpec) -> Result<State, WgpuError> {
        State::new(&self.device, spec)
    }

    fn compile(&self, program: &Program, weights: &[Weight], states: &[State]) -> Result<Plan, WgpuError> {
        Plan::new(&self.device, program, weights, states, &self.sampled)
    }

    fn run(&self, plan: &mut Plan, step: &Step<'_>) -> Result<Ticket, WgpuError> {
        self.check(plan, step)?;
        plan.run(&self.device, step)
    }

    fn read<T: Pod>(
        &self,
        plan: &Plan,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), WgpuError> {
        plan.read(&self.device, ticket, output, bytemuck::cast_slice_mut(into))
    }

    fn read_page(&self, state: &State, page: u32, into: &mut [u8]) -> Result<(), WgpuError> {
        let mut bytes = vec![0; state.page_bytes()];
        plan::download(&self.device, state.buffer(), Self::page(state, page), &mut bytes)?;
        state.unpack(&bytes, into);
        Ok(())
    }

    fn write_page(&self, state: &State, page: u32, from: &[u8]) -> Result<(), WgpuError> {
        self.device.queue.write_buffer(state.buffer(), Self::page(state, page), &state.pack(from));
        self.device.check()
    }
}
