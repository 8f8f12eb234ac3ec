//! Files of drafters: every dialect gives the same drafter, and what is none is refused in one sentence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gemma4_conformance::drafts::source;
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{backends, procedural};
use gemma4_core::engine::{Ask, DraftKind, DraftOptions, Part, Pick, Watched};
use gemma4_core::gguf::TensorInfo;
use gemma4_core::gguf::value::Value as Gv;
use gemma4_core::gguf::write::Writer;
use gemma4_core::kv_type::KvType;
use gemma4_core::model::drafter::{DraftFile, OpenDraft};
use gemma4_core::model::gemma4::{KvTypes, Taps};
use gemma4_core::program::Class;
use gemma4_core::sample::{Draw, Sampling};
use gemma4_core::tensor::{Bytes, DType};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// A drafter in memory: config, and tensors by the names of Hugging Face.
struct Made {
    config: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ordering: Option<Vec<i64>>,
}

fn made(kind: DraftKind, tiny: &Tiny) -> Made {
    let (config, shapes) = source(kind, tiny);
    let (prefix, seed) = match kind {
        DraftKind::Mtp => ("assistant.", 11),
        DraftKind::DFlash => ("dflash.", 12),
    };
    let mut made = Made { config, tensors: BTreeMap::new(), ordering: None };
    for (name, shape) in shapes {
        let own = name.strip_prefix(prefix).expect("all have it").to_owned();
        if own.ends_with("token_ordering") {
            let len = i64::try_from(shape[0]).expect("small");
            made.ordering = Some((0..len).map(|i| i * 389 % len).collect());
        } else {
            made.tensors.insert(own, (shape.clone(), procedural::values(&name, &shape, seed)));
        }
    }
    made
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Made {
    /// As a checkpoint folder.
    fn folder(&self, path: &Path) {
        std::fs::create_dir_all(path).expect("a new folder");
        std::fs::write(path.join("config.json"), self.config.to_string()).expect("written");
        let data: Vec<(String, safetensors::Dtype, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name.clone(), safetensors::Dtype::F32, shape.clone(), bytes(values))
            })
            .chain(self.ordering.iter().map(|ids| {
                let bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                (
                    "masked_embedding.token_ordering".to_owned(),
                    safetensors::Dtype::I64,
                    vec![ids.len()],
                    bytes,
                )
            }))
            .collect();
        let views = data.iter().map(|(name, dtype, shape, bytes)| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).expect("the bytes of the shape"))
        });
        safetensors::serialize_to_file(views, None, &path.join("model.safetensors")).expect("written");
    }

    /// As a GGUF file with these keys; `rename` gives the name of a tensor.
    fn gguf(&self, path: &Path, keys: &[(&str, Gv)], rename: impl Fn(&str) -> String) {
        let mut writer = Writer::new();
        for (key, value) in keys {
            writer.set(key, value.clone());
        }
        let mut data = Vec::new();
        for (name, (shape, values)) in &self.tensors {
            let dims: Vec<usize> = shape.iter().rev().copied().collect();
            writer.tensor(&rename(name), DType::F32, &dims).expect("a good tensor");
            data.push(bytes(values));
        }
        if let Some(ids) = &self.ordering {
            let bytes: Vec<u8> =
                ids.iter().flat_map(|&id| i32::try_from(id).expect("small").to_le_bytes()).collect();
            let info = TensorInfo {
                name: rename("masked_embedding.token_ordering"),
                ggml_type: 26,
                dims: vec![ids.len()],
                bytes: Bytes::from_owner(bytes.clone()),
                file: Path::new("").into(),
            };
            writer.copy(&info).expect("a good tensor");
            data.push(bytes);
        }
        if self.tensors.contains_key("pre_projection.weight") {
            let wide = self.global_dim() / 2;
            let factors: Vec<f32> = (0..wide).map(|i| if i < wide / 4 { 1.0 } else { 1e30 }).collect();
            writer.tensor("rope_freqs.weight", DType::F32, &[wide]).expect("a good tensor");
            data.push(bytes(&factors));
        }
        std::fs::write(path, writer.to_vec(data).expect("all bytes")).expect("written");
    }

    fn global_dim(&self) -> usize {
        self.number("text_config.global_head_dim")
    }

    fn number(&self, path: &str) -> usize {
        let value = path.split('.').fold(&self.config, |value, key| &value[key]);
        usize::try_from(value.as_u64().expect("a number")).expect("small")
    }
}

/// Names of layers in GGUF files.
fn layer_name(name: &str, post_attention: &str) -> Option<String> {
    let rest = name.strip_prefix("model.").unwrap_or(name).strip_prefix("layers.")?;
    let (layer, part) = rest.split_once('.')?;
    let part = match part {
        "input_layernorm.weight" => "attn_norm.weight",
        "self_attn.q_proj.weight" => "attn_q.weight",
        "self_attn.k_proj.weight" => "attn_k.weight",
        "self_attn.v_proj.weight" => "attn_v.weight",
        "self_attn.o_proj.weight" => "attn_output.weight",
        "self_attn.q_norm.weight" => "attn_q_norm.weight",
        "self_attn.k_norm.weight" => "attn_k_norm.weight",
        "mlp.gate_proj.weight" => "ffn_gate.weight",
        "mlp.up_proj.weight" => "ffn_up.weight",
        "mlp.down_proj.weight" => "ffn_down.weight",
        "post_attention_layernorm.weight" => post_attention,
        "pre_feedforward_layernorm.weight" => "ffn_norm.weight",
        "post_feedforward_layernorm.weight" => "post_ffw_norm.weight",
        "layer_scalar" => "layer_output_scale.weight",
        other => panic!("{other}"),
    };
    Some(format!("blk.{layer}.{part}"))
}

fn u32(n: usize) -> Gv {
    Gv::from(u32::try_from(n).expect("small"))
}

/// Keys of a DFlash drafter in one of three dialects.
fn dflash_keys(made: &Made, architecture: &'static str) -> Vec<(String, Gv)> {
    let key = |name: &str| format!("{architecture}.{name}");
    let own = |name: &str| if architecture == "dflash" { key(name) } else { key(&format!("dflash.{name}")) };
    let n = |name: &str| u32(made.number(name));
    let taps: Vec<i32> = made.config["dflash_config"]["target_layer_ids"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|id| i32::try_from(id.as_i64().expect("a number")).expect("small"))
        .map(|id| if architecture == "dflash" { id + 1 } else { id })
        .collect();
    let mut keys = vec![
        ("general.architecture".to_owned(), Gv::from(architecture)),
        (key("block_count"), n("num_hidden_layers")),
        (key("embedding_length"), n("hidden_size")),
        (key("feed_forward_length"), n("intermediate_size")),
        (key("attention.head_count"), n("num_attention_heads")),
        (key("attention.head_count_kv"), n("num_key_value_heads")),
        (key("attention.key_length"), n("head_dim")),
        (key("attention.value_length"), n("head_dim")),
        (key("attention.layer_norm_rms_epsilon"), Gv::from(1e-6f32)),
        (key("rope.freq_base"), Gv::from(1e6f32)),
        (key("attention.sliding_window"), n("sliding_window")),
        (key("final_logit_softcapping"), Gv::from(30.0f32)),
        (own("block_size"), n("block_size")),
        (
            own(if architecture == "dflash" { "target_layers" } else { "target_layer_ids" }),
            Gv::from(&taps[..]),
        ),
    ];
    if architecture == "dflash" {
        keys.push((key("attention.sliding_window_pattern"), Gv::from(&[true, false][..])));
        keys.push(("tokenizer.ggml.mask_token_id".to_owned(), u32(4)));
    } else {
        // Without a pattern, all layers but the last slide.
        keys.push((own("mask_token_id"), u32(4)));
    }
    if architecture == "gemma4-dflash-draft" {
        keys.push((own("n_target_layers"), n("num_target_layers")));
        keys.push((key("vocab_size"), n("vocab_size")));
    }
    keys
}

/// Keys of an assistant in one of two dialects.
fn assistant_keys(made: &Made, architecture: &'static str) -> Vec<(String, Gv)> {
    let key = |name: &str| format!("{architecture}.{name}");
    let n = |name: &str| u32(made.number(&format!("text_config.{name}")));
    let kv = ["num_key_value_heads", "num_global_key_value_heads"]
        .map(|name| u32::try_from(made.number(&format!("text_config.{name}"))).expect("small"));
    let mut keys = vec![
        ("general.architecture".to_owned(), Gv::from(architecture)),
        (key("block_count"), n("num_hidden_layers")),
        (key("context_length"), n("max_position_embeddings")),
        (key("embedding_length"), n("hidden_size")),
        (key("feed_forward_length"), n("intermediate_size")),
        (key("attention.head_count"), n("num_attention_heads")),
        (key("attention.head_count_kv"), Gv::from(&kv[..])),
        (key("attention.key_length"), n("global_head_dim")),
        (key("attention.key_length_swa"), n("head_dim")),
        (key("attention.sliding_window"), n("sliding_window")),
        (key("attention.sliding_window_pattern"), Gv::from(&[true, false][..])),
        // A count that contradicts the rule is of no interest: all layers read the target.
        (key("attention.shared_kv_layers"), u32(2)),
        (key("attention.layer_norm_rms_epsilon"), Gv::from(1e-6f32)),
        (key("rope.freq_base"), Gv::from(1e6f32)),
        (key("rope.freq_base_swa"), Gv::from(1e4f32)),
    ];
    if architecture == "gemma4-assistant" {
        keys.push((key("embedding_length_out"), u32(made.number("backbone_hidden_size"))));
        keys.push((key("nextn_predict_layers"), u32(1)));
    } else {
        keys.push((key("n_embd_backbone"), u32(made.number("backbone_hidden_size"))));
        keys.push((key("use_ordered_embeddings"), Gv::from(made.ordering.is_some())));
        keys.push((key("n_centroids"), u32(made.number("num_centroids"))));
    }
    // llama.cpp has no key for this; what it would take is more clusters than a small model has.
    keys.push((key("centroid_top_k"), u32(made.number("centroid_intermediate_top_k"))));
    keys
}

fn borrowed(keys: &[(String, Gv)]) -> Vec<(&str, Gv)> {
    keys.iter().map(|(key, value)| (key.as_str(), value.clone())).collect()
}

/// What a drafter drafts behind some text.
fn drafts(tiny: &Tiny, kind: DraftKind, file: DraftFile) -> (Vec<u32>, Watched) {
    let subject = Subject { new: backends::reference, tiny: tiny.clone(), kv: Kv::all(KvType::F32) };
    let mut engine = subject.engine(200, 256, 1).expect("it fits");
    let options = DraftOptions { kv: KvTypes { k: KvType::F32, v: KvType::F32 }, causal: None };
    engine.attach(file, options, &mut |_, _| ()).unwrap_or_else(|error| panic!("{error}"));
    let seq = engine.open().expect("a sequence is free");
    let text = tokens(60, 3);
    let sampling = Sampling::default();
    let draw = Draw { sampling: &sampling, position: 60, edits: &[], allowed: None };
    let part = Part { seq, tokens: &text, pick: Pick::Last };
    engine.step(Class::Prefill, &[part], &[draw], Taps::None).expect("it fits");
    engine.commit(seq, 60).expect("reserved");
    let ask = Ask { seq, anchor: 5, count: 6, sampling: &sampling, edits: &[] };
    engine.propose_watched(kind, &ask).expect("the device works")
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder for the test"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn open(path: &Path) -> OpenDraft {
    OpenDraft::open(path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn s2_every_dialect_of_dflash_is_the_same_drafter() {
    let tiny = Tiny::dense();
    let made = made(DraftKind::DFlash, &tiny);
    let dir = Dir::new();
    made.folder(&dir.at("folder"));
    let want = drafts(&tiny, DraftKind::DFlash, open(&dir.at("folder")).file);
    for (architecture, fc, norm, post) in [
        ("gemma4-dflash-draft", "dflash.fc.weight", "dflash.hidden_norm.weight", "ffn_norm.weight"),
        (
            "gemma4-dflash-draft",
            "dflash_fc.weight",
            "dflash_hidden_norm.weight",
            "post_attention_norm.weight",
        ),
        ("dflash", "fc.weight", "enc.output_norm.weight", "ffn_norm.weight"),
        ("dflash-draft", "dflash_fc.weight", "dflash_hidden_norm.weight", "post_attention_norm.weight"),
    ] {
        let path = dir.at("drafter.gguf");
        let keys = dflash_keys(&made, architecture);
        made.gguf(&path, &borrowed(&keys), |name| match name {
            "fc.weight" => fc.to_owned(),
            "hidden_norm.weight" => norm.to_owned(),
            "norm.weight" => "output_norm.weight".to_owned(),
            name => layer_name(name, post).expect("a layer's"),
        });
        assert_eq!(drafts(&tiny, DraftKind::DFlash, open(&path).file), want, "{architecture} with {fc}");
    }
}

#[test]
fn s15_s16_f17_both_dialects_of_assistants_are_the_same_drafter_with_either_head() {
    for tiny in [Tiny::dense(), Tiny::ple()] {
        let made = made(DraftKind::Mtp, &tiny);
        let dir = Dir::new();
        made.folder(&dir.at("folder"));
        let want = drafts(&tiny, DraftKind::Mtp, open(&dir.at("folder")).file);
        for (architecture, prefix, centroids, ordering) in [
            ("gemma4-assistant", "nextn", "masked_embd_centroids.weight", "masked_embd_ordering"),
            ("gemma4_assistant", "mtp", "mtp.centroids.weight", "mtp.token_ordering.weight"),
        ] {
            let path = dir.at("assistant.gguf");
            let keys = assistant_keys(&made, architecture);
            made.gguf(&path, &borrowed(&keys), |name| match name {
                "pre_projection.weight" => format!("{prefix}.pre_projection.weight"),
                "post_projection.weight" => format!("{prefix}.post_projection.weight"),
                "model.embed_tokens.weight" => "token_embd.weight".to_owned(),
                "model.norm.weight" => "output_norm.weight".to_owned(),
                "masked_embedding.centroids.weight" => centroids.to_owned(),
                "masked_embedding.token_ordering" => ordering.to_owned(),
                name => layer_name(name, "post_attention_norm.weight").expect("a layer's"),
            });
            assert_eq!(
                drafts(&tiny, DraftKind::Mtp, open(&path).file),
                want,
                "{}, {architecture}",
                tiny.name
            );
        }
    }
}

#[test]
fn s14_an_ordering_that_makes_no_sense_leaves_the_dense_head() {
    let tiny = Tiny::ple();
    let mut made = made(DraftKind::Mtp, &tiny);
    made.ordering = Some(vec![0; 160]);
    let dir = Dir::new();
    made.folder(&dir.at("zeros"));
    let opened = open(&dir.at("zeros"));
    assert!(opened.notes.iter().any(|note| note.contains("token 0 is ordered twice")), "{:?}", opened.notes);
    let (_, watched) = drafts(&tiny, DraftKind::Mtp, opened.file);
    made.config["use_ordered_embeddings"] = false.into();
    made.folder(&dir.at("dense"));
    let dense = drafts(&tiny, DraftKind::Mtp, open(&dir.at("dense")).file);
    assert_eq!(watched, dense.1);
    // The largest of the dense logits is that of the clusters wherever it is in one that was chosen.
    let good = self::made(DraftKind::Mtp, &tiny);
    good.folder(&dir.at("clusters"));
    let clusters = drafts(&tiny, DraftKind::Mtp, open(&dir.at("clusters")).file);
    let first = |watched: &Watched| watched.logits[0].clone();
    let (dense, sparse) = (first(&dense.1), first(&clusters.1));
    let best = (0..dense.len()).max_by(|&a, &b| dense[a].total_cmp(&dense[b])).expect("logits");
    let least = sparse.iter().copied().fold(f32::INFINITY, f32::min);
    if sparse[best] > least {
        assert!(sparse.iter().all(|&logit| logit <= sparse[best]));
    }
}

#[test]
fn s20_a_folder_with_both_is_read_from_the_gguf_file_and_says_so() {
    let tiny = Tiny::dense();
    let made = made(DraftKind::DFlash, &tiny);
    let dir = Dir::new();
    made.folder(&dir.at("both"));
    let keys = dflash_keys(&made, "dflash");
    made.gguf(&dir.at("both").join("drafter-Q8_0.gguf"), &borrowed(&keys), |name| match name {
        "fc.weight" => "fc.weight".to_owned(),
        "hidden_norm.weight" => "enc.output_norm.weight".to_owned(),
        "norm.weight" => "output_norm.weight".to_owned(),
        name => layer_name(name, "ffn_norm.weight").expect("a layer's"),
    });
    let opened = open(&dir.at("both"));
    assert!(opened.notes[0].contains("drafter-Q8_0.gguf is used"), "{:?}", opened.notes);
    assert!(opened.file.path().ends_with("drafter-Q8_0.gguf"));
}

/// The message of a drafter that cannot be opened.
fn refused(path: &Path) -> String {
    OpenDraft::open(path).map(|open| open.file.path().to_owned()).expect_err("it is none").to_string()
}

/// What is wrong, how it is made wrong, and what the message says.
type Case = (&'static str, fn(&mut Made), &'static str);

#[test]
fn s29_what_is_no_drafter_of_this_kind_is_refused() {
    let tiny = Tiny::dense();
    let dir = Dir::new();
    let dflash = || made(DraftKind::DFlash, &tiny);
    assert!(refused(&dir.at("nothing-here")).contains("nothing-here"));
    std::fs::write(dir.at("text.gguf"), "hello").expect("written");
    assert!(refused(&dir.at("text.gguf")).contains("is not a model"));

    let cases: [Case; 9] = [
        (
            "a target",
            |m| {
                m.config = json!({ "model_type": "gemma4" });
            },
            "is no drafter for Gemma 4",
        ),
        ("dspark", |m| m.config["architectures"] = json!(["Gemma4DSparkModel"]), "DSpark"),
        ("speculators", |m| m.config["transformer_layer_config"] = json!({}), "speculators format"),
        (
            "conv",
            |m| {
                m.tensors.insert("layers.0.attn_conv.kernel_projection.weight".into(), (vec![1], vec![0.0]));
            },
            "DFlash 2",
        ),
        (
            "selector",
            |m| {
                m.tensors.insert("candidate_selector.hidden_projection.weight".into(), (vec![1], vec![0.0]));
            },
            "selector",
        ),
        (
            "vocabulary",
            |m| {
                m.tensors.insert("d2t".into(), (vec![1], vec![0.0]));
            },
            "vocabulary of its own",
        ),
        (
            "a missing tensor",
            |m| {
                m.tensors.remove("layers.1.mlp.up_proj.weight");
            },
            "layers.1.mlp.up_proj.weight` is missing",
        ),
        (
            "ids and fc",
            |m| m.config["dflash_config"]["target_layer_ids"] = json!([0]),
            "fc.weight` is [64, 128]",
        ),
        ("ids in disorder", |m| m.config["dflash_config"]["target_layer_ids"] = json!([1, 0]), "ascending"),
    ];
    for (name, change, part) in cases {
        let mut made = dflash();
        change(&mut made);
        made.folder(&dir.at(name));
        let text = refused(&dir.at(name));
        assert!(text.contains(part), "{name}: {text}");
    }
}

#[test]
fn s13_a_drafter_of_another_target_is_refused_with_both_sides() {
    let dir = Dir::new();
    let dense = Tiny::dense();
    let subject = Subject { new: backends::reference, tiny: Tiny::ple(), kv: Kv::all(KvType::F32) };
    let mut engine = subject.engine(200, 256, 1).expect("it fits");
    for (kind, parts) in [
        (DraftKind::Mtp, ["width of the heads", "256", "128"]),
        (DraftKind::DFlash, ["number of layers of the target", "3", "4"]),
    ] {
        made(kind, &dense).folder(&dir.at("other"));
        let error = engine.attach(open(&dir.at("other")).file, DraftOptions::default(), &mut |_, _| ());
        let text = error.expect_err("it is of another model").to_string();
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
        std::fs::remove_dir_all(dir.at("other")).expect("removed");
    }
}

#[test]
fn s1_ids_that_are_missing_are_spaced_evenly_and_said() {
    let tiny = Tiny::dense();
    let mut made = made(DraftKind::DFlash, &tiny);
    made.config["dflash_config"] = json!({ "mask_token_id": 4 });
    made.config["num_target_layers"] = 9.into();
    let dir = Dir::new();
    made.folder(&dir.at("folder"));
    let opened = open(&dir.at("folder"));
    let DraftFile::DFlash(file) = &opened.file else { panic!("a DFlash drafter") };
    assert_eq!(file.config.taps, [1, 6]);
    assert!(opened.notes[0].contains("does not say which layers"), "{:?}", opened.notes);
}
