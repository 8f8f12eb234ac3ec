//! What is known of times and of acceptance.

use std::collections::BTreeMap;

/// A running mean of times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Time {
    pub(super) seconds: f64,
    samples: u32,
}

impl Time {
    /// Of the first samples the least counts, for whatever disturbs a measurement makes it longer; later ones count a
    /// third, and move it by at most a quarter.
    pub(super) fn add(&mut self, seconds: f64) {
        if self.samples == 0 {
            self.seconds = seconds;
        } else if self.samples < 3 {
            self.seconds = self.seconds.min(seconds);
        } else {
            let bounded = seconds.clamp(0.75 * self.seconds, 1.25 * self.seconds);
            self.seconds += 0.3 * (bounded - self.seconds);
        }
        self.samples += 1;
    }
}

/// A running share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    pub(super) share: f64,
    pub(super) samples: u32,
}

/// What acceptance is taken for before anything is known.
pub(super) const HOPE: f64 = 0.7;

/// Samples after which a place's own acceptance counts, and not that of the place before.
const TRUSTED: u32 = 8;

impl Default for Share {
    fn default() -> Self {
        Self { share: HOPE, samples: 0 }
    }
}

impl Share {
    /// The hope counts as one sample; later a sample counts a twelfth.
    pub(super) fn add(&mut self, hit: bool) {
        let weight = (1.0 / f64::from(self.samples + 2)).max(0.08);
        self.share += weight * (if hit { 1.0 } else { 0.0 } - self.share);
        self.samples += 1;
    }

    /// What was learnt may be out of date: it counts as much as the hope, and both as one sample.
    pub(super) fn doubt(&mut self) {
        *self = Self { share: 0.5 * (self.share.min(HOPE) + HOPE), samples: 0 };
    }

    /// What to expect of a place that is reached if the place before is expected to have `before`.
    pub(super) fn expected(&self, before: Option<f64>) -> f64 {
        match before {
            // The place before knows better, unless this one has seen worse.
            Some(before) if self.samples < TRUSTED => {
                let weight = f64::from(self.samples) / f64::from(TRUSTED);
                before.min(weight * self.share + (1.0 - weight) * before)
            }
            _ => self.share,
        }
    }
}

/// Contexts by their size in powers of two: times grow with them.
pub(super) type Bucket = u32;

pub(super) fn bucket(context: usize) -> Bucket {
    (context / 1024 + 1).ilog2()
}

/// What another row of a verifying step is taken to cost before it was measured, in plain steps.
const ROW: f64 = 0.03;

/// Times of steps, by context and rows; one row is a plain step.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps(BTreeMap<(Bucket, usize), Time>);

impl Steps {
    pub(super) fn add(&mut self, here: Bucket, rows: usize, seconds: f64) {
        self.0.entry((here, rows)).or_default().add(seconds);
    }

    /// Whether steps of so many rows were measured at this very context.
    pub(super) fn knows(&self, here: Bucket, rows: usize) -> bool {
        self.0.contains_key(&(here, rows))
    }

    /// The measured time of so many rows at this context, or at the largest below it that was measured.
    pub(super) fn measured(&self, here: Bucket, rows: usize) -> Option<f64> {
        (0..=here).rev().find_map(|bucket| self.0.get(&(bucket, rows))).map(|time| time.seconds)
    }

    /// The time of so many rows as far as it can be told, where a plain step takes `plain`.
    pub(super) fn expected(&self, here: Bucket, rows: usize, plain: f64) -> f64 {
        if let Some(seconds) = self.measured(here, rows) {
            return seconds;
        }
        let around = |bucket: Bucket| {
            let below = self.0.range((bucket, 0)..(bucket, rows)).next_back();
            let above = self.0.range((bucket, rows + 1)..=(bucket, usize::MAX)).next();
            let of = |((_, rows), time): (&(Bucket, usize), &Time)| (*rows as f64, time.seconds);
            Some((below.map(of)?, above.map(of)))
        };
        match (0..=here).rev().find_map(around) {
            Some(((r0, t0), Some((r1, t1)))) => t0 + (t1 - t0) * (rows as f64 - r0) / (r1 - r0),
            Some(((r0, t0), None)) => t0 + ROW * plain * (rows as f64 - r0),
            None => plain * (1.0 + ROW * (rows as f64 - 1.0)),
        }
    }
}

/// Times of drafting, by context and number of drafts.
#[derive(Clone, Debug, Default)]
pub(super) struct Drafting(BTreeMap<(Bucket, usize), Time>);

impl Drafting {
    pub(super) fn add(&mut self, here: Bucket, drafts: usize, seconds: f64) {
        self.0.entry((here, drafts)).or_default().add(seconds);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From the nearest number of drafts that was measured; 0 if there is none. A chain takes as many steps as it has
    /// tokens, a block is one step.
    pub(super) fn expected(&self, here: Bucket, drafts: usize, chain: bool) -> f64 {
        let near = |bucket: Bucket| {
            let all = self.0.range((bucket, 0)..=(bucket, usize::MAX));
            all.min_by_key(|((_, count), _)| count.abs_diff(drafts))
                .map(|((_, count), time)| (*count, time.seconds))
        };
        let Some((count, seconds)) = (0..=here).rev().find_map(near) else { return 0.0 };
        if chain { seconds * drafts as f64 / count.max(1) as f64 } else { seconds }
    }
}
