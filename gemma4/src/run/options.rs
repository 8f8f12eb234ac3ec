//! How tokens are chosen, as the command line says it.

use std::hash::{BuildHasher, Hasher, RandomState};

use clap::Args;
use gemma4_core::sample::Sampling;

use crate::failure::Failure;

/// Options that change the makers' sampling settings.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Sampling (by default as the model's makers say)")]
pub(super) struct SamplingArgs {
    /// Divides the logits: higher is more surprising, 0 always takes the most likely token
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = temperature)]
    temperature: Option<f32>,
    /// Short for --temperature 0
    #[arg(long, conflicts_with = "temperature")]
    greedy: bool,
    /// Keeps this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    top_k: Option<u32>,
    /// Keeps the most likely tokens that together have this probability; 1 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = top_p)]
    top_p: Option<f32>,
    /// Drops tokens less likely than this share of the most likely one; 0 drops none
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = min_p)]
    min_p: Option<f32>,
    /// Makes the same answer come again [default: another one each time, shown by --json and /stats]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) seed: Option<u64>,
    /// Makes tokens of prompt and answer less likely if above 1
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = repetition_penalty)]
    repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit each time the answer has used it
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = frequency_penalty)]
    frequency_penalty: Option<f32>,
    /// Subtracted from a token's logit once the answer has used it
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = presence_penalty)]
    presence_penalty: Option<f32>,
    /// Added to the logit of a token; may be repeated (`gemma4 tokenize` tells ids)
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    logit_bias: Vec<(u32, f32)>,
}

impl SamplingArgs {
    /// These options over `defaults`; where no seed is given, one that nobody can foresee.
    pub(super) fn over(&self, defaults: &Sampling, vocab: usize) -> Result<Sampling, Failure> {
        if let Some((token, _)) = self.logit_bias.iter().find(|&&(token, _)| token as usize >= vocab) {
            let text = format!("--logit-bias: token {token} is not in the vocabulary of {vocab} tokens");
            return Err(Failure::Usage(text));
        }
        let temperature = if self.greedy { Some(0.0) } else { self.temperature };
        Ok(Sampling {
            temperature: temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            logit_bias: if self.logit_bias.is_empty() {
                defaults.logit_bias.clone()
            } else {
                self.logit_bias.clone()
            },
            seed: self.seed.unwrap_or_else(random_seed),
        })
    }
}

/// A seed short enough to be typed again.
pub(super) fn random_seed() -> u64 {
    // The standard library's only source of randomness: the keys of a new hasher.
    RandomState::new().build_hasher().finish() >> 32
}

/// Reads a number and lets the engine say whether it may be that parameter.
fn setting(text: &str, set: impl FnOnce(&mut Sampling, f32)) -> Result<f32, String> {
    let value = text.parse::<f32>().map_err(|_| "expected a number".to_owned())?;
    let mut sampling = Sampling::default();
    set(&mut sampling, value);
    sampling.check().map_err(|bad| format!("expected {}", bad.expected))?;
    Ok(value)
}

fn temperature(text: &str) -> Result<f32, String> {
    setting(text, |sampling, value| sampling.temperature = value)
}

fn top_p(text: &str) -> Result<f32, String> {
    setting(text, |sampling, value| sampling.top_p = value)
}

fn min_p(text: &str) -> Result<f32, String> {
    setting(text, |sampling, value| sampling.min_p = value)
}

fn repetition_penalty(text: &str) -> Result<f32, String> {
    setting(text, |sampling, value| sampling.repetition_penalty = value)
}

fn frequency_penalty(text: &str) -> Result<f32, String> {
    setting(text, |sampling, value| sampling.frequency_penalty = value)
}

fn presence_penalty(text: &str) -> Result<f32, String> {
    setting(text, |sampling, value| sampling.presence_penalty = value)
}

/// Reads `123=-1.5`.
fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let expected = || "expected ID=BIAS, such as 106=-100".to_owned();
    let (token, bias) = text.split_once('=').ok_or_else(expected)?;
    let token = token.trim().parse().map_err(|_| expected())?;
    let bias = bias.trim().parse::<f32>().ok().filter(|bias| bias.is_finite());
    Ok((token, bias.ok_or_else(expected)?))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn parse(line: &[&str]) -> Result<SamplingArgs, clap::Error> {
        Line::try_parse_from([&["run"], line].concat()).map(|line| line.sampling)
    }

    fn makers() -> Sampling {
        Sampling { temperature: 1.0, top_k: 64, top_p: 0.95, ..Sampling::default() }
    }

    #[test]
    fn what_is_not_given_is_as_the_makers_say() {
        let got = parse(&["--seed", "7"]).unwrap().over(&makers(), 100).unwrap();
        assert_eq!(got, Sampling { seed: 7, ..makers() });
    }

    #[test]
    fn every_option_arrives_where_it_belongs() {
        let line = "--temperature 0.5 --top-k 3 --top-p 0.25 --min-p 0.125 --seed 9 --repetition-penalty 1.5 \
                    --frequency-penalty -0.5 --presence-penalty 2 --logit-bias 4=-1 --logit-bias 5=2.5";
        let line: Vec<&str> = line.split_whitespace().collect();
        let expected = Sampling {
            temperature: 0.5,
            top_k: 3,
            top_p: 0.25,
            min_p: 0.125,
            repetition_penalty: 1.5,
            frequency_penalty: -0.5,
            presence_penalty: 2.0,
            logit_bias: vec![(4, -1.0), (5, 2.5)],
            seed: 9,
        };
        assert_eq!(parse(&line).unwrap().over(&makers(), 6).unwrap(), expected);
        assert_eq!(parse(&["--greedy"]).unwrap().over(&makers(), 6).unwrap().temperature, 0.0);
    }

    #[test]
    fn a_seed_is_drawn_each_time() {
        let seeds: std::collections::BTreeSet<u64> = (0..8).map(|_| random_seed()).collect();
        assert!(seeds.len() > 1, "{seeds:?}");
    }

    #[test]
    fn a_wrong_value_names_its_flag_and_the_range() {
        for (line, parts) in [
            (&["--temperature", "-1"][..], ["--temperature", "0 to 100"]),
            (&["--temperature", "warm"], ["--temperature", "expected a number"]),
            (&["--temperature", "nan"], ["--temperature", "0 to 100"]),
            (&["--top-p", "0"], ["--top-p", "above 0, at most 1"]),
            (&["--min-p", "1.5"], ["--min-p", "0 to 1"]),
            (&["--top-k", "-3"], ["--top-k", "invalid"]),
            (&["--repetition-penalty", "0"], ["--repetition-penalty", "above 0, at most 100"]),
            (&["--frequency-penalty", "101"], ["--frequency-penalty", "-100 to 100"]),
            (&["--presence-penalty", "inf"], ["--presence-penalty", "-100 to 100"]),
            (&["--logit-bias", "7"], ["--logit-bias", "ID=BIAS"]),
            (&["--logit-bias", "7=nan"], ["--logit-bias", "ID=BIAS"]),
            (&["--seed", "-1"], ["--seed", "-1"]),
            (&["--greedy", "--temperature", "1"], ["--greedy", "--temperature"]),
        ] {
            let message = parse(line).unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "{line:?}: {message}");
            }
        }
        let error = parse(&["--logit-bias", "6=1"]).unwrap().over(&makers(), 6).unwrap_err();
        assert!(matches!(&error, Failure::Usage(text) if text.contains("--logit-bias: token 6")), "{error}");
    }
}
