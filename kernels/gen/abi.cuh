// Written by `cargo xtask abi` from core/src/abi.rs: change that file, then run it again.
#pragma once

// Tokens of one KV page.
constexpr unsigned int PAGE = 256u;

// Entry of a page table that names no page.
constexpr unsigned int NO_PAGE = 0xffffffffu;

// Most sequence slots of a step.
constexpr unsigned int SLOTS = 256u;

// Tokens that the device remembers of a slot: the one that was sampled last, and drafts by their number.
constexpr unsigned int PLACES = 16u;

// Invocations of a workgroup that works on one row, such as a norm.
constexpr unsigned int ROW_THREADS = 256u;

// Outputs of a workgroup of `moe_ffn` in the decode class.
constexpr unsigned int MOE_OUTPUTS = 8u;

// Pairs of a row and an expert in a tile of `moe_ffn` in the prefill class.
constexpr unsigned int MOE_TILE_PAIRS = 32u;

// Rows of an expert's matrix in such a tile, and invocations of its workgroup.
constexpr unsigned int MOE_TILE_ROWS = 128u;

// Most experts of a layer.
constexpr unsigned int ROUTE_EXPERTS = 512u;

// Tokens that a workgroup of `sample` looks at together.
constexpr unsigned int SAMPLE_CHUNK = 1024u;

// Tokens that a row of `sample` may keep as candidates; with more it looks at all.
constexpr unsigned int SAMPLE_CANDIDATES = 4096u;

// Columns, four values each, of a workgroup that adds up splits of `attention`.
constexpr unsigned int COMBINE_COLUMNS = 32u;

// Strands that splits of `attention` are added up in.
constexpr unsigned int COMBINE_STRANDS = 8u;

// Vectors of 16 bytes of 128 rows of a chunk of activations in 8-bit integers: eight of codes for every four rows, one
// of scales, one of sums for each half of the chunk.
constexpr unsigned int INT8_TILE = 352u;

// What the 3-bit indices of `TQ3_0` stand for, in units of the norm, ascending.
static __device__ constexpr float TQ3_CENTROIDS[8] = {
    -0.190685f, -0.117832f, -0.065717f, -0.02146f, 0.02146f, 0.065717f, 0.117832f, 0.190685f,
};

// Borders between those centroids; a value on a border belongs to the upper one.
static __device__ constexpr float TQ3_THRESHOLDS[7] = {
    -0.154259f, -0.091775f, -0.043589f, 0.0f, 0.043589f, 0.091775f, 0.154259f,
};

// Signs before `TQ3_0`'s transform: bit `j` of word `k` is set if element `32 * k + j` changes sign.
static __device__ constexpr unsigned int TQ3_SIGNS1[4] = {
    0xe46a0359u, 0x42f85949u, 0xa4c63bbbu, 0x49f250a9u,
};

// Signs after `TQ3_0`'s transform, likewise.
static __device__ constexpr unsigned int TQ3_SIGNS2[4] = {
    0x16acee90u, 0x3f628fdcu, 0xb7a5357au, 0xbea56562u,
};

// `1 / sqrt(128)`, the scale of `TQ3_0`'s transform.
constexpr float TQ3_SCALE = 0.08838835f;

// Stored type of a pool: 32-bit floats. Order and names are those of `KvType`.
constexpr unsigned int KV_F32 = 0u;

// 16-bit floats.
constexpr unsigned int KV_F16 = 1u;

// 8-bit blocks.
constexpr unsigned int KV_Q8_0 = 2u;

// 4-bit blocks.
constexpr unsigned int KV_Q4_0 = 3u;

// 3-bit rotated groups.
constexpr unsigned int KV_TQ3_0 = 4u;

// What the codes of `IQ4_NL` and `IQ4_XS` stand for, in units of the block's scale.
static __device__ constexpr int IQ4_VALUES[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10,
    1, 13, 25, 38, 53, 69, 89, 113,
};

// What the codes of `MXFP4` stand for, twice over: the scale is `2^(e - 128)`.
static __device__ constexpr int MXFP4_VALUES[16] = {
    0, 1, 2, 3, 4, 6, 8, 12,
    0, -1, -2, -3, -4, -6, -8, -12,
};

// Threads of a warp.
constexpr unsigned int WARP = 32u;

// Columns of a row that one warp prepares for a product: eight for each of its lanes.
constexpr unsigned int PREPARED_BLOCK = 256u;

// Most warps of a block that keeps a row in registers, each with `PREPARED_BLOCK` columns of it.
constexpr unsigned int ROW_WARPS = 22u;

// Threads of a block that goes over a wider row twice.
constexpr unsigned int ROW_WIDE_THREADS = 512u;

// Warps of a block of `glu`.
constexpr unsigned int GLU_WARPS = 4u;

// Threads of a block of `add`, `softcap` and `gather_rows`, each with four columns.
constexpr unsigned int ELEMENT_THREADS = 256u;

// Threads of a block of `sample`, each with four tokens.
constexpr unsigned int SAMPLE_THREADS = 512u;

// Tokens of a warp of `sample`.
constexpr unsigned int SAMPLE_SEGMENT = 128u;

// Tokens of a block of `sample`.
constexpr unsigned int SAMPLE_SLICE = 2048u;

// Threads of a block of `route`.
constexpr unsigned int ROUTE_THREADS = 256u;

// Rows of a block of `route` in the decode class: one for each of its warps.
constexpr unsigned int ROUTE_ROWS = 8u;

// Rows of a block of `route` in the prefill class.
constexpr unsigned int ROUTE_TILE_ROWS = 32u;

// Experts of such a block.
constexpr unsigned int ROUTE_TILE_EXPERTS = 128u;

// Warps of a block of `ple_inputs`, each with the vector of one layer.
constexpr unsigned int PLE_WARPS = 4u;

// Heads of a block of `attn_prepare` and `kv_append`, a warp each.
constexpr unsigned int HEADS_EACH = 4u;

// Warps of a block of `keep_rows` and `recall_rows`, each with `PREPARED_BLOCK` columns.
constexpr unsigned int RING_WARPS = 4u;

// Threads of a block of `centroid_head__choose` and `centroid_head__fill`.
constexpr unsigned int CENTROID_THREADS = 256u;

// Warps of a block of `centroid_head`, each with one token at a time.
constexpr unsigned int CENTROID_WARPS = 8u;

// Logits of a block of `centroid_head__fill`.
constexpr unsigned int CENTROID_SLICE = 8192u;

// What the host tells the device about one row of a step.
struct RowInfo {
    // Token id; ignored where bit 0 of `flags` is set.
    unsigned int token;
    // Absolute position of the token in its sequence, counted from 0.
    unsigned int position;
    // The sequence slot whose page tables this row reads.
    unsigned int slot;
    // Bit 0: take one of the tokens that are remembered of the slot; bits 1 to 4 say which, `SLOTS` apart. Bits 8 to
    // 31: how many positions the last row of the slot in this step is ahead. The other bits are 0.
    unsigned int flags;
};
static_assert(sizeof(RowInfo) == 16, "RowInfo must have no padding");

// What changes from one step to the next.
struct StepState {
    // Rows that hold tokens; rows past it are padding.
    unsigned int rows;
    // Rows that were picked for the head.
    unsigned int picked;
};
static_assert(sizeof(StepState) == 8, "StepState must have no padding");

// Where the page table of a slot is, in words from the start of all tables.
struct TableInfo {
    // First page of global layers.
    unsigned int global_start;
    // Pages of global layers.
    unsigned int global_len;
    // First page of the ring of local layers.
    unsigned int local_start;
    // Pages of that ring.
    unsigned int local_len;
};
static_assert(sizeof(TableInfo) == 16, "TableInfo must have no padding");

// How one picked row is sampled.
struct DrawInfo {
    // Divides the logits; 0 takes the most likely token.
    float temperature;
    // Keeps this many tokens; 0 keeps all.
    unsigned int top_k;
    // Keeps the fewest tokens of this probability; 1 keeps all.
    float top_p;
    // Drops tokens less likely than this share of the most likely one.
    float min_p;
    // Lower half of the random key.
    unsigned int seed_low;
    // Upper half of the random key.
    unsigned int seed_high;
    // Absolute position that the token will have.
    unsigned int position;
    // Where the token is remembered: the slot, and `SLOTS` for each place before its own.
    unsigned int slot;
    // First word of the edits in the buffer of draws; an edit is token, repetition, offset.
    unsigned int edits_start;
    // Edits.
    unsigned int edits;
    // First word of the bit mask of allowed tokens.
    unsigned int allowed_start;
    // Words of that mask; 0 allows all.
    unsigned int allowed;
};
static_assert(sizeof(DrawInfo) == 48, "DrawInfo must have no padding");

// `embed`, for one part of its table.
struct EmbedParams {
    // Values of a row.
    unsigned int cols;
    // Words from one row to the next.
    unsigned int stride;
    // Words from the start of a row to its plane of tails.
    unsigned int tails;
    // First row of the part.
    unsigned int first;
    // Rows of the part.
    unsigned int part_rows;
    // Factor of every value.
    float scale;
};
static_assert(sizeof(EmbedParams) == 24, "EmbedParams must have no padding");

// `linear`, for one part of one of its weights.
struct LinearParams {
    // Values of a row of the weight.
    unsigned int cols;
    // Elements of a row of the output.
    unsigned int out_cols;
    // Words from one row of the weight to the next.
    unsigned int stride;
    // Words from the start of a row to its plane of tails.
    unsigned int tails;
    // Column of the first output.
    unsigned int first;
    // Rows of the part.
    unsigned int outputs;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // Rows of the second weight; `linear__stack` alone, as the next.
    unsigned int second;
    // Rows of the third weight.
    unsigned int third;
    // Elements of a row of the other operand; `linear__gate` alone, as the next.
    unsigned int up_cols;
    // First column of the other operand.
    unsigned int up_start;
};
static_assert(sizeof(LinearParams) == 44, "LinearParams must have no padding");

// `ple_inputs`, for one part of its table.
struct PleInputsParams {
    // Elements of a row.
    unsigned int cols;
    // Elements of a layer's vector.
    unsigned int ple;
    // Words from one row of the table to the next.
    unsigned int stride;
    // Words from the start of a row to its plane of tails.
    unsigned int tails;
    // First row of the part.
    unsigned int first;
    // Rows of the part.
    unsigned int part_rows;
    // Factor of the table's values.
    float table_scale;
    // Factor of the context.
    float context_scale;
    // Added to the mean square, in squared activation units.
    float eps;
};
static_assert(sizeof(PleInputsParams) == 36, "PleInputsParams must have no padding");

// `rms_norm` and `norm_add`.
struct NormParams {
    // Elements of a row.
    unsigned int cols;
    // Added to the mean square, in squared activation units.
    float eps;
    // Factor of the sum; `norm_add` alone.
    float scale;
    // Epsilon of the norm that follows, where one is fused.
    float next_eps;
};
static_assert(sizeof(NormParams) == 16, "NormParams must have no padding");

// `add`, `softcap` and `gather_rows`.
struct ElementParams {
    // Elements of a row.
    unsigned int cols;
    // Largest magnitude; `softcap` alone.
    float cap;
};
static_assert(sizeof(ElementParams) == 8, "ElementParams must have no padding");

// `attn_prepare`, for one kind of heads.
struct PrepareParams {
    // Elements of a row of the projections.
    unsigned int width;
    // Values of a head.
    unsigned int dim;
    // Query heads.
    unsigned int heads;
    // Key heads.
    unsigned int kv_heads;
    // First column of the raw values.
    unsigned int value_start;
    // 1 where pages are found by the table of local layers.
    unsigned int local;
    // Words of a stored key.
    unsigned int k_stride;
    // Words of a stored value.
    unsigned int v_stride;
    // Added to the mean squares.
    float eps;
    // 1 where values are stored as they are, without a norm.
    unsigned int plain;
};
static_assert(sizeof(PrepareParams) == 40, "PrepareParams must have no padding");

// `keep_rows` and `recall_rows`.
struct RingParams {
    // Elements of a row of the activation.
    unsigned int cols;
    // First column in the ring.
    unsigned int column;
    // Elements from one row of the ring to the next.
    unsigned int stride;
    // Rows of the ring that a slot has.
    unsigned int rows;
    // Positions before the row's own; `recall_rows` alone.
    unsigned int back;
    // 1 if the rows are the picked ones; `keep_rows` alone.
    unsigned int picked;
};
static_assert(sizeof(RingParams) == 24, "RingParams must have no padding");

// `centroid_head`, for one part of its table.
struct CentroidParams {
    // Elements of a hidden state.
    unsigned int hidden;
    // Clusters.
    unsigned int clusters;
    // Tokens of a cluster.
    unsigned int each;
    // Clusters that a row chooses.
    unsigned int top_k;
    // Tokens.
    unsigned int vocab;
    // Words from one row of the table to the next.
    unsigned int stride;
    // Words from the start of a row to its plane of tails.
    unsigned int tails;
    // First row of the part.
    unsigned int first;
    // Rows of the part.
    unsigned int part_rows;
};
static_assert(sizeof(CentroidParams) == 36, "CentroidParams must have no padding");

// `attention`.
struct AttentionParams {
    // Query heads.
    unsigned int heads;
    // Key heads.
    unsigned int kv_heads;
    // Query heads of a key head.
    unsigned int group;
    // Query heads that a workgroup takes at once.
    unsigned int tile_heads;
    // Rows that a workgroup takes at once; prefill class alone.
    unsigned int tile_rows;
    // Keys that a query sees at most, its own included.
    unsigned int window;
    // 1 where pages are found by the table of local layers.
    unsigned int local;
    // 16-byte words of a stored key.
    unsigned int k_stride;
    // 16-byte words of a stored value.
    unsigned int v_stride;
    // First split of the dispatch, counted from the first that a row sees; decode class alone.
    unsigned int first;
    // Splits of the dispatch; decode class alone.
    unsigned int splits;
    // Last position that a row sees: 0 its own, 1 the one before, 2 that of its slot's last row in the step, but
    // less than a window ahead. Decode class alone; 0 in the other.
    unsigned int reach;
};
static_assert(sizeof(AttentionParams) == 48, "AttentionParams must have no padding");

// `glu`.
struct GluParams {
    // Elements of an output row.
    unsigned int cols;
    // Elements of a row of the gate's activation.
    unsigned int gate_cols;
    // First column of the gate.
    unsigned int gate_start;
    // Elements of a row of the second operand's activation.
    unsigned int up_cols;
    // First column of the second operand.
    unsigned int up_start;
};
static_assert(sizeof(GluParams) == 20, "GluParams must have no padding");

// `moe_ffn`, for one part of one of its weights.
struct MoeFfnParams {
    // Columns of the matrix.
    unsigned int cols;
    // Words from one row of the matrix to the next.
    unsigned int stride;
    // Words from the start of a row to its plane of tails.
    unsigned int tails;
    // First expert of the part.
    unsigned int first;
    // Experts of the part.
    unsigned int part_experts;
    // Rows of an expert's matrix.
    unsigned int expert_rows;
    // Outputs of a pair.
    unsigned int outputs;
    // Experts that a row chooses.
    unsigned int top_k;
    // Experts of the layer.
    unsigned int experts;
    // Pairs that there is room for: where the list of tiles starts.
    unsigned int pairs;
    // Pairs of an input row.
    unsigned int divisor;
    // 1 if the rows are the picked ones.
    unsigned int picked;
};
static_assert(sizeof(MoeFfnParams) == 48, "MoeFfnParams must have no padding");

// `route`, for one part of its matrix.
struct RouteParams {
    // Elements of a row.
    unsigned int cols;
    // Words from one row of the matrix to the next.
    unsigned int stride;
    // Words from the start of a row of the matrix to its plane of tails.
    unsigned int tails;
    // First expert of the part.
    unsigned int first;
    // Experts of the part.
    unsigned int part_experts;
    // Experts.
    unsigned int experts;
    // Experts that a row chooses.
    unsigned int top_k;
    // Added to the mean square.
    float eps;
    // `1 / sqrt(cols)`.
    float factor;
    // 1 if the rows are the picked ones.
    unsigned int picked;
};
static_assert(sizeof(RouteParams) == 40, "RouteParams must have no padding");

// `sample`.
struct SampleParams {
    // Tokens.
    unsigned int vocab;
    // Tokens of a slice.
    unsigned int slice;
    // Slices; at most `ROW_THREADS`.
    unsigned int slices;
    // Bits of -infinity, which WGSL cannot write down.
    unsigned int nothing;
};
static_assert(sizeof(SampleParams) == 16, "SampleParams must have no padding");

// `bandwidth`, which is no op: it measures what a device reads in a second.
struct BandwidthParams {
    // Groups of 16 bytes to read.
    unsigned int quads;
};
static_assert(sizeof(BandwidthParams) == 4, "BandwidthParams must have no padding");

// `rms_norm`, `norm_add`, and what fuses with them.
struct CudaNormParams {
    // Elements of a row.
    unsigned int cols;
    // Planes of what is normed.
    unsigned int planes;
    // Elements from one plane to the next.
    unsigned int plane_stride;
    // Planes of the dense branch; `norm_add__branches` alone, as the next.
    unsigned int other_planes;
    // Elements from one of those to the next.
    unsigned int other_stride;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // 1 if the residual is there before the kernel in front is done; `norm_add` alone.
    unsigned int settled;
    // 1 if the kernel behind it begins before it waits; `norm_add` alone.
    unsigned int invites;
    // Added to the mean square, in squared activation units.
    float eps;
    // Factor of the sum; `norm_add` alone.
    float scale;
    // Epsilon of the norm that follows, where one is fused.
    float next_eps;
};
static_assert(sizeof(CudaNormParams) == 44, "CudaNormParams must have no padding");

// `add`, `softcap` and `gather_rows`.
struct CudaElementParams {
    // Elements of a row.
    unsigned int cols;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // Largest magnitude; `softcap` alone.
    float cap;
};
static_assert(sizeof(CudaElementParams) == 12, "CudaElementParams must have no padding");

// `glu`.
struct CudaGluParams {
    // Elements of an output row.
    unsigned int cols;
    // Elements of a row of the gate's activation.
    unsigned int gate_cols;
    // First column of the gate.
    unsigned int gate_start;
    // Planes of the gate.
    unsigned int gate_planes;
    // Elements from one plane of the gate to the next.
    unsigned int gate_stride;
    // Elements of a row of the second operand's activation.
    unsigned int up_cols;
    // First column of the second operand.
    unsigned int up_start;
    // Planes of the second operand.
    unsigned int up_planes;
    // Elements from one plane of the second operand to the next.
    unsigned int up_stride;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // 1 where the gate passes through silu instead of gelu.
    unsigned int silu;
    // 1 if the kernel behind it begins before it waits; `glu` alone.
    unsigned int invites;
};
static_assert(sizeof(CudaGluParams) == 48, "CudaGluParams must have no padding");

// `embed`.
struct CudaEmbedParams {
    // Values of a row.
    unsigned int cols;
    // Tokens of the table.
    unsigned int vocab;
    // Factor of every value.
    float scale;
    // Epsilon of the norm that follows; `embed__rms_norm` alone.
    float eps;
};
static_assert(sizeof(CudaEmbedParams) == 16, "CudaEmbedParams must have no padding");

// `ple_inputs`.
struct CudaPleInputsParams {
    // Elements of a row.
    unsigned int cols;
    // Elements of a layer's vector.
    unsigned int ple;
    // Tokens of the table.
    unsigned int vocab;
    // Bytes of a row of the table where it lies in host memory.
    unsigned int row_bytes;
    // Factor of the table's values.
    float table_scale;
    // Factor of the context.
    float context_scale;
    // Added to the mean square, in squared activation units.
    float eps;
};
static_assert(sizeof(CudaPleInputsParams) == 28, "CudaPleInputsParams must have no padding");

// `route`.
struct CudaRouteParams {
    // Elements of a row.
    unsigned int cols;
    // Experts.
    unsigned int experts;
    // Experts that a row chooses; at most one for each lane of a warp.
    unsigned int top_k;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // Added to the mean square, in squared activation units.
    float eps;
    // `1 / sqrt(cols)`.
    float factor;
};
static_assert(sizeof(CudaRouteParams) == 24, "CudaRouteParams must have no padding");

// `sample`, and the `softcap` in front of it.
struct CudaSampleParams {
    // Tokens.
    unsigned int vocab;
    // Segments of a row, of `SAMPLE_SEGMENT` tokens each.
    unsigned int segments;
    // Largest magnitude of a capped logit; 0 caps none.
    float cap;
};
static_assert(sizeof(CudaSampleParams) == 12, "CudaSampleParams must have no padding");

// `centroid_head`.
struct CudaCentroidParams {
    // Elements of a hidden state.
    unsigned int hidden;
    // Clusters.
    unsigned int clusters;
    // Tokens of a cluster.
    unsigned int each;
    // Clusters that a row chooses.
    unsigned int top_k;
    // Tokens.
    unsigned int vocab;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
};
static_assert(sizeof(CudaCentroidParams) == 24, "CudaCentroidParams must have no padding");

// `linear`, for up to three weights of one type.
struct CudaLinearParams {
    // Elements of a row of the output.
    unsigned int out_cols;
    // Elements from one plane of the output to the next.
    unsigned int plane_stride;
    // Column of the first output.
    unsigned int first;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // Weights.
    unsigned int weights;
    // Groups of 4 tiles of 16 outputs.
    unsigned int groups;
    // Planes of the output.
    unsigned int planes;
};
static_assert(sizeof(CudaLinearParams) == 28, "CudaLinearParams must have no padding");

// `dequantise`, which is no op of its own: it makes halves of a weight for products by a library.
struct DequantiseParams {
    // Row of the output that the first row of the weight becomes.
    unsigned int first;
    // Blocks of 256 columns of a row, the last one perhaps not whole.
    unsigned int blocks;
};
static_assert(sizeof(DequantiseParams) == 8, "DequantiseParams must have no padding");

// `prepare`, which is no op of its own: it puts activations into the form that products read.
struct PrepareFormParams {
    // Elements of a row.
    unsigned int cols;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // Planes that are added up.
    unsigned int planes;
    // Elements from one plane to the next.
    unsigned int plane_stride;
};
static_assert(sizeof(PrepareFormParams) == 16, "PrepareFormParams must have no padding");

// `moe_ffn`.
struct CudaMoeParams {
    // Experts that a row chooses.
    unsigned int top_k;
    // Experts of the layer.
    unsigned int experts;
    // Most pairs of a tile.
    unsigned int tile;
    // Tiles that there is room for.
    unsigned int tiles;
    // 1 if the rows are the picked ones of the step.
    unsigned int picked;
    // Pairs that there is room for.
    unsigned int pairs;
    // Columns of `down`.
    unsigned int ffn;
    // Elements of a row of the output.
    unsigned int cols;
    // Planes of the products with gate and up.
    unsigned int splits;
    // Weights of the launch, whose outputs follow one another.
    unsigned int weights;
    // Column of the first output.
    unsigned int first;
    // Elements from one plane of the output to the next.
    unsigned int plane_stride;
    // 1 if the kernel in front of `moe_ffn__up` is a product, so that experts were chosen and sorted before it began.
    unsigned int known;
};
static_assert(sizeof(CudaMoeParams) == 52, "CudaMoeParams must have no padding");

// `attn_prepare` and `kv_append`.
struct CudaPrepareParams {
    // Elements of a row of the projections.
    unsigned int width;
    // Values of a head.
    unsigned int dim;
    // Query heads; 0 in `kv_append`.
    unsigned int heads;
    // Key heads; 0 if keys and values are a donor's.
    unsigned int kv_heads;
    // First column of the raw values.
    unsigned int value_start;
    // 1 where pages are found by the table of local layers.
    unsigned int local;
    // Stored type of keys.
    unsigned int k_kind;
    // Stored type of values.
    unsigned int v_kind;
    // Planes of the projections.
    unsigned int planes;
    // Elements from one plane to the next.
    unsigned int plane_stride;
    // 1 where values are stored as they are, without a norm.
    unsigned int plain;
    // 1 if the kernel behind it begins before it waits; `attn_prepare__rows` alone.
    unsigned int invites;
    // Added to the mean squares.
    float eps;
};
static_assert(sizeof(CudaPrepareParams) == 52, "CudaPrepareParams must have no padding");

// `attention`.
struct CudaAttentionParams {
    // Query heads.
    unsigned int heads;
    // Key heads.
    unsigned int kv_heads;
    // Query heads of a key head.
    unsigned int group;
    // Keys that a query sees at most, its own included.
    unsigned int window;
    // 1 where pages are found by the table of local layers.
    unsigned int local;
    // Rows that a block takes together.
    unsigned int tile_rows;
    // Blocks of several rows that the device has at once; decode class alone, as the next three.
    unsigned int resident;
    // Parts that a row's keys are cut into.
    unsigned int splits;
    // Parts that are added up at once.
    unsigned int fan;
    // Last position that a row sees: 0 its own, 1 the one before, 2 that of its slot's last row in the step, but less
    // than a window ahead.
    unsigned int reach;
    // Stored type of keys; `attention__any` alone, as the next two.
    unsigned int k_kind;
    // Stored type of values.
    unsigned int v_kind;
    // Values of a head.
    unsigned int dim;
};
static_assert(sizeof(CudaAttentionParams) == 52, "CudaAttentionParams must have no padding");
