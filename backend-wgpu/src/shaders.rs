//! The WGSL files, and how an entry point is put together.
//!
//! WGSL has no include: a module is the generated constants and structs, the common parts that the op names, and the
//! op's own file, one after another. What differs between variants is a part (how a type of weight is decoded), an
//! `override` constant, or an entry point of its own.
//!
//! Every entry point has its storage buffers in group 0, in the order in which the lowering lists them. Group 1 is the
//! same for all: binding 0 the op's parameters, binding 1 the `StepState`.

use gemma4_core::tensor::DType;

/// One text that shaders are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// File below `shaders/`, without `.wgsl`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! parts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub const $name: Part =
            Part { name: $file, text: include_str!(concat!("../../shaders/", $file, ".wgsl")) };)*

        /// Every file.
        pub const ALL: &[Part] = &[$($name),*];
    };
}

parts! {
    /// Constants and structs shared with the host.
    ABI = "gen/abi";
    /// Sums over a workgroup.
    REDUCE = "common/reduce";
    /// The same by subgroups.
    REDUCE_SUBGROUP = "common/reduce_subgroup";
    /// Tiles of f16.
    TILE_F16 = "common/tile_f16";
    /// Tiles of f32.
    TILE_F32 = "common/tile_f32";
    /// What the tiled products have in common.
    LINEAR_TILES_COMMON = "common/linear_tiles";
    /// Activation functions.
    ACTIVATION = "common/activation";
    /// Weights bound as `w`.
    WEIGHTS = "common/weights";
    /// Weights bound as `w` and `up`.
    WEIGHTS_PAIR = "common/weights_pair";
    /// Weights bound as `w`, `w1` and `w2`.
    WEIGHTS_STACK = "common/weights_stack";
    /// What decoders are made of.
    WORDS = "common/words";
    /// Codes as subnormal halves.
    SMALL_HALVES = "common/small_halves";
    /// Codes as integers.
    SMALL_INTEGERS = "common/small_integers";
    /// Where the columns of a block are.
    QUADS = "common/quads";
    /// Where its codes are.
    BLOCKS = "common/blocks";
    /// Where floats are.
    FLOATS = "common/floats";
    /// Sums over lanes.
    LANES = "common/lanes";
    /// The same with subgroups.
    LANES_SUBGROUP = "common/lanes_subgroup";
    /// Products of few rows.
    MATVEC = "common/matvec";
    /// Tables of four-bit codes.
    CODES = "common/codes";
    /// Scales of `Q4_K` and `Q5_K`.
    K_SCALES = "common/k_scales";
    /// Weights of `F32`.
    F32 = "common/f32";
    /// Weights of `F16`.
    F16 = "common/f16";
    /// Weights of `BF16`.
    BF16 = "common/bf16";
    /// Weights of `Q4_0`.
    Q4_0 = "common/q4_0";
    /// Weights of `Q4_1`.
    Q4_1 = "common/q4_1";
    /// Weights of `Q5_0`.
    Q5_0 = "common/q5_0";
    /// Weights of `Q5_1`.
    Q5_1 = "common/q5_1";
    /// Weights of `Q8_0`.
    Q8_0 = "common/q8_0";
    /// Weights of `Q2_K`.
    Q2_K = "common/q2_k";
    /// Weights of `Q3_K`.
    Q3_K = "common/q3_k";
    /// Weights of `Q4_K`.
    Q4_K = "common/q4_k";
    /// Weights of `Q5_K`.
    Q5_K = "common/q5_k";
    /// Weights of `Q6_K`.
    Q6_K = "common/q6_k";
    /// Weights of `IQ4_NL`.
    IQ4_NL = "common/iq4_nl";
    /// Weights of `IQ4_XS`.
    IQ4_XS = "common/iq4_xs";
    /// Weights of `MXFP4`.
    MXFP4 = "common/mxfp4";
    /// Random numbers of draws.
    GUMBEL = "common/gumbel";
    /// Arithmetic that rounds as on the host.
    EXACT = "common/exact";
    /// Values of the cache, read.
    KV_READ = "common/kv_read";
    /// Values of the cache, written.
    KV_WRITE = "common/kv_write";
    /// Where rows of the cache are.
    PAGES = "common/pages";
    /// The transform of `tq3_0`.
    ROTATE = "common/rotate";
    /// Op `add`.
    ADD = "add";
    /// Op `attention`, decode class: a split.
    ATTENTION = "attention";
    /// Op `attention`, decode class: sums of splits.
    ATTENTION_COMBINE = "attention_combine";
    /// Op `attention`, prefill class.
    ATTENTION_PREFILL = "attention_prefill";
    /// The same: sums of weighted values.
    ATTENTION_PREFILL_SUMS = "attention_prefill_sums";
    /// Op `attention`: queries and outputs of rotated pools.
    ATTENTION_ROTATE = "attention_rotate";
    /// Op `attention`, decode class: a split, entry point of core features.
    ATTENTION_SPLIT_CORE = "attention_split_core";
    /// The same, entry point with subgroups.
    ATTENTION_SPLIT_SUBGROUPS = "attention_split_subgroups";
    /// Op `attn_prepare`.
    ATTN_PREPARE = "attn_prepare";
    /// Op `centroid_head`: products with the tokens of the chosen clusters.
    CENTROID_HEAD = "centroid_head";
    /// Op `centroid_head`: the choice of clusters.
    CENTROID_HEAD_CHOOSE = "centroid_head_choose";
    /// Op `centroid_head`: all logits.
    CENTROID_HEAD_FILL = "centroid_head_fill";
    /// Op `embed`.
    EMBED = "embed";
    /// Op `gather_rows`.
    GATHER_ROWS = "gather_rows";
    /// Op `glu`.
    GLU = "glu";
    /// Op `keep_rows`.
    KEEP_ROWS = "keep_rows";
    /// Op `kv_append`.
    KV_APPEND = "kv_append";
    /// Op `linear`, in 8-bit integers.
    LINEAR_INT8 = "linear_int8";
    /// The same: its activations.
    LINEAR_INT8_ROWS = "linear_int8_rows";
    /// Op `linear`, tiles of 128 rows.
    LINEAR_TILES = "linear_tiles";
    /// Op `linear`, tiles of 16 rows.
    LINEAR_TILES_FEW = "linear_tiles_few";
    /// Op `linear`, tiles of 64 rows.
    LINEAR_TILES_NARROW = "linear_tiles_narrow";
    /// Ops `rms_norm` and `norm_add` of rows that fit registers.
    NORM_QUADS = "norm_quads";
    /// The same with more of what is around them.
    NORM_JOIN = "norm_join";
    /// Op `linear`.
    LINEAR = "linear";
    /// Op `linear` with the `glu` whose gate it is.
    LINEAR_GATE = "linear_gate";
    /// The same behind a `norm_add`.
    LINEAR_GATE_OF_SUM = "linear_gate_of_sum";
    /// Op `linear` with the `glu` that follows.
    LINEAR_GLU = "linear_glu";
    /// Op `linear`, several weights at once.
    LINEAR_STACK = "linear_stack";
    /// Op `moe_ffn`.
    MOE_FFN = "moe_ffn";
    /// Op `moe_ffn` in the decode class.
    MOE_MATVEC = "moe_matvec";
    /// Op `moe_ffn` in the prefill class.
    MOE_TILES = "moe_tiles";
    /// Op `norm_add`.
    NORM_ADD = "norm_add";
    /// Op `ple_inputs`.
    PLE_INPUTS = "ple_inputs";
    /// Whether subnormal halves are kept.
    PROBE = "probe";
    /// Op `recall_rows`.
    RECALL_ROWS = "recall_rows";
    /// Op `rms_norm`.
    RMS_NORM = "rms_norm";
    /// Op `route`.
    ROUTE = "route";
    /// Op `sample`.
    SAMPLE = "sample";
    /// Op `sample`: the choice among the best of slices.
    SAMPLE_CHOOSE = "sample_choose";
    /// Op `softcap`.
    SOFTCAP = "softcap";
}

/// How values of a type of weight are read from the binding `w`. Without [`WEIGHTS`], its first part, the op says
/// where they are read from.
#[must_use]
pub fn decoder(dtype: DType) -> &'static [Part] {
    match dtype {
        DType::F32 => &[WEIGHTS, WORDS, FLOATS, F32],
        DType::F16 => &[WEIGHTS, WORDS, FLOATS, F16],
        DType::BF16 => &[WEIGHTS, WORDS, FLOATS, BF16],
        DType::Q4_0 => &[WEIGHTS, WORDS, SMALL_HALVES, QUADS, BLOCKS, Q4_0],
        DType::Q4_1 => &[WEIGHTS, WORDS, QUADS, BLOCKS, Q4_1],
        DType::Q5_0 => &[WEIGHTS, WORDS, QUADS, BLOCKS, Q5_0],
        DType::Q5_1 => &[WEIGHTS, WORDS, QUADS, BLOCKS, Q5_1],
        DType::Q8_0 => &[WEIGHTS, WORDS, QUADS, BLOCKS, Q8_0],
        DType::Q2_K => &[WEIGHTS, WORDS, QUADS, BLOCKS, Q2_K],
        DType::Q3_K => &[WEIGHTS, WORDS, QUADS, BLOCKS, Q3_K],
        DType::Q4_K => &[WEIGHTS, WORDS, SMALL_HALVES, QUADS, BLOCKS, K_SCALES, Q4_K],
        DType::Q5_K => &[WEIGHTS, WORDS, SMALL_HALVES, QUADS, BLOCKS, K_SCALES, Q5_K],
        DType::Q6_K => &[WEIGHTS, WORDS, SMALL_HALVES, QUADS, BLOCKS, Q6_K],
        DType::IQ4_NL => &[WEIGHTS, WORDS, QUADS, BLOCKS, CODES, IQ4_NL],
        DType::IQ4_XS => &[WEIGHTS, WORDS, QUADS, BLOCKS, CODES, IQ4_XS],
        DType::MXFP4 => &[WEIGHTS, WORDS, QUADS, BLOCKS, CODES, MXFP4],
    }
}

/// An entry point: parts, constants and name. Two equal ones are one pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// Texts after [`ABI`], the op's own file last.
    pub parts: Vec<Part>,
    /// Name of the entry point: the op's, with its variant after two underscores.
    pub entry: &'static str,
    /// Values of `override` constants.
    pub constants: Vec<(&'static str, u32)>,
    /// Directives before everything else, such as `enable f16;`.
    pub enable: &'static str,
}

impl Shader {
    /// An entry point without constants.
    #[must_use]
    pub fn new(parts: &[Part], entry: &'static str) -> Self {
        Self { parts: parts.to_vec(), entry, constants: Vec::new(), enable: "" }
    }

    /// With a value for an `override` constant.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: u32) -> Self {
        self.constants.push((name, value));
        self
    }

    /// With 16-bit floats.
    #[must_use]
    pub fn with_f16(mut self) -> Self {
        self.enable = "enable f16;\n";
        self
    }

    /// The whole module.
    #[must_use]
    pub fn source(&self) -> String {
        let mut source = self.enable.to_owned();
        for part in std::iter::once(&ABI).chain(&self.parts) {
            source.push_str(part.text);
            source.push('\n');
        }
        source
    }
}
