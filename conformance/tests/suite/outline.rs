//! How many dispatches a token takes on wgpu, and how often one waits for those before: of the real shapes, which no test has the
//! memory for. What a large GPU does between dispatches takes longer there than many of them.

use std::collections::BTreeMap;
use std::path::Path;

use gemma4_conformance::backends::{self, Device};
use gemma4_conformance::tiny::{layers, shapes};
use gemma4_core::error::ModelError;
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Config;
use gemma4_core::model::gemma4::{Gemma4, KvLayout, KvTypes};
use gemma4_core::model::weights::{Naming, WeightSource, Weights};
use gemma4_core::tensor::{Bytes, DType, Tensor};
use serde_json::{Value, json};

/// Tensors of zeros, all of them pages that nobody touches: matrices of `Q4_K`, those that `Q4_K_M` keeps better of `Q6_K`.
struct Zeros {
    shapes: BTreeMap<String, Vec<usize>>,
    bytes: Bytes,
    layers: usize,
}

impl Zeros {
    fn dtype(&self, name: &str) -> DType {
        let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
        let n = self.layers;
        let better = |i: usize| i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
        if name.contains("embed_tokens") {
            DType::Q6_K
        } else if name.contains("per_layer") {
            DType::F16
        } else if (name.contains("v_proj") || name.contains("down_proj")) && layer.is_some_and(better) {
            DType::Q6_K
        } else {
            DType::Q4_K
        }
    }
}

impl WeightSource for Zeros {
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(shape) = self.shapes.get(name) else { return Ok(None) };
        let (full, dtype) = match shape[..] {
            [cols] => ([1, 1, cols], DType::F32),
            [rows, cols] => ([1, rows, cols], self.dtype(name)),
            _ => return Ok(None),
        };
        let [_, rows, cols] = full;
        let bytes = dtype.row_bytes(cols).expect("whole blocks") * rows;
        let bytes = self.bytes.slice(0..bytes).expect("the largest tensor is as long");
        Ok(Tensor::new(name, dtype, full, bytes))
    }

    fn path(&self) -> &Path {
        Path::new("zeros")
    }

    fn naming(&self) -> Naming {
        Naming::Hf { prefix: "model.".to_owned() }
    }
}

fn model(change: impl FnOnce(&mut Value)) -> Gemma4 {
    let mut json = json!({
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "vocab_size": 262_144,
        "vocab_size_per_layer_input": 262_144,
        "head_dim": 256,
        "global_head_dim": 512,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": 30.0,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": true,
        "hidden_size_per_layer_input": 0,
        "rope_parameters": {
            "sliding_attention": { "rope_type": "default", "rope_theta": 10_000.0 },
            "full_attention": {
                "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0
            },
        },
    });
    change(&mut json);
    let config = Config::from_json(Path::new("config.json"), &json.to_string()).expect("a real shape");
    let shapes = shapes(&config);
    let largest = shapes.values().map(|shape| shape.iter().product::<usize>()).max().unwrap_or(0);
    // No type of these takes more than two bytes a value but vectors, which are small.
    let bytes = Bytes::from_owner(vec![0u8; 2 * largest]);
    let zeros = Zeros { layers: config.layers.len(), shapes, bytes };
    Gemma4::new(config.clone(), Weights::load(&config, &zeros).expect("all shapes follow from the config"))
}

fn e4b() -> Gemma4 {
    model(|json| {
        json["hidden_size"] = 2560.into();
        json["num_hidden_layers"] = 42.into();
        json["num_attention_heads"] = 8.into();
        json["num_key_value_heads"] = 2.into();
        json["intermediate_size"] = 10240.into();
        json["sliding_window"] = 512.into();
        json["hidden_size_per_layer_input"] = 256.into();
        json["num_kv_shared_layers"] = 18.into();
        json["layer_types"] = layers(&"LLLLLG".repeat(7));
    })
}

fn dense_31b() -> Gemma4 {
    model(|json| {
        json["hidden_size"] = 5376.into();
        json["num_hidden_layers"] = 60.into();
        json["num_attention_heads"] = 32.into();
        json["num_key_value_heads"] = 16.into();
        json["num_global_key_value_heads"] = 4.into();
        json["attention_k_eq_v"] = true.into();
        json["intermediate_size"] = 21504.into();
        json["sliding_window"] = 1024.into();
        json["layer_types"] = layers(&"LLLLLG".repeat(10));
    })
}

/// Bytes that an H200 binds at once.
const BINDING: u64 = 2_147_483_644;

#[test]
fn a_token_waits_no_more_often_than_it_must() {
    let f16 = KvTypes { k: KvType::F16, v: KvType::F16 };
    let layout = KvLayout { local: f16, global: f16, local_pages: 16, global_pages: 32 };
    let mut counted = 0;
    // At most six waits a layer of 31B and eight of E4B, and a few before and behind all layers.
    for (name, model, most) in [("E4B", e4b(), 8 * 42 + 12), ("31B", dense_31b(), 6 * 60 + 12)] {
        let recorded = model.verify(&model.states(&layout), 1, gemma4_core::model::gemma4::Taps::None);
        let program = recorded.expect("shapes fit").program;
        for at in backends::covered() {
            let Device::Wgpu(wgpu) = &at.device else { continue };
            for keys in [1, 4097] {
                let outline = wgpu.outline(&program, 1, keys, BINDING).expect("it can be lowered");
                let core = wgpu.subgroup().is_none();
                backends::say(format_args!(
                    "{}{name} on {}, {keys} keys: {outline:?}",
                    backends::LINE,
                    at.name
                ));
                assert!(core || keys > 1 || outline.levels <= most, "{name}: {outline:?}, more than {most}");
                counted += outline.dispatches;
            }
        }
    }
    assert!(counted > 0 || backends::covered().iter().all(|at| !matches!(at.device, Device::Wgpu(_))));
}
