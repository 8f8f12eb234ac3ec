//! The model: its hyper-parameters and the programs that compute it.

pub mod config;
pub mod dflash;
pub mod drafter;
pub mod gemma4;
pub mod generation;
pub mod mtp;
pub mod weights;
