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
    /// `attn_prepare`.
    CudaPrepareParams {
        /// Elements of a row of the projections.
        width: u32,
        /// Values of a head.
        dim: u32,
        /// Query heads.
        heads: u32,
        /// Key heads; 0 if keys and values are a donor's.
        kv_heads: u32,
        /// First column of the raw values.
        value_start: u32,
        /// 1 where pages are found by the table of local layers.
        local: u32,
        /// Stored type of keys.
        k_kind: u32,
        /// Stored type of values.
        v_kind: u32,
        /// Planes of the projections.
        planes: u32,
        /// Elements from one plane to the next.
        plane_stride: u32,
        /// Added to the mean squares.
        eps: f32,
    }
    /// `attention`.
    CudaAttentionParams {
        /// Query heads.
        heads: u32,
        /// Key heads.
        kv_heads: u32,
        /// Query heads of a key head.
        group: u32,
        /// Keys that a query sees at most, its own included.
        window: u32,
        /// 1 where pages are found by the table of local layers.
        local: u32,
        /// Rows that a block takes together.
        tile_rows: u32,
        /// Parts that a row's keys are cut into; decode class alone.
        splits: u32,
        /// Parts that are added up at once; decode class alone.
        fan: u32,
        /// Stored type of keys; `attention__any` alone, as the next two.
        k_kind: u32,
        /// Stored type of values.
        v_kind: u32,
        /// Values of a head.
        dim: u32,
    }
    /// `linear`, for up to three weights of one type.
    CudaLinearParams {
        /// Elements of a row of the output.
        out_cols: u32,
        /// Elements from one plane of the output to the next.
        plane_stride: u32,
        /// Column of the first output.
        first: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// Weights.
        weights: u32,
    }
    /// `prepare`, which is no op of its own: it puts activations into the form that products read.
    PrepareFormParams {
        /// Elements of a row.
        cols: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// Planes that are added up.
        planes: u32,
        /// Elements from one plane to the next.
        plane_stride: u32,
    }
    /// `moe_ffn`.
    CudaMoeParams {
        /// Experts that a row chooses.
        top_k: u32,
        /// Experts of the layer.
        experts: u32,
        /// Most pairs of a tile.
        tile: u32,
        /// Tiles that there is room for.
        tiles: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// Pairs that there is room for.
        pairs: u32,
        /// Columns of `down`.
        ffn: u32,
        /// Elements of a row of the output.
        cols: u32,
        /// Planes of the products with gate and up.
        splits: u32,
        /// Weights of the launch, whose outputs follow one another.
        weights: u32,
        /// Column of the first output.
        first: u32,
        /// Elements from one plane of the output to the next.
        plane_stride: u32,
    }
}
