// Written by `cargo xtask abi` from core/src/abi.rs: change that file, then run it again.

// Tokens of one KV page.
const PAGE: u32 = 256u;

// Entry of a page table that names no page.
const NO_PAGE: u32 = 0xffffffffu;

// Most sequence slots of a step.
const SLOTS: u32 = 256u;

// Tokens that the device remembers of a slot: the one that was sampled last, and drafts by their number.
const PLACES: u32 = 16u;

// Invocations of a workgroup that works on one row, such as a norm.
const ROW_THREADS: u32 = 256u;

// Outputs of a workgroup of `moe_ffn` in the decode class.
const MOE_OUTPUTS: u32 = 8u;

// Pairs of a row and an expert in a tile of `moe_ffn` in the prefill class.
const MOE_TILE_PAIRS: u32 = 32u;

// Rows of an expert's matrix in such a tile, and invocations of its workgroup.
const MOE_TILE_ROWS: u32 = 128u;

// Most experts of a layer.
const ROUTE_EXPERTS: u32 = 512u;

// Tokens that a workgroup of `sample` looks at together.
const SAMPLE_CHUNK: u32 = 1024u;

// Tokens that a row of `sample` may keep as candidates; with more it looks at all.
const SAMPLE_CANDIDATES: u32 = 4096u;

// Columns, four values each, of a workgroup that adds up splits of `attention`.
const COMBINE_COLUMNS: u32 = 32u;

// Strands that splits of `attention` are added up in.
const COMBINE_STRANDS: u32 = 8u;

// Vectors of 16 bytes of 128 rows of a chunk of activations in 8-bit integers: eight of codes for every four rows, one
// of scales, one of sums for each half of the chunk.
const INT8_TILE: u32 = 352u;

// What the 3-bit indices of `TQ3_0` stand for, in units of the norm, ascending.
const TQ3_CENTROIDS = array<f32, 8>(
    -0.190685f, -0.117832f, -0.065717f, -0.02146f, 0.02146f, 0.065717f, 0.117832f, 0.190685f,
);

// Borders between those centroids; a value on a border belongs to the upper one.
const TQ3_THRESHOLDS = array<f32, 7>(
    -0.154259f, -0.091775f, -0.043589f, 0.0f, 0.043589f, 0.091775f, 0.154259f,
);

// Signs before `TQ3_0`'s transform: bit `j` of word `k` is set if element `32 * k + j` changes sign.
const TQ3_SIGNS1 = array<u32, 4>(
    0xe46a0359u, 0x42f85949u, 0xa4c63bbbu, 0x49f250a9u,
);

// Signs after `TQ3_0`'s transform, likewise.
const TQ3_SIGNS2 = array<u32, 4>(
    0x16acee90u, 0x3f628fdcu, 0xb7a5357au, 0xbea56562u,
);

// `1 / sqrt(128)`, the scale of `TQ3_0`'s transform.
const TQ3_SCALE: f32 = 0.08838835f;

// Stored type of a pool: 32-bit floats. Order and names are those of `KvType`.
const KV_F32: u32 = 0u;

// 16-bit floats.
const KV_F16: u32 = 1u;

// 8-bit blocks.
const KV_Q8_0: u32 = 2u;

// 4-bit blocks.
const KV_Q4_0: u32 = 3u;

// 3-bit rotated groups.
const KV_TQ3_0: u32 = 4u;

// What the codes of `IQ4_NL` and `IQ4_XS` stand for, in units of the block's scale.
const IQ4_VALUES = array<i32, 16>(
    -127, -104, -83, -65, -49, -35, -22, -10,
    1, 13, 25, 38, 53, 69, 89, 113,
);

// What the codes of `MXFP4` stand for, twice over: the scale is `2^(e - 128)`.
const MXFP4_VALUES = array<i32, 16>(
    0, 1, 2, 3, 4, 6, 8, 12,
    0, -1, -2, -3, -4, -6, -8, -12,
);

// What the host tells the device about one row of a step.
struct RowInfo {
    // Token id; ignored where bit 0 of `flags` is set.
    token: u32,
    // Absolute position of the token in its sequence, counted from 0.
    position: u32,
    // The sequence slot whose page tables this row reads.
    slot: u32,
    // Bit 0: take one of the tokens that are remembered of the slot; bits 1 to 4 say which, `SLOTS` apart. Bits 8 to
    // 31: how many positions the last row of the slot in this step is ahead. The other bits are 0.
    flags: u32,
}

// What changes from one step to the next.
struct StepState {
    // Rows that hold tokens; rows past it are padding.
    rows: u32,
    // Rows that were picked for the head.
    picked: u32,
}

// Where the page table of a slot is, in words from the start of all tables.
struct TableInfo {
    // First page of global layers.
    global_start: u32,
    // Pages of global layers.
    global_len: u32,
    // First page of the ring of local layers.
    local_start: u32,
    // Pages of that ring.
    local_len: u32,
}

// How one picked row is sampled.
struct DrawInfo {
    // Divides the logits; 0 takes the most likely token.
    temperature: f32,
    // Keeps this many tokens; 0 keeps all.
    top_k: u32,
    // Keeps the fewest tokens of this probability; 1 keeps all.
    top_p: f32,
    // Drops tokens less likely than this share of the most likely one.
    min_p: f32,
    // Lower half of the random key.
    seed_low: u32,
    // Upper half of the random key.
    seed_high: u32,
    // Absolute position that the token will have.
    position: u32,
    // Where the token is remembered: the slot, and `SLOTS` for each place before its own.
    slot: u32,
    // First word of the edits in the buffer of draws; an edit is token, repetition, offset.
    edits_start: u32,
    // Edits.
    edits: u32,
    // First word of the bit mask of allowed tokens.
    allowed_start: u32,
    // Words of that mask; 0 allows all.
    allowed: u32,
}

// `embed`, for one part of its table.
struct EmbedParams {
    // Values of a row.
    cols: u32,
    // Words from one row to the next.
    stride: u32,
    // Words from the start of a row to its plane of tails.
    tails: u32,
    // First row of the part.
    first: u32,
    // Rows of the part.
    part_rows: u32,
    // Factor of every value.
    scale: f32,
}

// `linear`, for one part of one of its weights.
struct LinearParams {
    // Values of a row of the weight.
    cols: u32,
    // Elements of a row of the output.
    out_cols: u32,
    // Words from one row of the weight to the next.
    stride: u32,
    // Words from the start of a row to its plane of tails.
    tails: u32,
    // Column of the first output.
    first: u32,
    // Rows of the part.
    outputs: u32,
    // 1 if the rows are the picked ones of the step.
    picked: u32,
    // Rows of the second weight; `linear__stack` alone, as the next.
    second: u32,
    // Rows of the third weight.
    third: u32,
    // Elements of a row of the other operand; `linear__gate` alone, as the next.
    up_cols: u32,
    // First column of the other operand.
    up_start: u32,
}

// `ple_inputs`, for one part of its table.
struct PleInputsParams {
    // Elements of a row.
    cols: u32,
    // Elements of a layer's vector.
    ple: u32,
    // Words from one row of the table to the next.
    stride: u32,
    // Words from the start of a row to its plane of tails.
    tails: u32,
    // First row of the part.
    first: u32,
    // Rows of the part.
    part_rows: u32,
    // Factor of the table's values.
    table_scale: f32,
    // Factor of the context.
    context_scale: f32,
    // Added to the mean square, in squared activation units.
    eps: f32,
}

// `rms_norm` and `norm_add`.
struct NormParams {
    // Elements of a row.
    cols: u32,
    // Added to the mean square, in squared activation units.
    eps: f32,
    // Factor of the sum; `norm_add` alone.
    scale: f32,
    // Epsilon of the norm that follows, where one is fused.
    next_eps: f32,
}

// `add`, `softcap` and `gather_rows`.
struct ElementParams {
    // Elements of a row.
    cols: u32,
    // Largest magnitude; `softcap` alone.
    cap: f32,
}

// `attn_prepare`, for one kind of heads.
struct PrepareParams {
    // Elements of a row of the projections.
    width: u32,
    // Values of a head.
    dim: u32,
    // Query heads.
    heads: u32,
    // Key heads.
    kv_heads: u32,
    // First column of the raw values.
    value_start: u32,
    // 1 where pages are found by the table of local layers.
    local: u32,
    // Words of a stored key.
    k_stride: u32,
    // Words of a stored value.
    v_stride: u32,
    // Added to the mean squares.
    eps: f32,
    // 1 where values are stored as they are, without a norm.
    plain: u32,
}

// `keep_rows` and `recall_rows`.
struct RingParams {
    // Elements of a row of the activation.
    cols: u32,
    // First column in the ring.
    column: u32,
    // Elements from one row of the ring to the next.
    stride: u32,
    // Rows of the ring that a slot has.
    rows: u32,
    // Positions before the row's own; `recall_rows` alone.
    back: u32,
    // 1 if the rows are the picked ones; `keep_rows` alone.
    picked: u32,
}

// `centroid_head`, for one part of its table.
struct CentroidParams {
    // Elements of a hidden state.
    hidden: u32,
    // Clusters.
    clusters: u32,
    // Tokens of a cluster.
    each: u32,
    // Clusters that a row chooses.
    top_k: u32,
    // Tokens.
    vocab: u32,
    // Words from one row of the table to the next.
    stride: u32,
    // Words from the start of a row to its plane of tails.
    tails: u32,
    // First row of the part.
    first: u32,
    // Rows of the part.
    part_rows: u32,
}

// `attention`.
struct AttentionParams {
    // Query heads.
    heads: u32,
    // Key heads.
    kv_heads: u32,
    // Query heads of a key head.
    group: u32,
    // Query heads that a workgroup takes at once.
    tile_heads: u32,
    // Rows that a workgroup takes at once; prefill class alone.
    tile_rows: u32,
    // Keys that a query sees at most, its own included.
    window: u32,
    // 1 where pages are found by the table of local layers.
    local: u32,
    // 16-byte words of a stored key.
    k_stride: u32,
    // 16-byte words of a stored value.
    v_stride: u32,
    // First split of the dispatch, counted from the first that a row sees; decode class alone.
    first: u32,
    // Splits of the dispatch; decode class alone.
    splits: u32,
    // Last position that a row sees: 0 its own, 1 the one before, 2 that of its slot's last row in the step, but
    // less than a window ahead. Decode class alone; 0 in the other.
    reach: u32,
}

// `glu`.
struct GluParams {
    // Elements of an output row.
    cols: u32,
    // Elements of a row of the gate's activation.
    gate_cols: u32,
    // First column of the gate.
    gate_start: u32,
    // Elements of a row of the second operand's activation.
    up_cols: u32,
    // First column of the second operand.
    up_start: u32,
}

// `moe_ffn`, for one part of one of its weights.
struct MoeFfnParams {
    // Columns of the matrix.
    cols: u32,
    // Words from one row of the matrix to the next.
    stride: u32,
    // Words from the start of a row to its plane of tails.
    tails: u32,
    // First expert of the part.
    first: u32,
    // Experts of the part.
    part_experts: u32,
    // Rows of an expert's matrix.
    expert_rows: u32,
    // Outputs of a pair.
    outputs: u32,
    // Experts that a row chooses.
    top_k: u32,
    // Experts of the layer.
    experts: u32,
    // Pairs that there is room for: where the list of tiles starts.
    pairs: u32,
    // Pairs of an input row.
    divisor: u32,
    // 1 if the rows are the picked ones.
    picked: u32,
}

// `route`, for one part of its matrix.
struct RouteParams {
    // Elements of a row.
    cols: u32,
    // Words from one row of the matrix to the next.
    stride: u32,
    // Words from the start of a row of the matrix to its plane of tails.
    tails: u32,
    // First expert of the part.
    first: u32,
    // Experts of the part.
    part_experts: u32,
    // Experts.
    experts: u32,
    // Experts that a row chooses.
    top_k: u32,
    // Added to the mean square.
    eps: f32,
    // `1 / sqrt(cols)`.
    factor: f32,
    // 1 if the rows are the picked ones.
    picked: u32,
}

// `sample`.
struct SampleParams {
    // Tokens.
    vocab: u32,
    // Tokens of a slice.
    slice: u32,
    // Slices; at most `ROW_THREADS`.
    slices: u32,
    // Bits of -infinity, which WGSL cannot write down.
    nothing: u32,
}
