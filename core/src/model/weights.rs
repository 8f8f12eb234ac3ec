//! The weights of a model, found by name in either format and checked against its hyper-parameters.

mod load;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use super::config::Config;
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::tensor::Tensor;

/// Where weights come from: a file, a checkpoint folder, or a program that makes them up.
pub trait WeightSource {
    /// The tensor `name` as `[experts, rows, cols]`, a vector as one row; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if it is there and cannot be used.
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError>;

    /// The whole numbers of the tensor `name`, in order; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if it is there and holds something else.
    fn ids(&self, name: &str) -> Result<Option<Vec<i64>>, ModelError> {
        let _ = name;
        Ok(None)
    }

    /// File or folder, for errors.
    fn path(&self) -> &Path;

    /// How tensors are called here.
    fn naming(&self) -> Naming;
}

/// How a format calls the weights of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `blk.0.attn_q.weight`.
    Gguf,
    /// `model.layers.0.self_attn.q_proj.weight`, where `model.` is the prefix.
    Hf {
        /// What the names of all text weights begin with, its last point included.
        prefix: String,
    },
}

impl Naming {
    /// The name of a tensor that GGUF calls `gguf` and Hugging Face `hf`, of layer `layer` or of the whole model.
    pub(crate) fn name(&self, layer: Option<usize>, gguf: &str, hf: &str) -> String {
        match (self, layer) {
            (Naming::Gguf, None) => gguf.to_owned(),
            (Naming::Gguf, Some(layer)) => format!("blk.{layer}.{gguf}"),
            (Naming::Hf { prefix }, None) => format!("{prefix}{hf}"),
            (Naming::Hf { prefix }, Some(layer)) => format!("{prefix}layers.{layer}.{hf}"),
        }
    }
}

impl WeightSource for Gguf {
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        self.load(name)
    }

    fn ids(&self, name: &str) -> Result<Option<Vec<i64>>, ModelError> {
        let Some(tensor) = self.tensor(name) else { return Ok(None) };
        integers(&tensor.bytes, &tensor.type_name()).map(Some).ok_or_else(|| ModelError::BadTensor {
            path: tensor.file.to_path_buf(),
            tensor: name.to_owned(),
            found: tensor.type_name(),
            expected: "I32 or I64".to_owned(),
        })
    }

    fn path(&self) -> &Path {
        self.path()
    }

    fn naming(&self) -> Naming {
        Naming::Gguf
    }
}

/// The numbers that `bytes` hold; `None` if `kind` is no type of whole numbers that tensors of ids have.
pub(crate) fn integers(bytes: &[u8], kind: &str) -> Option<Vec<i64>> {
    match kind {
        "I32" => Some(bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect()),
        "I64" => Some(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        _ => None,
    }
}

/// All weights of a model. Fields have GGUF's names; shapes are `[rows, cols]`, so `rows` are outputs.
///
/// Vectors (norms and scales) have one row and a float type.
#[derive(Clone, Debug)]
pub struct Weights {
    /// `[vocab, hidden]`; also the output matrix if [`Config::tied`].
    pub token_embd: Tensor,
    /// `[vocab, hidden]`, unless the output is tied to the embedding.
    pub output: Option<Tensor>,
    /// `[hidden]`.
    pub output_norm: Tensor,
    /// Per-layer embeddings, if [`Config::ple`].
    pub ple: Option<PleTables>,
    /// Layers in order.
    pub layers: Vec<LayerWeights>,
}

/// What all layers share of per-layer embeddings; `width` is [`Config::ple`].
#[derive(Clone, Debug)]
pub struct PleTables {
    /// `[vocab, layers * width]`; layer `l` has the columns from `l * width`.
    pub per_layer_token_embd: Tensor,
    /// `[layers * width, hidden]`.
    pub per_layer_model_proj: Tensor,
    /// `[width]`.
    pub per_layer_proj_norm: Tensor,
}

/// The weights of one decoder layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `[hidden]`, before attention.
    pub attn_norm: Tensor,
    /// `[heads * head_dim, hidden]`.
    pub attn_q: Tensor,
    /// `[kv_heads * head_dim, hidden]`; none where a donor's keys are read.
    pub attn_k: Option<Tensor>,
    /// `[kv_heads * head_dim, hidden]`; none where a donor's values are read or values are the raw keys.
    pub attn_v: Option<Tensor>,
    /// `[head_dim]`.
    pub q_norm: Tensor,
    /// `[head_dim]`; none where a donor's keys are read.
    pub k_norm: Option<Tensor>,
    /// `[hidden, heads * head_dim]`.
    pub attn_output: Tensor,
    /// `[hidden]`, of the attention's output.
    pub post_attention_norm: Tensor,
    /// `[hidden]`, before the dense feed-forward branch.
    pub ffn_norm: Tensor,
    /// `[ffn, hidden]`.
    pub ffn_gate: Tensor,
    /// `[ffn, hidden]`.
    pub ffn_up: Tensor,
    /// `[hidden, ffn]`.
    pub ffn_down: Tensor,
    /// `[hidden]`, of the output of the feed-forward part.
    pub post_ffw_norm: Tensor,
    /// Multiplies the whole stream at the end of the layer; 1 if the file has none.
    pub layer_output_scale: f32,
    /// Per-layer embeddings, if [`Config::ple`].
    pub ple: Option<PleWeights>,
    /// Mixture of experts, if [`Config::moe`].
    pub moe: Option<MoeWeights>,
}

/// One layer's part of per-layer embeddings.
#[derive(Clone, Debug)]
pub struct PleWeights {
    /// `[width, hidden]`.
    pub inp_gate: Tensor,
    /// `[hidden, width]`.
    pub proj: Tensor,
    /// `[hidden]`.
    pub post_norm: Tensor,
}

/// One layer's mixture of experts; `ffn` is [`Moe::ffn`](super::config::Moe::ffn).
#[derive(Clone, Debug)]
pub struct MoeWeights {
    /// `[experts, hidden]`: the router.
    pub gate_inp: Tensor,
    /// `[hidden]`, multiplies the router's input.
    pub gate_inp_scale: Tensor,
    /// `[hidden]`, before the experts.
    pub pre_norm_2: Tensor,
    /// `[hidden]`, of the dense branch's output.
    pub post_norm_1: Tensor,
    /// `[hidden]`, of the experts' output.
    pub post_norm_2: Tensor,
    /// Gate and up projections of the experts.
    pub gate_up: GateUp,
    /// `experts` matrices `[hidden, ffn]`.
    pub down: Tensor,
    /// `[experts]`, multiplies each expert's output; ones if the file has none.
    pub down_scale: Tensor,
}

/// Gate and up projections of experts, as the file holds them.
#[derive(Clone, Debug)]
pub enum GateUp {
    /// `experts` matrices `[2 * ffn, hidden]`, each the rows of gate, then those of up.
    Fused(Tensor),
    /// Two tensors.
    Split {
        /// `experts` matrices `[ffn, hidden]`.
        gate: Tensor,
        /// `experts` matrices `[ffn, hidden]`.
        up: Tensor,
    },
}

impl Weights {
    /// Finds every weight of a model with hyper-parameters `config`. No bytes of matrices are copied.
    ///
    /// Keys and values of layers that have a donor are not looked at, for some files hold them.
    ///
    /// # Errors
    ///
    /// [`ModelError::MissingTensor`], [`ModelError::BadTensor`] for a wrong shape or a norm that is quantised, and
    /// what `source` says.
    pub fn load(config: &Config, source: &dyn WeightSource) -> Result<Self, ModelError> {
        load::load(config, source)
    }
}

/// A shape in the fewest dimensions that hold it.
pub(crate) struct Shape(pub(crate) [usize; 3]);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [1, 1, cols] => write!(f, "[{cols}]"),
            [1, rows, cols] => write!(f, "[{rows}, {cols}]"),
            [experts, rows, cols] => write!(f, "[{experts}, {rows}, {cols}]"),
        }
    }
}
