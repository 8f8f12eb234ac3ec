//! Gemma 4: everything that is not a device.

pub mod error;
pub mod model;
pub mod quant;
pub mod tensor;
