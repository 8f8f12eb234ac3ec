//! Files of DFlash drafters: z-lab's checkpoint folders, and GGUF files in the dialects of lucebox, of llama.cpp and of
//! its forks.

use std::path::{Path, PathBuf};

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::hf;
use crate::model::config::gguf::GgufKeys;
use crate::model::config::json::JsonKeys;
use crate::model::config::keys::{Keys, Numbers, Sizes, Value, sizes};
use crate::model::config::{FFN, HEAD_DIM, HEADS, HIDDEN, LAYERS, Span, VOCAB, WINDOW};
use crate::model::drafter::{find, need, need_vector, shape_error};
use crate::model::weights::{Naming, WeightSource};
use crate::ops::glu::Activation;
use crate::tensor::Tensor;

/// Hyper-parameters of a drafter.
#[derive(Clone, Debug, PartialEq)]
pub struct DFlashConfig {
    /// Width of the residual stream, the target's too.
    pub hidden: usize,
    /// Query heads; together they may be wider than the stream.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Width of the feed-forward branch.
    pub ffn: usize,
    /// What each layer attends to.
    pub layers: Vec<Span>,
    /// Sliding window in tokens, the token itself included.
    pub window: usize,
    /// Added to the mean square in every norm.
    pub rms_eps: f32,
    /// Base of the rotary embedding, which turns whole heads.
    pub theta: f32,
    /// Rows of a block that it was trained for: the newest token and masks.
    pub block: usize,
    /// Token that stands for what is to be drafted.
    pub mask_token: u32,
    /// Layers of the target whose outputs it sees, counted from 0.
    pub taps: Vec<usize>,
    /// Layers of the target, if the file says so.
    pub target_layers: Option<usize>,
    /// Tokens of the vocabulary, if the file says so.
    pub vocab: Option<usize>,
    /// Whether rows of a block see only those before them, in all layers alike; decided by the kind of layer if absent.
    pub causal: Option<bool>,
    /// Logits become `cap · tanh(logit / cap)`.
    pub softcap: Option<f32>,
    /// What the gate passes through.
    pub activation: Activation,
    /// Factor of the embedding; the target's own if absent.
    pub embedding_scale: Option<f32>,
}

/// A drafter as a file holds it, checked by itself but not yet against a target.
#[derive(Clone, Debug)]
pub struct DFlashFile {
    /// File or folder.
    pub path: PathBuf,
    /// Hyper-parameters.
    pub config: DFlashConfig,
    /// What is worth telling a user about how the file was read.
    pub notes: Vec<String>,
    pub(super) weights: DFlashWeights,
}

/// All weights of a drafter.
#[derive(Clone, Debug)]
pub(super) struct DFlashWeights {
    /// `[hidden, taps · hidden]`.
    pub(super) fc: Tensor,
    pub(super) hidden_norm: Tensor,
    pub(super) norm: Tensor,
    pub(super) layers: Vec<LayerWeights>,
}

#[derive(Clone, Debug)]
pub(super) struct LayerWeights {
    pub(super) input_norm: Tensor,
    pub(super) qkv: [Tensor; 3],
    pub(super) q_norm: Tensor,
    pub(super) k_norm: Tensor,
    pub(super) output: Tensor,
    pub(super) post_norm: Tensor,
    pub(super) gate_up: [Tensor; 2],
    pub(super) down: Tensor,
}

/// The window of a drafter without sliding layers, which nobody looks at.
const NO_WINDOW: usize = 1 << 24;

/// Most rows of a block.
const BLOCK: Sizes = sizes(2..=256);

impl DFlashFile {
    /// Reads a checkpoint folder: its `config.json` at `path`, and its weights.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key or tensor that is missing or wrong.
    pub fn from_json(path: &Path, text: &str, source: &dyn WeightSource) -> Result<Self, ModelError> {
        let object = hf::json::object(path, text)?;
        let keys = JsonKeys::new(path, &object);
        let count = keys.need_size("num_hidden_layers", LAYERS)?;
        if keys.flag("attention_bias")? == Some(true) {
            return Err(keys.bad("attention_bias", true, "false"));
        }
        if let Some(scaling) = keys.find("rope_scaling") {
            return Err(keys.bad("rope_scaling", scaling, "null"));
        }
        let theta = match keys.number("rope_theta", Numbers::Positive)? {
            Some(theta) => theta,
            None => keys.need_number("rope_parameters.rope_theta", Numbers::Positive)?,
        };
        let slides = keys.flag("use_sliding_window")?.unwrap_or(true);
        let layers = spans(&keys, "layer_types", count, slides)?;
        let first = |names: [&'static str; 2]| names.into_iter().find(|name| keys.find(name).is_some());
        let block = first(["dflash_config.block_size", "block_size"]);
        let causal =
            first(["dflash_config.causal", "is_causal"]).map(|name| keys.flag(name)).transpose()?.flatten();
        let mut config = DFlashConfig {
            hidden: keys.need_size("hidden_size", HIDDEN)?,
            heads: keys.need_size("num_attention_heads", HEADS)?,
            kv_heads: keys.need_size("num_key_value_heads", HEADS)?,
            head_dim: keys.need_size("head_dim", HEAD_DIM)?,
            ffn: keys.need_size("intermediate_size", FFN)?,
            window: match keys.size("sliding_window", WINDOW)? {
                Some(window) => window,
                None if layers.contains(&Span::Local) => return Err(keys.missing("sliding_window", WINDOW)),
                None => NO_WINDOW,
            },
            layers,
            rms_eps: keys.need_number("rms_norm_eps", Numbers::Positive)?,
            theta,
            block: block.map(|name| keys.need_size(name, BLOCK)).transpose()?.unwrap_or(16),
            mask_token: token(&keys, "dflash_config.mask_token_id")?,
            taps: ids(&keys, "dflash_config.target_layer_ids")?,
            target_layers: keys.size("num_target_layers", LAYERS)?,
            vocab: keys.size("vocab_size", VOCAB)?,
            causal,
            softcap: keys.number("final_logit_softcapping", Numbers::NonNegative)?.filter(|cap| *cap > 0.0),
            activation: activation(&keys, "hidden_act")?,
            embedding_scale: keys.number("input_embedding_scale", Numbers::Positive)?,
        };
        check(&keys, "num_attention_heads", &config)?;
        let (weights, notes) = load(&mut config, source)?;
        Ok(Self { path: source.path().to_owned(), config, notes, weights })
    }

    /// Reads a GGUF file whose keys begin with `architecture`.
    ///
    /// Sizes are those of the tensors where they show them, for metadata of converted files may be wrong.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key or tensor that is missing or wrong.
    pub fn from_gguf(gguf: &Gguf, architecture: &str) -> Result<Self, ModelError> {
        let keys = GgufKeys(gguf, architecture);
        let key = |name: &str| format!("gemma4.{name}");
        // A key of a group of its own: `dflash.block_size` in files of llama.cpp, `<architecture>.dflash.block_size` in
        // the others.
        let own =
            |name: &str| if architecture == "dflash" { key(name) } else { key(&format!("dflash.{name}")) };
        let count = keys.need_size(&key("block_count"), LAYERS)?;
        let pattern = key("attention.sliding_window_pattern");
        let window_key = [key("attention.sliding_window"), own("sliding_window")]
            .into_iter()
            .find(|name| keys.find(name).is_some());
        let layers = match keys.find(&pattern) {
            Some(_) => spans(&keys, &pattern, count, window_key.is_some())?,
            // All but the last, as in every drafter of Gemma 4, unless there is no window at all.
            None => (1..=count)
                .map(|n| if n < count && window_key.is_some() { Span::Local } else { Span::Global })
                .collect(),
        };
        let mask_keys = ["tokenizer.ggml.mask_token_id".to_owned(), own("mask_token_id")];
        let mask = mask_keys.iter().find(|name| keys.find(name).is_some()).unwrap_or(&mask_keys[1]);
        // llama.cpp numbers the layer whose input is looked at.
        let (taps_key, shift) = match architecture {
            "dflash" => (key("target_layers"), 1),
            _ => (own("target_layer_ids"), 0),
        };
        let mut taps = ids(&keys, &taps_key)?;
        for tap in &mut taps {
            let shifted = tap.checked_sub(shift);
            *tap = shifted.ok_or_else(|| keys.bad(&taps_key, "a list with 0", "layers counted from 1"))?;
        }
        let softcap = [key("final_logit_softcapping"), own("logit_softcap")]
            .into_iter()
            .find(|name| keys.find(name).is_some());
        let mut config = DFlashConfig {
            hidden: keys.need_size(&key("embedding_length"), HIDDEN)?,
            heads: keys.need_size(&key("attention.head_count"), HEADS)?,
            kv_heads: keys.need_size(&key("attention.head_count_kv"), HEADS)?,
            head_dim: keys.need_size(&key("attention.key_length"), HEAD_DIM)?,
            ffn: keys.need_size(&key("feed_forward_length"), FFN)?,
            layers,
            window: window_key.map_or(Ok(NO_WINDOW), |name| keys.need_size(&name, WINDOW))?,
            rms_eps: keys.need_number(&key("attention.layer_norm_rms_epsilon"), Numbers::Positive)?,
            theta: keys.need_number(&key("rope.freq_base"), Numbers::Positive)?,
            block: keys.size(&own("block_size"), BLOCK)?.unwrap_or(16),
            mask_token: token(&keys, mask)?,
            taps,
            // What lucebox calls so is the number of layers; forks that mean the number of taps have another key.
            target_layers: keys.size(&own("n_target_layers"), LAYERS)?,
            vocab: keys.size(&key("vocab_size"), VOCAB)?,
            causal: keys.flag(&key("attention.causal"))?,
            softcap: softcap.map(|name| keys.need_number(&name, Numbers::NonNegative)).transpose()?,
            activation: activation(&keys, &key("hidden_activation"))?,
            embedding_scale: keys.number(&key("embedding_scale"), Numbers::Positive)?,
        };
        config.softcap = config.softcap.filter(|cap| *cap > 0.0);
        let head_dim = config.head_dim;
        if let Some(found) = keys.size(&key("attention.value_length"), HEAD_DIM)?
            && found != head_dim
        {
            return Err(keys.bad(
                &key("attention.value_length"),
                found,
                format!("{head_dim}, the length of the keys"),
            ));
        }
        check(&keys, &key("attention.head_count"), &config)?;
        let (weights, notes) = load(&mut config, gguf)?;
        Ok(Self { path: gguf.path().to_owned(), config, notes, weights })
    }
}

impl DFlashFile {
    /// Bytes of its weights as the file holds them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let layers = self
            .weights
            .layers
            .iter()
            .flat_map(|layer| layer.qkv.iter().chain(&layer.gate_up).chain([&layer.output, &layer.down]));
        layers.chain([&self.weights.fc]).map(|tensor| tensor.data.len() as u64).sum()
    }
}

/// What each layer attends to: names or truth values, a sliding window for each that is true.
fn spans(keys: &impl Keys, key: &str, count: usize, slides: bool) -> Result<Vec<Span>, ModelError> {
    let expected = format!("a list of {count} layers");
    let list = match keys.find(key) {
        None if !slides => return Ok(vec![Span::Global; count]),
        Some(Value::List(list)) if list.len() == count => list,
        Some(other) => return Err(keys.bad(key, other, expected)),
        None => return Err(keys.missing(key, expected)),
    };
    list.iter()
        .map(|kind| match kind {
            Value::Text("sliding_attention") | Value::Bool(true) | Value::Int(1) if slides => Ok(Span::Local),
            Value::Text("full_attention" | "sliding_attention") | Value::Bool(_) | Value::Int(0 | 1) => {
                Ok(Span::Global)
            }
            other => Err(keys.bad(key, format!("a list with {other}"), &expected)),
        })
        .collect()
}

/// Numbers of layers; empty if absent.
fn ids(keys: &impl Keys, key: &str) -> Result<Vec<usize>, ModelError> {
    Ok(keys.token_ids(key)?.into_iter().map(|id| id as usize).collect())
}

fn token(keys: &impl Keys, key: &str) -> Result<u32, ModelError> {
    let expected = "the id of the mask token";
    match keys.token_ids(key)?[..] {
        [] => Err(keys.missing(key, expected)),
        [id] => Ok(id),
        _ => Err(keys.bad(key, "a list", expected)),
    }
}

fn activation(keys: &impl Keys, key: &str) -> Result<Activation, ModelError> {
    match keys.find(key) {
        None | Some(Value::Text("silu")) => Ok(Activation::Silu),
        Some(Value::Text("gelu" | "gelu_pytorch_tanh")) => Ok(Activation::GeluTanh),
        Some(other) => Err(keys.bad(key, other, "silu or gelu_pytorch_tanh")),
    }
}

fn check(keys: &impl Keys, heads: &str, config: &DFlashConfig) -> Result<(), ModelError> {
    if config.heads.is_multiple_of(config.kv_heads) {
        return Ok(());
    }
    Err(keys.bad(heads, config.heads, format!("a multiple of the {} key heads", config.kv_heads)))
}

/// The layers that are looked at where a file does not say: evenly from the second to the third from the end.
#[must_use]
pub(super) fn default_taps(count: usize, target_layers: usize) -> Vec<usize> {
    if count <= 1 {
        return vec![target_layers / 2; count];
    }
    let step = (target_layers.saturating_sub(4)) as f64 / (count - 1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "layers of a model")]
    let tap = |i: usize| (1.0 + step * i as f64).round() as usize;
    (0..count).map(tap).collect()
}

/// The weights, and what is worth telling about them. Completes the layers that are looked at.
fn load(
    config: &mut DFlashConfig,
    source: &dyn WeightSource,
) -> Result<(DFlashWeights, Vec<String>), ModelError> {
    let mut notes = Vec::new();
    let DFlashConfig { hidden, heads, kv_heads, head_dim, ffn, .. } = *config;
    let names = |gguf: &[&str], hf: &str| top_names(source, gguf, hf);
    let fc_names =
        names(&["dflash.fc.weight", "fc.weight", "dflash_fc.weight", "model.fc.weight"], "fc.weight");
    let mut fc = None;
    for name in &fc_names {
        fc = fc.or(source.load(name)?);
    }
    let Some(fc) = fc else {
        return Err(need(source, &fc_names, [1, hidden, hidden]).err().unwrap_or_else(|| {
            ModelError::NotAModel {
                path: source.path().to_owned(),
                reason: "it has no `fc.weight`".to_owned(),
            }
        }));
    };
    let taps = fc.cols / hidden;
    if fc.experts != 1 || fc.rows != hidden || taps == 0 || !fc.cols.is_multiple_of(hidden) {
        return Err(shape_error(source, &fc, [1, hidden, config.taps.len().max(1) * hidden]));
    }
    if config.taps.is_empty() {
        let Some(layers) = config.target_layers else {
            return Err(ModelError::NotAModel {
                path: source.path().to_owned(),
                reason: "it says neither which layers of the target it looks at nor how many there are"
                    .to_owned(),
            });
        };
        config.taps = default_taps(taps, layers);
        notes.push(format!(
            "{}: it does not say which layers of the target it looks at; taken to be {:?}",
            source.path().display(),
            config.taps
        ));
    }
    if taps != config.taps.len() {
        return Err(shape_error(source, &fc, [1, hidden, config.taps.len() * hidden]));
    }
    if !config.taps.is_sorted_by(|a, b| a < b) {
        return Err(ModelError::NotAModel {
            path: source.path().to_owned(),
            reason: format!("the layers that it looks at, {:?}, are in no ascending order", config.taps),
        });
    }
    let hidden_norm = need_vector(
        source,
        &names(
            &[
                "dflash.hidden_norm.weight",
                "enc.output_norm.weight",
                "dflash_hidden_norm.weight",
                "hidden_norm.weight",
            ],
            "hidden_norm.weight",
        ),
        hidden,
    )?;
    let norm = need_vector(source, &names(&["output_norm.weight"], "norm.weight"), hidden)?;
    let (q_rows, kv_rows) = (heads * head_dim, kv_heads * head_dim);
    let layer = |l: usize| -> Result<LayerWeights, ModelError> {
        let names = |gguf: &[&str], hf: &str| layer_names(source, l, gguf, hf);
        let matrix = |gguf: &str, hf: &str, [rows, cols]: [usize; 2]| {
            need(source, &names(&[gguf], hf), [1, rows, cols])
        };
        let vector = |gguf: &[&str], hf: &str, len: usize| need_vector(source, &names(gguf, hf), len);
        // A norm behind the feed-forward branch, or a scalar, makes it another model.
        for other in ["post_ffw_norm.weight", "layer_output_scale.weight", "attn_sinks.weight"] {
            if find(source, &names(&[other], other), [1, 1, hidden]).is_ok_and(|tensor| tensor.is_none()) {
                continue;
            }
            return Err(ModelError::NotAModel {
                path: source.path().to_owned(),
                reason: format!("its layers have `{other}`, which drafters of the first DFlash do not have"),
            });
        }
        Ok(LayerWeights {
            input_norm: vector(&["attn_norm.weight"], "input_layernorm.weight", hidden)?,
            qkv: [
                matrix("attn_q.weight", "self_attn.q_proj.weight", [q_rows, hidden])?,
                matrix("attn_k.weight", "self_attn.k_proj.weight", [kv_rows, hidden])?,
                matrix("attn_v.weight", "self_attn.v_proj.weight", [kv_rows, hidden])?,
            ],
            q_norm: vector(&["attn_q_norm.weight"], "self_attn.q_norm.weight", head_dim)?,
            k_norm: vector(&["attn_k_norm.weight"], "self_attn.k_norm.weight", head_dim)?,
            output: matrix("attn_output.weight", "self_attn.o_proj.weight", [hidden, q_rows])?,
            post_norm: vector(
                &["ffn_norm.weight", "post_attention_norm.weight"],
                "post_attention_layernorm.weight",
                hidden,
            )?,
            gate_up: [
                matrix("ffn_gate.weight", "mlp.gate_proj.weight", [ffn, hidden])?,
                matrix("ffn_up.weight", "mlp.up_proj.weight", [ffn, hidden])?,
            ],
            down: matrix("ffn_down.weight", "mlp.down_proj.weight", [hidden, ffn])?,
        })
    };
    let layers = (0..config.layers.len()).map(layer).collect::<Result<_, _>>()?;
    for name in ["token_embd.weight", "embed_tokens.weight", "output.weight", "lm_head.weight"] {
        if source.load(name).is_ok_and(|tensor| tensor.is_some()) {
            notes.push(format!(
                "{}: its own `{name}` is left out; the target's is used",
                source.path().display()
            ));
        }
    }
    Ok((DFlashWeights { fc, hidden_norm, norm, layers }, notes))
}

/// Prefixes of names in folders: of some exports, and of golden models.
const PREFIXES: [&str; 3] = ["", "model.", "dflash."];

fn top_names(source: &dyn WeightSource, gguf: &[&str], hf: &str) -> Vec<String> {
    match source.naming() {
        Naming::Gguf => gguf.iter().map(|&name| name.to_owned()).collect(),
        Naming::Hf { .. } => PREFIXES.iter().map(|prefix| format!("{prefix}{hf}")).collect(),
    }
}

fn layer_names(source: &dyn WeightSource, layer: usize, gguf: &[&str], hf: &str) -> Vec<String> {
    match source.naming() {
        Naming::Gguf => gguf.iter().map(|name| format!("blk.{layer}.{name}")).collect(),
        Naming::Hf { .. } => PREFIXES.iter().map(|prefix| format!("{prefix}layers.{layer}.{hf}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_missing_ids_are_spaced_evenly_and_rounded() {
        assert_eq!(default_taps(6, 30), [1, 6, 11, 17, 22, 27]);
        assert_eq!(default_taps(6, 60), [1, 12, 23, 35, 46, 57]);
        // What whole steps would give.
        let whole: Vec<usize> = (0..6).map(|i| 1 + i * ((60 - 2) / 5)).collect();
        assert_eq!(whole, [1, 12, 23, 34, 45, 56]);
        assert_eq!(default_taps(1, 30), [15]);
    }
}
