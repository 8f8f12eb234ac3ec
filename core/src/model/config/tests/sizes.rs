//! The five released sizes as each format spells them, with a small vocabulary.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::gguf::Gguf;
use crate::gguf::value::Value;
use crate::gguf::write::Writer;
use crate::tensor::{Bytes, DType};

/// Rows of the embedding.
pub(crate) const VOCAB: usize = 512;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    /// One layer in so many is full.
    pub(crate) period: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Of full layers, where keys are values.
    pub(crate) global_kv_heads: Option<usize>,
    pub(crate) head_dim: usize,
    pub(crate) global_head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) wide: bool,
    /// Experts, experts a token, width.
    pub(crate) moe: Option<[usize; 3]>,
    pub(crate) window: usize,
    pub(crate) context: usize,
    pub(crate) ple: usize,
    pub(crate) sharing: usize,
    /// Tensors of a whole GGUF file.
    pub(crate) tensors: usize,
}

const E2B: Size = Size {
    name: "E2B",
    hidden: 1536,
    layers: 35,
    period: 5,
    heads: 8,
    kv_heads: 1,
    global_kv_heads: None,
    head_dim: 256,
    global_head_dim: 512,
    ffn: 6144,
    wide: true,
    moe: None,
    window: 512,
    context: 131_072,
    ple: 256,
    sharing: 20,
    tensors: 601,
};

const E4B: Size = Size {
    name: "E4B",
    hidden: 2560,
    layers: 42,
    period: 6,
    kv_heads: 2,
    ffn: 10240,
    wide: false,
    sharing: 18,
    tensors: 720,
    ..E2B
};

const B12: Size = Size {
    name: "12B",
    hidden: 3840,
    layers: 48,
    heads: 16,
    kv_heads: 8,
    global_kv_heads: Some(1),
    ffn: 15360,
    window: 1024,
    context: 262_144,
    ple: 0,
    sharing: 0,
    tensors: 667,
    ..E4B
};

const A4B: Size = Size {
    name: "26B-A4B",
    hidden: 2816,
    layers: 30,
    global_kv_heads: Some(2),
    ffn: 2112,
    moe: Some([128, 8, 704]),
    tensors: 658,
    ..B12
};

const B31: Size = Size {
    name: "31B",
    hidden: 5376,
    layers: 60,
    heads: 32,
    kv_heads: 16,
    global_kv_heads: Some(4),
    ffn: 21504,
    moe: None,
    tensors: 833,
    ..A4B
};

pub(crate) const SIZES: [Size; 5] = [E2B, E4B, B12, A4B, B31];

impl Size {
    pub(crate) fn full(&self) -> Vec<bool> {
        (1..=self.layers).map(|number| number % self.period == 0).collect()
    }

    fn layer_types(&self) -> Vec<&'static str> {
        let name = |full: bool| {
            if full { "full_attention" } else { "sliding_attention" }
        };
        self.full().into_iter().map(name).collect()
    }

    /// As Google published it: multi-modal, with the text part inside.
    pub(crate) fn json(&self) -> Json {
        let kind = if self.name == "12B" { "gemma4_unified" } else { "gemma4" };
        let [experts, top_k, expert_ffn] = match self.moe {
            Some(moe) => moe.map(Json::from),
            None => [Json::Null, Json::Null, Json::Null],
        };
        json!({
            "model_type": kind,
            "eos_token_id": [1, 106],
            "vision_config": { "hidden_size": 768 },
            "tie_word_embeddings": true,
            "text_config": {
                "model_type": format!("{kind}_text"),
                "vocab_size": VOCAB,
                "vocab_size_per_layer_input": VOCAB,
                "hidden_size": self.hidden,
                "hidden_activation": "gelu_pytorch_tanh",
                "attention_bias": false,
                "num_hidden_layers": self.layers,
                "layer_types": self.layer_types(),
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "num_global_key_value_heads": self.global_kv_heads,
                "attention_k_eq_v": self.global_kv_heads.is_some(),
                "head_dim": self.head_dim,
                "global_head_dim": self.global_head_dim,
                "intermediate_size": self.ffn,
                "use_double_wide_mlp": self.wide,
                "enable_moe_block": self.moe.is_some(),
                "num_experts": experts,
                "top_k_experts": top_k,
                "moe_intermediate_size": expert_ffn,
                "sliding_window": self.window,
                "max_position_embeddings": self.context,
                "hidden_size_per_layer_input": self.ple,
                "num_kv_shared_layers": self.sharing,
                "use_bidirectional_attention": (self.ple == 0).then_some("vision"),
                "rms_norm_eps": 1e-6,
                "final_logit_softcapping": 30.0,
                "rope_parameters": {
                    "sliding_attention": { "rope_type": "default", "rope_theta": 10000.0 },
                    "full_attention": {
                        "rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25
                    }
                }
            }
        })
    }

    /// The same as a newer transformers writes it.
    pub(crate) fn json_with_per_layer_config(&self) -> Json {
        let mut file = self.json();
        let text = file["text_config"].as_object_mut().unwrap();
        text.remove("global_head_dim");
        text.remove("num_global_key_value_heads");
        let mut entry = json!({ "head_dim": self.global_head_dim });
        if let Some(kv_heads) = self.global_kv_heads {
            entry["num_key_value_heads"] = json!(kv_heads);
        }
        let full = self.full().into_iter().enumerate().filter(|(_, full)| *full);
        let map: serde_json::Map<String, Json> =
            full.map(|(index, _)| (format!("{index:02}"), entry.clone())).collect();
        text.insert("per_layer_config".to_owned(), map.into());
        file
    }

    /// A GGUF file with all metadata, and the tensors that hyper-parameters show in.
    pub(crate) fn gguf(&self) -> File {
        let int = |n: usize| i32::try_from(n).unwrap();
        let unsigned = |n: usize| u32::try_from(n).unwrap();
        let full = self.full();
        let mut file = File::default();
        file.set("general.architecture", "gemma4");
        let mut set = |key: &str, value: Value| file.set(&format!("gemma4.{key}"), value);
        set("block_count", unsigned(self.layers).into());
        set("context_length", unsigned(self.context).into());
        set("embedding_length", unsigned(self.hidden).into());
        if self.wide {
            let first = self.layers - self.sharing;
            let ffn = |i| int(if i < first { self.ffn } else { 2 * self.ffn });
            let list: Vec<i32> = (0..self.layers).map(ffn).collect();
            set("feed_forward_length", list[..].into());
        } else {
            set("feed_forward_length", unsigned(self.ffn).into());
        }
        set("attention.head_count", unsigned(self.heads).into());
        match self.global_kv_heads {
            None => set("attention.head_count_kv", unsigned(self.kv_heads).into()),
            Some(global) => {
                let kv_heads = |full: &bool| int(if *full { global } else { self.kv_heads });
                let list: Vec<i32> = full.iter().map(kv_heads).collect();
                set("attention.head_count_kv", list[..].into());
            }
        }
        for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            set(key, unsigned(self.global_head_dim).into());
            set(&format!("{key}_swa"), unsigned(self.head_dim).into());
        }
        set("attention.layer_norm_rms_epsilon", 1e-6f32.into());
        set("attention.sliding_window", unsigned(self.window).into());
        let sliding: Vec<bool> = full.iter().map(|full| !full).collect();
        set("attention.sliding_window_pattern", sliding[..].into());
        set("attention.shared_kv_layers", unsigned(self.sharing).into());
        set("rope.freq_base", 1e6f32.into());
        set("rope.freq_base_swa", 1e4f32.into());
        set("embedding_length_per_layer_input", unsigned(self.ple).into());
        set("final_logit_softcapping", 30f32.into());
        if let Some([experts, top_k, ffn]) = self.moe {
            set("expert_count", unsigned(experts).into());
            set("expert_used_count", unsigned(top_k).into());
            set("expert_feed_forward_length", unsigned(ffn).into());
        }
        file.zeros("token_embd.weight", &[self.hidden, VOCAB]);
        let pairs = self.global_head_dim / 2;
        file.floats("rope_freqs.weight", (0..pairs).map(|i| if i < pairs / 4 { 1.0 } else { 1e30 }));
        for (index, full) in full.into_iter().enumerate() {
            if !full || self.global_kv_heads.is_none() {
                file.zeros(&format!("blk.{index}.attn_v.weight"), &[1]);
            }
        }
        file
    }
}

/// A GGUF file to be changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    keys: Vec<(String, Value)>,
    tensors: Vec<(String, DType, Vec<usize>, Vec<u8>)>,
}

impl File {
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.remove(key);
        self.keys.push((key.to_owned(), value.into()));
    }

    /// Removes the key or tensor `name`.
    pub(crate) fn remove(&mut self, name: &str) {
        self.keys.retain(|(key, _)| key != name);
        self.tensors.retain(|(tensor, ..)| tensor != name);
    }

    /// Dimensions, the fastest first.
    pub(crate) fn tensor(&mut self, name: &str, dtype: DType, dims: &[usize], bytes: Vec<u8>) {
        self.remove(name);
        self.tensors.push((name.to_owned(), dtype, dims.to_owned(), bytes));
    }

    pub(crate) fn zeros(&mut self, name: &str, dims: &[usize]) {
        let bytes = 2 * dims.iter().product::<usize>();
        self.tensor(name, DType::BF16, dims, vec![0; bytes]);
    }

    pub(crate) fn floats(&mut self, name: &str, values: impl Iterator<Item = f32>) {
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        self.tensor(name, DType::F32, &[bytes.len() / 4], bytes);
    }

    pub(crate) fn open(&self) -> Gguf {
        let mut writer = Writer::new();
        for (key, value) in &self.keys {
            writer.set(key, value.clone());
        }
        for (name, dtype, dims, _) in &self.tensors {
            writer.tensor(name, *dtype, dims).unwrap();
        }
        let bytes = writer.to_vec(self.tensors.iter().map(|(.., bytes)| bytes)).unwrap();
        Gguf::from_bytes(Path::new("model.gguf"), &Bytes::from_owner(bytes)).unwrap()
    }
}
