//! One clear sentence for each bad value.

use serde_json::{Value as Json, json};

use super::sizes::{File, SIZES};
use super::{fixture, read};
use crate::model::config::Config;

type Change = Box<dyn Fn(&mut File)>;

/// The fixture with `value` at a path of keys.
fn changed(name: &str, path: &str, value: Json) -> String {
    let mut file: Json = serde_json::from_str(fixture(name)).unwrap();
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let object =
        parents.split('.').filter(|key| !key.is_empty()).fold(&mut file, |value, key| &mut value[key]);
    object[last] = value;
    file.to_string()
}

#[test]
fn each_bad_value_of_a_config_gives_one_sentence() {
    let local = "sliding_attention";
    for (name, key, value, expected) in [
        (
            "dense",
            "model_type",
            Json::Null,
            "key `model_type` is missing, expected gemma4, gemma4_text, gemma4_unified or gemma4_unified_text",
        ),
        (
            "dense",
            "model_type",
            json!("llama"),
            "key `model_type` is \"llama\", expected gemma4, gemma4_text, gemma4_unified or gemma4_unified_text",
        ),
        ("dense", "model_type", json!(4), "key `model_type` is 4, expected text"),
        ("dense", "text_config", json!([1]), "key `text_config` is a list of 1 values, expected an object"),
        (
            "dense",
            "text_config",
            json!({"hidden_size": 0}),
            "key `text_config.num_attention_heads` is missing, expected a whole number from 1 to 1024",
        ),
        (
            "dense",
            "text_config",
            json!({"model_type": "t5"}),
            "key `text_config.model_type` is \"t5\", expected gemma4, gemma4_text, gemma4_unified or gemma4_unified_text",
        ),
        (
            "dense",
            "hidden_size",
            Json::Null,
            "key `hidden_size` is missing, expected a multiple of 32 from 32 to 65536",
        ),
        (
            "dense",
            "hidden_size",
            json!(0),
            "key `hidden_size` is 0, expected a multiple of 32 from 32 to 65536",
        ),
        (
            "dense",
            "hidden_size",
            json!(-256),
            "key `hidden_size` is -256, expected a multiple of 32 from 32 to 65536",
        ),
        (
            "dense",
            "hidden_size",
            json!(250),
            "key `hidden_size` is 250, expected a multiple of 32 from 32 to 65536",
        ),
        (
            "dense",
            "hidden_size",
            json!(256.5),
            "key `hidden_size` is 256.5, expected a multiple of 32 from 32 to 65536",
        ),
        (
            "dense",
            "hidden_size",
            json!("256"),
            "key `hidden_size` is \"256\", expected a multiple of 32 from 32 to 65536",
        ),
        (
            "dense",
            "hidden_size",
            json!({}),
            "key `hidden_size` is an object, expected a multiple of 32 from 32 to 65536",
        ),
        (
            "dense",
            "vocab_size",
            json!(1 << 23),
            "key `vocab_size` is 8388608, expected a whole number from 1 to 4194304",
        ),
        (
            "dense",
            "num_hidden_layers",
            json!(u64::MAX),
            "key `num_hidden_layers` is 18446744073709551615, expected a whole number from 1 to 1024",
        ),
        (
            "dense",
            "num_hidden_layers",
            json!(5),
            "key `layer_types` is a list of 6 layers, expected 5 layers, as in `num_hidden_layers`",
        ),
        (
            "dense",
            "layer_types",
            json!([local, local, local, local, local, local]),
            "key `layer_types` is sliding in the last layer, expected a full layer at the end",
        ),
        (
            "dense",
            "layer_types",
            json!([local, local, local, local, local, "linear"]),
            "key `layer_types` is a list with \"linear\", expected sliding_attention or full_attention for each layer",
        ),
        ("dense", "layer_types", json!(6), "key `layer_types` is 6, expected a list of 6 layers"),
        (
            "dense",
            "num_key_value_heads",
            json!(3),
            "key `num_key_value_heads` is 3, expected a divisor of `num_attention_heads`, which is 4",
        ),
        (
            "dense",
            "num_global_key_value_heads",
            json!(8),
            "key `num_global_key_value_heads` is 8, expected a divisor of `num_attention_heads`, which is 4",
        ),
        ("dense", "head_dim", json!(100), "key `head_dim` is 100, expected a multiple of 32 from 32 to 4096"),
        (
            "dense",
            "global_head_dim",
            Json::Null,
            "key `global_head_dim` is missing, expected a multiple of 32 from 32 to 4096",
        ),
        (
            "dense",
            "sliding_window",
            json!(0),
            "key `sliding_window` is 0, expected a whole number from 1 to 16777216",
        ),
        (
            "dense",
            "max_position_embeddings",
            json!(0),
            "key `max_position_embeddings` is 0, expected a whole number from 1 to 1073741824",
        ),
        ("dense", "rms_norm_eps", json!(0), "key `rms_norm_eps` is 0, expected a number greater than 0"),
        (
            "dense",
            "rms_norm_eps",
            json!(1e-46),
            "key `rms_norm_eps` is 1e-46, expected a number greater than 0",
        ),
        (
            "dense",
            "final_logit_softcapping",
            json!(-30),
            "key `final_logit_softcapping` is -30, expected a number of 0 or more",
        ),
        (
            "dense",
            "final_logit_softcapping",
            json!(1e39),
            "key `final_logit_softcapping` is 1e39, expected a number of 0 or more",
        ),
        (
            "dense",
            "hidden_activation",
            json!("silu"),
            "key `hidden_activation` is \"silu\", expected gelu_pytorch_tanh",
        ),
        ("dense", "attention_bias", json!(true), "key `attention_bias` is true, expected false"),
        (
            "dense",
            "use_bidirectional_attention",
            json!("all"),
            "key `use_bidirectional_attention` is \"all\", expected null or \"vision\"",
        ),
        ("dense", "tie_word_embeddings", json!(1), "key `tie_word_embeddings` is 1, expected true or false"),
        (
            "dense",
            "suppress_tokens",
            json!([5, 1024]),
            "key `suppress_tokens` is a list with 1024, expected token ids below 1024",
        ),
        (
            "dense",
            "suppress_tokens",
            json!([-1]),
            "key `suppress_tokens` is -1, expected token ids, each from 0 to 4294967295",
        ),
        (
            "dense",
            "rope_parameters",
            json!({}),
            "key `rope_parameters.sliding_attention.rope_theta` is missing, expected a number greater than 0",
        ),
        (
            "dense",
            "rope_parameters",
            Json::Null,
            "key `rope_parameters.sliding_attention.rope_theta` is missing, expected a number greater than 0",
        ),
        (
            "dense",
            "rope_parameters.full_attention.rope_theta",
            json!(0),
            "key `rope_parameters.full_attention.rope_theta` is 0, expected a number greater than 0",
        ),
        (
            "dense",
            "rope_parameters.full_attention.rope_type",
            json!("yarn"),
            "key `rope_parameters.full_attention.rope_type` is \"yarn\", expected default or proportional",
        ),
        (
            "dense",
            "rope_parameters.full_attention.partial_rotary_factor",
            json!(1.5),
            "key `rope_parameters.full_attention.partial_rotary_factor` is 1.5, expected a number greater than 0, at most 1",
        ),
        (
            "pocket",
            "per_layer_config",
            json!(3),
            "key `per_layer_config` is 3, expected an object with a layer's index for each key",
        ),
        (
            "pocket",
            "per_layer_config",
            json!({"6": {}}),
            "key `per_layer_config` is an object with the key \"6\", expected layers from 0 to 5, none twice",
        ),
        (
            "pocket",
            "per_layer_config",
            json!({"5": {}, "05": {}}),
            "key `per_layer_config` is an object with the key \"05\", expected layers from 0 to 5, none twice",
        ),
        (
            "pocket",
            "per_layer_config.5",
            json!([]),
            "key `per_layer_config.5` is a list of 0 values, expected an object",
        ),
        (
            "pocket",
            "per_layer_config.5.head_dim",
            json!(7),
            "key `per_layer_config.5.head_dim` is 7, expected a multiple of 32 from 32 to 4096",
        ),
        (
            "pocket",
            "per_layer_config.5.head_dim",
            json!(256),
            "key `per_layer_config` is 256 in layer 5, expected 512 as in layer 2, a full layer too",
        ),
        (
            "pocket",
            "per_layer_config.5.num_key_value_heads",
            json!(3),
            "key `per_layer_config.5.num_key_value_heads` is 3, expected a divisor of `num_attention_heads`, which is 4",
        ),
        (
            "pocket",
            "per_layer_config.5.skip",
            json!(["mlp"]),
            "key `per_layer_config.5` is an object with the key \"skip\", expected head_dim and num_key_value_heads",
        ),
        (
            "ple",
            "num_kv_shared_layers",
            json!(10),
            "key `num_kv_shared_layers` is 10, expected a whole number from 0 to 9",
        ),
        (
            "ple",
            "num_kv_shared_layers",
            json!(7),
            "key `num_kv_shared_layers` is 7, expected fewer: layer 4 is a full layer, and none of the 3 layers that keep their keys and values is",
        ),
        (
            "ple",
            "vocab_size_per_layer_input",
            json!(512),
            "key `vocab_size_per_layer_input` is 512, expected 1024, as in `vocab_size`",
        ),
        (
            "ple",
            "per_layer_config",
            json!({"4": {"head_dim": 512}, "8": {"num_key_value_heads": 2}, "9": {"head_dim": 512}}),
            "key `per_layer_config` is 2 heads of 256 in layer 8, expected 1 heads of 256 as in layer 5, whose keys and values it reads",
        ),
        (
            "moe",
            "num_experts",
            Json::Null,
            "key `num_experts` is missing, expected a whole number from 1 to 4096",
        ),
        (
            "moe",
            "top_k_experts",
            json!(17),
            "key `top_k_experts` is 17, expected a whole number from 1 to 16",
        ),
        (
            "moe",
            "moe_intermediate_size",
            Json::Null,
            "key `moe_intermediate_size` is missing, expected a whole number from 1 to 1048576",
        ),
    ] {
        let error = read(&changed(name, key, value.clone())).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), format!("config.json: {expected}"), "{key} = {value}");
    }
}

#[test]
fn text_that_is_no_config_gives_one_sentence() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let wide = format!("[{}1]", "1,".repeat(1 << 19));
    for (text, expected) in [
        ("", "it is not JSON: EOF while parsing a value at line 1 column 0"),
        ("[]", "it is not a JSON object"),
        ("{\"hidden_size\": 1", "it is not JSON: EOF while parsing an object at line 1 column 17"),
        (&deep, "it is not JSON: recursion limit exceeded at line 1 column 128"),
        (&wide, "its JSON has about 524289 values, expected at most 262144"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert_eq!(error, format!("config.json is damaged: {expected}"));
    }
}

#[test]
fn each_bad_value_of_a_gguf_gives_one_sentence() {
    let [e2b, _, _, a4b, _] = SIZES;
    let set = |key: &'static str, value: crate::gguf::value::Value| {
        move |file: &mut File| file.set(key, value.clone())
    };
    let remove = |key: &'static str| move |file: &mut File| file.remove(key);
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(remove("general.architecture")), "key `general.architecture` is missing, expected gemma4"),
        (
            Box::new(set("general.architecture", "gemma3".into())),
            "key `general.architecture` is \"gemma3\", expected gemma4",
        ),
        (
            Box::new(set("gemma4.block_count", 0u32.into())),
            "key `gemma4.block_count` is 0, expected a whole number from 1 to 1024",
        ),
        (
            Box::new(set("gemma4.block_count", 29u32.into())),
            "key `gemma4.attention.head_count_kv` is a list of 30 values, expected one for each of the 29 layers",
        ),
        (
            Box::new(set("gemma4.attention.head_count", 12u32.into())),
            "key `gemma4.attention.head_count_kv` is 8, expected a divisor of `gemma4.attention.head_count`, which is 12",
        ),
        (
            Box::new(set("gemma4.attention.head_count", (&[8u32; 3][..]).into())),
            "key `gemma4.attention.head_count` is a list of 3 values, expected one for each of the 30 layers",
        ),
        (
            Box::new(set("gemma4.embedding_length", 2817u32.into())),
            "key `gemma4.embedding_length` is 2817, expected a multiple of 32 from 32 to 65536",
        ),
        (
            Box::new(remove("gemma4.feed_forward_length")),
            "key `gemma4.feed_forward_length` is missing, expected a whole number from 1 to 1048576, or a list of 30 of them",
        ),
        (
            Box::new(set("gemma4.feed_forward_length", (-1i32).into())),
            "key `gemma4.feed_forward_length` is -1, expected a whole number from 1 to 1048576",
        ),
        (
            Box::new(remove("gemma4.attention.key_length_swa")),
            "key `gemma4.attention.key_length_swa` is missing, expected a multiple of 32 from 32 to 4096",
        ),
        (
            Box::new(set("gemma4.attention.value_length", 256u32.into())),
            "key `gemma4.attention.value_length` is 256, expected 512, as in `gemma4.attention.key_length`",
        ),
        (
            Box::new(set("gemma4.rope.dimension_count", 128u32.into())),
            "key `gemma4.rope.dimension_count` is 128, expected 512, as in `gemma4.attention.key_length`",
        ),
        (
            Box::new(remove("gemma4.attention.sliding_window_pattern")),
            "key `gemma4.attention.sliding_window_pattern` is missing, expected a list of 30 times true (sliding) or false (full)",
        ),
        (
            Box::new(set("gemma4.attention.sliding_window_pattern", 6u32.into())),
            "key `gemma4.attention.sliding_window_pattern` is 6, expected a list of 30 times true (sliding) or false (full)",
        ),
        (
            Box::new(set("gemma4.attention.sliding_window_pattern", (&[true; 30][..]).into())),
            "key `gemma4.attention.sliding_window_pattern` is sliding in the last layer, expected a full layer at the end",
        ),
        (
            Box::new(set("gemma4.attention.sliding_window_pattern", (&[2u32; 30][..]).into())),
            "key `gemma4.attention.sliding_window_pattern` is a list with 2, expected a list of 30 times true (sliding) or false (full)",
        ),
        (
            Box::new(set("gemma4.attention.sliding_window", 0u32.into())),
            "key `gemma4.attention.sliding_window` is 0, expected a whole number from 1 to 16777216",
        ),
        (
            Box::new(set("gemma4.attention.shared_kv_layers", 30u32.into())),
            "key `gemma4.attention.shared_kv_layers` is 30, expected a whole number from 0 to 29",
        ),
        (
            Box::new(set("gemma4.attention.shared_kv_layers", 28u32.into())),
            "key `gemma4.attention.shared_kv_layers` is 28, expected fewer: layer 5 is a full layer, and none of the 2 layers that keep their keys and values is",
        ),
        (
            Box::new(set("gemma4.rope.freq_base", f32::NAN.into())),
            "key `gemma4.rope.freq_base` is NaN, expected a number greater than 0",
        ),
        (
            Box::new(remove("gemma4.rope.freq_base_swa")),
            "key `gemma4.rope.freq_base_swa` is missing, expected a number greater than 0",
        ),
        (
            Box::new(set("gemma4.final_logit_softcapping", f32::INFINITY.into())),
            "key `gemma4.final_logit_softcapping` is inf, expected a number of 0 or more",
        ),
        (
            Box::new(set("gemma4.final_logit_softcapping", "x".into())),
            "key `gemma4.final_logit_softcapping` is \"x\", expected a number of 0 or more",
        ),
        (
            Box::new(remove("gemma4.expert_count")),
            "key `gemma4.expert_count` is missing, expected a whole number from 1 to 4096",
        ),
        (
            Box::new(set("gemma4.expert_used_count", 129u32.into())),
            "key `gemma4.expert_used_count` is 129, expected a whole number from 1 to 128",
        ),
        (
            Box::new(remove("gemma4.expert_feed_forward_length")),
            "key `gemma4.expert_feed_forward_length` is missing, expected a whole number from 1 to 1048576, or a list of 30 of them",
        ),
        (
            Box::new(set("tokenizer.ggml.suppress_tokens", (&[512i32][..]).into())),
            "key `tokenizer.ggml.suppress_tokens` is a list with 512, expected token ids below 512",
        ),
        (
            Box::new(remove("token_embd.weight")),
            "tensor `token_embd.weight` is missing, expected a row for each token",
        ),
        (Box::new(remove("rope_freqs.weight")), "tensor `rope_freqs.weight` is missing, expected [256]"),
        (
            Box::new(|file| file.zeros("rope_freqs.weight", &[256])),
            "tensor `rope_freqs.weight` is [256] BF16, expected [256] F32",
        ),
        (
            Box::new(|file| file.floats("rope_freqs.weight", [1.0; 128].into_iter())),
            "tensor `rope_freqs.weight` is [128] F32, expected [256] F32",
        ),
        (
            Box::new(|file| file.floats("rope_freqs.weight", [f32::INFINITY; 256].into_iter())),
            "tensor `rope_freqs.weight` is a vector with inf, expected numbers greater than 0",
        ),
        (
            Box::new(|file| file.floats("rope_freqs.weight", [0.0; 256].into_iter())),
            "tensor `rope_freqs.weight` is a vector with 0, expected numbers greater than 0",
        ),
    ];
    for (change, expected) in cases {
        let mut file = a4b.gguf();
        change(&mut file);
        let error = Config::from_gguf(&file.open()).map(|_| expected).unwrap_err();
        assert_eq!(error.to_string(), format!("model.gguf: {expected}"));
    }

    let mut mixed: Vec<u32> = vec![8; 35];
    mixed[34] = 4;
    let mut file = e2b.gguf();
    file.set("gemma4.attention.head_count", &mixed[..]);
    let error = Config::from_gguf(&file.open()).unwrap_err().to_string();
    assert_eq!(
        error,
        "model.gguf: key `gemma4.attention.head_count` is a list with 8 and 4, expected the same number for every layer"
    );
}

#[test]
fn a_gguf_drafter_is_refused_as_one() {
    for name in ["gemma4-assistant", "gemma4_assistant", "gemma4_mtp", "dflash-draft"] {
        let mut file = File::default();
        file.set("general.architecture", name);
        let error = Config::from_gguf(&file.open()).unwrap_err().to_string();
        let start = format!("model.gguf is not a model: `general.architecture` {name:?} is a drafter, which");
        assert!(error.starts_with(&start), "{error}");
    }
}
