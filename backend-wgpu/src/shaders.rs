//! The WGSL files, and how an entry point is put together.
//!
//! WGSL has no include: a module is the generated constants and structs, the common parts that the op names, and the
//! op's own file, one after another. What differs between variants is a part (how a type of weight is decoded), an
//! `override` constant, or an entry point of its own.
//!
//! Every entry point has its storage buffers in group 0, in the order in which the lowering lists them. Group 1 is the
//! same for all: binding 0 the op's parameters, binding 1 the `StepState`.

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
    /// Activation functions.
    ACTIVATION = "common/activation";
    /// Weights of `F32`.
    F32 = "common/f32";
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
    /// Op `attention`, decode class: sums of splits.
    ATTENTION_COMBINE = "attention_combine";
    /// Op `attention`, prefill class.
    ATTENTION_PREFILL = "attention_prefill";
    /// Op `attention`: queries and outputs of rotated pools.
    ATTENTION_ROTATE = "attention_rotate";
    /// Op `attention`, decode class: a split.
    ATTENTION_SPLIT = "attention_split";
    /// The same, entry point of core features.
    ATTENTION_SPLIT_CORE = "attention_split_core";
    /// The same, entry point with subgroups.
    ATTENTION_SPLIT_SUBGROUPS = "attention_split_subgroups";
    /// Op `attn_prepare`.
    ATTN_PREPARE = "attn_prepare";
    /// Op `embed`.
    EMBED = "embed";
    /// Op `gather_rows`.
    GATHER_ROWS = "gather_rows";
    /// Op `glu`.
    GLU = "glu";
    /// Op `norm_add`.
    NORM_ADD = "norm_add";
    /// Op `rms_norm`.
    RMS_NORM = "rms_norm";
    /// Op `softcap`.
    SOFTCAP = "softcap";
}

/// How values of a type of weight are read.
///
/// # Panics
///
/// For types without a decoder.
#[must_use]
pub fn decoder(dtype: gemma4_core::tensor::DType) -> Part {
    match dtype {
        gemma4_core::tensor::DType::F32 => F32,
        other => panic!("no decoder of {other}"),
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
