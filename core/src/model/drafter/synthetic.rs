//! Drafters of the published shapes with weights that mean nothing: they cost what real ones cost.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{DraftFile, OpenDraft};
use crate::engine::DraftKind;
use crate::error::ModelError;
use crate::model::config::{Config, Span};
use crate::model::dflash::DFlashFile;
use crate::model::mtp::{MtpFile, donor};
use crate::model::weights::{Naming, WeightSource};
use crate::tensor::{Bytes, DType, Tensor};

/// A drafter for a target, of the shape that the published ones have for targets of its width.
///
/// Its drafts are nonsense, so it is for measuring alone.
///
/// # Panics
///
/// If the target has no layers of one of the two kinds, which no Gemma 4 model lacks.
#[must_use]
pub fn synthetic(kind: DraftKind, target: &Config) -> OpenDraft {
    let path = Path::new(match kind {
        DraftKind::Mtp => "(synthetic assistant)",
        DraftKind::DFlash => "(synthetic DFlash drafter)",
    });
    let (text, source) = match kind {
        DraftKind::Mtp => assistant(target, path),
        DraftKind::DFlash => dflash(target, path),
    };
    let text = text.to_string();
    let file = match kind {
        DraftKind::Mtp => MtpFile::from_json(path, &text, &source).map(|file| DraftFile::Mtp(Box::new(file))),
        DraftKind::DFlash => {
            DFlashFile::from_json(path, &text, &source).map(|file| DraftFile::DFlash(Box::new(file)))
        }
    };
    let file = file.expect("made to fit");
    let notes = vec![format!("{}: its drafts are nonsense; measure with it", path.display())];
    OpenDraft { file, notes, gguf: None }
}

/// Experts, rows and columns of the weight of a name; none where there is no such weight.
type Shapes = dyn Fn(&str) -> Option<[usize; 3]>;

/// Weights by name: `Q8_0` where blocks fill the rows, all with the same small values.
struct Made {
    path: PathBuf,
    shape: Box<Shapes>,
}

impl WeightSource for Made {
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some([experts, rows, cols]) = (self.shape)(name) else { return Ok(None) };
        let dtype = if rows > 1 && cols.is_multiple_of(32) { DType::Q8_0 } else { DType::F32 };
        let block: Vec<u8> = match dtype {
            // A scale of 2^-10, and codes that are no pattern of the sums.
            DType::Q8_0 => [0x00, 0x14].into_iter().chain((0u8..32).map(|i| i.wrapping_mul(73))).collect(),
            _ => 1.0f32.to_le_bytes().to_vec(),
        };
        let bytes = block.repeat(experts * rows * cols / dtype.block_len());
        Ok(Tensor::new(name, dtype, [experts, rows, cols], Bytes::from_owner(bytes)))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn naming(&self) -> Naming {
        Naming::Hf { prefix: "model.".to_owned() }
    }
}

fn assistant(target: &Config, path: &Path) -> (Value, Made) {
    let backbone = target.hidden;
    let hidden: usize = if backbone <= 2560 { 256 } else { 1024 };
    let ffn = 8 * hidden;
    let (heads, vocab) = (target.heads, target.vocab);
    let of =
        |span| donor(&target.layers, span).map(|layer| target.layers[layer]).expect("layers of both kinds");
    let (local, global) = (of(Span::Local), of(Span::Global));
    let rope = |theta: f32, kind: &str| json!({ "rope_type": kind, "rope_theta": theta });
    let text = json!({
        "model_type": "gemma4_assistant",
        "backbone_hidden_size": backbone,
        "use_ordered_embeddings": false,
        "text_config": {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": ffn,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 4,
            "num_attention_heads": heads,
            "num_key_value_heads": local.kv_heads,
            "num_global_key_value_heads": global.kv_heads,
            "attention_k_eq_v": true,
            "head_dim": local.head_dim,
            "global_head_dim": global.head_dim,
            "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "sliding_window": target.window,
            "max_position_embeddings": target.max_context,
            "rms_norm_eps": target.rms_eps,
            "rope_parameters": {
                "sliding_attention": rope(target.rope_local.theta, "default"),
                "full_attention": rope(target.rope_global.theta, "default"),
            },
        },
    });
    let shape = move |name: &str| {
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let Some((layer, part)) = layer else {
            return Some(match name {
                "pre_projection.weight" => [1, hidden, 2 * backbone],
                "post_projection.weight" => [1, backbone, hidden],
                "model.embed_tokens.weight" => [1, vocab, hidden],
                "model.norm.weight" => [1, 1, hidden],
                _ => return None,
            });
        };
        let head_dim = if layer == "3" { global.head_dim } else { local.head_dim };
        Some(match part {
            "self_attn.q_proj.weight" => [1, heads * head_dim, hidden],
            "self_attn.q_norm.weight" => [1, 1, head_dim],
            "self_attn.o_proj.weight" => [1, hidden, heads * head_dim],
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" => [1, ffn, hidden],
            "mlp.down_proj.weight" => [1, hidden, ffn],
            "layer_scalar" => [1, 1, 1],
            norm if norm.ends_with("layernorm.weight") => [1, 1, hidden],
            _ => return None,
        })
    };
    (text, Made { path: path.to_owned(), shape: Box::new(shape) })
}

fn dflash(target: &Config, path: &Path) -> (Value, Made) {
    let hidden = target.hidden;
    let (kv_heads, head_dim, ffn) = (8, 128, 2 * hidden);
    // 32 heads for a width of 2816, 64 for 5376.
    let heads = (hidden * 3 / 2 / head_dim).next_power_of_two().max(kv_heads);
    let layers = target.layers.len();
    let count = 6.min(layers.saturating_sub(2)).max(1);
    let mut taps: Vec<usize> =
        (0..count).map(|i| (1 + i * layers.saturating_sub(4) / count.max(2)).min(layers - 2)).collect();
    // Models of few layers have fewer places to look at.
    taps.dedup();
    let width = taps.len() * hidden;
    let text = json!({
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": 5,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "layer_types":
            ["sliding_attention", "sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "sliding_window": 2048,
        "use_sliding_window": true,
        "block_size": 16,
        "final_logit_softcapping": 30.0,
        "num_target_layers": layers,
        "dflash_config": { "mask_token_id": 4, "target_layer_ids": taps },
    });
    let shape = move |name: &str| {
        let layer = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        Some(match layer.map_or(name, |(_, part)| part) {
            "fc.weight" => [1, hidden, width],
            "hidden_norm.weight"
            | "norm.weight"
            | "input_layernorm.weight"
            | "post_attention_layernorm.weight" => [1, 1, hidden],
            "self_attn.q_proj.weight" => [1, heads * head_dim, hidden],
            "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => [1, kv_heads * head_dim, hidden],
            "self_attn.o_proj.weight" => [1, hidden, heads * head_dim],
            "self_attn.q_norm.weight" | "self_attn.k_norm.weight" => [1, 1, head_dim],
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" => [1, ffn, hidden],
            "mlp.down_proj.weight" => [1, hidden, ffn],
            _ => return None,
        })
    };
    (text, Made { path: path.to_owned(), shape: Box::new(shape) })
}
