//! Gemma 4: everything that is not a device.

pub mod error;
pub mod gguf;
pub mod hf;
pub mod model;
pub mod tensor;
