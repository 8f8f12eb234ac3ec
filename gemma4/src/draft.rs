//! Drafters on the command line: which, how they are set up, and what they gave.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use gemma4_core::engine::{DraftKind, DraftOptions, Engine, Options, Warm};
use gemma4_core::model::config::Config;
use gemma4_core::model::drafter::{OpenDraft, synthetic};
use gemma4_core::model::gemma4::KvTypes;
use gemma4_core::plan::{Size, Target, draft_bytes};
use gemma4_core::speculate::{MOST_DRAFTS, Policy, Settings, Source, Speculator};
use gemma4_core::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::device::Device;
use crate::failure::Failure;
use crate::load;

/// Heading of help texts.
const DRAFT: &str = "Drafting (the text stays the same, bit for bit)";

/// After so much time, plans that are not ready are left to the round that needs them.
const WARM_UP: Duration = Duration::from_secs(10);

/// Options of commands that draft.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct DraftArgs {
    /// A drafter for the model: an MTP assistant or a DFlash drafter, as a GGUF file or a checkpoint folder; twice for
    /// one of each
    #[arg(long, value_name = "PATH", help_heading = DRAFT)]
    pub(crate) draft: Vec<PathBuf>,
    /// Where drafts come from [default: what --draft names, and the text itself; nothing without --draft]
    #[arg(long, value_enum, value_name = "KIND", help_heading = DRAFT)]
    pub(crate) draft_kind: Option<Kind>,
    /// Most drafts of a round [default: what the drafter was made for, and what pays]
    #[arg(long, value_name = "N", help_heading = DRAFT, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=15))]
    pub(crate) draft_max: Option<u8>,
    /// Whether measurements decide how much is drafted, and when not to
    #[arg(long, value_enum, default_value_t = PolicyName::Auto, help_heading = DRAFT)]
    pub(crate) draft_policy: PolicyName,
}

/// Where drafts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Every drafter that is given, and the text itself
    Auto,
    /// The MTP assistant
    Mtp,
    /// The DFlash drafter
    Dflash,
    /// The text itself: what followed when its last tokens occurred before
    Ngram,
    /// Nothing: one token a step
    None,
}

/// Who decides how much is drafted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyName {
    /// Measurements: a drafter that does not pay is left out for a while
    #[default]
    Auto,
    /// Always as much as --draft-max and the drafter allow
    Fixed,
}

/// Drafters that were opened and checked against the tokenizer, and how to use them.
#[derive(Debug, Default)]
pub(crate) struct Drafting {
    files: Vec<OpenDraft>,
    pub(crate) settings: Option<Settings>,
}

impl DraftArgs {
    /// Opens what the command line names.
    pub(crate) fn open(&self, config: &Config, tokenizer: Option<&Tokenizer>) -> Result<Drafting, Failure> {
        let kind = self.draft_kind.unwrap_or(if self.draft.is_empty() { Kind::None } else { Kind::Auto });
        let wants_file = matches!(kind, Kind::Mtp | Kind::Dflash);
        if wants_file && self.draft.is_empty() {
            let kind = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            return Err(Failure::usage(format!(
                "--draft-kind {kind} needs a drafter: name it with --draft PATH"
            )));
        }
        let sources = match kind {
            Kind::Auto => Source::ALL.to_vec(),
            Kind::Mtp => vec![Source::Mtp],
            Kind::Dflash => vec![Source::DFlash],
            Kind::Ngram => vec![Source::Ngram],
            Kind::None => return Ok(Drafting::default()),
        };
        let mut files = Vec::new();
        for path in &self.draft {
            let open = match path.to_str() {
                Some("synthetic-mtp") => synthetic(DraftKind::Mtp, config),
                Some("synthetic-dflash") => synthetic(DraftKind::DFlash, config),
                _ => OpenDraft::open(path)?,
            };
            for note in &open.notes {
                // Whoever closed stderr does not want to know.
                let _ = writeln!(io::stderr(), "note: {note}");
            }
            if let Some(tokenizer) = tokenizer {
                open.check_tokens(tokenizer)?;
            }
            files.push(open);
        }
        let policy = match self.draft_policy {
            PolicyName::Auto => Policy::Auto,
            PolicyName::Fixed => Policy::Fixed,
        };
        let most = self.draft_max.map(usize::from);
        Ok(Drafting { files, settings: Some(Settings { policy, sources, most, simulate: None }) })
    }
}

impl Drafting {
    /// Bytes that the drafters take beside a model with such options.
    pub(crate) fn bytes(&self, options: &Options, kv: KvTypes) -> u64 {
        self.files.iter().map(|open| draft_bytes(&open.file, options, kv)).sum()
    }

    /// Puts the drafters beside the model, before its first sequence is opened.
    pub(crate) fn attach<D: Device>(
        self,
        engine: &mut Engine<D>,
        kv: KvTypes,
    ) -> Result<Option<Settings>, Failure> {
        let needs = self.bytes(engine.options(), kv);
        if let (Target::Cpu, Some(free)) = (D::TARGET, load::free_memory())
            && needs > free
        {
            let (needs, free) = (Size(needs), Size(free));
            return Err(Failure::usage(format!(
                "the drafter needs {needs} beside the model and {free} are free; a smaller --ctx, or --draft-kind mtp \
                 with an assistant, needs less"
            )));
        }
        for open in self.files {
            let bar = load::bar(0, "loading the drafter", "{bytes}/{total_bytes}");
            engine.attach(open.file, DraftOptions { kv, causal: None }, &mut |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            })?;
            bar.finish_and_clear();
        }
        if let Some(settings) = &self.settings {
            for &source in &settings.sources {
                let missing = source.kind().is_some_and(|kind| engine.most_drafts(kind).is_none());
                if missing && settings.sources.len() == 1 {
                    return Err(Failure::usage(format!(
                        "--draft names no {source} drafter, which --draft-kind asks for"
                    )));
                }
            }
            if let Some(note) = clamped(settings.most, engine.most_drafts(DraftKind::DFlash)) {
                let _ = writeln!(io::stderr(), "{note}");
            }
            // Otherwise rounds would wait for plans in the middle of a text.
            let most = settings.most.unwrap_or(MOST_DRAFTS);
            engine.warm_drafts(most, WARM_UP)?;
        }
        Ok(self.settings)
    }
}

/// What is said of `--draft-max` if blocks have fewer drafts than it allows.
fn clamped(most: Option<usize>, limit: Option<usize>) -> Option<String> {
    let (most, limit) = most.zip(limit)?;
    let note = || format!("note: --draft-max is {most}; blocks of this drafter have at most {limit} drafts");
    (most > limit).then(note)
}

/// What drafting gave and took, as lines for people.
pub(crate) fn lines(speculator: &Speculator) -> Vec<String> {
    let stats = &speculator.stats;
    let mut lines = Vec::new();
    let plain = stats.plain_seconds / stats.plain_steps.max(1) as f64;
    for (&source, one) in &stats.sources {
        let mut line = format!(
            "{:<12} {} rounds, {:.2} tokens a round, {} of {} drafts accepted",
            source.name(),
            one.rounds,
            one.tokens_a_round(),
            one.accepted,
            one.drafted,
        );
        if speculator.controller().is_off(source) {
            line.push_str("; switched off for now");
        }
        lines.push(line);
        let places: Vec<String> = one
            .positions
            .iter()
            .map(|place| format!("{:.0}", 100.0 * place.accepted as f64 / place.judged.max(1) as f64))
            .collect();
        lines.push(format!("{:<12} accepted by place, %: {}", "", places.join(" ")));
        let mut lengths = String::new();
        for (length, rounds) in &one.lengths {
            let _ = write!(lengths, " {length}:{rounds}");
        }
        lines.push(format!("{:<12} rounds by drafts:{lengths}", ""));
        let rounds = one.rounds.max(1) as f64;
        lines.push(format!(
            "{:<12} {:.2} ms to draft, {:.2} ms to verify",
            "",
            1e3 * one.draft_seconds / rounds,
            1e3 * one.verify_seconds / rounds
        ));
    }
    if stats.rounds() > 0 && speculator.settings().policy == Policy::Auto {
        let (what, seconds) = if stats.saved_seconds < 0.0 {
            ("lost", -stats.saved_seconds)
        } else {
            ("saved", stats.saved_seconds)
        };
        lines.push(format!("{:<12} {what} {:.1} ms against plain steps", "rounds", 1e3 * seconds));
    }
    if stats.plain_steps > 0 {
        lines.push(format!("{:<12} {} steps, {:.2} ms each", "plain", stats.plain_steps, 1e3 * plain));
    }
    lines
}

/// The same as JSON, and what was made ready before.
pub(crate) fn to_json(speculator: &Speculator, warm: Warm) -> Value {
    let stats = &speculator.stats;
    let sources: serde_json::Map<String, Value> = stats
        .sources
        .iter()
        .map(|(&source, one)| {
            let rounds = one.rounds.max(1) as f64;
            let places: Vec<f64> = one
                .positions
                .iter()
                .map(|place| place.accepted as f64 / place.judged.max(1) as f64)
                .collect();
            let lengths: serde_json::Map<String, Value> =
                one.lengths.iter().map(|(length, rounds)| (length.to_string(), json!(rounds))).collect();
            let value = json!({
                "rounds": one.rounds,
                "drafted": one.drafted,
                "accepted": one.accepted,
                "tokens_a_round": one.tokens_a_round(),
                "acceptance_by_place": places,
                "rounds_by_drafts": lengths,
                "draft_seconds_a_round": one.draft_seconds / rounds,
                "verify_seconds_a_round": one.verify_seconds / rounds,
                "off": speculator.controller().is_off(source),
            });
            (source.name().to_owned(), value)
        })
        .collect();
    json!({
        "policy": if speculator.settings().policy == Policy::Auto { "auto" } else { "fixed" },
        "most": speculator.settings().most.unwrap_or(MOST_DRAFTS),
        "sources": sources,
        "plain_steps": stats.plain_steps,
        "plain_step_seconds": stats.plain_seconds / stats.plain_steps.max(1) as f64,
        "saved_seconds": stats.saved_seconds,
        "warm_up": { "plans": warm.plans, "seconds": warm.time.as_secs_f64() },
        "tokens_a_step": stats.tokens_a_step(),
        "switched_off": speculator.controller().switched_off,
    })
}

#[cfg(test)]
mod tests {
    use super::clamped;

    #[test]
    fn s21_more_drafts_than_a_block_has_are_clamped_with_a_note() {
        let note = clamped(Some(12), Some(7)).expect("it is more");
        assert_eq!(note, "note: --draft-max is 12; blocks of this drafter have at most 7 drafts");
        for (most, limit) in [(Some(7), Some(7)), (None, Some(7)), (Some(12), None)] {
            assert_eq!(clamped(most, limit), None);
        }
    }
}
