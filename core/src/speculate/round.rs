//! One round: drafts, a step that verifies them, and how many of them count.

use std::time::Instant;

use super::{MOST_DRAFTS, Source, Speculator};
use crate::backend::{Backend, Row};
use crate::cache::SeqId;
use crate::engine::{Ask, Engine, EngineError, Part, Pick};
use crate::model::gemma4::Taps;
use crate::program::Class;
use crate::sample::{Draw, Sampling};

/// Where a round begins.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The sequence.
    pub seq: SeqId,
    /// What was asked.
    pub prompt: &'a [u32],
    /// What was answered so far; the newest token, at the end, is not in the cache.
    pub generated: &'a [u32],
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// Tokens that are never chosen.
    pub suppress: &'a [u32],
    /// Tokens behind which drafts are left out.
    pub end: &'a [u32],
}

/// What came of a round. Nothing of it is committed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// The newest token and the drafts, as the cache has them now.
    pub rows: Vec<u32>,
    /// What the target chose behind the newest token and behind each draft.
    pub chosen: Vec<u32>,
    /// Drafts that were accepted.
    pub accepted: usize,
    /// Whether the drafter had to read more of the text first than a round leaves.
    pub caught_up: bool,
    /// Time until the drafts were there, in seconds.
    pub draft_seconds: f64,
    /// Time from there until they were judged.
    pub verify_seconds: f64,
}

impl Round {
    /// The tokens that the text goes on with: accepted drafts, and one more.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.chosen[..=self.accepted]
    }

    /// Number of drafts.
    #[must_use]
    pub fn drafts(&self) -> usize {
        self.rows.len() - 1
    }
}

impl Speculator {
    /// Drafts at most `count` tokens and verifies them. The caller commits as many rows as it takes tokens.
    ///
    /// On a device that queues steps the host waits for nothing before both are enqueued: the step that verifies finds the
    /// drafts on the device. Where a row's penalties depend on the drafts before it, the host has to see them first.
    ///
    /// # Errors
    ///
    /// If the device failed or the cache is full. Nothing has changed then.
    pub fn round<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        at: &Start<'_>,
        (source, count): (Source, usize),
    ) -> Result<Round, EngineError> {
        let begin = Instant::now();
        let Start { seq, prompt, generated, sampling, suppress, end } = *at;
        let anchor = generated.last().or(prompt.last()).copied().unwrap_or_default();
        let len = engine.cache().len(seq)?;
        let known = engine.drafted_context(seq).filter(|_| source == Source::DFlash);
        let caught_up = known.is_some_and(|(known, _)| known + MOST_DRAFTS + 1 < len);
        let mut edits = vec![sampling.edits(prompt, generated, suppress)];
        let enqueued = match source.kind() {
            Some(kind) => {
                let ask = Ask { seq, anchor, count, sampling, edits: &edits[0] };
                Some(engine.enqueue_drafts(kind, &[ask])?)
            }
            None => None,
        };
        let ahead = B::QUEUES && !sampling.has_penalties();
        let (unread, mut drafts) = match enqueued {
            Some(drafts) if ahead => (Some(drafts), Vec::new()),
            Some(drafts) => (None, engine.drafts(drafts)?.pop().unwrap_or_default()),
            None => (None, self.ngrams.drafts(count)),
        };
        until(&mut drafts, end);
        let mut drafted = begin.elapsed();
        let mut rows = vec![anchor];
        match &unread {
            Some(unread) => rows.extend((1..).map(Row::drafted).take(unread.count(0))),
            None => rows.extend_from_slice(&drafts),
        }

        // A row's penalties count the drafts before it: if they are not what was chosen, the row does not count.
        if sampling.has_penalties() {
            let mut text = generated.to_vec();
            for &draft in &drafts {
                text.push(draft);
                edits.push(sampling.edits(prompt, &text, suppress));
            }
        } else {
            edits.resize(rows.len(), edits[0].clone());
        }
        let draw = |(row, edits)| Draw { sampling, position: narrow(len + row), edits, allowed: None };
        let draws: Vec<Draw<'_>> = (1..).zip(edits.iter().map(Vec::as_slice)).map(draw).collect();
        let part = Part { seq, tokens: &rows, pick: Pick::All };
        let step = engine.step(Class::Decode, &[part], &draws, Taps::None)?;
        let read = || {
            if let Some(unread) = unread {
                drafts = engine.drafts(unread)?.pop().unwrap_or_default();
                until(&mut drafts, end);
                drafted = begin.elapsed();
            }
            engine.tokens(&step)
        };
        let mut chosen = match read() {
            Ok(chosen) => chosen,
            Err(error) => {
                engine.commit(seq, 0)?;
                return Err(error);
            }
        };
        rows.truncate(1);
        rows.extend_from_slice(&drafts);
        chosen.truncate(rows.len());
        let accepted = self.accept(&drafts, &mut chosen);
        let verified = begin.elapsed().saturating_sub(drafted);
        let (draft_seconds, verify_seconds) = (drafted.as_secs_f64(), verified.as_secs_f64());
        Ok(Round { rows, chosen, accepted, caught_up, draft_seconds, verify_seconds })
    }
}

/// Leaves out what comes behind a token of `end`.
fn until(drafts: &mut Vec<u32>, end: &[u32]) {
    if let Some(last) = drafts.iter().position(|draft| end.contains(draft)) {
        drafts.truncate(last + 1);
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("positions are counted in 32 bits")
}
