//! Constants and parameter structs that only CUDA kernels have.

use super::{Constant, Field, FourBytes, Layout, Value};

consts! {
    /// Every constant that only CUDA kernels have, in the order of the declaration.
    cuda_constants:

    /// Threads of a warp.
    WARP: u32 = 32;
    /// Columns of a row that one warp prepares for a product: eight for each of its lanes.
    PREPARED_BLOCK: u32 = 256;
    /// Most warps of a block that keeps a row in registers, each with `PREPARED_BLOCK` columns of it.
    ROW_WARPS: u32 = 22;
    /// Threads of a block that goes over a wider row twice.
    ROW_WIDE_THREADS: u32 = 512;
    /// Warps of a block of `glu`.
    GLU_WARPS: u32 = 4;
    /// Threads of a block of `add`, `softcap` and `gather_rows`, each with four columns.
    ELEMENT_THREADS: u32 = 256;
    /// Threads of a block of `sample`, each with four tokens.
    SAMPLE_THREADS: u32 = 512;
    /// Tokens of a warp of `sample`.
    SAMPLE_SEGMENT: u32 = 128;
    /// Tokens of a block of `sample`.
    SAMPLE_SLICE: u32 = 2048;
    /// Threads of a block of `route`.
    ROUTE_THREADS: u32 = 256;
    /// Rows of a block of `route` in the decode class: one for each of its warps.
    ROUTE_ROWS: u32 = 8;
    /// Rows of a block of `route` in the prefill class.
    ROUTE_TILE_ROWS: u32 = 32;
    /// Experts of such a block.
    ROUTE_TILE_EXPERTS: u32 = 128;
    /// Warps of a block of `ple_inputs`, each with the vector of one layer.
    PLE_WARPS: u32 = 4;
    /// Heads of a block of `attn_prepare` and `kv_append`, a warp each.
    HEADS_EACH: u32 = 4;
    /// Warps of a block of `keep_rows` and `recall_rows`, each with `PREPARED_BLOCK` columns.
    RING_WARPS: u32 = 4;
    /// Threads of a block of `centroid_head__choose` and `centroid_head__fill`.
    CENTROID_THREADS: u32 = 256;
    /// Warps of a block of `centroid_head`, each with one token at a time.
    CENTROID_WARPS: u32 = 8;
    /// Logits of a block of `centroid_head__fill`.
    CENTROID_SLICE: u32 = 8192;
}

abi! {
    /// The layout of every struct that only CUDA kernels have, in the order of the declaration.
    CUDA_LAYOUTS:

    /// `bandwidth`, which is no op: it measures what a device reads in a second.
    BandwidthParams {
        /// Groups of 16 bytes to read.
        quads: u32,
    }
    /// `rms_norm`, `norm_add`, and what fuses with them.
    CudaNormParams {
        /// Elements of a row.
        cols: u32,
        /// Planes of what is normed.
        planes: u32,
        /// Elements from one plane to the next.
        plane_stride: u32,
        /// Planes of the dense branch; `norm_add__branches` alone, as the next.
        other_planes: u32,
        /// Elements from one of those to the next.
        other_stride: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// 1 if the residual is there before the kernel in front is done; `norm_add` alone.
        settled: u32,
        /// 1 if the kernel behind it begins before it waits; `norm_add` alone.
        invites: u32,
        /// Added to the mean square, in squared activation units.
        eps: f32,
        /// Factor of the sum; `norm_add` alone.
        scale: f32,
        /// Epsilon of the norm that follows, where one is fused.
        next_eps: f32,
    }
    /// `add`, `softcap` and `gather_rows`.
    CudaElementParams {
        /// Elements of a row.
        cols: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// Largest magnitude; `softcap` alone.
        cap: f32,
    }
    /// `glu`.
    CudaGluParams {
        /// Elements of an output row.
        cols: u32,
        /// Elements of a row of the gate's activation.
        gate_cols: u32,
        /// First column of the gate.
        gate_start: u32,
        /// Planes of the gate.
        gate_planes: u32,
        /// Elements from one plane of the gate to the next.
        gate_stride: u32,
        /// Elements of a row of the second operand's activation.
        up_cols: u32,
        /// First column of the second operand.
        up_start: u32,
        /// Planes of the second operand.
        up_planes: u32,
        /// Elements from one plane of the second operand to the next.
        up_stride: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// 1 where the gate passes through silu instead of gelu.
        silu: u32,
        /// 1 if the kernel behind it begins before it waits; `glu` alone.
        invites: u32,
    }
    /// `embed`.
    CudaEmbedParams {
        /// Values of a row.
        cols: u32,
        /// Tokens of the table.
        vocab: u32,
        /// Factor of every value.
        scale: f32,
        /// Epsilon of the norm that follows; `embed__rms_norm` alone.
        eps: f32,
    }
    /// `ple_inputs`.
    CudaPleInputsParams {
        /// Elements of a row.
        cols: u32,
        /// Elements of a layer's vector.
        ple: u32,
        /// Tokens of the table.
        vocab: u32,
        /// Bytes of a row of the table where it lies in host memory.
        row_bytes: u32,
        /// Factor of the table's values.
        table_scale: f32,
        /// Factor of the context.
        context_scale: f32,
        /// Added to the mean square, in squared activation units.
        eps: f32,
    }
    /// `route`.
    CudaRouteParams {
        /// Elements of a row.
        cols: u32,
        /// Experts.
        experts: u32,
        /// Experts that a row chooses; at most one for each lane of a warp.
        top_k: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// Added to the mean square, in squared activation units.
        eps: f32,
        /// `1 / sqrt(cols)`.
        factor: f32,
    }
    /// `sample`, and the `softcap` in front of it.
    CudaSampleParams {
        /// Tokens.
        vocab: u32,
        /// Segments of a row, of `SAMPLE_SEGMENT` tokens each.
        segments: u32,
        /// Largest magnitude of a capped logit; 0 caps none.
        cap: f32,
    }
    /// `centroid_head`.
    CudaCentroidParams {
        /// Elements of a hidden state.
        hidden: u32,
        /// Clusters.
        clusters: u32,
        /// Tokens of a cluster.
        each: u32,
        /// Clusters that a row chooses.
        top_k: u32,
        /// Tokens.
        vocab: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
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
        /// Groups of 4 tiles of 16 outputs.
        groups: u32,
        /// Planes of the output.
        planes: u32,
    }
    /// `dequantise`, which is no op of its own: it makes halves of a weight for products by a library.
    DequantiseParams {
        /// Row of the output that the first row of the weight becomes.
        first: u32,
        /// Blocks of 256 columns of a row, the last one perhaps not whole.
        blocks: u32,
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
        /// 1 if the kernel in front of `moe_ffn__up` is a product, so that experts were chosen and sorted before it began.
        known: u32,
    }
    /// `attn_prepare` and `kv_append`.
    CudaPrepareParams {
        /// Elements of a row of the projections.
        width: u32,
        /// Values of a head.
        dim: u32,
        /// Query heads; 0 in `kv_append`.
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
        /// 1 where values are stored as they are, without a norm.
        plain: u32,
        /// 1 if the kernel behind it begins before it waits; `attn_prepare__rows` alone.
        invites: u32,
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
        /// Blocks of several rows that the device has at once; decode class alone, as the next three.
        resident: u32,
        /// Parts that a row's keys are cut into.
        splits: u32,
        /// Parts that are added up at once.
        fan: u32,
        /// Last position that a row sees: 0 its own, 1 the one before, 2 that of its slot's last row in the step, but less
        /// than a window ahead.
        reach: u32,
        /// Stored type of keys; `attention__any` alone, as the next two.
        k_kind: u32,
        /// Stored type of values.
        v_kind: u32,
        /// Values of a head.
        dim: u32,
    }
}
