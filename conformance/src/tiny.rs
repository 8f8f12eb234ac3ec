//! Tiny models of every structure in the family, with procedural weights: for properties that need many steps.
//!
//! Heads are 128 or 256 values wide, so that every cache type can store them; everything else is as small as the
//! family's rules allow.

use std::collections::BTreeMap;
use std::path::Path;

use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::{Config, LayerConfig};
use gemma4_core::model::gemma4::{Gemma4, KvTypes};
use gemma4_core::model::weights::Weights;
use serde_json::{Value, json};

use crate::procedural::Procedural;

/// Stored types of both kinds of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kv {
    /// Of local layers.
    pub local: KvTypes,
    /// Of global layers.
    pub global: KvTypes,
}

impl Kv {
    /// One type for everything.
    #[must_use]
    pub const fn all(kv: KvType) -> Self {
        let types = KvTypes { k: kv, v: kv };
        Self { local: types, global: types }
    }

    /// A different type on every side.
    pub const MIXED: Self = Self {
        local: KvTypes { k: KvType::Q8_0, v: KvType::TQ3_0 },
        global: KvTypes { k: KvType::TQ3_0, v: KvType::Q4_0 },
    };
}

/// A model small enough to run thousands of tokens on the reference.
#[derive(Clone, Debug)]
pub struct Tiny {
    /// What is special about it.
    pub name: &'static str,
    config: Config,
    weights: Weights,
}

impl Tiny {
    /// The base of all: three layers, two of them local, with values projected.
    ///
    /// `change` edits its `config.json`.
    ///
    /// # Panics
    ///
    /// If the edited config makes no model.
    #[must_use]
    pub fn new(name: &'static str, change: impl FnOnce(&mut Value)) -> Self {
        let mut json = json!({
            "architectures": ["Gemma4ForCausalLM"],
            "model_type": "gemma4_text",
            "vocab_size": VOCAB,
            "vocab_size_per_layer_input": VOCAB,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "head_dim": 128,
            "global_head_dim": 128,
            "num_key_value_heads": 2,
            "hidden_activation": "gelu_pytorch_tanh",
            "intermediate_size": 96,
            "rms_norm_eps": 1e-6,
            "sliding_window": 20,
            "final_logit_softcapping": 30.0,
            "max_position_embeddings": 65536,
            "tie_word_embeddings": true,
            "hidden_size_per_layer_input": 0,
            "rope_parameters": {
                "sliding_attention": { "rope_type": "default", "rope_theta": 10_000.0 },
                "full_attention": {
                    "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0
                },
            },
            "num_hidden_layers": 3,
            "layer_types": layers("LLG"),
        });
        change(&mut json);
        let path = Path::new("config.json");
        let config = Config::from_json(path, &json.to_string()).expect("the config is one of a small model");
        let shapes = shapes(&config);
        let weights = Weights::load(&config, &Procedural::new(path, shapes, 7));
        Self { name, weights: weights.expect("all shapes follow from the config"), config }
    }

    /// Like 12B and 31B: global layers with wider heads, fewer key heads, and values that are the raw keys.
    #[must_use]
    pub fn dense() -> Self {
        Self::new("dense", |json| {
            json["global_head_dim"] = 256.into();
            json["num_global_key_value_heads"] = 1.into();
            json["attention_k_eq_v"] = true.into();
        })
    }

    /// Like 26B-A4B: experts beside the dense branch. Its window is shorter than every step but one token.
    #[must_use]
    pub fn moe() -> Self {
        Self::new("moe", |json| {
            json["num_hidden_layers"] = 2.into();
            json["layer_types"] = layers("LG");
            json["sliding_window"] = 8.into();
            json["num_global_key_value_heads"] = 1.into();
            json["attention_k_eq_v"] = true.into();
            json["enable_moe_block"] = true.into();
            json["num_experts"] = 8.into();
            json["top_k_experts"] = 3.into();
            json["moe_intermediate_size"] = 32.into();
        })
    }

    /// Like E2B: per-layer embeddings, the last two layers read their donors' cache and have twice the width.
    /// Its window is longer than a page. All heads are of one width, so that a wrong donor still runs.
    #[must_use]
    pub fn ple() -> Self {
        Self::new("ple", |json| {
            json["num_hidden_layers"] = 4.into();
            json["layer_types"] = layers("LGLG");
            json["sliding_window"] = 300.into();
            json["num_key_value_heads"] = 1.into();
            json["hidden_size_per_layer_input"] = 32.into();
            json["num_kv_shared_layers"] = 2.into();
            json["use_double_wide_mlp"] = true.into();
        })
    }

    /// One of every structure.
    #[must_use]
    pub fn all() -> [Self; 3] {
        [Self::dense(), Self::moe(), Self::ple()]
    }

    /// The same with a sliding window of `window` tokens.
    #[must_use]
    pub fn with_window(mut self, window: usize) -> Self {
        self.config.window = window;
        self
    }

    /// Hyper-parameters.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The model, ready to be recorded.
    #[must_use]
    pub fn model(&self) -> Gemma4 {
        Gemma4::new(self.config.clone(), self.weights.clone())
    }
}

/// Tokens of the vocabulary.
pub const VOCAB: usize = 160;

/// `n` tokens of text number `text`; those of one text never depend on `n`.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "a remainder by the vocabulary is below it")]
pub fn tokens(n: usize, text: u64) -> Vec<u32> {
    let mut state = text.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x2545_F491_4F6C_DD1D;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from((state >> 33) % VOCAB as u64).expect("below the vocabulary")
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// The kinds of layers, `L` for local and `G` for global.
#[must_use]
pub fn layers(kinds: &str) -> Value {
    kinds.chars().map(|kind| if kind == 'G' { "full_attention" } else { "sliding_attention" }).collect()
}

/// Names and shapes of all tensors, as transformers names them.
fn shapes(config: &Config) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| shapes.insert(name, shape.to_vec());
    let (hidden, vocab) = (config.hidden, config.vocab);
    add("model.embed_tokens.weight".into(), &[vocab, hidden]);
    add("model.norm.weight".into(), &[hidden]);
    if let Some(ple) = config.ple {
        let all = ple * config.layers.len();
        add("model.embed_tokens_per_layer.weight".into(), &[vocab, all]);
        add("model.per_layer_model_projection.weight".into(), &[all, hidden]);
        add("model.per_layer_projection_norm.weight".into(), &[ple]);
    }
    for (l, layer) in config.layers.iter().enumerate() {
        let &LayerConfig { head_dim, ffn, .. } = layer;
        let mut add = |name: &str, shape: &[usize]| add(format!("model.layers.{l}.{name}"), shape);
        for norm in [
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ] {
            add(&format!("{norm}.weight"), &[hidden]);
        }
        add("self_attn.q_proj.weight", &[layer.q_rows(config.heads), hidden]);
        add("self_attn.k_proj.weight", &[layer.kv_rows(), hidden]);
        add("self_attn.v_proj.weight", &[layer.kv_rows(), hidden]);
        add("self_attn.o_proj.weight", &[hidden, layer.q_rows(config.heads)]);
        add("self_attn.q_norm.weight", &[head_dim]);
        add("self_attn.k_norm.weight", &[head_dim]);
        add("mlp.gate_proj.weight", &[ffn, hidden]);
        add("mlp.up_proj.weight", &[ffn, hidden]);
        add("mlp.down_proj.weight", &[hidden, ffn]);
        add("layer_scalar", &[1]);
        if let Some(ple) = config.ple {
            add("per_layer_input_gate.weight", &[ple, hidden]);
            add("per_layer_projection.weight", &[hidden, ple]);
            add("post_per_layer_input_norm.weight", &[hidden]);
        }
        if let Some(moe) = config.moe {
            add("router.proj.weight", &[moe.experts, hidden]);
            add("router.scale", &[hidden]);
            add("router.per_expert_scale", &[moe.experts]);
            add("pre_feedforward_layernorm_2.weight", &[hidden]);
            add("post_feedforward_layernorm_1.weight", &[hidden]);
            add("post_feedforward_layernorm_2.weight", &[hidden]);
            add("experts.gate_up_proj", &[moe.experts, 2 * moe.ffn, hidden]);
            add("experts.down_proj", &[moe.experts, hidden, moe.ffn]);
        }
    }
    shapes
}
