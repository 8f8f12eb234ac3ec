//! The CUDA driver, NVRTC and cuBLASLt as far as this crate uses them, behind types that cannot be used wrongly.
//!
//! This is the only place with `unsafe`. Every call of the driver rests on the same four facts, which the comments at
//! the calls refer to:
//!
//! 1. **The function is there.** A [`Context`] exists only after [`symbols::driver`] has found every function that is
//!    called here; `cudarc` looks a function up at its first call and panics if it is missing.
//! 2. **Handles are valid.** A handle is made by the call that its owner wraps, is destroyed in the owner's `drop` and
//!    nowhere else, and an owner keeps the [`Context`] alive.
//! 3. **The context is current.** Whoever calls has called [`Context::bind`] on this thread before.
//! 4. **Addresses cover what is read and written** for as long as the device may use them: offsets are checked against
//!    the size of the owner, host memory that the device uses later is owned by a [`Staging`], a [`HostBuffer`] or a [`Table`], and
//!    memory is freed only after the device has finished everything ([`Context::finish`]).
#![expect(unsafe_code, reason = "the driver is a C library")]

mod context;
mod cublaslt;
mod graph;
mod launch;
mod memory;
mod module;
pub(crate) mod nvrtc;
mod stream;
pub(crate) mod symbols;
mod table;

pub use context::Memory;
pub(crate) use context::{Context, DeviceInfo, devices};
pub use cublaslt::version as library_version;
pub(crate) use cublaslt::{Algorithm, Library, Operands, Shape, WORKSPACE, padded};
pub(crate) use graph::Graph;
pub(crate) use launch::Call;
pub(crate) use memory::{Buffer, HostBuffer, Staging};
pub(crate) use module::{Function, Module};
pub(crate) use stream::{Event, Stream};
pub(crate) use table::Table;
