//! Gemma 4 on NVIDIA GPUs.
#![expect(dead_code, reason = "the driver comes next")]

mod device;
mod error;
pub mod kernels;
mod lower;
mod state;
mod step;
mod weights;

pub use error::CudaError;
pub use state::State;
pub use weights::Weight;
