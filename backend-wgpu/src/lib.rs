//! Gemma 4 on any GPU that wgpu reaches: Vulkan, Metal, D3D12.
//!
//! A program becomes a list of dispatches once (`plan`), and a step replays that list in one command buffer.
//!
//! | file | what it does |
//! |---|---|
//! | `adapters` | which GPUs there are, and which one is taken |
//! | `device` | the opened GPU: limits, variants, pipelines |
//! | `shaders` | the WGSL files, and how an entry point is put together |
//! | `weights` | file blocks to device layouts, split where a binding is too small |
//! | `state` | pools of the KV cache, and their pages in the layout of files |
//! | `lower`, `lower/<op>` | which shaders an op becomes, with which operands and counts |
//! | `schedule` | which dispatches overlap, and which buffers share memory |
//! | `plan` | buffers, bind groups, and the replay |
//!
//! The only waits are in [`Backend::read`](gemma4_core::backend::Backend::read) and in reading pages.
#![forbid(unsafe_code)]

pub mod adapters;
mod backend;
mod device;
mod error;
mod lower;
mod plan;
mod schedule;
pub mod shaders;
mod state;
mod weights;

pub use backend::Wgpu;
pub use device::{Options, ShaderEdit, Variants};
pub use error::WgpuError;
pub use plan::{Plan, Span};
pub use state::State;
pub use weights::Weight;
