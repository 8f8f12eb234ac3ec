//! Speculative decoding: several tokens a step, and the text of one token a step, bit for bit.
//!
//! A round drafts, verifies and accepts. Drafts come from an MTP assistant or a DFlash drafter beside the target
//! ([`Engine::enqueue_drafts`]), or from the text itself ([`Ngrams`]). One step of the target in
//! the decode class has the newest token and the drafts as rows; each row is sampled as plain decoding would sample it,
//! by the random numbers of its position. As long as the sampled token is the draft, the next row is what plain decoding
//! would have computed, for a row's bits depend on nothing but the row ([`accepted`]). What is kept is committed to the
//! cache, and nothing has to be undone for the rest.
//!
//! So drafts change only the time that a text takes. [`Controller`] measures that time, and chooses; [`Speculator`] is all
//! of it for one conversation.

mod clock;
mod controller;
mod ngram;
mod round;
mod stats;

use crate::abi::PLACES;
use crate::backend::Backend;
use crate::engine::{DraftKind, Engine};

pub use clock::Clock;
pub use controller::{Choice, Controller, Limits, Policy, Sample};
pub use ngram::Ngrams;
pub use round::{Round, Start};
pub use stats::{Position, SourceStats, Stats};

/// Where drafts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A DFlash drafter.
    DFlash,
    /// An MTP assistant.
    Mtp,
    /// The text so far: what followed when its last tokens occurred before.
    Ngram,
}

impl Source {
    /// Every source.
    pub const ALL: [Source; 3] = [Source::DFlash, Source::Mtp, Source::Ngram];

    /// Its name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Source::DFlash => "dflash",
            Source::Mtp => "mtp",
            Source::Ngram => "ngram",
        }
    }

    /// The kind of drafter it is, if it comes in a file.
    #[must_use]
    pub const fn kind(self) -> Option<DraftKind> {
        match self {
            Source::DFlash => Some(DraftKind::DFlash),
            Source::Mtp => Some(DraftKind::Mtp),
            Source::Ngram => None,
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Most drafts of one round, whatever the drafter: rows of a verifying step are few, and so are the drafts that a device
/// remembers.
pub const MOST_DRAFTS: usize = PLACES as usize - 1;

/// How a conversation speculates.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Who decides.
    pub policy: Policy,
    /// Sources that may be used, as far as they are there.
    pub sources: Vec<Source>,
    /// Most drafts of a round; what suits the model if `None`.
    pub most: Option<usize>,
    /// Share of drafts that pass for accepted whatever the target says: to learn what a drafter of that quality would be
    /// worth. The text is nonsense then.
    pub simulate: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::Auto, sources: Source::ALL.to_vec(), most: None, simulate: None }
    }
}

/// How many of `drafts` plain decoding would have chosen, where `chosen` are the tokens that the target chose behind the
/// newest token and behind each draft. One more token than these is committed: `chosen[accepted]`.
#[must_use]
pub fn accepted(drafts: &[u32], chosen: &[u32]) -> usize {
    drafts.iter().zip(chosen).take_while(|(draft, chosen)| draft == chosen).count()
}

/// What one conversation needs to speculate.
#[derive(Debug)]
pub struct Speculator {
    settings: Settings,
    controller: Controller,
    ngrams: Ngrams,
    /// What has happened.
    pub stats: Stats,
    /// State of the coin of [`Settings::simulate`].
    coin: u64,
}

impl Speculator {
    /// A speculator with the sources that `engine` has of those that `settings` allow. `None` if there is none.
    #[must_use]
    pub fn new<B: Backend>(settings: Settings, engine: &Engine<B>) -> Option<Self> {
        let most = settings.most.unwrap_or(MOST_DRAFTS).clamp(1, MOST_DRAFTS);
        let sources: Vec<(Source, usize)> = settings
            .sources
            .iter()
            .filter_map(|&source| {
                let has = match source.kind() {
                    Some(kind) => engine.most_drafts(kind)?,
                    None => MOST_DRAFTS,
                };
                Some((source, has.min(most)))
            })
            .collect();
        if sources.is_empty() {
            return None;
        }
        // More rows wake more experts, so their drafts are dear.
        let first = if engine.model().config.moe.is_some() { 4 } else { 8 };
        let controller = Controller::new(settings.policy, &sources, first);
        Some(Self { settings, controller, ngrams: Ngrams::default(), stats: Stats::default(), coin: 1 })
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it has measured.
    #[must_use]
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// What to do next: `text` are all tokens, the newest at the end, which is not in the cache; at most `room` drafts
    /// may be made.
    pub fn choose(&mut self, text: &[u32], room: usize) -> Choice {
        self.ngrams.follow(text);
        let repeats = self.ngrams.matched(MOST_DRAFTS.min(room));
        self.controller.choose(&Limits { context: text.len(), room, repeats })
    }

    /// Whether plain steps are to stop, now that one has given `token`: the text offers drafts that pay. Cheap enough to be
    /// asked at every token.
    pub fn interrupts(&mut self, token: u32, room: usize) -> bool {
        self.ngrams.push(token);
        let repeats = self.ngrams.matched(MOST_DRAFTS.min(room));
        repeats > 0 && self.controller.interrupts(&Limits { context: self.ngrams.len(), room, repeats })
    }

    /// How many of `drafts` are accepted; `chosen` changes where acceptance is simulated.
    pub fn accept(&mut self, drafts: &[u32], chosen: &mut [u32]) -> usize {
        let Some(share) = self.settings.simulate else { return accepted(drafts, chosen) };
        for (at, &draft) in drafts.iter().enumerate() {
            // A linear congruential generator is random enough for a coin.
            self.coin =
                self.coin.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (self.coin >> 33) as f64 / (1u64 << 31) as f64 >= share {
                // Whatever the target chose is taken for another token.
                return at;
            }
            chosen[at] = draft;
        }
        drafts.len()
    }

    /// What a round took and gave.
    pub fn observe(&mut self, sample: &Sample) {
        self.stats.saved_seconds += self.controller.observe(sample);
        self.stats.observe(sample);
    }
}
