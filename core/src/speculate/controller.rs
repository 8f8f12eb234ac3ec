//! Which source drafts next and how much, from what rounds took and what was accepted.
//!
//! The number of drafts that is worth most maximises `tokens / seconds` of a round: `1 + Σ_k Π_{j ≤ k} a_j` tokens, with
//! `a_j` the share of drafts at place `j` that were accepted when all before them were, over the time of drafting and of
//! verifying so many rows at such a context. Where no source beats a plain step, steps are plain, and a source is tried
//! again after a while that doubles. What trying may cost is bounded by what is in a purse: a share of all time, and what
//! rounds have saved of late. So a drafter that is of no use costs little, and one that stops being of use is left soon.
//!
//! The idea of choosing by expected value, with acceptance inherited by places that were never tried, is that of Ollama's
//! `speculate_depth.go`.

use std::collections::BTreeMap;

use super::Source;

#[cfg(test)]
mod tests;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Measurements do.
    Auto,
    /// The user did: the first source that has drafts, and as many as it may give.
    Fixed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// So many steps without drafts; then choose again.
    Plain(usize),
    /// A round with at most so many drafts of a source.
    Draft(Source, usize),
}

/// What the next round can be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens of the text.
    pub context: usize,
    /// Most drafts that there is room for.
    pub room: usize,
    /// Drafts that the text itself offers.
    pub repeats: usize,
}

/// What a round, or some plain steps, took and gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Tokens of the text before.
    pub context: usize,
    /// Source, drafts, and drafts that were accepted; `None` for plain steps.
    pub drafted: Option<(Source, usize, usize)>,
    /// Steps of the target.
    pub steps: u64,
    /// Time of drafting.
    pub draft_seconds: f64,
    /// Time of the steps.
    pub verify_seconds: f64,
    /// Whether something was done that will not have to be done again, such as compiling.
    pub warming: bool,
}

/// A running mean of times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Time {
    seconds: f64,
    samples: u32,
}

impl Time {
    /// The first samples are averaged; later ones count a third, and move it by at most a quarter.
    fn add(&mut self, seconds: f64) {
        if self.samples < 3 {
            self.seconds += (seconds - self.seconds) / f64::from(self.samples + 1);
        } else {
            let bounded = seconds.clamp(0.75 * self.seconds, 1.25 * self.seconds);
            self.seconds += 0.3 * (bounded - self.seconds);
        }
        self.samples += 1;
    }
}

/// A running share.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Share {
    share: f64,
    samples: u32,
}

/// What acceptance is taken for before anything is known.
const HOPE: f64 = 0.7;

/// Samples after which a place's own acceptance counts, and not that of the place before.
const TRUSTED: u32 = 8;

impl Default for Share {
    fn default() -> Self {
        Self { share: HOPE, samples: 0 }
    }
}

impl Share {
    /// The hope counts as one sample; later a sample counts a seventh.
    fn add(&mut self, hit: bool) {
        let weight = (1.0 / f64::from(self.samples + 2)).max(0.15);
        self.share += weight * (if hit { 1.0 } else { 0.0 } - self.share);
        self.samples += 1;
    }
}

/// Times that grow with the context: by its size in powers of two.
type Bucket = u32;

fn bucket(context: usize) -> Bucket {
    (context / 1024 + 1).ilog2()
}

/// One source.
#[derive(Clone, Debug)]
struct Arm {
    source: Source,
    most: usize,
    shares: Vec<Share>,
    /// Times of drafting, by context and number of drafts.
    times: BTreeMap<(Bucket, usize), Time>,
    rounds: u32,
    off: Option<Off>,
    /// Rounds that it is tried for before it is judged.
    trial: u32,
    /// Plain steps that the next break takes.
    back_off: u64,
}

/// A source that is switched off.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Off {
    /// Steps after which it is tried again.
    until: u64,
}

/// Plain steps of the first break, and of the longest.
const BREAKS: (u64, u64) = (24, 4096);

/// Rounds of a trial.
const TRIAL: u32 = 2;

/// Share of all time that trying may cost.
const STAKE: f64 = 0.015;

/// Plain steps' worth of time that trying may cost beyond that: at the start, and of what was saved.
const CREDIT: f64 = 4.0;

/// What another row of a verifying step is taken to cost before it was measured, in plain steps.
const ROW: f64 = 0.03;

/// Most plain steps before the next choice.
const PLAIN_RUN: u64 = 32;

/// Chooses, and learns.
#[derive(Clone, Debug)]
pub struct Controller {
    policy: Policy,
    arms: Vec<Arm>,
    /// Drafts of the first rounds.
    first: usize,
    /// Times of verifying, by context and rows; one row is a plain step.
    verify: BTreeMap<(Bucket, usize), Time>,
    steps: u64,
    seconds: f64,
    /// Time that was saved, less what was lost, at most [`CREDIT`].
    balance: f64,
    /// How often a source was switched off.
    pub switched_off: u64,
}

/// What a source can be expected to give.
#[derive(Clone, Copy, Debug)]
struct Offer {
    arm: usize,
    drafts: usize,
    tokens: f64,
    seconds: f64,
}

impl Offer {
    fn rate(&self) -> f64 {
        self.tokens / self.seconds.max(1e-12)
    }
}

impl Controller {
    /// A controller of sources with the most drafts of each; the first rounds have at most `first`.
    #[must_use]
    pub fn new(policy: Policy, sources: &[(Source, usize)], first: usize) -> Self {
        let arm = |&(source, most): &(Source, usize)| Arm {
            source,
            most,
            shares: vec![Share::default(); most],
            times: BTreeMap::new(),
            rounds: 0,
            off: None,
            trial: TRIAL,
            back_off: BREAKS.0,
        };
        Self {
            policy,
            arms: sources.iter().map(arm).collect(),
            first,
            verify: BTreeMap::new(),
            steps: 0,
            seconds: 0.0,
            balance: 0.0,
            switched_off: 0,
        }
    }

    /// What to do next.
    pub fn choose(&mut self, limits: &Limits) -> Choice {
        if limits.room == 0 {
            return Choice::Plain(1);
        }
        if self.policy == Policy::Fixed {
            let offers = self.arms.iter().map(|arm| (arm.source, Self::most(arm, limits)));
            let first = offers.into_iter().find(|&(_, most)| most > 0);
            return first.map_or(Choice::Plain(1), |(source, most)| Choice::Draft(source, most));
        }
        let here = bucket(limits.context);
        // Without a plain step's time there is nothing to compare with. The second step is warm.
        let Some(plain) = self.time_of(here, 1).filter(|_| self.steps >= 2) else { return Choice::Plain(2) };
        let steps = self.steps;
        let live: Vec<usize> = (0..self.arms.len())
            .filter(|&a| self.arms[a].off.is_none_or(|off| steps >= off.until))
            .filter(|&a| Self::most(&self.arms[a], limits) > 0)
            .collect();
        // Every source is tried, however good the others are.
        let untried = live.iter().find(|&&a| self.arms[a].rounds < TRIAL);
        let offers = live.iter().filter(|&a| untried.is_none_or(|untried| untried == a));
        let offers = offers.map(|&a| self.offer(a, here, limits, plain));
        let best = offers.max_by(|a, b| a.rate().total_cmp(&b.rate()));
        let Some(best) = best else { return self.plain(limits) };
        let arm = &self.arms[best.arm];
        let trying = arm.trial > 0;
        let wins = best.rate() * plain > 1.0;
        let purse = self.balance + STAKE * self.seconds + CREDIT * plain;
        let risk = (best.seconds - plain).max(0.0);
        if (wins || trying) && purse > risk {
            return Choice::Draft(arm.source, best.drafts);
        }
        if !wins && !trying {
            self.switch_off(best.arm);
        }
        self.plain(limits)
    }

    /// Plain steps until a source may be tried again, or offers drafts.
    fn plain(&self, limits: &Limits) -> Choice {
        let until = self.arms.iter().map(|arm| match arm.off {
            Some(off) => off.until.saturating_sub(self.steps),
            // A source that is on may have drafts behind the next token.
            None => 1,
        });
        let steps = until.min().unwrap_or(PLAIN_RUN).clamp(1, PLAIN_RUN);
        Choice::Plain(usize::try_from(steps).unwrap_or(1).min(limits.room.max(1)))
    }

    fn switch_off(&mut self, arm: usize) {
        let steps = self.steps;
        let arm = &mut self.arms[arm];
        arm.off = Some(Off { until: steps + arm.back_off });
        arm.back_off = (arm.back_off * 2).min(BREAKS.1);
        arm.trial = TRIAL;
        self.switched_off += 1;
    }

    /// Most drafts of a source in the next round.
    fn most(arm: &Arm, limits: &Limits) -> usize {
        let offered = if arm.source == Source::Ngram { limits.repeats } else { usize::MAX };
        arm.most.min(limits.room).min(offered)
    }

    /// The best number of drafts of a source.
    fn offer(&self, a: usize, here: Bucket, limits: &Limits, plain: f64) -> Offer {
        let arm = &self.arms[a];
        let mut most = Self::most(arm, limits);
        if arm.off.is_some() {
            // A trial after a break is short.
            most = most.min(2);
        } else if arm.rounds < 3 {
            most = most.min(self.first);
        } else {
            // One place further than anything that is known.
            let known = arm.shares.iter().take_while(|share| share.samples > 0).count();
            most = most.min(known.max(self.first.min(arm.most)) + 1);
        }
        let (mut reached, mut tokens, mut inherited) = (1.0, 1.0, HOPE);
        let mut best = None;
        for drafts in 1..=most {
            let share = arm.shares[drafts - 1];
            let accepted = if share.samples >= TRUSTED || drafts == 1 {
                share.share
            } else {
                // The place before knows better, unless this one has seen worse.
                let weight = f64::from(share.samples) / f64::from(TRUSTED);
                inherited.min(weight * share.share + (1.0 - weight) * inherited)
            };
            inherited = accepted;
            reached *= accepted;
            tokens += reached;
            let seconds = draft_time(arm, here, drafts) + self.verify_time(here, drafts + 1, plain);
            let offer = Offer { arm: a, drafts, tokens, seconds };
            if best.is_none_or(|best: Offer| offer.rate() > best.rate()) {
                best = Some(offer);
            }
        }
        best.unwrap_or(Offer { arm: a, drafts: 1, tokens: 1.0, seconds: plain })
    }

    /// Time of a verifying step of so many rows.
    fn verify_time(&self, here: Bucket, rows: usize, plain: f64) -> f64 {
        if let Some(seconds) = self.time_of(here, rows) {
            return seconds;
        }
        let measured = |bucket: Bucket| {
            let below = self.verify.range((bucket, 0)..(bucket, rows)).next_back();
            let above = self.verify.range((bucket, rows + 1)..=(bucket, usize::MAX)).next();
            let of = |((_, rows), time): (&(Bucket, usize), &Time)| (*rows as f64, time.seconds);
            Some((below.map(of)?, above.map(of)))
        };
        let found = (0..=here).rev().find_map(measured);
        match found {
            Some(((r0, t0), Some((r1, t1)))) => t0 + (t1 - t0) * (rows as f64 - r0) / (r1 - r0),
            Some(((r0, t0), None)) => t0 + ROW * plain * (rows as f64 - r0),
            None => plain * (1.0 + ROW * (rows as f64 - 1.0)),
        }
    }

    /// The measured time of so many rows at this context, or at the largest below it that was measured.
    fn time_of(&self, here: Bucket, rows: usize) -> Option<f64> {
        (0..=here).rev().find_map(|bucket| self.verify.get(&(bucket, rows))).map(|time| time.seconds)
    }

    /// Learns from a round or from plain steps.
    pub fn observe(&mut self, sample: &Sample) {
        let here = bucket(sample.context);
        self.steps += sample.steps;
        if let Some((source, drafts, accepted)) = sample.drafted
            && let Some(arm) = self.arms.iter_mut().find(|arm| arm.source == source)
        {
            arm.rounds += 1;
            let places = arm.shares.iter_mut().take((accepted + 1).min(drafts));
            places.enumerate().for_each(|(at, share)| share.add(at < accepted));
            if arm.off.is_some() || arm.trial > 0 {
                arm.trial = arm.trial.saturating_sub(1);
            }
        }
        if sample.warming {
            return;
        }
        let seconds = sample.draft_seconds + sample.verify_seconds;
        self.seconds += seconds;
        let rows = sample.drafted.map_or(1, |(_, drafts, _)| drafts + 1);
        let each = sample.verify_seconds / sample.steps.max(1) as f64;
        self.verify.entry((here, rows)).or_default().add(each);
        let plain = self.time_of(here, 1).unwrap_or(each);
        let Some((source, drafts, accepted)) = sample.drafted else { return };
        let saved = plain * (accepted + 1) as f64 - seconds;
        self.balance = (self.balance + saved).min(CREDIT * plain);
        let Some(a) = self.arms.iter().position(|arm| arm.source == source) else { return };
        self.arms[a].times.entry((here, drafts)).or_default().add(sample.draft_seconds);
        let (off, trial) = (self.arms[a].off.is_some(), self.arms[a].trial);
        if off && trial == 0 {
            // The trial after a break is over.
            let limits = Limits { context: sample.context, room: drafts.max(1), repeats: drafts.max(1) };
            if self.offer(a, here, &limits, plain).rate() * plain > 1.0 {
                let arm = &mut self.arms[a];
                (arm.off, arm.back_off) = (None, BREAKS.0);
            } else {
                self.switch_off(a);
            }
        }
    }

    /// Acceptance of the drafts of a source by their place, as far as places were tried.
    #[must_use]
    pub fn acceptance(&self, source: Source) -> Vec<f64> {
        let arm = self.arms.iter().find(|arm| arm.source == source);
        let shares = arm.map_or(&[][..], |arm| &arm.shares).iter().take_while(|share| share.samples > 0);
        shares.map(|share| share.share).collect()
    }

    /// Whether a source is switched off for the time being.
    #[must_use]
    pub fn is_off(&self, source: Source) -> bool {
        self.arms.iter().any(|arm| arm.source == source && arm.off.is_some())
    }

    /// Measured time of a step of so many rows at a context, in seconds.
    #[must_use]
    pub fn step_seconds(&self, context: usize, rows: usize) -> Option<f64> {
        self.time_of(bucket(context), rows)
    }
}

/// Time of drafting, from the nearest number of drafts that was measured.
fn draft_time(arm: &Arm, here: Bucket, drafts: usize) -> f64 {
    let near = |bucket: Bucket| {
        let all = arm.times.range((bucket, 0)..=(bucket, usize::MAX));
        all.min_by_key(|((_, count), _)| count.abs_diff(drafts))
            .map(|((_, count), time)| (*count, time.seconds))
    };
    let found = (0..=here).rev().find_map(near);
    let Some((count, seconds)) = found else { return 0.0 };
    // A chain takes as many steps as it has tokens, a block is one step.
    if arm.source == Source::Mtp { seconds * drafts as f64 / count.max(1) as f64 } else { seconds }
}
