//! Drafters for the small models, with procedural weights: what they draft is mostly wrong, which is the harder case.

use std::collections::BTreeMap;
use std::path::Path;

use gemma4_core::engine::DraftKind;
use gemma4_core::model::config::Span;
use gemma4_core::model::dflash::DFlashFile;
use gemma4_core::model::drafter::DraftFile;
use gemma4_core::model::mtp::{MtpFile, donor};
use serde_json::{Value, json};

use crate::golden::{assistant_shapes, dflash_shapes};
use crate::procedural::Procedural;
use crate::tiny::{Tiny, VOCAB, layers};

/// A drafter for a small model.
///
/// # Panics
///
/// If the model has no layers of both kinds; every small model has.
#[must_use]
pub fn drafter(kind: DraftKind, tiny: &Tiny) -> DraftFile {
    edited(kind, tiny, |_| ())
}

/// The `config.json` of a drafter, and names and shapes of its tensors with the prefix of the recipe.
///
/// # Panics
///
/// If the model has no layers of both kinds; every small model has.
#[must_use]
pub fn source(kind: DraftKind, tiny: &Tiny) -> (Value, BTreeMap<String, Vec<usize>>) {
    let json = match kind {
        DraftKind::Mtp => assistant(tiny),
        DraftKind::DFlash => dflash(tiny),
    };
    let shapes = match kind {
        DraftKind::Mtp => assistant_shapes(&json),
        DraftKind::DFlash => dflash_shapes(&json),
    };
    (json, shapes.expect("all sizes are there"))
}

/// The same with its `config.json` edited.
///
/// # Panics
///
/// If that makes no drafter.
#[must_use]
pub fn edited(kind: DraftKind, tiny: &Tiny, change: impl FnOnce(&mut Value)) -> DraftFile {
    let mut json = match kind {
        DraftKind::Mtp => assistant(tiny),
        DraftKind::DFlash => dflash(tiny),
    };
    change(&mut json);
    let path = Path::new("config.json");
    let text = json.to_string();
    match kind {
        DraftKind::Mtp => {
            let shapes = assistant_shapes(&json).expect("all sizes are there");
            let file = MtpFile::from_json(path, &text, &Procedural::new(path, shapes, 11));
            DraftFile::Mtp(Box::new(file.expect("all shapes follow from the config")))
        }
        DraftKind::DFlash => {
            let shapes = dflash_shapes(&json).expect("all sizes are there");
            let file = DFlashFile::from_json(path, &text, &Procedural::new(path, shapes, 12));
            DraftFile::DFlash(Box::new(file.expect("all shapes follow from the config")))
        }
    }
}

/// Two layers, one of each kind; that of the model with per-layer embeddings has a head by clusters.
fn assistant(tiny: &Tiny) -> Value {
    let config = tiny.config();
    let of = |span| config.layers[donor(&config.layers, span).expect("layers of both kinds")];
    let (local, global) = (of(Span::Local), of(Span::Global));
    json!({
        "architectures": ["Gemma4AssistantForCausalLM"],
        "model_type": "gemma4_assistant",
        "backbone_hidden_size": config.hidden,
        "use_ordered_embeddings": config.ple.is_some(),
        "num_centroids": 16,
        "centroid_intermediate_top_k": 3,
        "text_config": {
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_kv_shared_layers": 2,
            "num_attention_heads": config.heads,
            "num_key_value_heads": local.kv_heads,
            "num_global_key_value_heads": global.kv_heads,
            "attention_k_eq_v": true,
            "head_dim": local.head_dim,
            "global_head_dim": global.head_dim,
            "layer_types": layers("LG"),
            "sliding_window": config.window,
            "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "sliding_attention": { "rope_type": "default", "rope_theta": 10_000.0 },
                "full_attention": {
                    "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0
                },
            },
        },
    })
}

/// Two layers, one of each kind, which see all layers of the target but the last.
fn dflash(tiny: &Tiny) -> Value {
    let config = tiny.config();
    let taps: Vec<usize> = (0..config.layers.len() - 1).collect();
    json!({
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "vocab_size": VOCAB,
        "hidden_size": config.hidden,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "layer_types": layers("LG"),
        "sliding_window": 24,
        "use_sliding_window": true,
        "hidden_act": "silu",
        "block_size": 16,
        "num_target_layers": config.layers.len(),
        "final_logit_softcapping": 30.0,
        "dflash_config": { "mask_token_id": 4, "target_layer_ids": taps },
    })
}
