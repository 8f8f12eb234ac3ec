//! Which source drafts next and how much, from what rounds took and what was accepted.
//!
//! The number of drafts that is worth most maximises `tokens / seconds` of a round: `1 + Σ_k Π_{j ≤ k} a_j` tokens, with
//! `a_j` the share of drafts at place `j` that were accepted when all before them were, over the time of drafting and of
//! verifying so many rows at such a context. Where no source beats a plain step, steps are plain, one behind the other
//! until a source is tried again, after a while that doubles.
//!
//! A trial ends as soon as it looks bad, and each source pays its own from a purse: a share of all time, and what its rounds
//! have saved of late. What is paid is measured: all time from one choice to the next, with what the device idles around a round
//! and behind it. So a drafter that is of no use costs little, and one that stops being of use is left soon.
//!
//! The idea of choosing by expected value, with acceptance inherited by places that were never tried, is that of Ollama's
//! `speculate_depth.go`.

mod estimate;
mod sample;

use super::Source;
use estimate::{Bucket, Drafting, Share, Steps, Time, bucket};
pub use sample::Sample;

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
    /// So many steps without drafts, or fewer if [`Controller::interrupts`] says so; then choose again.
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

/// How a source is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// It is looked at: rounds with accepted drafts so far, and without.
    Trial(u32, u32),
    /// It pays.
    On,
    /// It does not; it is looked at again after so many steps in all.
    Off(u64),
}

/// One source.
#[derive(Clone, Debug)]
struct Arm {
    source: Source,
    most: usize,
    shares: Vec<Share>,
    times: Drafting,
    mode: Mode,
    /// Rounds since it was taken up.
    rounds: u32,
    /// Rounds in a row of which no draft was accepted.
    lost: u32,
    /// Whether it is looked at again after a break: with short rounds.
    again: bool,
    /// Plain steps that the next break takes.
    back_off: u64,
    /// Time that it saved, less what it lost, at most four times the [`CREDIT`].
    balance: f64,
}

/// Plain steps of the first break, and of the longest.
const BREAKS: (u64, u64) = (24, 512);

/// Most rounds of a trial. It ends before if more rounds were lost than won: one more, or two more the first time.
const TRIAL: u32 = 4;

/// Lost rounds in a row after which a source is switched off, whatever it gave before.
const LOST: u32 = 12;

/// Most drafts of the first rounds of a chain, and of a trial after a break.
const SHORT: (usize, usize) = (4, 2);

/// Rounds after which a source that is switched off gets a short break again.
const SETTLED: u32 = 16;

/// Numbers of drafts that are told apart: with the newest token they are the rows that plans are made for, and some that
/// other devices like.
const LENGTHS: [usize; 8] = [1, 2, 3, 4, 5, 7, 11, 15];

/// Share of all time that trying may cost.
const STAKE: f64 = 0.006;

/// Plain steps' worth of time that trying may cost beyond that: once for all sources together, and once for each; and of what
/// one saved, four times as much.
const CREDIT: f64 = 2.0;

/// Plain steps that tell what one takes.
const MEASURE: usize = 4;

/// Rounds in a row after which plain steps are measured again, at first and at last.
const STALE: (u32, u32) = (16, 1024);

/// Chooses, and learns.
#[derive(Clone, Debug)]
pub struct Controller {
    policy: Policy,
    arms: Vec<Arm>,
    /// Drafts of the first rounds.
    first: usize,
    target: Steps,
    /// Time around a round, and what the first plain step behind rounds takes longer than another.
    idle: (Time, Time),
    steps: u64,
    seconds: f64,
    /// Rounds since the last plain steps, and after how many those are measured again.
    rounds: (u32, u32),
    /// The source of the last round.
    last: Option<usize>,
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
            times: Drafting::default(),
            mode: Mode::Trial(0, 0),
            rounds: 0,
            lost: 0,
            again: false,
            back_off: BREAKS.0,
            balance: 0.0,
        };
        Self {
            policy,
            arms: sources.iter().map(arm).collect(),
            first,
            target: Steps::default(),
            idle: Default::default(),
            steps: 0,
            seconds: 0.0,
            rounds: (0, STALE.0),
            last: None,
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
        let measure = Choice::Plain(MEASURE.min(limits.room));
        // Without a plain step's time there is nothing to compare with, and it changes.
        let Some(plain) = self.target.measured(here, 1) else { return measure };
        if self.rounds.0 >= self.rounds.1 {
            self.rounds.1 = (self.rounds.1 * 4).min(STALE.1);
            return measure;
        }
        self.wake();
        loop {
            let Some(best) = self.best(here, limits, plain) else { return self.plain(limits, plain) };
            let wins = best.rate() * plain > 1.0;
            let arm = &self.arms[best.arm];
            if !wins && arm.mode == Mode::On {
                self.switch_off(best.arm);
                continue;
            }
            if self.affords(&best, plain) {
                return Choice::Draft(arm.source, best.drafts);
            }
            return self.plain(limits, plain);
        }
    }

    /// Whether plain steps are to stop for drafts that the text offers now.
    #[must_use]
    pub fn interrupts(&self, limits: &Limits) -> bool {
        if self.policy == Policy::Fixed {
            return true;
        }
        let here = bucket(limits.context);
        let Some(plain) = self.target.measured(here, 1) else { return false };
        let text = (0..self.arms.len()).filter(|&a| self.arms[a].source == Source::Ngram);
        let mut awake = text.filter(|&a| match self.arms[a].mode {
            Mode::Off(until) => self.steps >= until,
            Mode::Trial(..) | Mode::On => true,
        });
        awake.any(|a| {
            let offer = self.offer(a, here, limits, plain);
            offer.rate() * plain > 1.0 && self.affords(&offer, plain)
        })
    }

    /// Sources whose break is over are looked at again.
    fn wake(&mut self) {
        let steps = self.steps;
        for arm in self.arms.iter_mut().filter(|arm| matches!(arm.mode, Mode::Off(until) if steps >= until)) {
            arm.shares.iter_mut().for_each(Share::doubt);
            (arm.mode, arm.again, arm.rounds, arm.lost) = (Mode::Trial(0, 0), true, 0, 0);
        }
    }

    /// The best offer of a source that is not switched off; every source is tried, however good the others are.
    fn best(&self, here: Bucket, limits: &Limits, plain: f64) -> Option<Offer> {
        let live = |a: &usize| {
            let arm = &self.arms[*a];
            !matches!(arm.mode, Mode::Off(_)) && Self::most(arm, limits) > 0
        };
        let offers = (0..self.arms.len()).filter(live).map(|a| self.offer(a, here, limits, plain));
        let (on, trials): (Vec<Offer>, Vec<Offer>) =
            offers.partition(|offer| self.arms[offer.arm].mode == Mode::On);
        let tried = trials.into_iter().find(|offer| self.affords(offer, plain));
        // One whose purse is empty does not stand in the way of one that can pay.
        let pays = |offer: &Offer| self.affords(offer, plain);
        let better = |a: &Offer, b: &Offer| pays(a).cmp(&pays(b)).then(a.rate().total_cmp(&b.rate()));
        tried.or_else(|| on.into_iter().max_by(better))
    }

    /// Whether the purse pays for a round of which nothing is accepted.
    fn affords(&self, offer: &Offer, plain: f64) -> bool {
        self.purse(offer.arm, plain) > self.risk(offer, plain)
    }

    /// What is lost if nothing of a round is accepted and plain steps follow.
    fn risk(&self, offer: &Offer, plain: f64) -> f64 {
        offer.seconds + self.idle.1.seconds - plain
    }

    /// What a source may lose. Each has its own, so that one that is dear and of no use takes nothing from one that is cheap.
    fn purse(&self, arm: usize, plain: f64) -> f64 {
        let arms = self.arms.len() as f64;
        self.arms[arm].balance + (STAKE * self.seconds + (1.0 + arms) * CREDIT * plain) / arms
    }

    /// Plain steps until a source is looked at again and the purse is full enough for that: a choice in between would cost
    /// a wait and change nothing.
    fn plain(&self, limits: &Limits, plain: f64) -> Choice {
        let here = bucket(limits.context);
        let until = (0..self.arms.len()).filter_map(|a| {
            let awake = match self.arms[a].mode {
                Mode::Off(until) => until.saturating_sub(self.steps) as f64,
                // What the text offers interrupts.
                _ if Self::most(&self.arms[a], limits) == 0 => return None,
                _ => 0.0,
            };
            let risk = self.risk(&self.offer(a, here, limits, plain), plain);
            // These steps too begin with a wait.
            let purse = self.purse(a, plain) - self.idle.1.seconds;
            let income = STAKE * plain / self.arms.len() as f64;
            Some(awake.max(((risk - purse) / income).ceil()))
        });
        let steps = until.fold(BREAKS.1 as f64, f64::min).max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is from 1 to the longest break"
        )]
        let steps = steps as usize;
        Choice::Plain(steps.min(limits.room))
    }

    fn switch_off(&mut self, arm: usize) {
        let steps = self.steps;
        let arm = &mut self.arms[arm];
        if arm.rounds >= SETTLED {
            arm.back_off = BREAKS.0;
        }
        arm.mode = Mode::Off(steps + arm.back_off);
        arm.back_off = (arm.back_off * 2).min(BREAKS.1);
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
        let chain = arm.source == Source::Mtp;
        let known = arm.shares.iter().take_while(|share| share.samples > 0).count();
        let longest = match arm.mode {
            // A trial after a break is short, and so is what nobody knows the price of.
            _ if arm.again && arm.rounds < TRIAL => SHORT.1,
            _ if chain && arm.times.is_empty() => SHORT.0.min(self.first),
            Mode::Trial(..) => self.first,
            // One length further than anything that is known.
            _ => LENGTHS.into_iter().find(|&length| length > known.max(self.first)).unwrap_or(arm.most),
        };
        let most = Self::most(arm, limits).min(longest).max(1);
        let (mut reached, mut tokens, mut before) = (1.0, 1.0, None);
        let mut best: Option<Offer> = None;
        for drafts in 1..=most {
            let accepted = arm.shares[drafts - 1].expected(before);
            before = Some(accepted);
            reached *= accepted;
            tokens += reached;
            if drafts != most && !LENGTHS.contains(&drafts) {
                continue;
            }
            let drafting = arm.times.expected(here, drafts, chain);
            let seconds = drafting + self.target.expected(here, drafts + 1, plain) + self.idle.0.seconds;
            let offer = Offer { arm: a, drafts, tokens, seconds };
            if best.is_none_or(|best| offer.rate() > best.rate()) {
                best = Some(offer);
            }
        }
        best.unwrap_or(Offer { arm: a, drafts: 1, tokens: 1.0, seconds: plain })
    }

    /// Learns from a round or from plain steps; returns the time that was saved against plain steps, if that is known.
    pub fn observe(&mut self, sample: &Sample) -> f64 {
        let here = bucket(sample.context);
        self.steps += sample.steps;
        let Some((source, drafts, accepted)) = sample.drafted else {
            return self.observe_plain(sample, here);
        };
        let plain = self.target.measured(here, 1);
        // Who reads the text may take its time: more than a step is something else.
        let idle = sample.idle_seconds.clamp(0.0, plain.unwrap_or(0.0));
        let seconds = sample.draft_seconds + sample.verify_seconds + idle;
        let Some(a) = self.arms.iter().position(|arm| arm.source == source) else { return 0.0 };
        self.rounds.0 += 1;
        self.last = Some(a);
        let arm = &mut self.arms[a];
        arm.rounds += 1;
        let places = arm.shares.iter_mut().take((accepted + 1).min(drafts));
        places.enumerate().for_each(|(at, share)| share.add(at < accepted));
        arm.lost = if accepted == 0 { arm.lost + 1 } else { 0 };
        if let Mode::Trial(won, lost) = &mut arm.mode {
            *(if accepted == 0 { lost } else { won }) += 1;
        }
        let mut saved = 0.0;
        if !sample.warming {
            self.seconds += seconds;
            self.idle.0.add(idle);
            if drafts > 0 && !sample.caught_up {
                arm.times.add(here, drafts, sample.draft_seconds);
            }
            if drafts > 0 {
                self.target.add(here, drafts + 1, sample.verify_seconds);
            }
            if let Some(plain) = plain {
                saved = plain * (accepted + 1) as f64 - seconds;
                self.pay(a, saved, plain);
            }
        }
        self.judge(a, sample);
        saved
    }

    /// Ends a trial, and gives a source a break that has no drafts, or none that is any good.
    fn judge(&mut self, a: usize, sample: &Sample) {
        let here = bucket(sample.context);
        let Some((_, drafts, _)) = sample.drafted else { return };
        let arm = &self.arms[a];
        let over = match arm.mode {
            Mode::Trial(won, lost) => won + lost >= TRIAL || lost >= won + if arm.again { 1 } else { 2 },
            Mode::On | Mode::Off(_) => false,
        };
        if self.policy == Policy::Auto && (drafts == 0 || arm.lost >= LOST) {
            self.switch_off(a);
        } else if over {
            let limits = Limits { context: sample.context, room: usize::MAX, repeats: drafts };
            let wins = self.target.measured(here, 1).is_none_or(|plain| {
                let offer = self.offer(a, here, &limits, plain);
                offer.rate() * plain > 1.0
            });
            if wins {
                self.arms[a].mode = Mode::On;
            } else {
                self.switch_off(a);
            }
        }
    }

    fn observe_plain(&mut self, sample: &Sample, here: Bucket) -> f64 {
        let after_rounds = std::mem::take(&mut self.rounds.0) > 0;
        if sample.warming {
            return 0.0;
        }
        self.seconds += sample.verify_seconds;
        let steps = sample.steps.max(1) as f64;
        let whole = sample.verify_seconds / steps;
        // Steps that follow one another tell more than one alone, which waits for the host.
        if sample.each.is_some() || !self.target.knows(here, 1) {
            self.target.add(here, 1, sample.each.unwrap_or(whole));
        }
        let Some(plain) = self.target.measured(here, 1) else { return 0.0 };
        // What the device waited for this choice: more than a step is something else.
        let waited = (sample.verify_seconds - steps * sample.each.unwrap_or(plain)).clamp(0.0, plain);
        if after_rounds {
            self.idle.1.add(waited);
        }
        if let Some(last) = self.last {
            self.pay(last, -waited, plain);
        }
        -waited
    }

    fn pay(&mut self, arm: usize, saved: f64, plain: f64) {
        let balance = &mut self.arms[arm].balance;
        *balance = (*balance + saved).min(4.0 * CREDIT * plain);
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
        self.arms.iter().any(|arm| arm.source == source && matches!(arm.mode, Mode::Off(_)))
    }

    /// Measured time of a step of so many rows at a context, in seconds.
    #[must_use]
    pub fn step_seconds(&self, context: usize, rows: usize) -> Option<f64> {
        self.target.measured(bucket(context), rows)
    }
}
