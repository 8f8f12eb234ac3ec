//! Constants and parameter structs that only CUDA kernels have.

use super::{Constant, Field, FourBytes, Layout, Value};

consts! {
    /// Every constant that only CUDA kernels have, in the order of the declaration.
    cuda_constants:

    /// Threads of a warp.
    WARP: u32 = 32;
    /// Columns of a row that one warp prepares for a product: eight for each of its lanes.
    PREPARED_BLOCK: u32 = 256;
}

abi! {
    /// The layout of every struct that only CUDA kernels have, in the order of the declaration.
    CUDA_LAYOUTS:

    /// `bandwidth`, which is no op: it measures what a device reads in a second.
    BandwidthParams {
        /// Groups of 16 bytes to read.
        quads: u32,
    }
}
