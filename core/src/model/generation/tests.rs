use std::path::Path;

use serde_json::{Value as Json, json};

use super::*;
use crate::model::config::tests::sizes::SIZES;

fn read(config: &Json, generation: Option<&Json>) -> Result<GenerationDefaults, ModelError> {
    let generation = generation.map(Json::to_string);
    let generation = generation.as_deref().map(|text| (Path::new("generation_config.json"), text));
    GenerationDefaults::from_json((Path::new("config.json"), &config.to_string()), generation)
}

#[test]
fn reads_what_google_publishes() {
    let config = json!({ "eos_token_id": [1, 106], "text_config": { "eos_token_id": 1 } });
    let generation = json!({
        "do_sample": true, "temperature": 1.0, "top_p": 0.95, "top_k": 64, "bos_token_id": 2,
        "eos_token_id": [1, 106, 50], "suppress_tokens": [258_883, 258_882]
    });
    let expected = GenerationDefaults {
        eos: vec![1, 106, 50],
        temperature: Some(1.0),
        top_k: Some(64),
        top_p: Some(0.95),
        min_p: None,
        repetition_penalty: None,
        suppress_tokens: vec![258_883, 258_882],
    };
    assert_eq!(read(&config, Some(&generation)).unwrap(), expected);
}

#[test]
fn end_tokens_of_both_files_count() {
    let config = json!({ "eos_token_id": [1, 106] });
    assert_eq!(read(&config, None).unwrap().eos, [1, 106]);
    let generation = json!({ "eos_token_id": 50 });
    assert_eq!(read(&config, Some(&generation)).unwrap().eos, [50, 1, 106]);
}

#[test]
fn not_to_sample_is_temperature_zero() {
    let generation = json!({ "do_sample": false, "temperature": 0.7 });
    assert_eq!(read(&json!({}), Some(&generation)).unwrap().temperature, Some(0.0));
    let generation = json!({ "temperature": 0.7 });
    assert_eq!(read(&json!({}), Some(&generation)).unwrap().temperature, Some(0.7));
    assert_eq!(read(&json!({}), None).unwrap(), GenerationDefaults::default());
}

#[test]
fn each_bad_setting_gives_one_sentence() {
    for (key, value, expected) in [
        ("temperature", json!(-1), "-1, expected a number of 0 or more"),
        ("top_k", json!(-1), "-1, expected a whole number from 0 to 4294967295"),
        ("top_p", json!(0), "0, expected a number greater than 0, at most 1"),
        ("min_p", json!(1.5), "1.5, expected a number from 0 to 1"),
        ("repetition_penalty", json!(0), "0, expected a number greater than 0"),
        ("do_sample", json!(1), "1, expected true or false"),
        ("eos_token_id", json!("</s>"), "\"</s>\", expected token ids, each from 0 to 4294967295"),
    ] {
        let error = read(&json!({}), Some(&json!({ key: value }))).unwrap_err();
        assert_eq!(error.to_string(), format!("generation_config.json: key `{key}` is {expected}"));
    }
}

#[test]
fn reads_the_settings_of_a_gguf() {
    let mut file = SIZES[0].gguf();
    assert_eq!(GenerationDefaults::from_gguf(&file.open()).unwrap(), GenerationDefaults::default());
    file.set("general.sampling.top_k", 64i32);
    file.set("general.sampling.top_p", 0.95f32);
    file.set("general.sampling.temp", 1f32);
    file.set("general.sampling.min_p", 0f32);
    file.set("general.sampling.penalty_repeat", 1f32);
    file.set("tokenizer.ggml.eos_token_id", 106u32);
    file.set("tokenizer.ggml.eot_token_id", 106u32);
    file.set("tokenizer.ggml.suppress_tokens", &[5i32][..]);
    let expected = GenerationDefaults {
        eos: vec![106],
        temperature: Some(1.0),
        top_k: Some(64),
        top_p: Some(0.95),
        min_p: Some(0.0),
        repetition_penalty: Some(1.0),
        suppress_tokens: vec![5],
    };
    assert_eq!(GenerationDefaults::from_gguf(&file.open()).unwrap(), expected);
}
