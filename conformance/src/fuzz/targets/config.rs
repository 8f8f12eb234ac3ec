//! `config.json` and, in the same text, what `generation_config.json` may say.

use std::path::Path;

use gemma4_core::model::config::Config;
use gemma4_core::model::generation::GenerationDefaults;
use serde_json::json;

use crate::fuzz::{BadKey, Syntax, Target, keys, spoil};

const LABEL: &str = "config.json";

/// A `config.json` for each kind of model.
pub(super) const CONFIGS: [&str; 4] = [
    include_str!("../../../../core/src/model/config/fixtures/dense.json"),
    include_str!("../../../../core/src/model/config/fixtures/moe.json"),
    include_str!("../../../../core/src/model/config/fixtures/ple.json"),
    include_str!("../../../../core/src/model/config/fixtures/pocket.json"),
];

/// Hyper-parameters from `config.json`.
#[derive(Debug)]
pub(super) struct HyperParameters;

impl Target for HyperParameters {
    fn name(&self) -> &'static str {
        "config"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Json
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let mut samples = CONFIGS.map(|config| config.as_bytes().to_vec()).to_vec();
        // A whole model keeps the text part's keys in an object of their own.
        for config in CONFIGS {
            let text: serde_json::Value = serde_json::from_str(config).expect("the fixtures are JSON");
            let text = if text["text_config"].is_object() { text["text_config"].clone() } else { text };
            let whole = json!({
                "model_type": "gemma4",
                "text_config": text,
                "vision_config": {},
                "temperature": 1.0,
                "top_k": 64,
                "top_p": 0.95,
                "eos_token_id": [1, 106],
                "suppress_tokens": [3],
            });
            samples.push(whole.to_string().into_bytes());
        }
        samples
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let mut words: Vec<Vec<u8>> = CONFIGS.iter().flat_map(|config| keys(config.as_bytes())).collect();
        words.extend(
            ["gemma4", "gemma4_text", "sliding_attention", "full_attention"]
                .map(|word| word.as_bytes().to_vec()),
        );
        words
    }

    fn label(&self) -> &'static str {
        LABEL
    }

    fn one_bad_key(&self) -> Vec<BadKey> {
        let bad = [json!({"x": []}), json!("x"), json!(-1), json!(1e300), json!([{}])];
        self.samples().iter().flat_map(|sample| spoil(sample, &bad)).collect()
    }

    fn inputs(&self) -> u64 {
        3_000
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(input);
        let path = Path::new(LABEL);
        let config = Config::from_json(path, &text).map_err(|error| error.to_string())?;
        assert!(!config.layers.is_empty() && config.heads > 0 && config.rms_eps > 0.0);
        for (index, layer) in config.layers.iter().enumerate() {
            assert!(layer.donor.is_none_or(|donor| donor < index));
        }
        let text: &str = &text;
        GenerationDefaults::from_json((path, text), Some((path, text))).map_err(|error| error.to_string())?;
        Ok(())
    }
}
