#![expect(clippy::float_cmp, reason = "the values are read from files, not computed")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value as Json;

use super::*;
use crate::model::config::tests::sizes::{SIZES, Size, VOCAB};
use crate::model::config::tests::{fixture, read};
use crate::model::config::{Config, Span};
use crate::tensor::{Bytes, DType};

type Change = fn(&mut Memory);

/// Tensors in memory, and which of them were asked for.
struct Memory {
    naming: Naming,
    tensors: BTreeMap<String, Tensor>,
    asked: RefCell<BTreeSet<String>>,
}

impl WeightSource for Memory {
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let tensor = self.tensors.get(name).cloned();
        if tensor.is_some() {
            self.asked.borrow_mut().insert(name.to_owned());
        }
        Ok(tensor)
    }

    fn path(&self) -> &Path {
        Path::new("model")
    }

    fn naming(&self) -> Naming {
        self.naming.clone()
    }
}

impl Memory {
    fn new(naming: Naming) -> Self {
        Self { naming, tensors: BTreeMap::new(), asked: RefCell::default() }
    }

    /// A tensor of zeros.
    fn set(&mut self, name: &str, dtype: DType, dims: &[usize]) {
        let shape = match *dims {
            [cols] => [1, 1, cols],
            [rows, cols] => [1, rows, cols],
            [experts, rows, cols] => [experts, rows, cols],
            _ => panic!("{} dimensions", dims.len()),
        };
        let bytes = dtype.row_bytes(shape[2]).unwrap() * shape[0] * shape[1];
        let data = Bytes::from_owner(vec![0u8; bytes]);
        let tensor = Tensor::new(name, dtype, shape, data).unwrap();
        self.tensors.insert(name.to_owned(), tensor);
    }

    fn floats(&mut self, name: &str, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = Tensor::new(name, DType::F32, [1, 1, values.len()], Bytes::from_owner(bytes)).unwrap();
        self.tensors.insert(name.to_owned(), tensor);
    }

    fn remove(&mut self, name: &str) -> Tensor {
        self.tensors.remove(name).unwrap()
    }
}

/// A checkpoint with the names and shapes that transformers gives to the model of a fixture.
fn golden(name: &str) -> (Config, Memory) {
    let list = match name {
        "dense" => include_str!("fixtures/dense.json"),
        "moe" => include_str!("fixtures/moe.json"),
        _ => include_str!("fixtures/ple.json"),
    };
    let list: BTreeMap<String, Vec<usize>> = serde_json::from_str(list).unwrap();
    let prefix = "model.".to_owned();
    let mut memory = Memory::new(Naming::Hf { prefix });
    for (name, dims) in list {
        memory.set(&name, DType::BF16, &dims);
    }
    (read(fixture(name)).unwrap(), memory)
}

/// A GGUF of the size's structure with narrow matrices, as converters write it: the table of tensors once more.
fn narrow(size: &Size) -> (Config, Memory) {
    let (hidden, heads, ffn) = (64, size.heads, 32);
    let mut small = *size;
    (small.hidden, small.head_dim, small.global_head_dim, small.ffn) = (hidden, 32, 64, ffn);
    small.ple = size.ple / 8;
    small.moe = size.moe.map(|_| [4, 2, 32]);
    let config = read(&small.json().to_string()).unwrap();

    let mut memory = Memory::new(Naming::Gguf);
    let m = &mut memory;
    m.set("token_embd.weight", DType::Q4_0, &[VOCAB, hidden]);
    m.set("output_norm.weight", DType::F32, &[hidden]);
    m.set("rope_freqs.weight", DType::F32, &[32]);
    let ple = small.ple;
    if ple > 0 {
        let all = ple * size.layers;
        m.set("per_layer_token_embd.weight", DType::Q5_0, &[VOCAB, all]);
        m.set("per_layer_model_proj.weight", DType::BF16, &[all, hidden]);
        m.set("per_layer_proj_norm.weight", DType::F32, &[ple]);
    }
    for (index, full) in size.full().into_iter().enumerate() {
        let b = |name: &str| format!("blk.{index}.{name}");
        let head_dim = if full { 64 } else { 32 };
        let kv_heads = match size.global_kv_heads {
            Some(global) if full => global,
            _ => size.kv_heads,
        };
        let wide = size.wide && index >= size.layers - size.sharing;
        let ffn = if wide { 2 * ffn } else { ffn };
        m.set(&b("attn_norm.weight"), DType::F32, &[hidden]);
        m.set(&b("attn_q.weight"), DType::Q4_0, &[heads * head_dim, hidden]);
        m.set(&b("attn_k.weight"), DType::Q8_0, &[kv_heads * head_dim, hidden]);
        if !(full && size.global_kv_heads.is_some()) {
            m.set(&b("attn_v.weight"), DType::Q5_1, &[kv_heads * head_dim, hidden]);
        }
        m.set(&b("attn_q_norm.weight"), DType::F32, &[head_dim]);
        m.set(&b("attn_k_norm.weight"), DType::F32, &[head_dim]);
        m.set(&b("attn_output.weight"), DType::Q4_1, &[hidden, heads * head_dim]);
        m.set(&b("post_attention_norm.weight"), DType::F32, &[hidden]);
        m.set(&b("ffn_norm.weight"), DType::F32, &[hidden]);
        m.set(&b("ffn_gate.weight"), DType::Q4_0, &[ffn, hidden]);
        m.set(&b("ffn_up.weight"), DType::Q4_0, &[ffn, hidden]);
        m.set(&b("ffn_down.weight"), DType::Q8_0, &[hidden, ffn]);
        m.set(&b("post_ffw_norm.weight"), DType::F32, &[hidden]);
        m.floats(&b("layer_output_scale.weight"), &[0.5]);
        if ple > 0 {
            m.set(&b("inp_gate.weight"), DType::F32, &[ple, hidden]);
            m.set(&b("proj.weight"), DType::F16, &[hidden, ple]);
            m.set(&b("post_norm.weight"), DType::F32, &[hidden]);
        }
        if size.moe.is_some() {
            m.set(&b("ffn_gate_inp.weight"), DType::F32, &[4, hidden]);
            m.set(&b("ffn_gate_inp.scale"), DType::F32, &[hidden]);
            m.set(&b("pre_ffw_norm_2.weight"), DType::F32, &[hidden]);
            m.set(&b("post_ffw_norm_1.weight"), DType::F32, &[hidden]);
            m.set(&b("post_ffw_norm_2.weight"), DType::F32, &[hidden]);
            m.set(&b("ffn_gate_up_exps.weight"), DType::Q4_0, &[4, 64, hidden]);
            m.set(&b("ffn_down_exps.weight"), DType::MXFP4, &[4, hidden, 32]);
            m.set(&b("ffn_down_exps.scale"), DType::F32, &[4]);
        }
    }
    (config, memory)
}

fn error(config: &Config, memory: &Memory) -> String {
    Weights::load(config, memory).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn every_tensor_of_a_file_is_used_but_for_the_rotation_and_what_sharing_layers_do_not_read() {
    for size in SIZES {
        let (config, memory) = narrow(&size);
        assert_eq!(memory.tensors.len(), size.tensors, "{}", size.name);
        let weights = Weights::load(&config, &memory).unwrap();
        let asked = memory.asked.into_inner();
        let unused: BTreeSet<String> =
            memory.tensors.into_keys().filter(|name| !asked.contains(name)).collect();
        let mut expected = BTreeSet::from(["rope_freqs.weight".to_owned()]);
        for index in size.layers - size.sharing..size.layers {
            for name in ["attn_k", "attn_v", "attn_k_norm"] {
                expected.insert(format!("blk.{index}.{name}.weight"));
            }
        }
        assert_eq!(unused, expected, "{}", size.name);

        for (layer, found) in config.layers.iter().zip(&weights.layers) {
            let own = layer.donor.is_none();
            assert_eq!(found.attn_k.is_some(), own);
            assert_eq!(found.k_norm.is_some(), own);
            assert_eq!(found.attn_v.is_some(), own && !layer.k_eq_v);
            assert_eq!(found.ple.is_some(), config.ple.is_some());
            assert_eq!(found.moe.is_some(), config.moe.is_some());
            assert_eq!(found.layer_output_scale, 0.5);
        }
        assert!(weights.output.is_none());
    }
}

#[test]
fn every_tensor_of_a_checkpoint_is_used_but_for_a_tied_output_matrix() {
    for name in ["dense", "moe", "ple"] {
        let (config, memory) = golden(name);
        Weights::load(&config, &memory).unwrap();
        let asked = memory.asked.into_inner();
        let names: Vec<String> = memory.tensors.into_keys().collect();
        let unused = names.iter().filter(|name| !asked.contains(*name));
        assert_eq!(unused.collect::<Vec<_>>(), ["lm_head.weight"], "{name}");
    }
}

#[test]
fn fields_hold_the_tensors_of_their_names() {
    let (config, memory) = narrow(&SIZES[3]);
    let weights = Weights::load(&config, &memory).unwrap();
    let layer = &weights.layers[6];
    let moe = layer.moe.as_ref().unwrap();
    let GateUp::Fused(gate_up) = &moe.gate_up else {
        panic!("the file is fused");
    };
    for (tensor, name) in [
        (&layer.attn_norm, "attn_norm.weight"),
        (&layer.attn_q, "attn_q.weight"),
        (layer.attn_k.as_ref().unwrap(), "attn_k.weight"),
        (layer.attn_v.as_ref().unwrap(), "attn_v.weight"),
        (&layer.q_norm, "attn_q_norm.weight"),
        (layer.k_norm.as_ref().unwrap(), "attn_k_norm.weight"),
        (&layer.attn_output, "attn_output.weight"),
        (&layer.post_attention_norm, "post_attention_norm.weight"),
        (&layer.ffn_norm, "ffn_norm.weight"),
        (&layer.ffn_gate, "ffn_gate.weight"),
        (&layer.ffn_up, "ffn_up.weight"),
        (&layer.ffn_down, "ffn_down.weight"),
        (&layer.post_ffw_norm, "post_ffw_norm.weight"),
        (&moe.gate_inp, "ffn_gate_inp.weight"),
        (&moe.gate_inp_scale, "ffn_gate_inp.scale"),
        (&moe.pre_norm_2, "pre_ffw_norm_2.weight"),
        (&moe.post_norm_1, "post_ffw_norm_1.weight"),
        (&moe.post_norm_2, "post_ffw_norm_2.weight"),
        (gate_up, "ffn_gate_up_exps.weight"),
        (&moe.down, "ffn_down_exps.weight"),
        (&moe.down_scale, "ffn_down_exps.scale"),
    ] {
        assert_eq!(tensor.name, format!("blk.6.{name}"));
    }
    // The same bytes, not a copy.
    assert_eq!(layer.attn_q.data.as_ptr(), memory.tensors["blk.6.attn_q.weight"].data.as_ptr());
}

#[test]
fn checkpoint_names_mean_what_gguf_names_mean() {
    let names = |weights: &Weights, ple: bool| -> Vec<String> {
        let layer = &weights.layers[0];
        let mut tensors = vec![
            &weights.token_embd,
            &weights.output_norm,
            &layer.attn_norm,
            &layer.post_attention_norm,
            &layer.ffn_norm,
            &layer.post_ffw_norm,
            &layer.ffn_gate,
            &layer.ffn_up,
            &layer.ffn_down,
            &layer.attn_output,
        ];
        if ple {
            let tables = weights.ple.as_ref().unwrap();
            let part = layer.ple.as_ref().unwrap();
            tensors.extend([
                &tables.per_layer_token_embd,
                &tables.per_layer_model_proj,
                &tables.per_layer_proj_norm,
                &part.inp_gate,
                &part.proj,
                &part.post_norm,
            ]);
        } else {
            let moe = layer.moe.as_ref().unwrap();
            tensors.extend([
                &moe.gate_inp,
                &moe.gate_inp_scale,
                &moe.pre_norm_2,
                &moe.post_norm_1,
                &moe.post_norm_2,
                &moe.down,
                &moe.down_scale,
            ]);
        }
        tensors.into_iter().map(|tensor| tensor.name.clone()).collect()
    };
    let common = [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.pre_feedforward_layernorm.weight",
        "model.layers.0.post_feedforward_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
    ];
    let (config, memory) = golden("moe");
    let found = names(&Weights::load(&config, &memory).unwrap(), false);
    let moe = [
        "model.layers.0.router.proj.weight",
        "model.layers.0.router.scale",
        "model.layers.0.pre_feedforward_layernorm_2.weight",
        "model.layers.0.post_feedforward_layernorm_1.weight",
        "model.layers.0.post_feedforward_layernorm_2.weight",
        "model.layers.0.experts.down_proj",
        "model.layers.0.router.per_expert_scale",
    ];
    assert_eq!(found, [&common[..], &moe].concat());
    let (config, memory) = golden("ple");
    let found = names(&Weights::load(&config, &memory).unwrap(), true);
    let ple = [
        "model.embed_tokens_per_layer.weight",
        "model.per_layer_model_projection.weight",
        "model.per_layer_projection_norm.weight",
        "model.layers.0.per_layer_input_gate.weight",
        "model.layers.0.per_layer_projection.weight",
        "model.layers.0.post_per_layer_input_norm.weight",
    ];
    assert_eq!(found, [&common[..], &ple].concat());
}

#[test]
fn each_bad_tensor_gives_one_sentence() {
    let cases: [(Change, &str); 9] = [
        (
            |m| m.set("blk.3.attn_q.weight", DType::Q8_0, &[32, 512]),
            "tensor `blk.3.attn_q.weight` is [32, 512] Q8_0, expected [512, 64]",
        ),
        (
            |m| m.set("blk.3.attn_norm.weight", DType::F32, &[32]),
            "tensor `blk.3.attn_norm.weight` is [32] F32, expected [64]",
        ),
        (
            |m| m.set("blk.3.attn_norm.weight", DType::Q8_0, &[64]),
            "tensor `blk.3.attn_norm.weight` is [64] Q8_0, expected F32, F16 or BF16",
        ),
        (
            |m| m.set("blk.3.ffn_down_exps.weight", DType::Q8_0, &[3, 64, 32]),
            "tensor `blk.3.ffn_down_exps.weight` is [3, 64, 32] Q8_0, expected [4, 64, 32]",
        ),
        (
            |m| m.floats("blk.3.layer_output_scale.weight", &[f32::NAN]),
            "tensor `blk.3.layer_output_scale.weight` is NaN, expected a finite number",
        ),
        (
            |m| m.floats("blk.3.layer_output_scale.weight", &[1.0; 64]),
            "tensor `blk.3.layer_output_scale.weight` is [64] F32, expected [1]",
        ),
        (
            |m| drop(m.remove("token_embd.weight")),
            "tensor `token_embd.weight` is missing, expected [512, 64]",
        ),
        (
            |m| drop(m.remove("blk.2.attn_v.weight")),
            "tensor `blk.2.attn_v.weight` is missing, expected [256, 64]",
        ),
        (
            |m| drop(m.remove("blk.2.ffn_gate_up_exps.weight")),
            "tensor `blk.2.ffn_gate_up_exps.weight` is missing, expected [4, 64, 64]",
        ),
    ];
    for (change, expected) in cases {
        let (config, mut memory) = narrow(&SIZES[3]);
        change(&mut memory);
        assert_eq!(error(&config, &memory), format!("model: {expected}"));
    }
    let (config, mut memory) = golden("dense");
    memory.remove("model.layers.1.self_attn.k_norm.weight");
    assert_eq!(
        error(&config, &memory),
        "model: tensor `model.layers.1.self_attn.k_norm.weight` is missing, expected [256]"
    );
}

#[test]
fn absent_scales_are_one() {
    let (config, mut memory) = narrow(&SIZES[3]);
    memory.remove("blk.4.layer_output_scale.weight");
    memory.remove("blk.4.ffn_down_exps.scale");
    let weights = Weights::load(&config, &memory).unwrap();
    let layer = &weights.layers[4];
    assert_eq!(layer.layer_output_scale, 1.0);
    let scale = &layer.moe.as_ref().unwrap().down_scale;
    assert_eq!((scale.dtype, scale.rows, scale.cols), (DType::F32, 1, 4));
    assert_eq!(*scale.data, [1f32; 4].map(f32::to_le_bytes).concat()[..]);
}

#[test]
fn a_scale_is_read_in_each_float_type() {
    let (config, mut memory) = golden("dense");
    for (dtype, bytes) in [
        (DType::F32, 0.75f32.to_le_bytes().to_vec()),
        (DType::F16, half::f16::from_f32(0.75).to_le_bytes().to_vec()),
        (DType::BF16, half::bf16::from_f32(0.75).to_le_bytes().to_vec()),
    ] {
        let name = "model.layers.0.layer_scalar";
        let tensor = Tensor::new(name, dtype, [1, 1, 1], Bytes::from_owner(bytes)).unwrap();
        memory.tensors.insert(name.to_owned(), tensor);
        let weights = Weights::load(&config, &memory).unwrap();
        assert_eq!(weights.layers[0].layer_output_scale, 0.75);
    }
}

#[test]
fn a_fused_projection_is_split_by_rows() {
    // Layer 4 is the last full layer that owns its cache, layer 34 a full layer that shares.
    let (config, mut memory) = narrow(&SIZES[0]);
    let layer = config.layers[4];
    assert_eq!((layer.span, layer.k_eq_v), (Span::Global, false));
    for index in [4, 34] {
        for name in ["attn_q", "attn_k", "attn_v"] {
            memory.remove(&format!("blk.{index}.{name}.weight"));
        }
    }
    let (q, kv) = (8 * 64, 64);
    let rows: Vec<u8> = (0..q + 2 * kv).flat_map(|row| [u8::try_from(row / 8).unwrap(); 34 * 2]).collect();
    let name = "blk.4.attn_qkv.weight";
    let fused = Tensor::new(name, DType::Q8_0, [1, q + 2 * kv, 64], Bytes::from_owner(rows)).unwrap();
    memory.tensors.insert(name.to_owned(), fused);
    memory.set("blk.34.attn_qkv.weight", DType::Q8_0, &[q, 64]);

    let weights = Weights::load(&config, &memory).unwrap();
    let layer = &weights.layers[4];
    let [k, v] = [&layer.attn_k, &layer.attn_v].map(|tensor| tensor.as_ref().unwrap());
    assert_eq!((layer.attn_q.rows, k.rows, v.rows), (q, kv, kv));
    assert_eq!((layer.attn_q.data[0], k.data[0], v.data[0]), (0, 64, 72));
    assert_eq!(v.name, "blk.4.attn_v.weight");
    let sharing = &weights.layers[34];
    assert_eq!(sharing.attn_q.rows, q);
    assert!(sharing.attn_k.is_none() && sharing.attn_v.is_none());

    memory.set(name, DType::Q8_0, &[q, 64]);
    assert_eq!(
        error(&config, &memory),
        "model: tensor `blk.4.attn_qkv.weight` is [512, 64] Q8_0, expected [640, 64]"
    );
}

#[test]
fn experts_may_be_in_two_halves() {
    let (config, mut memory) = narrow(&SIZES[3]);
    memory.remove("blk.0.ffn_gate_up_exps.weight");
    memory.set("blk.0.ffn_gate_exps.weight", DType::Q4_0, &[4, 32, 64]);
    assert_eq!(
        error(&config, &memory),
        "model: tensor `blk.0.ffn_up_exps.weight` is missing, expected [4, 32, 64]"
    );
    memory.set("blk.0.ffn_up_exps.weight", DType::Q8_0, &[4, 32, 64]);
    let weights = Weights::load(&config, &memory).unwrap();
    let GateUp::Split { gate, up } = &weights.layers[0].moe.as_ref().unwrap().gate_up else {
        panic!("the file is split");
    };
    assert_eq!((gate.dtype, up.dtype), (DType::Q4_0, DType::Q8_0));

    let (config, mut memory) = golden("moe");
    for layer in 0..6 {
        let experts = format!("model.layers.{layer}.experts");
        memory.remove(&format!("{experts}.gate_up_proj"));
        memory.remove(&format!("{experts}.down_proj"));
        memory.set(&format!("{experts}.switch_glu.gate_proj.weight"), DType::F16, &[16, 96, 256]);
        memory.set(&format!("{experts}.switch_glu.up_proj.weight"), DType::F16, &[16, 96, 256]);
        memory.set(&format!("{experts}.switch_glu.down_proj.weight"), DType::F16, &[16, 256, 96]);
    }
    assert!(Weights::load(&config, &memory).is_ok());
}

#[test]
fn what_sharing_layers_do_not_read_may_have_any_shape() {
    let (config, mut memory) = narrow(&SIZES[1]);
    memory.set("blk.30.attn_k.weight", DType::F32, &[7]);
    memory.remove("blk.31.attn_k.weight");
    memory.remove("blk.31.attn_k_norm.weight");
    assert!(Weights::load(&config, &memory).is_ok());
}

#[test]
fn an_output_matrix_is_loaded_where_it_is_not_tied() {
    let mut file: Json = serde_json::from_str(fixture("dense")).unwrap();
    file["tie_word_embeddings"] = Json::Bool(false);
    let config = read(&file.to_string()).unwrap();
    let (_, mut memory) = golden("dense");
    memory.remove("lm_head.weight");
    assert_eq!(error(&config, &memory), "model: tensor `lm_head.weight` is missing, expected [1024, 256]");
    memory.set("lm_head.weight", DType::F32, &[1024, 256]);
    let weights = Weights::load(&config, &memory).unwrap();
    assert_eq!(weights.output.unwrap().name, "lm_head.weight");

    // The model that MLX writes is one level further in.
    let mut nested = Memory::new(Naming::Hf { prefix: "language_model.model.".to_owned() });
    for (name, tensor) in memory.tensors {
        nested.tensors.insert(format!("language_model.{name}"), tensor);
    }
    let weights = Weights::load(&config, &nested).unwrap();
    assert_eq!(weights.output.unwrap().dtype, DType::F32);

    let (mut config, mut memory) = narrow(&SIZES[4]);
    config.tied = false;
    memory.set("output.weight", DType::Q4_0, &[VOCAB, 64]);
    assert_eq!(Weights::load(&config, &memory).unwrap().output.unwrap().dtype, DType::Q4_0);
}
