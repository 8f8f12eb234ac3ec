//! Gemma 4: everything that is not a device.

pub mod abi;
pub mod cache;
pub mod chat;
pub mod error;
pub mod gguf;
pub mod hf;
pub mod kv_type;
pub mod model;
pub mod quant;
pub mod tensor;
pub mod tokenizer;
