//! What can go wrong on a GPU.

use gemma4_core::backend::StepError;
use gemma4_core::program::Act;

/// What this backend cannot do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum WgpuError {
    /// No adapter, or none of that name.
    #[error("no GPU {wanted}; this machine has {found}")]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// The driver refused to open the device.
    #[error("the driver of {adapter} does not open the device")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// What the driver said.
        #[source]
        source: wgpu::RequestDeviceError,
    },
    /// A limit of the adapter is too small for the model.
    #[error("{what} needs {need} {unit}, but {adapter} allows {have} ({limit}); {advice}")]
    Limit {
        /// What needs more.
        what: String,
        /// How much.
        need: u64,
        /// Bytes, groups, bindings.
        unit: &'static str,
        /// Name of the adapter.
        adapter: String,
        /// What it allows.
        have: u64,
        /// Name of the limit.
        limit: &'static str,
        /// What the user may do.
        advice: &'static str,
    },
    /// The device ran out of memory.
    #[error("{what} of {bytes} bytes does not fit into the memory of the GPU")]
    OutOfMemory {
        /// What was to be allocated.
        what: String,
        /// Its size.
        bytes: u64,
    },
    /// A shader does not compile on this driver: a bug of this program or of the driver.
    #[error("shader {shader}: {message}")]
    Shader {
        /// Entry point.
        shader: String,
        /// What the compiler said.
        message: String,
    },
    /// The step does not fit the program.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A row wants the last sampled token of a slot that has none.
    #[error("slot {0} has sampled no token yet")]
    NothingSampled(u32),
    /// A plan keeps the outputs of two steps.
    #[error("the outputs of step {0} are no longer kept")]
    Gone(u64),
    /// An output is read into a slice of another size, or is none.
    #[error("output {act} has {want} bytes, not {got}")]
    OutputSize {
        /// The output.
        act: Act,
        /// Its size in bytes.
        want: usize,
        /// Size asked for.
        got: usize,
    },
    /// The device was lost, or the driver failed.
    #[error("the GPU stopped working: {0}")]
    Lost(String),
}
