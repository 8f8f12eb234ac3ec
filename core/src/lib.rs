//! Gemma 4: everything that is not a device.

pub mod abi;
pub mod backend;
pub mod cache;
pub mod chat;
pub mod checkpoint;
pub mod dialogue;
pub mod engine;
pub mod error;
pub mod gguf;
pub mod hf;
pub mod kv_type;
pub mod model;
pub mod numeric;
pub mod ops;
pub mod plan;
pub mod program;
pub mod quant;
pub mod reference;
pub mod sample;
pub mod session;
pub mod speculate;
pub mod tensor;
pub mod tokenizer;
pub mod vault;
