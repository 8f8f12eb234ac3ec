//! Counts for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::serve::scheduler::counters::{Counters, Histogram, SECONDS};
use crate::serve::scheduler::{Phase, Status};

/// Counts over the life of the server. What the engine counts is in [`Counters`].
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    active: AtomicI64,
    reasoning: AtomicU64,
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
    pub(crate) fn end(&self, route: &str, status: u16) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// An answer is complete, with so many tokens of thoughts.
    pub(crate) fn reasoning(&self, tokens: usize) {
        self.reasoning.fetch_add(tokens as u64, Ordering::Relaxed);
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
        let reasoning = self.reasoning.load(Ordering::Relaxed);
        page.one("gemma4_reasoning_tokens_total", "counter", "Tokens generated as thoughts.", reasoning);
    }
}

/// Writes what the engine is doing and has done.
pub(crate) fn write_status(page: &mut Page, status: &Status) {
    let phases = [
        ("loading", Phase::Loading),
        ("ready", Phase::Ready),
        ("parked", Phase::Parked),
        ("draining", Phase::Draining),
        ("stopped", Phase::Stopped),
    ];
    let phases = phases.map(|(name, phase)| (format!("phase=\"{name}\""), u8::from(status.phase == phase)));
    page.many("gemma4_phase", "gauge", "1 for what the engine is doing.", phases);
    let (global, local) = (&status.pages.global, &status.pages.local);
    for (name, help, value) in [
        ("gemma4_running", "Requests that are being answered.", status.running),
        ("gemma4_running_limit", "Most requests that are answered at once.", status.parallel),
        ("gemma4_queued", "Requests that wait.", status.queued),
        ("gemma4_queued_limit", "Most requests that may wait.", status.queue),
        ("gemma4_context_tokens", "Most tokens of prompt and answer.", status.context),
        ("gemma4_kept_places", "Places on the device that prompts can go on from.", status.kept),
        ("gemma4_sequences", "Sequences in the cache.", status.pages.sequences),
        ("gemma4_snapshots", "Windows of local layers that are kept.", status.pages.snapshots),
    ] {
        page.one(name, "gauge", help, value);
    }
    let groups = [("global", global), ("local", local)];
    let pages = groups.iter().flat_map(|(name, group)| {
        [("used", group.used), ("free", group.free)]
            .map(|(state, count)| (format!("layers=\"{name}\",state=\"{state}\""), count))
    });
    page.many("gemma4_kv_pages", "gauge", "Pages of the cache on the device.", pages);
    let vaults = [("memory", &status.memory), ("disk", &status.disk)];
    let bytes = vaults.map(|(name, vault)| (format!("place=\"{name}\""), vault.bytes));
    page.many("gemma4_kept_bytes", "gauge", "Conversations that have left the device, bytes.", bytes);
    let kept = vaults.map(|(name, vault)| (format!("place=\"{name}\""), vault.conversations));
    page.many("gemma4_kept_conversations", "gauge", "Conversations that have left the device.", kept);
    write_counters(page, &status.counters);
}

/// Writes what the system says of this process, where there is a `/proc`.
pub(crate) fn write_process(page: &mut Page) {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let number = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    if let Some(kib) = number("VmRSS") {
        page.one("process_resident_memory_bytes", "gauge", "Resident memory.", kib * 1024);
    }
    if let Some(threads) = number("Threads") {
        page.one("process_threads", "gauge", "Threads.", threads);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.one("process_open_fds", "gauge", "Open files and connections.", files.count());
    }
}

fn write_counters(page: &mut Page, counters: &Counters) {
    let c = counters;
    for (name, help, value) in [
        ("gemma4_submitted_total", "Requests that the engine took.", c.submitted),
        ("gemma4_busy_total", "Requests that were refused because the queue was full.", c.busy),
        ("gemma4_prompt_tokens_total", "Tokens of prompts.", c.prompt_tokens),
        ("gemma4_reused_tokens_total", "Tokens of prompts that came from the cache.", c.reused_tokens),
        ("gemma4_computed_tokens_total", "Tokens of prompts that were computed.", c.computed_tokens),
        ("gemma4_generated_tokens_total", "Tokens generated.", c.generated_tokens),
        ("gemma4_cache_hits_total", "Requests whose prompt was in the cache in part.", c.hits),
        ("gemma4_cache_misses_total", "Requests whose prompt was not.", c.misses),
        ("gemma4_restored_total", "Requests that went on from main memory or disk.", c.restored),
        ("gemma4_evicted_total", "Conversations that had to leave the device.", c.evicted),
        ("gemma4_paused_total", "Times that a request was put aside.", c.paused),
        ("gemma4_decode_steps_total", "Steps that decoded.", c.decode_steps),
        ("gemma4_decode_rows_total", "Tokens in steps that decoded.", c.decode_rows),
        ("gemma4_prefill_steps_total", "Steps that computed prompts.", c.prefill_steps),
    ] {
        page.one(name, "counter", help, value);
    }
    let e = &c.ended;
    let ended = [
        ("stop", e.stop),
        ("length", e.length),
        ("constraint", e.constraint),
        ("cancelled", e.cancelled),
        ("deadline", e.deadline),
        ("failed", e.failed),
    ];
    let ended = ended.map(|(why, count)| (format!("reason=\"{why}\""), count));
    page.many("gemma4_ended_total", "counter", "Requests by how they ended.", ended);
    for (name, help, counts) in [
        (
            "gemma4_drafted_tokens_total",
            "Tokens that a drafter proposed, by their place in the draft.",
            &c.drafted,
        ),
        (
            "gemma4_accepted_tokens_total",
            "Drafted tokens that were kept, by their place in the draft.",
            &c.accepted,
        ),
    ] {
        let counts = counts.iter().enumerate().map(|(place, count)| (format!("position=\"{place}\""), count));
        page.many(name, "counter", help, counts);
    }
    for (name, help, histogram) in [
        ("gemma4_queue_seconds", "From submission to leaving the queue.", &c.queue_time),
        ("gemma4_first_token_seconds", "From submission to the first token.", &c.first_token),
        ("gemma4_between_tokens_seconds", "Between two tokens of an answer.", &c.between_tokens),
        ("gemma4_request_seconds", "From submission to the end.", &c.total),
    ] {
        write_histogram(page, name, help, histogram);
    }
}

fn write_histogram(page: &mut Page, name: &str, help: &str, histogram: &Histogram) {
    page.head(name, "histogram", help);
    let mut total = 0;
    for (place, count) in histogram.buckets.iter().enumerate() {
        total += count;
        let edge = SECONDS.get(place).map_or_else(|| "+Inf".to_owned(), f64::to_string);
        page.line(&format!("{name}_bucket{{le=\"{edge}\"}} {total}"));
    }
    page.line(&format!("{name}_sum {}", histogram.sum));
    page.line(&format!("{name}_count {total}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.begin();
        metrics.begin();
        metrics.end("/v1/models", 200);
        let mut page = Page::default();
        metrics.write(&mut page);
        let mut counters = Counters { drafted: vec![7, 3], ..Counters::default() };
        counters.total.buckets[1] = 2;
        counters.total.sum = 0.03;
        write_counters(&mut page, &counters);
        let text = page.text();
        for line in [
            "# TYPE gemma4_requests_total counter",
            "gemma4_requests_total{route=\"/v1/models\",code=\"200\"} 1",
            "gemma4_requests_active 1",
            "gemma4_drafted_tokens_total{position=\"1\"} 3",
            "gemma4_request_seconds_bucket{le=\"0.001\"} 0",
            "gemma4_request_seconds_bucket{le=\"0.0025\"} 2",
            "gemma4_request_seconds_bucket{le=\"+Inf\"} 2",
            "gemma4_request_seconds_sum 0.03",
            "gemma4_request_seconds_count 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let bad = text.lines().find(|line| !line.starts_with('#') && line.split(' ').count() != 2);
        assert_eq!(bad, None);
    }
}
