//! Hyper-parameters of a Gemma 4 text model.

/// Everything about a model that is not a weight. Read from GGUF metadata or `config.json` and validated;
/// no size of any release is written down in the code.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Query heads, the same in every layer.
    pub heads: usize,
    /// Largest position the model was trained for, plus one.
    pub max_context: usize,
    /// Added to the mean square in every norm, in squared activation units.
    pub rms_eps: f32,
    /// Logits become `cap · tanh(logit / cap)`.
    pub final_softcap: Option<f32>,
    /// Sliding window of local layers, in tokens, the token itself included.
    pub window: usize,
    /// RoPE of local layers.
    pub rope_local: Rope,
    /// RoPE of global layers.
    pub rope_global: Rope,
    /// Width of one layer's per-layer embedding, for the E models.
    pub ple: Option<usize>,
    /// The mixture of experts that runs beside the dense branch of every layer, for 26B-A4B.
    pub moe: Option<Moe>,
    /// Tokens the model must never produce.
    pub suppress: Vec<u32>,
    /// Layers in order.
    pub layers: Vec<LayerConfig>,
}

/// Rotary position embedding of one kind of layer; pairs are `(i, i + head_dim / 2)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f32,
    /// Divisors of the angles, `head_dim / 2` of them; empty means all 1. Pairs that do not rotate have 1e30.
    pub factors: Vec<f32>,
}

/// Sizes of a mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moe {
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that one token uses.
    pub top_k: usize,
    /// Width of one expert's hidden layer.
    pub ffn: usize,
}

/// What a layer attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// The last [`Config::window`] tokens ("sliding" layers).
    Local,
    /// Everything before ("full" layers).
    Global,
}

/// One decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Local or global attention.
    pub span: Span,
    /// Width of one head.
    pub head_dim: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of the dense feed-forward branch.
    pub ffn: usize,
    /// The earlier layer whose keys and values this one reads; `None` if it owns its cache.
    pub donor: Option<usize>,
    /// Values are the raw key projection: there is no value projection.
    pub k_eq_v: bool,
}
