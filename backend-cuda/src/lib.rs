//! Gemma 4 on NVIDIA GPUs.
//!
//! A program becomes a list of launches once (`plan`); a step of generated rows replays them as one captured graph.
//!
//! | file | what it does |
//! |---|---|
//! | `library` | where NVRTC and cuBLASLt are when the loader does not know them |
//! | `driver` | the driver, NVRTC and cuBLASLt behind safe types; all `unsafe` is there |
//! | `devices`, `device` | which GPUs there are and which is taken; the opened one: queues, kernels, scratch memory |
//! | `kernels`, `compile` | the CUDA C++ files and what they are compiled as; the compiler and its cache on disk |
//! | `weights` | file blocks to device layouts, through pinned memory |
//! | `state` | pools of the KV cache, and their pages in the layout of files |
//! | `lower`, `lower/<op>` | which kernels an op becomes, with which arguments and grids |
//! | `plan` | memory, arguments, capture and replay |
//! | `bandwidth` | what the device reads in a second |
//!
//! The only waits are in [`Backend::read`](gemma4_core::backend::Backend::read), in reading and writing pages, and where
//! memory is freed or moved.

mod backend;
mod bandwidth;
pub mod compile;
mod device;
pub mod devices;
mod driver;
mod error;
pub mod kernels;
mod library;
mod lower;
mod plan;
mod state;
mod weights;

pub use backend::Cuda;
pub use compile::{Arch, Folder, Progress};
pub use device::{Options, Prompts, Remarks};
pub use driver::{Memory, library_version};
pub use error::CudaError;
pub use lower::{LaunchReport, launches};
pub use plan::{Plan, PlanBytes, Span};
pub use state::State;
pub use weights::{Weight, device_bytes};
