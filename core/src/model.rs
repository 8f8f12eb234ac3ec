//! The model: its hyper-parameters and the programs that compute it.

pub mod config;
pub mod gemma4;
pub mod generation;
pub mod weights;
