//! Hyper-parameters of a Gemma 4 text model.

use crate::error::ModelError;
use keys::{Keys, Sizes, sizes};

pub(crate) mod gguf;
pub(crate) mod json;
pub(crate) mod keys;
#[cfg(test)]
pub(crate) mod tests;

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
    /// Rotary embedding of local layers.
    pub rope_local: Rope,
    /// Rotary embedding of global layers.
    pub rope_global: Rope,
    /// Width of one layer's per-layer embedding, for the E models.
    pub ple: Option<usize>,
    /// The mixture of experts that runs beside the dense branch of every layer, for 26B-A4B.
    pub moe: Option<Moe>,
    /// Tokens the model must never produce; each below `vocab`, none twice.
    pub suppress: Vec<u32>,
    /// Logits are products with the token embedding; otherwise there is an output matrix of its own.
    pub tied: bool,
    /// Layers in order.
    pub layers: Vec<LayerConfig>,
}

/// Rotary position embedding of one kind of layer; pairs are `(i, i + head_dim / 2)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f32,
    /// Divisors of the angles, `head_dim / 2` of them; empty means all 1. Pairs that do not rotate have
    /// [`NO_ROTATION`].
    pub factors: Vec<f32>,
}

/// The divisor that stops a pair from rotating. GGUF files hold it in `rope_freqs.weight`; not a number of `f16`.
pub const NO_ROTATION: f32 = 1e30;

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

impl Span {
    /// What files call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Span::Local => "sliding",
            Span::Global => "full",
        }
    }
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
    /// Values are the raw key projection: there is no value projection. False where there is a donor.
    pub k_eq_v: bool,
}

impl LayerConfig {
    /// Rows of the query projection and columns of the output projection, with `heads` query heads.
    #[must_use]
    pub const fn q_rows(&self, heads: usize) -> usize {
        heads * self.head_dim
    }

    /// Rows of the key projection, and of the value projection.
    #[must_use]
    pub const fn kv_rows(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl Rope {
    /// Where every divisor is 1 there are none, so that both formats give the same model.
    fn new(theta: f32, mut factors: Vec<f32>) -> Self {
        if factors.iter().all(|f| f.to_bits() == 1f32.to_bits()) {
            factors.clear();
        }
        Self { theta, factors }
    }
}

// What a size may be: far beyond every release, and small enough that no product of a few overflows 64 bits.
pub(crate) const LAYERS: Sizes = sizes(1..=1024);
pub(crate) const HIDDEN: Sizes = sizes(32..=1 << 16).multiple_of(32);
pub(crate) const VOCAB: Sizes = sizes(1..=1 << 22);
pub(crate) const HEADS: Sizes = sizes(1..=1024);
pub(crate) const HEAD_DIM: Sizes = sizes(32..=1 << 12).multiple_of(32);
pub(crate) const FFN: Sizes = sizes(1..=1 << 20);
pub(crate) const WINDOW: Sizes = sizes(1..=1 << 24);
pub(crate) const CONTEXT: Sizes = sizes(1..=1 << 30);
pub(crate) const PLE: Sizes = sizes(0..=1 << 14);
pub(crate) const EXPERTS: Sizes = sizes(1..=1 << 12);

/// The keys that hold what [`check_layers`] and [`share_kv`] look at.
struct LayerKeys {
    kinds: &'static str,
    geometry: &'static str,
    shared: &'static str,
}

/// Checks what holds between layers, and gives the last `sharing` ones their donors.
///
/// A donor is the last layer of the same kind that comes before the first sharing layer.
/// Source: `Gemma4TextAttention.__init__` in transformers, `modeling_gemma4.py`.
fn share_kv(
    file: &impl Keys,
    keys: &LayerKeys,
    layers: &mut [LayerConfig],
    sharing: usize,
) -> Result<(), ModelError> {
    let (owners, sharers) = layers.split_at_mut(layers.len().saturating_sub(sharing));
    for (i, layer) in sharers.iter_mut().enumerate() {
        let index = owners.len() + i;
        let Some(donor) = owners.iter().rposition(|owner| owner.span == layer.span) else {
            let expected = format!(
                "fewer: layer {index} is a {kind} layer, and none of the {} layers that keep their keys and values is",
                owners.len(),
                kind = layer.span.name(),
            );
            return Err(file.bad(keys.shared, sharing, expected));
        };
        let own = (layer.head_dim, layer.kv_heads);
        let donated = (owners[donor].head_dim, owners[donor].kv_heads);
        if own != donated {
            let found = format!("{} heads of {} in layer {index}", own.1, own.0);
            let expected = format!(
                "{} heads of {} as in layer {donor}, whose keys and values it reads",
                donated.1, donated.0
            );
            return Err(file.bad(keys.geometry, found, expected));
        }
        layer.donor = Some(donor);
        layer.k_eq_v = false;
    }
    Ok(())
}

/// Checks that the last layer is global and that all layers of a kind have heads of one width, as rotation needs.
fn check_layers(file: &impl Keys, keys: &LayerKeys, layers: &[LayerConfig]) -> Result<(), ModelError> {
    if layers.last().is_none_or(|layer| layer.span != Span::Global) {
        return Err(file.bad(keys.kinds, "sliding in the last layer", "a full layer at the end"));
    }
    for span in [Span::Local, Span::Global] {
        let mut kind = layers.iter().enumerate().filter(|(_, layer)| layer.span == span);
        let Some((first, model)) = kind.next() else {
            continue;
        };
        if let Some((index, layer)) = kind.find(|(_, layer)| layer.head_dim != model.head_dim) {
            let found = format!("{} in layer {index}", layer.head_dim);
            let expected = format!("{} as in layer {first}, a {} layer too", model.head_dim, span.name());
            return Err(file.bad(keys.geometry, found, expected));
        }
    }
    Ok(())
}

/// Checks that every suppressed token exists.
fn check_suppressed(file: &impl Keys, key: &str, ids: &[u32], vocab: usize) -> Result<(), ModelError> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        None => Ok(()),
        Some(id) => Err(file.bad(key, format!("a list with {id}"), format!("token ids below {vocab}"))),
    }
}
