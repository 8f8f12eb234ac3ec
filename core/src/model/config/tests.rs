#![expect(clippy::float_cmp, reason = "the values are read from files, not computed")]

mod bad;
pub(crate) mod sizes;

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use self::sizes::{SIZES, Size};
use super::*;

pub(crate) fn fixture(name: &str) -> &'static str {
    match name {
        "dense" => include_str!("fixtures/dense.json"),
        "moe" => include_str!("fixtures/moe.json"),
        "ple" => include_str!("fixtures/ple.json"),
        "pocket" => include_str!("fixtures/pocket.json"),
        "dense-assistant" => include_str!("fixtures/dense-assistant.json"),
        "ple-assistant" => include_str!("fixtures/ple-assistant.json"),
        "dense-dflash" => include_str!("fixtures/dense-dflash.json"),
        "moe-dflash" => include_str!("fixtures/moe-dflash.json"),
        "ple-dflash" => include_str!("fixtures/ple-dflash.json"),
        other => panic!("no fixture {other}"),
    }
}

pub(crate) fn read(text: &str) -> Result<Config, ModelError> {
    Config::from_json(Path::new("config.json"), text)
}

fn donors(config: &Config) -> Vec<Option<usize>> {
    config.layers.iter().map(|layer| layer.donor).collect()
}

#[test]
fn reads_the_dense_golden() {
    let config = read(fixture("dense")).unwrap();
    let layer = |span, head_dim, kv_heads, k_eq_v| LayerConfig {
        span,
        head_dim,
        kv_heads,
        ffn: 512,
        donor: None,
        k_eq_v,
    };
    let mut factors = vec![1.0; 64];
    factors.resize(256, 1e30);
    let mut layers = vec![layer(Span::Local, 256, 2, false); 5];
    layers.push(layer(Span::Global, 512, 1, true));
    let expected = Config {
        hidden: 256,
        vocab: 1024,
        heads: 4,
        max_context: 4096,
        rms_eps: 1e-6,
        final_softcap: Some(30.0),
        window: 32,
        rope_local: Rope { theta: 1e4, factors: Vec::new() },
        rope_global: Rope { theta: 1e6, factors },
        ple: None,
        moe: None,
        suppress: Vec::new(),
        tied: true,
        layers,
    };
    assert_eq!(config, expected);
}

#[test]
fn reads_the_mixture_golden() {
    let config = read(fixture("moe")).unwrap();
    let moe = Moe { experts: 16, top_k: 4, ffn: 96 };
    assert_eq!(config.moe, Some(moe));
    let spans: Vec<Span> = config.layers.iter().map(|layer| layer.span).collect();
    let three = [Span::Local, Span::Local, Span::Global];
    assert_eq!(spans, [three, three].concat());
    assert!(config.layers.iter().all(|layer| layer.ffn == 160));
}

#[test]
fn reads_the_golden_with_shared_layers() {
    let config = read(fixture("ple")).unwrap();
    assert_eq!(config.ple, Some(64));
    let owners = [None; 6];
    assert_eq!(donors(&config), [&owners[..], &[Some(5), Some(5), Some(5), Some(4)]].concat());
    let ffn: Vec<usize> = config.layers.iter().map(|layer| layer.ffn).collect();
    assert_eq!(ffn, [256, 256, 256, 256, 256, 256, 512, 512, 512, 512]);
    // Without K = V a full layer has as many heads as the others.
    assert!(config.layers.iter().all(|layer| layer.kv_heads == 1 && !layer.k_eq_v));
}

#[test]
fn reads_the_newer_spelling_of_the_geometry() {
    let config = read(fixture("pocket")).unwrap();
    let full = &config.layers[2];
    assert_eq!((full.head_dim, full.kv_heads, full.k_eq_v), (512, 1, true));
    let local = &config.layers[3];
    assert_eq!((local.head_dim, local.kv_heads, local.k_eq_v), (256, 2, false));

    // Indices with leading zeros, as files with ten layers and more have, and the older spelling beside the newer.
    let mut file: Json = serde_json::from_str(fixture("pocket")).unwrap();
    let full = json!({ "head_dim": 512, "num_key_value_heads": 1 });
    file["per_layer_config"] = json!({ "02": full, "05": full });
    file["global_head_dim"] = json!(64);
    assert_eq!(read(&file.to_string()).unwrap(), config);
}

#[test]
fn refuses_drafters() {
    for name in ["dense-assistant", "ple-assistant", "dense-dflash", "moe-dflash", "ple-dflash"] {
        let error = read(fixture(name)).unwrap_err().to_string();
        assert!(error.contains("config.json is not a model: "), "{error}");
        assert!(error.contains("is a drafter"), "{error}");
    }
}

#[test]
fn both_formats_give_the_same_model_for_every_size() {
    for size in SIZES {
        let json = read(&size.json().to_string()).unwrap();
        let gguf = Config::from_gguf(&size.gguf().open()).unwrap();
        assert_eq!(json, gguf, "{}", size.name);
        let newer = read(&size.json_with_per_layer_config().to_string()).unwrap();
        assert_eq!(json, newer, "{}", size.name);
    }
}

#[test]
fn the_sizes_have_their_published_shapes() {
    let widths = |size: &Size| -> Vec<[usize; 2]> {
        let config = read(&size.json().to_string()).unwrap();
        let row = |span| {
            let layer = config.layers.iter().find(|layer| layer.span == span).unwrap();
            [layer.q_rows(config.heads), layer.kv_rows()]
        };
        vec![row(Span::Local), row(Span::Global)]
    };
    // Rows of queries and keys, of sliding and of full layers.
    let expected = [
        [[2048, 256], [4096, 512]],
        [[2048, 512], [4096, 1024]],
        [[4096, 2048], [8192, 512]],
        [[4096, 2048], [8192, 1024]],
        [[8192, 4096], [16384, 2048]],
    ];
    for (size, expected) in SIZES.iter().zip(expected) {
        assert_eq!(widths(size), expected, "{}", size.name);
    }
}

#[test]
fn sharing_layers_read_the_last_owner_of_their_kind() {
    for (size, owners, local, global) in [(SIZES[0], 15, 13, 14), (SIZES[1], 24, 22, 23)] {
        let config = read(&size.json().to_string()).unwrap();
        for (index, layer) in config.layers.iter().enumerate() {
            let expected = match layer.span {
                _ if index < owners => None,
                Span::Local => Some(local),
                Span::Global => Some(global),
            };
            assert_eq!(layer.donor, expected, "{} layer {index}", size.name);
        }
    }
}

#[test]
fn only_the_smallest_size_has_wider_layers_at_the_end() {
    for size in SIZES {
        let config = read(&size.json().to_string()).unwrap();
        let wide = config.layers.iter().filter(|layer| layer.ffn == 2 * config.layers[0].ffn);
        let expected = if size.name == "E2B" { 20 } else { 0 };
        assert_eq!(wide.count(), expected, "{}", size.name);
    }
}

#[test]
fn without_a_list_every_sixth_layer_and_the_last_are_full() {
    let mut file: Json = serde_json::from_str(fixture("dense")).unwrap();
    file.as_object_mut().unwrap().remove("layer_types");
    assert_eq!(read(&file.to_string()).unwrap(), read(fixture("dense")).unwrap());
    file["num_hidden_layers"] = json!(8);
    let config = read(&file.to_string()).unwrap();
    let full = (0..8).filter(|i| config.layers[*i].span == Span::Global);
    assert_eq!(full.collect::<Vec<_>>(), [5, 7]);
}

#[test]
fn a_number_of_global_heads_counts_only_where_keys_are_values() {
    let mut file: Json = serde_json::from_str(fixture("dense")).unwrap();
    file["attention_k_eq_v"] = json!(false);
    let config = read(&file.to_string()).unwrap();
    assert!(config.layers.iter().all(|layer| layer.kv_heads == 2 && !layer.k_eq_v));
}

#[test]
fn optional_settings_may_be_null_absent_or_off() {
    let with = |key: &str, value: Json| {
        let mut file: Json = serde_json::from_str(fixture("dense")).unwrap();
        file[key] = value;
        read(&file.to_string()).unwrap()
    };
    assert_eq!(with("final_logit_softcapping", Json::Null).final_softcap, None);
    assert_eq!(with("final_logit_softcapping", json!(0)).final_softcap, None);
    assert_eq!(with("final_logit_softcapping", json!(20)).final_softcap, Some(20.0));
    assert_eq!(with("num_experts", json!(8)).moe, None);
    assert_eq!(with("use_bidirectional_attention", json!("vision")), read(fixture("dense")).unwrap());
    assert!(!with("tie_word_embeddings", json!(false)).tied);
    // Twice as wide from the first sharing layer, of which there is none.
    assert_eq!(with("use_double_wide_mlp", json!(true)), read(fixture("dense")).unwrap());
    assert_eq!(with("suppress_tokens", json!([7, 9, 7])).suppress, [7, 9]);
}

#[test]
fn live_pairs_are_counted_as_in_python() {
    let with = |rope: Json| {
        let mut file: Json = serde_json::from_str(fixture("dense")).unwrap();
        file["rope_parameters"]["full_attention"] = rope;
        file["global_head_dim"] = json!(320);
        read(&file.to_string()).unwrap().rope_global.factors
    };
    let partial = |partial: Json| json!({ "rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": partial });
    for (factor, live) in [(json!(0.7), 112), (json!(0.3), 48), (json!(0.001), 0), (json!(0.999), 159)] {
        let factors = with(partial(factor));
        assert_eq!(factors.len(), 160);
        assert_eq!(factors.iter().filter(|f| **f == 1.0).count(), live);
        assert!(factors[live..].iter().all(|f| *f == NO_ROTATION));
    }
    assert!(with(partial(json!(1))).is_empty());
    assert!(with(json!({ "rope_theta": 1e6, "partial_rotary_factor": 0.25 })).is_empty());
    let stretched = with(json!({
        "rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5, "factor": 8.0
    }));
    assert_eq!((stretched[0], stretched[79], stretched[80]), (8.0, 8.0, NO_ROTATION));
}

#[test]
fn reads_the_flat_spelling_of_the_rotation() {
    let mut file: Json = serde_json::from_str(fixture("dense")).unwrap();
    file.as_object_mut().unwrap().remove("rope_parameters");
    file["rope_theta"] = json!(1e6);
    file["rope_local_base_freq"] = json!(10000);
    file["partial_rotary_factor"] = json!(0.25);
    assert_eq!(read(&file.to_string()).unwrap(), read(fixture("dense")).unwrap());
}

#[test]
fn a_gguf_without_softcap_has_the_usual_one() {
    let mut file = SIZES[4].gguf();
    file.set("gemma4.final_logit_softcapping", 0f32);
    assert_eq!(Config::from_gguf(&file.open()).unwrap().final_softcap, None);
    file.remove("gemma4.final_logit_softcapping");
    assert_eq!(Config::from_gguf(&file.open()).unwrap().final_softcap, Some(30.0));
}

#[test]
fn a_gguf_with_an_output_matrix_is_not_tied() {
    let mut file = SIZES[4].gguf();
    assert!(Config::from_gguf(&file.open()).unwrap().tied);
    file.zeros("output.weight", &[1]);
    assert!(!Config::from_gguf(&file.open()).unwrap().tied);
}

#[test]
fn a_gguf_may_spell_numbers_in_other_types() {
    let size = SIZES[3];
    let mut file = size.gguf();
    let expected = Config::from_gguf(&file.open()).unwrap();
    let layers = size.layers;
    file.set("gemma4.block_count", i64::try_from(layers).unwrap());
    file.set("gemma4.feed_forward_length", &vec![2112u16; layers][..]);
    file.set("gemma4.attention.head_count", &vec![16i64; layers][..]);
    file.set("gemma4.expert_feed_forward_length", &vec![704u32; layers][..]);
    file.set("gemma4.attention.layer_norm_rms_epsilon", 1e-6f64);
    let sliding: Vec<u8> = size.full().iter().map(|full| u8::from(!full)).collect();
    file.set("gemma4.attention.sliding_window_pattern", &sliding[..]);
    assert_eq!(Config::from_gguf(&file.open()).unwrap(), expected);
}

#[test]
fn a_gguf_may_say_that_it_has_no_experts() {
    let mut file = SIZES[4].gguf();
    file.set("gemma4.expert_count", 0u32);
    file.set("gemma4.expert_used_count", 0u32);
    assert_eq!(Config::from_gguf(&file.open()).unwrap().moe, None);
}

#[test]
fn a_gguf_lists_what_must_not_be_produced() {
    let mut file = SIZES[2].gguf();
    file.set("tokenizer.ggml.suppress_tokens", &[3i32, 2][..]);
    assert_eq!(Config::from_gguf(&file.open()).unwrap().suppress, [3, 2]);
}

/// Values that some key or other accepts, and some that none does.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (0u64..40).prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        prop_oneof![
            Just("sliding_attention"),
            Just("full_attention"),
            Just("gemma4"),
            Just("proportional"),
            Just("é")
        ]
        .prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Json::from),
            prop::collection::btree_map("[0-9]{1,2}|head_dim|rope_type|full_attention", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn children(json: &mut Json) -> Vec<&mut Json> {
    match json {
        Json::Array(list) => list.iter_mut().collect(),
        Json::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    }
}

fn count(json: &mut Json) -> usize {
    1 + children(json).into_iter().map(count).sum::<usize>()
}

/// Replaces the value at position `at` in depth-first order.
fn replace(json: &mut Json, at: usize, value: Json) {
    let Some(mut at) = at.checked_sub(1) else {
        *json = value;
        return;
    };
    for child in children(json) {
        let inside = count(child);
        if at < inside {
            return replace(child, at, value);
        }
        at -= inside;
    }
}

/// What holds for every model that was accepted.
fn assert_sound(config: &Config) {
    assert!(config.layers.last().unwrap().span == Span::Global);
    for (index, layer) in config.layers.iter().enumerate() {
        assert_eq!(config.heads % layer.kv_heads, 0);
        assert_eq!(layer.head_dim % 32, 0);
        assert!(layer.head_dim > 0 && layer.ffn > 0);
        if let Some(donor) = layer.donor {
            assert!(donor < index);
            let other = config.layers[donor];
            assert_eq!((other.span, other.head_dim, other.donor), (layer.span, layer.head_dim, None));
        }
    }
    assert!(config.hidden > 0 && config.vocab > 0 && config.window > 0 && config.rms_eps > 0.0);
    assert!(config.moe.is_none_or(|moe| moe.top_k <= moe.experts && moe.ffn > 0));
    assert!(config.suppress.iter().all(|id| (*id as usize) < config.vocab));
}

proptest! {
    #[test]
    fn changed_values_are_an_error_or_a_sound_model(
        name in prop_oneof![Just("dense"), Just("moe"), Just("ple"), Just("pocket"), Just("ple-assistant")],
        changes in prop::collection::vec((any::<usize>(), any_json()), 1..4),
    ) {
        let mut file: Json = serde_json::from_str(fixture(name)).unwrap();
        for (index, value) in changes {
            let at = index % count(&mut file);
            replace(&mut file, at, value);
        }
        match read(&file.to_string()) {
            Ok(config) => assert_sound(&config),
            Err(error) => prop_assert!(error.to_string().starts_with("config.json")),
        }
    }

    #[test]
    fn changed_bytes_are_an_error_or_a_sound_model(
        changes in prop::collection::vec((any::<usize>(), any::<char>()), 1..4),
        end in any::<usize>(),
    ) {
        let mut text: Vec<char> = fixture("ple").chars().collect();
        for (index, c) in changes {
            let at = index % text.len();
            text[at] = c;
        }
        text.truncate(end % (2 * text.len()));
        let text: String = text.into_iter().collect();
        if let Ok(config) = read(&text) {
            assert_sound(&config);
        }
    }
}
