//! What has happened so far, for `/metrics`.

use std::time::Duration;

use crate::serve::job::{Finish, Usage};

/// Upper bounds of latencies, in seconds; the last bucket has none.
pub(crate) const SECONDS: [f64; 17] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// How often a time fell below each of [`SECONDS`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    /// Times in each bucket alone, the one without a bound last.
    pub(crate) buckets: [u64; SECONDS.len() + 1],
    /// Sum of all times, in seconds.
    pub(crate) sum: f64,
}

impl Histogram {
    pub(super) fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = SECONDS.iter().position(|&bound| seconds <= bound).unwrap_or(SECONDS.len());
        self.buckets[at] += 1;
        self.sum += seconds;
    }

    /// How many times there were.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Requests by how they ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) stop: u64,
    pub(crate) length: u64,
    pub(crate) constraint: u64,
    pub(crate) cancelled: u64,
    pub(crate) deadline: u64,
    pub(crate) failed: u64,
}

/// Totals since the program started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// Requests that were taken.
    pub(crate) submitted: u64,
    /// Requests that were refused because the queue was full.
    pub(crate) busy: u64,
    /// Requests that ended.
    pub(crate) ended: Ended,
    /// Tokens of prompts of ended requests.
    pub(crate) prompt_tokens: u64,
    /// Those of them that came from the cache.
    pub(crate) reused_tokens: u64,
    /// Prompt tokens that were computed.
    pub(crate) computed_tokens: u64,
    /// Tokens that were generated.
    pub(crate) generated_tokens: u64,
    /// Requests that reused more than one token, and those that did not.
    pub(crate) hits: u64,
    /// See above.
    pub(crate) misses: u64,
    /// Requests that went on from main memory or disk.
    pub(crate) restored: u64,
    /// Kept conversations that had to leave the device.
    pub(crate) evicted: u64,
    /// Times that a request was put aside, because pages were short or its client was slow.
    pub(crate) paused: u64,
    /// Steps that decoded, and rows in them.
    pub(crate) decode_steps: u64,
    /// See above.
    pub(crate) decode_rows: u64,
    /// Steps that computed prompts.
    pub(crate) prefill_steps: u64,
    /// Drafted tokens by their place in the draft; empty without a drafter.
    pub(crate) drafted: Vec<u64>,
    /// Those of them that were kept.
    pub(crate) accepted: Vec<u64>,
    /// From submission to leaving the queue.
    pub(crate) queue_time: Histogram,
    /// From submission to the first token.
    pub(crate) first_token: Histogram,
    /// Between two tokens of a request.
    pub(crate) between_tokens: Histogram,
    /// From submission to the end.
    pub(crate) total: Histogram,
}

impl Counters {
    /// Counts the end of a request.
    pub(super) fn end(&mut self, reason: &Finish, usage: &Usage, total: Duration) {
        let ended = &mut self.ended;
        *match reason {
            Finish::Stop => &mut ended.stop,
            Finish::Length => &mut ended.length,
            Finish::Constraint => &mut ended.constraint,
            Finish::Cancelled => &mut ended.cancelled,
            Finish::Deadline => &mut ended.deadline,
            Finish::Failed(_) => &mut ended.failed,
        } += 1;
        self.prompt_tokens += usage.prompt as u64;
        self.reused_tokens += usage.reused as u64;
        self.total.add(total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_the_bucket_of_the_next_bound() {
        let mut histogram = Histogram::default();
        for ms in [0, 1, 2, 100, 3_600_000] {
            histogram.add(Duration::from_millis(ms));
        }
        assert_eq!(histogram.count(), 5);
        assert_eq!(histogram.buckets[..3], [2, 1, 0]);
        assert_eq!(histogram.buckets[SECONDS.len()], 1);
        assert!((histogram.sum - 3600.103).abs() < 1e-9);
    }
}
