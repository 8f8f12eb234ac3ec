//! Names and shapes of every weight. Source: `tensor_mapping.py` of gguf-py, and `modeling_gemma4.py` of transformers.

use half::{bf16, f16};

use super::{GateUp, LayerWeights, MoeWeights, Naming, PleTables, PleWeights, Shape, WeightSource, Weights};
use crate::error::ModelError;
use crate::model::config::{Config, LayerConfig, Moe};
use crate::tensor::{Bytes, DType, Tensor};

pub(super) fn load(config: &Config, source: &dyn WeightSource) -> Result<Weights, ModelError> {
    let naming = source.naming();
    let file = Finder { source, naming: &naming, layer: None };
    let Config { hidden, vocab, .. } = *config;
    let mut layers = Vec::new();
    for (index, layer) in config.layers.iter().enumerate() {
        let file = Finder { layer: Some(index), ..file };
        layers.push(file.layer(config, layer)?);
    }
    let ple = match config.ple {
        None => None,
        Some(width) => {
            let all = width * config.layers.len();
            Some(PleTables {
                per_layer_token_embd: file.matrix(
                    "per_layer_token_embd.weight",
                    "embed_tokens_per_layer.weight",
                    [vocab, all],
                )?,
                per_layer_model_proj: file.matrix(
                    "per_layer_model_proj.weight",
                    "per_layer_model_projection.weight",
                    [all, hidden],
                )?,
                per_layer_proj_norm: file.vector(
                    "per_layer_proj_norm.weight",
                    "per_layer_projection_norm.weight",
                    width,
                )?,
            })
        }
    };
    Ok(Weights {
        token_embd: file.matrix("token_embd.weight", "embed_tokens.weight", [vocab, hidden])?,
        output: if config.tied { None } else { Some(file.output([1, vocab, hidden])?) },
        output_norm: file.vector("output_norm.weight", "norm.weight", hidden)?,
        ple,
        layers,
    })
}

/// Finds tensors of one layer, or those outside of all layers.
#[derive(Clone, Copy)]
struct Finder<'a> {
    source: &'a dyn WeightSource,
    naming: &'a Naming,
    layer: Option<usize>,
}

impl Finder<'_> {
    fn layer(&self, config: &Config, layer: &LayerConfig) -> Result<LayerWeights, ModelError> {
        let Config { hidden, heads, .. } = *config;
        let ([attn_q, attn_k, attn_v], head_dim) = (self.projections(config, layer)?, layer.head_dim);
        let k_norm = || self.vector("attn_k_norm.weight", "self_attn.k_norm.weight", head_dim);
        Ok(LayerWeights {
            attn_norm: self.vector("attn_norm.weight", "input_layernorm.weight", hidden)?,
            attn_q: self.some(attn_q, Q, [1, layer.q_rows(heads), hidden])?,
            attn_k,
            attn_v,
            q_norm: self.vector("attn_q_norm.weight", "self_attn.q_norm.weight", head_dim)?,
            k_norm: layer.donor.is_none().then(k_norm).transpose()?,
            attn_output: self.matrix(
                "attn_output.weight",
                "self_attn.o_proj.weight",
                [hidden, layer.q_rows(heads)],
            )?,
            post_attention_norm: self.vector(
                "post_attention_norm.weight",
                "post_attention_layernorm.weight",
                hidden,
            )?,
            ffn_norm: self.vector("ffn_norm.weight", "pre_feedforward_layernorm.weight", hidden)?,
            ffn_gate: self.matrix("ffn_gate.weight", "mlp.gate_proj.weight", [layer.ffn, hidden])?,
            ffn_up: self.matrix("ffn_up.weight", "mlp.up_proj.weight", [layer.ffn, hidden])?,
            ffn_down: self.matrix("ffn_down.weight", "mlp.down_proj.weight", [hidden, layer.ffn])?,
            post_ffw_norm: self.vector(
                "post_ffw_norm.weight",
                "post_feedforward_layernorm.weight",
                hidden,
            )?,
            layer_output_scale: self.scalar("layer_output_scale.weight", "layer_scalar", 1.0)?,
            ple: config.ple.map(|width| self.ple(width, hidden)).transpose()?,
            moe: config.moe.map(|moe| self.moe(moe, hidden)).transpose()?,
        })
    }

    fn ple(&self, width: usize, hidden: usize) -> Result<PleWeights, ModelError> {
        Ok(PleWeights {
            inp_gate: self.matrix("inp_gate.weight", "per_layer_input_gate.weight", [width, hidden])?,
            proj: self.matrix("proj.weight", "per_layer_projection.weight", [hidden, width])?,
            post_norm: self.vector("post_norm.weight", "post_per_layer_input_norm.weight", hidden)?,
        })
    }

    fn moe(&self, moe: Moe, hidden: usize) -> Result<MoeWeights, ModelError> {
        let Moe { experts, ffn, .. } = moe;
        Ok(MoeWeights {
            gate_inp: self.matrix("ffn_gate_inp.weight", "router.proj.weight", [experts, hidden])?,
            gate_inp_scale: self.vector("ffn_gate_inp.scale", "router.scale", hidden)?,
            pre_norm_2: self.vector("pre_ffw_norm_2.weight", "pre_feedforward_layernorm_2.weight", hidden)?,
            post_norm_1: self.vector(
                "post_ffw_norm_1.weight",
                "post_feedforward_layernorm_1.weight",
                hidden,
            )?,
            post_norm_2: self.vector(
                "post_ffw_norm_2.weight",
                "post_feedforward_layernorm_2.weight",
                hidden,
            )?,
            gate_up: self.gate_up(moe, hidden)?,
            down: self.experts(DOWN, [experts, hidden, ffn])?,
            down_scale: match self.floats("ffn_down_exps.scale", "router.per_expert_scale", experts)? {
                Some(scale) => scale,
                None => ones("ffn_down_exps.scale", experts),
            },
        })
    }

    /// Query, key and value projections, the latter two only where the layer has its own.
    fn projections(&self, config: &Config, layer: &LayerConfig) -> Result<[Option<Tensor>; 3], ModelError> {
        let (q_rows, kv_rows) = (layer.q_rows(config.heads), layer.kv_rows());
        let q_shape = [1, q_rows, config.hidden];
        let kv_shape = [1, kv_rows, config.hidden];
        let own = layer.donor.is_none();
        let q = self.find(Q.0, Q.1, q_shape)?;
        if q.is_none()
            && *self.naming == Naming::Gguf
            && let Some(fused) = self.source.load(&self.name(FUSED, FUSED))?
        {
            return self.split(&fused, config, layer);
        }
        let k = own.then(|| self.need(K.0, K.1, kv_shape)).transpose()?;
        let v = (own && !layer.k_eq_v).then(|| self.need(V.0, V.1, kv_shape)).transpose()?;
        Ok([q, k, v])
    }

    /// The rows of a fused projection: queries, then keys, then values.
    fn split(
        &self,
        fused: &Tensor,
        config: &Config,
        layer: &LayerConfig,
    ) -> Result<[Option<Tensor>; 3], ModelError> {
        let (q_rows, kv_rows) = (layer.q_rows(config.heads), layer.kv_rows());
        let all = [1, q_rows + 2 * kv_rows, config.hidden];
        // Where keys and values are a donor's, files may or may not hold the rows that nobody reads.
        let only_q = layer.donor.is_some() && shape(fused) == [1, q_rows, config.hidden];
        if !only_q {
            self.check(fused, all)?;
        }
        let part = |name: &str, start: usize, rows: usize| {
            let part = fused.slice_rows(&self.name(name, name), start..start + rows);
            Some(part.expect("the shape was checked"))
        };
        let own = layer.donor.is_none();
        Ok([
            part(Q.0, 0, q_rows),
            own.then(|| part(K.0, q_rows, kv_rows)).flatten(),
            own.then(|| part(V.0, q_rows + kv_rows, kv_rows)).flatten(),
        ])
    }

    fn gate_up(&self, moe: Moe, hidden: usize) -> Result<GateUp, ModelError> {
        let fused = [moe.experts, 2 * moe.ffn, hidden];
        let half = [moe.experts, moe.ffn, hidden];
        for hf in GATE_UP.1 {
            if let Some(tensor) = self.find(GATE_UP.0, hf, fused)? {
                return Ok(GateUp::Fused(tensor));
            }
        }
        let (gate, up) = (self.find(GATE.0, GATE.1, half)?, self.find(UP.0, UP.1, half)?);
        match (gate, up) {
            // The spelling that most files have is the one to report.
            (None, None) => Err(self.missing(GATE_UP.0, GATE_UP.1[0], fused)),
            (gate, up) => {
                Ok(GateUp::Split { gate: self.some(gate, GATE, half)?, up: self.some(up, UP, half)? })
            }
        }
    }

    /// The first of the spellings that is there.
    fn experts(&self, (gguf, hf): (&str, [&str; 4]), expected: [usize; 3]) -> Result<Tensor, ModelError> {
        for hf in hf {
            if let Some(tensor) = self.find(gguf, hf, expected)? {
                return Ok(tensor);
            }
        }
        Err(self.missing(gguf, hf[0], expected))
    }

    /// The output matrix of a model whose embedding is not used for it.
    fn output(&self, expected: [usize; 3]) -> Result<Tensor, ModelError> {
        let Naming::Hf { prefix } = self.naming else {
            return self.need("output.weight", "", expected);
        };
        // It is not a part of the inner model, whose prefix ends in "model.".
        let outer = match prefix.strip_suffix("model.") {
            Some(outer) if outer.is_empty() || outer.ends_with('.') => outer,
            _ => prefix,
        };
        for name in [format!("{outer}lm_head.weight"), "lm_head.weight".to_owned()] {
            if let Some(tensor) = self.source.load(&name)? {
                self.check(&tensor, expected)?;
                return Ok(tensor);
            }
        }
        Err(self.missing_named("lm_head.weight".to_owned(), expected))
    }

    fn matrix(&self, gguf: &str, hf: &str, [rows, cols]: [usize; 2]) -> Result<Tensor, ModelError> {
        self.need(gguf, hf, [1, rows, cols])
    }

    fn vector(&self, gguf: &str, hf: &str, len: usize) -> Result<Tensor, ModelError> {
        let tensor = self.floats(gguf, hf, len)?;
        self.some(tensor, (gguf, hf), [1, 1, len])
    }

    /// A vector, if there is one.
    fn floats(&self, gguf: &str, hf: &str, len: usize) -> Result<Option<Tensor>, ModelError> {
        let Some(tensor) = self.find(gguf, hf, [1, 1, len])? else {
            return Ok(None);
        };
        if tensor.dtype.block_len() > 1 {
            return Err(self.bad(&tensor, "F32, F16 or BF16".to_owned()));
        }
        Ok(Some(tensor))
    }

    /// The value of a vector of length 1, or `absent` if there is none.
    fn scalar(&self, gguf: &str, hf: &str, absent: f32) -> Result<f32, ModelError> {
        let Some(tensor) = self.floats(gguf, hf, 1)? else {
            return Ok(absent);
        };
        let value = match (tensor.dtype, &*tensor.data) {
            (DType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (DType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (DType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            _ => f32::NAN,
        };
        if !value.is_finite() {
            return Err(ModelError::BadTensor {
                path: self.source.path().to_owned(),
                tensor: tensor.name,
                found: value.to_string(),
                expected: "a finite number".to_owned(),
            });
        }
        Ok(value)
    }

    fn need(&self, gguf: &str, hf: &str, expected: [usize; 3]) -> Result<Tensor, ModelError> {
        let tensor = self.find(gguf, hf, expected)?;
        self.some(tensor, (gguf, hf), expected)
    }

    /// The tensor, if there is one, with its shape checked.
    fn find(&self, gguf: &str, hf: &str, expected: [usize; 3]) -> Result<Option<Tensor>, ModelError> {
        let tensor = self.source.load(&self.name(gguf, hf))?;
        if let Some(tensor) = &tensor {
            self.check(tensor, expected)?;
        }
        Ok(tensor)
    }

    fn check(&self, tensor: &Tensor, expected: [usize; 3]) -> Result<(), ModelError> {
        if shape(tensor) == expected {
            return Ok(());
        }
        Err(self.bad(tensor, Shape(expected).to_string()))
    }

    fn some(
        &self,
        tensor: Option<Tensor>,
        (gguf, hf): (&str, &str),
        expected: [usize; 3],
    ) -> Result<Tensor, ModelError> {
        tensor.ok_or_else(|| self.missing(gguf, hf, expected))
    }

    fn bad(&self, tensor: &Tensor, expected: String) -> ModelError {
        ModelError::BadTensor {
            path: self.source.path().to_owned(),
            tensor: tensor.name.clone(),
            found: format!("{} {}", Shape(shape(tensor)), tensor.dtype),
            expected,
        }
    }

    fn missing(&self, gguf: &str, hf: &str, expected: [usize; 3]) -> ModelError {
        self.missing_named(self.name(gguf, hf), expected)
    }

    fn missing_named(&self, tensor: String, expected: [usize; 3]) -> ModelError {
        ModelError::MissingTensor {
            path: self.source.path().to_owned(),
            tensor,
            expected: Shape(expected).to_string(),
        }
    }

    fn name(&self, gguf: &str, hf: &str) -> String {
        self.naming.name(self.layer, gguf, hf)
    }
}

const Q: (&str, &str) = ("attn_q.weight", "self_attn.q_proj.weight");
const K: (&str, &str) = ("attn_k.weight", "self_attn.k_proj.weight");
const V: (&str, &str) = ("attn_v.weight", "self_attn.v_proj.weight");
/// Queries, keys and values in one, as some converters to GGUF write them.
const FUSED: &str = "attn_qkv.weight";

// Experts in the spellings of transformers, of checkpoints with a `moe` module, and of MLX, which splits gate and up.
const GATE_UP: (&str, [&str; 3]) =
    ("ffn_gate_up_exps.weight", ["experts.gate_up_proj", "moe.gate_up_proj", "moe.experts.gate_up_proj"]);
const GATE: (&str, &str) = ("ffn_gate_exps.weight", "experts.switch_glu.gate_proj.weight");
const UP: (&str, &str) = ("ffn_up_exps.weight", "experts.switch_glu.up_proj.weight");
const DOWN: (&str, [&str; 4]) = (
    "ffn_down_exps.weight",
    ["experts.down_proj", "moe.down_proj", "moe.experts.down_proj", "experts.switch_glu.down_proj.weight"],
);

fn shape(tensor: &Tensor) -> [usize; 3] {
    [tensor.experts, tensor.rows, tensor.cols]
}

/// A vector of `len` ones.
fn ones(name: &str, len: usize) -> Tensor {
    let bytes: Vec<u8> = (0..len).flat_map(|_| 1f32.to_le_bytes()).collect();
    Tensor::new(name, DType::F32, [1, 1, len], Bytes::from_owner(bytes)).expect("four bytes a value")
}
