//! What rounds gave and took, for people.

use std::collections::BTreeMap;

use super::Source;
use super::controller::Sample;

/// Drafts at one place of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Drafts that were judged: all before them were accepted.
    pub judged: u64,
    /// Those that were accepted.
    pub accepted: u64,
}

/// What one source gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceStats {
    /// Rounds with drafts of this source.
    pub rounds: u64,
    /// Drafts.
    pub drafted: u64,
    /// Drafts that were accepted.
    pub accepted: u64,
    /// By their place in the round.
    pub positions: Vec<Position>,
    /// Time of drafting.
    pub draft_seconds: f64,
    /// Time of verifying.
    pub verify_seconds: f64,
    /// Rounds by number of drafts.
    pub lengths: BTreeMap<usize, u64>,
}

impl SourceStats {
    /// Tokens committed a round, the target's own included.
    #[must_use]
    pub fn tokens_a_round(&self) -> f64 {
        if self.rounds == 0 { 0.0 } else { 1.0 + self.accepted as f64 / self.rounds as f64 }
    }
}

/// What a conversation's rounds gave and took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// By source.
    pub sources: BTreeMap<Source, SourceStats>,
    /// Steps without drafts.
    pub plain_steps: u64,
    /// Their time.
    pub plain_seconds: f64,
    /// Time that rounds saved against plain steps, as far as the time of those was known; less than 0 if they lost.
    pub saved_seconds: f64,
}

impl Stats {
    /// Rounds with drafts.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.sources.values().map(|source| source.rounds).sum()
    }

    /// Tokens committed a step of the target, with drafts or without.
    #[must_use]
    pub fn tokens_a_step(&self) -> f64 {
        let accepted: u64 = self.sources.values().map(|source| source.accepted).sum();
        let steps = self.rounds() + self.plain_steps;
        if steps == 0 { 0.0 } else { 1.0 + accepted as f64 / steps as f64 }
    }

    pub(super) fn observe(&mut self, sample: &Sample) {
        // A source that had no drafts left a plain step.
        let Some((source, drafts, accepted)) = sample.drafted.filter(|&(_, drafts, _)| drafts > 0) else {
            self.plain_steps += sample.steps;
            self.plain_seconds += sample.draft_seconds + sample.verify_seconds;
            return;
        };
        let stats = self.sources.entry(source).or_default();
        stats.rounds += 1;
        stats.drafted += drafts as u64;
        stats.accepted += accepted as u64;
        stats.draft_seconds += sample.draft_seconds;
        stats.verify_seconds += sample.verify_seconds;
        *stats.lengths.entry(drafts).or_default() += 1;
        let judged = (accepted + 1).min(drafts);
        if stats.positions.len() < judged {
            stats.positions.resize(judged, Position::default());
        }
        for (at, position) in stats.positions.iter_mut().take(judged).enumerate() {
            position.judged += 1;
            position.accepted += u64::from(at < accepted);
        }
    }
}
