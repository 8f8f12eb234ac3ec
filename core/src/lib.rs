//! Gemma 4: everything that is not a device.

pub mod abi;
pub mod error;
pub mod model;
pub mod tensor;
