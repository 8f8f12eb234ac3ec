//! How a model's makers want it to be sampled.

use std::path::Path;

use super::config::gguf::GgufKeys;
use super::config::json::JsonKeys;
use super::config::keys::{Keys, Numbers, sizes, unique};
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::hf::json;

/// What the model file says about generation. Everything is optional; a user's choice comes first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Tokens that end an answer, none twice. Not all that do: chat markers end turns too.
    pub eos: Vec<u32>,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: Option<f32>,
    /// Only this many of the most likely tokens; 0 means all.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that have this much of the probability together, in (0, 1].
    pub top_p: Option<f32>,
    /// Only tokens at least this much as likely as the most likely one, in [0, 1].
    pub min_p: Option<f32>,
    /// Divides the logits of tokens that have occurred, where they are positive; 1 changes nothing.
    pub repetition_penalty: Option<f32>,
    /// Tokens the model must never produce, none twice.
    pub suppress_tokens: Vec<u32>,
}

impl GenerationDefaults {
    /// Reads the texts of `config.json` and, where there is one, `generation_config.json`; the paths are for errors.
    ///
    /// End tokens are those of both. `do_sample: false` is temperature 0.
    ///
    /// # Errors
    ///
    /// [`ModelError::Damaged`] if one is not JSON, [`ModelError::BadKey`] for a value out of range.
    pub fn from_json(config: (&Path, &str), generation: Option<(&Path, &str)>) -> Result<Self, ModelError> {
        let object = json::object(config.0, config.1)?;
        let whole = JsonKeys::new(config.0, &object);
        let text = whole.text_part()?;
        let mut defaults = match generation {
            None => Self::default(),
            Some((path, text)) => Self::read(&JsonKeys::new(path, &json::object(path, text)?), &JSON)?,
        };
        defaults.eos.extend(whole.token_ids("eos_token_id")?);
        defaults.eos.extend(text.token_ids("eos_token_id")?);
        defaults.eos = unique(defaults.eos);
        defaults.suppress_tokens.extend(text.token_ids("suppress_tokens")?);
        defaults.suppress_tokens = unique(defaults.suppress_tokens);
        Ok(defaults)
    }

    /// Reads the metadata of a GGUF file.
    ///
    /// # Errors
    ///
    /// [`ModelError::BadKey`] for a value out of range.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        Self::read(&GgufKeys::new(gguf), &GGUF)
    }

    fn read(file: &impl Keys, names: &Names) -> Result<Self, ModelError> {
        let mut eos = Vec::new();
        for key in names.eos {
            eos.extend(file.token_ids(key)?);
        }
        let greedy = match names.do_sample {
            Some(key) => file.flag(key)? == Some(false),
            None => false,
        };
        let temperature = file.number(names.temperature, Numbers::NonNegative)?;
        Ok(Self {
            eos: unique(eos),
            temperature: if greedy { Some(0.0) } else { temperature },
            top_k: file.size(names.top_k, sizes(0..=u32::MAX as usize))?,
            top_p: file.number(names.top_p, Numbers::PositiveShare)?,
            min_p: file.number(names.min_p, Numbers::Share)?,
            repetition_penalty: file.number(names.repetition_penalty, Numbers::Positive)?,
            suppress_tokens: file.token_ids(names.suppress_tokens)?,
        })
    }
}

/// How one format spells the settings.
struct Names {
    eos: &'static [&'static str],
    do_sample: Option<&'static str>,
    temperature: &'static str,
    top_k: &'static str,
    top_p: &'static str,
    min_p: &'static str,
    repetition_penalty: &'static str,
    suppress_tokens: &'static str,
}

const JSON: Names = Names {
    eos: &["eos_token_id"],
    do_sample: Some("do_sample"),
    temperature: "temperature",
    top_k: "top_k",
    top_p: "top_p",
    min_p: "min_p",
    repetition_penalty: "repetition_penalty",
    suppress_tokens: "suppress_tokens",
};

const GGUF: Names = Names {
    // Files disagree on which of the end tokens is `eos`, and some name those that end a turn or a message too.
    eos: &["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"],
    do_sample: None,
    temperature: "general.sampling.temp",
    top_k: "general.sampling.top_k",
    top_p: "general.sampling.top_p",
    min_p: "general.sampling.min_p",
    repetition_penalty: "general.sampling.penalty_repeat",
    suppress_tokens: "tokenizer.ggml.suppress_tokens",
};

#[cfg(test)]
mod tests;
