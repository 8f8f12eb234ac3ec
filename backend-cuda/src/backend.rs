//! The backend itself.

use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use gemma4_core::abi;
use gemma4_core::backend::{Backend, Drawn, Step, Ticket};
use gemma4_core::cache::PAGE;
use gemma4_core::program::{Act, Program, StateSpec};
use gemma4_core::tensor::Tensor;

use crate::bandwidth;
use crate::device::{Device, Options, Prompts};
use crate::devices::DeviceReport;
use crate::driver::{self, Buffer, Memory};
use crate::error::CudaError;
use crate::lower::units_of;
use crate::plan::{self, Plan, PlanBytes, Span};
use crate::{State, Weight};

/// A GPU.
///
/// Cloning shares the device, its compiled kernels and the tokens that it sampled last.
#[derive(Clone, Debug)]
pub struct Cuda {
    /// Tokens of each slot: the last one that was sampled, and drafts.
    sampled: Arc<Buffer>,
    /// Which of them there are.
    has_sampled: Arc<Mutex<Drawn>>,
    device: Arc<Device>,
}

impl Cuda {
    /// Opens a GPU.
    ///
    /// # Errors
    ///
    /// If there is none, or what it needs is missing or too old; the error says what to do.
    pub fn new(options: &Options) -> Result<Self, CudaError> {
        let device = Device::open(options)?;
        let sampled = device.zeroed("sampled tokens", u64::from(abi::SLOTS * abi::PLACES) * 4)?;
        Ok(Self { sampled: Arc::new(sampled), has_sampled: Arc::default(), device: Arc::new(device) })
    }

    /// The GPU that was taken.
    #[must_use]
    pub fn report(&self) -> &DeviceReport {
        &self.device.report
    }

    /// Compiles the kernels of these programs together, on all cores: plans that are made one after the other would each
    /// wait for their own.
    ///
    /// # Errors
    ///
    /// If a kernel does not compile. What a program may not ask is left to whoever plans it.
    pub fn make_kernels<'a>(&self, programs: impl IntoIterator<Item = &'a Program>) -> Result<(), CudaError> {
        let units = programs.into_iter().filter_map(|program| units_of(&self.device.info, program).ok());
        self.device.modules(&units.flatten().collect::<Vec<_>>()).map(drop)
    }

    /// What kernels are compiled for, and by what.
    #[must_use]
    pub fn compiler(&self) -> String {
        self.device.compiler.title()
    }

    /// What decides how it computes, for reports and for whoever keeps what was computed.
    #[must_use]
    pub fn features(&self) -> Vec<String> {
        let info = &self.device.info;
        let prompts = match (info.exact, info.prompts) {
            (true, _) => "products exact to f32".to_owned(),
            (false, Prompts::Tiles) => "prompts in f16".to_owned(),
            (false, prompts) => {
                let version = driver::library_version().unwrap_or_else(|_| "unknown".to_owned());
                let how = if prompts == Prompts::Auto { " where that is faster" } else { "" };
                format!("prompts in f16 by cuBLASLt {version}{how}")
            }
        };
        let generated = (!info.exact).then(|| "generated tokens in int16".to_owned());
        [self.compiler(), prompts].into_iter().chain(generated).collect()
    }

    /// Why NVIDIA's library does not multiply prompts although it was measured to be faster.
    #[must_use]
    pub fn library_obstacle(&self) -> Option<String> {
        self.device.library_obstacle().map(ToString::to_string)
    }

    /// Products that NVIDIA's library has done so far.
    #[must_use]
    pub fn library_products(&self) -> u64 {
        self.device.library().map_or(0, driver::Library::products)
    }

    /// Its memory, as far as it may be used.
    ///
    /// # Errors
    ///
    /// If the device was lost.
    pub fn memory(&self) -> Result<Memory, CudaError> {
        self.device.context.memory()
    }

    /// Memory that a plan of `program` will take.
    ///
    /// # Errors
    ///
    /// If an op has no kernel for what it is asked.
    pub fn needs(&self, program: &Program) -> Result<PlanBytes, CudaError> {
        plan::needs(&self.device, program)
    }

    /// Memory that it takes whatever the model is, in bytes: kernels and captured steps.
    #[must_use]
    pub fn fixed_bytes(&self) -> u64 {
        plan::FIXED_BYTES + if self.device.library().is_ok() { plan::LIBRARY_BYTES } else { 0 }
    }

    /// Bytes a second that it reads from its memory, measured; `None` if the driver cannot time it.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn bandwidth(&self) -> Result<Option<f64>, CudaError> {
        bandwidth::measure(&self.device)
    }

    /// Runs a step and says when each launch ran; `None` if the driver cannot time them.
    ///
    /// # Errors
    ///
    /// As [`Backend::run`].
    pub fn profile(&self, plan: &mut Plan, step: &Step<'_>) -> Result<Option<Vec<Span>>, CudaError> {
        self.check(plan, step)?;
        plan.profile(&self.device, step)
    }

    fn check(&self, plan: &Plan, step: &Step<'_>) -> Result<(), CudaError> {
        step.check(&plan.program)?;
        let mut sampled = self.has_sampled.lock().unwrap_or_else(PoisonError::into_inner);
        sampled.note(&plan.program, step).map_err(CudaError::NothingSampled)
    }
}

impl Backend for Cuda {
    type Weight = Weight;
    type State = State;
    type Plan = Plan;
    type Error = CudaError;

    const QUEUES: bool = true;

    /// The first step is launched piece by piece; the next two are captured, one for each side.
    const WARM: usize = 3;

    /// Tiles are at their best from here on; and where weights become halves for a library, they do so once a step.
    fn chunk(&self) -> usize {
        8 * PAGE
    }

    fn upload(&self, tensor: &Tensor) -> Result<Weight, CudaError> {
        Weight::upload(&self.device, tensor)
    }

    fn state(&self, spec: &StateSpec) -> Result<State, CudaError> {
        State::new(&self.device, spec)
    }

    fn compile(&self, program: &Program, weights: &[Weight], states: &[State]) -> Result<Plan, CudaError> {
        Plan::new(&self.device, program, weights, states, &self.sampled)
    }

    fn run(&self, plan: &mut Plan, step: &Step<'_>) -> Result<Ticket, CudaError> {
        self.check(plan, step)?;
        plan.run(&self.device, step)
    }

    fn read<T: Pod>(
        &self,
        plan: &Plan,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), CudaError> {
        plan.read(&self.device, ticket, output, bytemuck::cast_slice_mut(into))
    }

    fn read_page(&self, state: &State, page: u32, into: &mut [u8]) -> Result<(), CudaError> {
        state.read_page(&self.device, page, into)
    }

    fn write_page(&self, state: &State, page: u32, from: &[u8]) -> Result<(), CudaError> {
        state.write_page(&self.device, page, from)
    }

    fn copy_page(&self, state: &State, _: usize, from: u32, to: u32) -> Result<(), CudaError> {
        state.copy_page(&self.device, from, to)
    }
}
