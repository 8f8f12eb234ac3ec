//! What can go wrong on a GPU.

use gemma4_core::backend::StepError;
use gemma4_core::program::Act;

/// What this backend cannot do, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// An op, or a shape or type of it, that has no kernel.
    #[error("{op} cannot run on CUDA: {reason}")]
    Unsupported {
        /// Name of the op.
        op: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The step does not fit the program.
    #[error(transparent)]
    Step(#[from] StepError),
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
}
