//! What the host and the kernels agree on: parameter structs, constants and lookup tables, each written once.
//!
//! `cargo xtask abi` writes the tables below as CUDA C++ ([`cuda`], `kernels/gen/abi.cuh`) and as WGSL
//! ([`wgsl`], `shaders/gen/abi.wgsl`). Both texts are committed, so that a reader of a kernel can open them,
//! and a test compares them with what this module generates.
//!
//! What a declaration becomes is in `abi/declare.rs`. What only CUDA kernels need is a second group, in `abi/cuda_only.rs`:
//! it is written to the CUDA header alone.
//!
//! Every field of a struct is a 4-byte scalar: no arrays, no nesting, no pointers. Then `repr(C)`, CUDA and both
//! WGSL address spaces lay a struct out alike, without padding rules.

use crate::kv_type::tq3;
use crate::quant;

// Before everything that uses its macros.
#[macro_use]
mod declare;
mod cuda_only;
pub mod step;
mod text;

pub use cuda_only::*;
use declare::FourBytes;
pub use declare::{Constant, Field, Layout, Number, Scalar, Value};
pub use text::{cuda, wgsl};

/// A table in the smallest type that kernels know.
const fn wide<const N: usize>(values: [i8; N]) -> [i32; N] {
    let mut wide = [0; N];
    let mut index = 0;
    while index < N {
        // `i32::from` is not const.
        wide[index] = values[index] as i32;
        index += 1;
    }
    wide
}

consts! {
    /// Every constant, in the order of the declaration.
    constants:

    /// Tokens of one KV page.
    PAGE: u32 = 256;
    /// Entry of a page table that names no page.
    NO_PAGE: u32 = 0xffff_ffff;
    /// Most sequence slots of a step.
    SLOTS: u32 = 256;
    /// Tokens that the device remembers of a slot: the one that was sampled last, and drafts by their number.
    PLACES: u32 = 16;
    /// Invocations of a workgroup that works on one row, such as a norm.
    ROW_THREADS: u32 = 256;
    /// Outputs of a workgroup of `moe_ffn` in the decode class.
    MOE_OUTPUTS: u32 = 8;
    /// Pairs of a row and an expert in a tile of `moe_ffn` in the prefill class.
    MOE_TILE_PAIRS: u32 = 32;
    /// Rows of an expert's matrix in such a tile, and invocations of its workgroup.
    MOE_TILE_ROWS: u32 = 128;
    /// Most experts of a layer.
    ROUTE_EXPERTS: u32 = 512;
    /// Tokens that a workgroup of `sample` looks at together.
    SAMPLE_CHUNK: u32 = 1024;
    /// Tokens that a row of `sample` may keep as candidates; with more it looks at all.
    SAMPLE_CANDIDATES: u32 = 4096;
    /// Columns, four values each, of a workgroup that adds up splits of `attention`.
    COMBINE_COLUMNS: u32 = 32;
    /// Strands that splits of `attention` are added up in.
    COMBINE_STRANDS: u32 = 8;
    /// Vectors of 16 bytes of 128 rows of a chunk of activations in 8-bit integers: eight of codes for every four rows, one
    /// of scales, one of sums for each half of the chunk.
    INT8_TILE: u32 = 352;
    /// What the 3-bit indices of `TQ3_0` stand for, in units of the norm, ascending.
    TQ3_CENTROIDS: [f32; 8] = tq3::CENTROIDS;
    /// Borders between those centroids; a value on a border belongs to the upper one.
    TQ3_THRESHOLDS: [f32; 7] = tq3::THRESHOLDS;
    /// Signs before `TQ3_0`'s transform: bit `j` of word `k` is set if element `32 * k + j` changes sign.
    TQ3_SIGNS1: [u32; 4] = tq3::SIGNS1;
    /// Signs after `TQ3_0`'s transform, likewise.
    TQ3_SIGNS2: [u32; 4] = tq3::SIGNS2;
    /// `1 / sqrt(128)`, the scale of `TQ3_0`'s transform.
    TQ3_SCALE: f32 = tq3::SCALE;
    /// Stored type of a pool: 32-bit floats. Order and names are those of `KvType`.
    KV_F32: u32 = 0;
    /// 16-bit floats.
    KV_F16: u32 = 1;
    /// 8-bit blocks.
    KV_Q8_0: u32 = 2;
    /// 4-bit blocks.
    KV_Q4_0: u32 = 3;
    /// 3-bit rotated groups.
    KV_TQ3_0: u32 = 4;
    /// What the codes of `IQ4_NL` and `IQ4_XS` stand for, in units of the block's scale.
    IQ4_VALUES: [i32; 16] = wide(quant::IQ4_VALUES);
    /// What the codes of `MXFP4` stand for, twice over: the scale is `2^(e - 128)`.
    MXFP4_VALUES: [i32; 16] = wide(quant::MXFP4_VALUES);
}

abi! {
    /// The layout of every struct, in the order of the declaration.
    LAYOUTS:

    /// What the host tells the device about one row of a step.
    RowInfo {
        /// Token id; ignored where bit 0 of `flags` is set.
        token: u32,
        /// Absolute position of the token in its sequence, counted from 0.
        position: u32,
        /// The sequence slot whose page tables this row reads.
        slot: u32,
        /// Bit 0: take one of the tokens that are remembered of the slot; bits 1 to 4 say which, `SLOTS` apart. Bits 8 to
        /// 31: how many positions the last row of the slot in this step is ahead. The other bits are 0.
        flags: u32,
    }
    /// What changes from one step to the next.
    StepState {
        /// Rows that hold tokens; rows past it are padding.
        rows: u32,
        /// Rows that were picked for the head.
        picked: u32,
    }
    /// Where the page table of a slot is, in words from the start of all tables.
    TableInfo {
        /// First page of global layers.
        global_start: u32,
        /// Pages of global layers.
        global_len: u32,
        /// First page of the ring of local layers.
        local_start: u32,
        /// Pages of that ring.
        local_len: u32,
    }
    /// How one picked row is sampled.
    DrawInfo {
        /// Divides the logits; 0 takes the most likely token.
        temperature: f32,
        /// Keeps this many tokens; 0 keeps all.
        top_k: u32,
        /// Keeps the fewest tokens of this probability; 1 keeps all.
        top_p: f32,
        /// Drops tokens less likely than this share of the most likely one.
        min_p: f32,
        /// Lower half of the random key.
        seed_low: u32,
        /// Upper half of the random key.
        seed_high: u32,
        /// Absolute position that the token will have.
        position: u32,
        /// Where the token is remembered: the slot, and `SLOTS` for each place before its own.
        slot: u32,
        /// First word of the edits in the buffer of draws; an edit is token, repetition, offset.
        edits_start: u32,
        /// Edits.
        edits: u32,
        /// First word of the bit mask of allowed tokens.
        allowed_start: u32,
        /// Words of that mask; 0 allows all.
        allowed: u32,
    }
    /// `embed`, for one part of its table.
    EmbedParams {
        /// Values of a row.
        cols: u32,
        /// Words from one row to the next.
        stride: u32,
        /// Words from the start of a row to its plane of tails.
        tails: u32,
        /// First row of the part.
        first: u32,
        /// Rows of the part.
        part_rows: u32,
        /// Factor of every value.
        scale: f32,
    }
    /// `linear`, for one part of one of its weights.
    LinearParams {
        /// Values of a row of the weight.
        cols: u32,
        /// Elements of a row of the output.
        out_cols: u32,
        /// Words from one row of the weight to the next.
        stride: u32,
        /// Words from the start of a row to its plane of tails.
        tails: u32,
        /// Column of the first output.
        first: u32,
        /// Rows of the part.
        outputs: u32,
        /// 1 if the rows are the picked ones of the step.
        picked: u32,
        /// Rows of the second weight; `linear__stack` alone, as the next.
        second: u32,
        /// Rows of the third weight.
        third: u32,
        /// Elements of a row of the other operand; `linear__gate` alone, as the next.
        up_cols: u32,
        /// First column of the other operand.
        up_start: u32,
    }
    /// `ple_inputs`, for one part of its table.
    PleInputsParams {
        /// Elements of a row.
        cols: u32,
        /// Elements of a layer's vector.
        ple: u32,
        /// Words from one row of the table to the next.
        stride: u32,
        /// Words from the start of a row to its plane of tails.
        tails: u32,
        /// First row of the part.
        first: u32,
        /// Rows of the part.
        part_rows: u32,
        /// Factor of the table's values.
        table_scale: f32,
        /// Factor of the context.
        context_scale: f32,
        /// Added to the mean square, in squared activation units.
        eps: f32,
    }
    /// `rms_norm` and `norm_add`.
    NormParams {
        /// Elements of a row.
        cols: u32,
        /// Added to the mean square, in squared activation units.
        eps: f32,
        /// Factor of the sum; `norm_add` alone.
        scale: f32,
        /// Epsilon of the norm that follows, where one is fused.
        next_eps: f32,
    }
    /// `add`, `softcap` and `gather_rows`.
    ElementParams {
        /// Elements of a row.
        cols: u32,
        /// Largest magnitude; `softcap` alone.
        cap: f32,
    }
    /// `attn_prepare`, for one kind of heads.
    PrepareParams {
        /// Elements of a row of the projections.
        width: u32,
        /// Values of a head.
        dim: u32,
        /// Query heads.
        heads: u32,
        /// Key heads.
        kv_heads: u32,
        /// First column of the raw values.
        value_start: u32,
        /// 1 where pages are found by the table of local layers.
        local: u32,
        /// Words of a stored key.
        k_stride: u32,
        /// Words of a stored value.
        v_stride: u32,
        /// Added to the mean squares.
        eps: f32,
        /// 1 where values are stored as they are, without a norm.
        plain: u32,
    }
    /// `keep_rows` and `recall_rows`.
    RingParams {
        /// Elements of a row of the activation.
        cols: u32,
        /// First column in the ring.
        column: u32,
        /// Elements from one row of the ring to the next.
        stride: u32,
        /// Rows of the ring that a slot has.
        rows: u32,
        /// Positions before the row's own; `recall_rows` alone.
        back: u32,
        /// 1 if the rows are the picked ones; `keep_rows` alone.
        picked: u32,
    }
    /// `centroid_head`, for one part of its table.
    CentroidParams {
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
        /// Words from one row of the table to the next.
        stride: u32,
        /// Words from the start of a row to its plane of tails.
        tails: u32,
        /// First row of the part.
        first: u32,
        /// Rows of the part.
        part_rows: u32,
    }
    /// `attention`.
    AttentionParams {
        /// Query heads.
        heads: u32,
        /// Key heads.
        kv_heads: u32,
        /// Query heads of a key head.
        group: u32,
        /// Query heads that a workgroup takes at once.
        tile_heads: u32,
        /// Rows that a workgroup takes at once; prefill class alone.
        tile_rows: u32,
        /// Keys that a query sees at most, its own included.
        window: u32,
        /// 1 where pages are found by the table of local layers.
        local: u32,
        /// 16-byte words of a stored key.
        k_stride: u32,
        /// 16-byte words of a stored value.
        v_stride: u32,
        /// First split of the dispatch, counted from the first that a row sees; decode class alone.
        first: u32,
        /// Splits of the dispatch; decode class alone.
        splits: u32,
        /// Last position that a row sees: 0 its own, 1 the one before, 2 that of its slot's last row in the step, but
        /// less than a window ahead. Decode class alone; 0 in the other.
        reach: u32,
    }
    /// `glu`.
    GluParams {
        /// Elements of an output row.
        cols: u32,
        /// Elements of a row of the gate's activation.
        gate_cols: u32,
        /// First column of the gate.
        gate_start: u32,
        /// Elements of a row of the second operand's activation.
        up_cols: u32,
        /// First column of the second operand.
        up_start: u32,
    }
    /// `moe_ffn`, for one part of one of its weights.
    MoeFfnParams {
        /// Columns of the matrix.
        cols: u32,
        /// Words from one row of the matrix to the next.
        stride: u32,
        /// Words from the start of a row to its plane of tails.
        tails: u32,
        /// First expert of the part.
        first: u32,
        /// Experts of the part.
        part_experts: u32,
        /// Rows of an expert's matrix.
        expert_rows: u32,
        /// Outputs of a pair.
        outputs: u32,
        /// Experts that a row chooses.
        top_k: u32,
        /// Experts of the layer.
        experts: u32,
        /// Pairs that there is room for: where the list of tiles starts.
        pairs: u32,
        /// Pairs of an input row.
        divisor: u32,
        /// 1 if the rows are the picked ones.
        picked: u32,
    }
    /// `route`, for one part of its matrix.
    RouteParams {
        /// Elements of a row.
        cols: u32,
        /// Words from one row of the matrix to the next.
        stride: u32,
        /// Words from the start of a row of the matrix to its plane of tails.
        tails: u32,
        /// First expert of the part.
        first: u32,
        /// Experts of the part.
        part_experts: u32,
        /// Experts.
        experts: u32,
        /// Experts that a row chooses.
        top_k: u32,
        /// Added to the mean square.
        eps: f32,
        /// `1 / sqrt(cols)`.
        factor: f32,
        /// 1 if the rows are the picked ones.
        picked: u32,
    }
    /// `sample`.
    SampleParams {
        /// Tokens.
        vocab: u32,
        /// Tokens of a slice.
        slice: u32,
        /// Slices; at most `ROW_THREADS`.
        slices: u32,
        /// Bits of -infinity, which WGSL cannot write down.
        nothing: u32,
    }
}

#[cfg(test)]
mod tests;
