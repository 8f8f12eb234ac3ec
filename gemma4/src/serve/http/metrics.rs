//! Counts for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::serve::dialogue::Ended;

/// Upper edges of histograms, seconds.
const EDGES: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Counts over the life of the server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    active: AtomicI64,
    prompt: AtomicU64,
    reused: AtomicU64,
    generated: AtomicU64,
    reasoning: AtomicU64,
    drafted: AtomicU64,
    accepted: AtomicU64,
    seconds: Histogram,
    first_token: Histogram,
    queue: Histogram,
    prefill: Histogram,
    token: Histogram,
}

/// Counts of durations.
#[derive(Debug, Default)]
struct Histogram {
    /// The last is beyond all edges.
    counts: [AtomicU64; EDGES.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let place = EDGES.iter().position(|&edge| time.as_secs_f64() <= edge).unwrap_or(EDGES.len());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, out: &mut Page, name: &str, help: &str) {
        out.head(name, "histogram", help);
        let mut total = 0;
        for (place, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let edge = EDGES.get(place).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            out.line(&format!("{name}_bucket{{le=\"{edge}\"}} {total}"));
        }
        let sum = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        out.line(&format!("{name}_sum {sum}"));
        out.line(&format!("{name}_count {total}"));
    }
}

/// A page in Prometheus's text format, version 0.0.4.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A metric of one value.
    pub(crate) fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.line(&format!("{name} {value}"));
    }

    /// A metric of several values; labels are our own words, which need no escapes.
    pub(crate) fn many<V: std::fmt::Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(name, kind, help);
        for (labels, value) in values {
            self.line(&format!("{name}{{{labels}}} {value}"));
        }
    }

    /// All of it.
    pub(crate) fn text(self) -> String {
        self.0
    }
}

impl Metrics {
    /// A request came.
    pub(crate) fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ended; status 0 is a client that left before there was one.
    pub(crate) fn end(&self, route: &str, status: u16, time: Duration) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.seconds.add(time);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// The first token came after so long.
    pub(crate) fn first_token(&self, time: Duration) {
        self.first_token.add(time);
    }

    /// An answer is complete.
    pub(crate) fn answer(&self, ended: &Ended) {
        let usage = &ended.usage;
        for (counter, count) in [
            (&self.prompt, usage.prompt),
            (&self.reused, usage.reused),
            (&self.generated, usage.generated),
            (&self.reasoning, ended.reasoning),
            (&self.drafted, usage.drafted),
            (&self.accepted, usage.accepted),
        ] {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
        self.queue.add(usage.queue_time);
        self.prefill.add(usage.prefill_time);
        if let Some(steps) = u32::try_from(usage.generated).ok().and_then(|n| n.checked_sub(1)).filter(|&n| n > 0) {
            self.token.add(usage.decode_time / steps);
        }
    }

    /// Writes everything that this counts.
    pub(crate) fn write(&self, page: &mut Page) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let labelled = requests.into_iter().map(|((route, status), count)| {
            let code = if status == 0 { "left".to_owned() } else { status.to_string() };
            (format!("route=\"{route}\",code=\"{code}\""), count)
        });
        page.many("gemma4_requests_total", "counter", "Requests by route and status.", labelled);
        let active = self.active.load(Ordering::Relaxed);
        page.one("gemma4_requests_active", "gauge", "Requests whose response has not ended.", active);
        for (name, help, counter) in [
            ("gemma4_prompt_tokens_total", "Tokens of prompts.", &self.prompt),
            ("gemma4_reused_tokens_total", "Tokens of prompts that came from the cache.", &self.reused),
            ("gemma4_generated_tokens_total", "Tokens generated.", &self.generated),
            ("gemma4_reasoning_tokens_total", "Tokens generated as thoughts.", &self.reasoning),
            ("gemma4_drafted_tokens_total", "Tokens that a drafter proposed.", &self.drafted),
            ("gemma4_accepted_tokens_total", "Drafted tokens that were kept.", &self.accepted),
        ] {
            page.one(name, "counter", help, counter.load(Ordering::Relaxed));
        }
        for (name, help, histogram) in [
            ("gemma4_request_seconds", "From the request to the end of its response.", &self.seconds),
            ("gemma4_first_token_seconds", "From the request to the first token.", &self.first_token),
            ("gemma4_queue_seconds", "Waiting for a place among the running requests.", &self.queue),
            ("gemma4_prefill_seconds", "From leaving the queue to the first token.", &self.prefill),
            ("gemma4_token_seconds", "Between two tokens of an answer, its mean.", &self.token),
        ] {
            histogram.write(page, name, help);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.begin();
        metrics.begin();
        metrics.end("/v1/models", 200, Duration::from_millis(30));
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.text();
        for line in [
            "# TYPE gemma4_requests_total counter",
            "gemma4_requests_total{route=\"/v1/models\",code=\"200\"} 1",
            "gemma4_requests_active 1",
            "gemma4_request_seconds_bucket{le=\"0.025\"} 0",
            "gemma4_request_seconds_bucket{le=\"0.05\"} 1",
            "gemma4_request_seconds_bucket{le=\"+Inf\"} 1",
            "gemma4_request_seconds_sum 0.03",
            "gemma4_request_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let bad = text.lines().find(|line| !line.starts_with('#') && line.split(' ').count() != 2);
        assert_eq!(bad, None);
    }
}
