//! One line a request on stderr, and what metrics count. Never a word of a prompt or an answer.

use std::fmt::Write as _;
use std::io::Write;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use clap::ValueEnum;
use hyper::body::{Frame, SizeHint};
use serde_json::{Map, Value, json};

use super::metrics::Metrics;
use crate::serve::dialogue::{Ended, Finish};

/// How requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for a person
    #[default]
    Text,
    /// A JSON object a line
    Json,
    /// Nothing
    Off,
}

/// What is known of a request when its response has ended.
#[derive(Clone, Debug, Default)]
struct Facts {
    status: u16,
    prompt: usize,
    reused: usize,
    generated: usize,
    drafted: usize,
    accepted: usize,
    queue: Duration,
    prefill: Duration,
    decode: Duration,
    first: Option<Duration>,
    finish: Option<&'static str>,
    /// A word for what went wrong.
    error: Option<String>,
}

/// A request on its way. The line is written when the last clone is dropped: when all of the response was sent, or
/// the client has left.
#[derive(Clone, Debug)]
pub(crate) struct Record(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    method: String,
    route: String,
    peer: String,
    start: Instant,
    log: LogFormat,
    metrics: Arc<Metrics>,
    facts: Mutex<Facts>,
}

impl Record {
    /// A request begins.
    pub(crate) fn new(method: &str, path: &str, peer: String, log: LogFormat, metrics: Arc<Metrics>) -> Self {
        metrics.begin();
        Self(Arc::new(Inner {
            id: super::ids::fresh("req_"),
            method: method.to_owned(),
            route: route(path),
            peer,
            start: Instant::now(),
            log,
            metrics,
            facts: Mutex::default(),
        }))
    }

    /// Its name in logs and in `x-request-id`.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.0.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The response's status is known.
    pub(crate) fn status(&self, status: u16) {
        self.change(|facts| facts.status = status);
    }

    /// The first token is there.
    pub(crate) fn first_token(&self) {
        let time = self.0.start.elapsed();
        self.change(|facts| {
            facts.first.get_or_insert(time);
        });
    }

    /// An answer is complete.
    pub(crate) fn ended(&self, ended: &Ended) {
        let usage = &ended.usage;
        self.change(|facts| {
            facts.prompt += usage.prompt;
            facts.reused += usage.reused;
            facts.generated += usage.generated;
            facts.drafted += usage.drafted;
            facts.accepted += usage.accepted;
            facts.queue = facts.queue.max(usage.queue_time);
            facts.prefill = facts.prefill.max(usage.prefill_time);
            facts.decode = facts.decode.max(usage.decode_time);
            facts.finish = Some(match ended.finish {
                Finish::StopString(_) => "stop_string",
                _ => ended.finish.word(),
            });
        });
    }

    /// Something went wrong; `what` holds no text of the request.
    pub(crate) fn failed(&self, what: impl Into<String>) {
        let what = what.into();
        self.change(|facts| facts.error = Some(what));
    }
}

/// A body that keeps its request's record until its last byte is sent, or nobody wants it any more.
#[derive(Debug)]
pub(crate) struct Recorded {
    body: Body,
    _record: Record,
}

impl Recorded {
    /// `body`, with the record of its request.
    pub(crate) fn body(body: Body, record: Record) -> Body {
        Body::new(Self { body, _record: record })
    }
}

impl hyper::body::Body for Recorded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A path as a metric's label: one of those that exist, so that nobody can fill the memory with others.
fn route(path: &str) -> String {
    const ROUTES: [&str; 14] = [
        "/",
        "/health",
        "/metrics",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/favicon.ico",
    ];
    let nested = ["/v1/models/", "/v1/responses/"].into_iter().find(|prefix| path.starts_with(prefix));
    match (ROUTES.contains(&path), nested) {
        (true, _) => path.to_owned(),
        (_, Some(prefix)) => format!("{prefix}{{id}}"),
        _ => "other".to_owned(),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let facts = std::mem::take(self.facts.get_mut().unwrap_or_else(PoisonError::into_inner));
        let seconds = self.start.elapsed();
        self.metrics.end(&self.route, facts.status);
        let line = match self.log {
            LogFormat::Off => return,
            LogFormat::Json => self.json(&facts, seconds).to_string(),
            LogFormat::Text => self.text(&facts, seconds),
        };
        // Whoever closed stderr does not want to know.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

impl Inner {
    fn text(&self, facts: &Facts, seconds: Duration) -> String {
        let status = if facts.status == 0 { "left".to_owned() } else { facts.status.to_string() };
        let mut line =
            format!("{} {} {} {status} {} ms", timestamp(), self.method, self.route, seconds.as_millis());
        if facts.prompt > 0 {
            let _ = write!(
                line,
                "  prompt {} reused {} new {}  {:.1} tok/s",
                facts.prompt,
                facts.reused,
                facts.generated,
                rate(facts)
            );
        }
        if let Some(finish) = facts.finish {
            let _ = write!(line, "  {finish}");
        }
        if let Some(error) = &facts.error {
            let _ = write!(line, "  {error}");
        }
        line + &format!("  {} {}", self.peer, self.id)
    }

    fn json(&self, facts: &Facts, seconds: Duration) -> Value {
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let mut line = Map::new();
        let mut put = |key: &str, value: Value| {
            line.insert(key.to_owned(), value);
        };
        put("time", timestamp().into());
        put("id", self.id.clone().into());
        put("peer", self.peer.clone().into());
        put("method", self.method.clone().into());
        put("route", self.route.clone().into());
        put("status", if facts.status == 0 { Value::Null } else { facts.status.into() });
        put("ms", ms(seconds).into());
        if facts.prompt > 0 {
            put("prompt_tokens", facts.prompt.into());
            put("reused_tokens", facts.reused.into());
            put("generated_tokens", facts.generated.into());
            put("queue_ms", ms(facts.queue).into());
            put("prefill_ms", ms(facts.prefill).into());
            put("decode_ms", ms(facts.decode).into());
            put("drafted_tokens", facts.drafted.into());
            put("accepted_tokens", facts.accepted.into());
        }
        put("first_token_ms", facts.first.map_or(Value::Null, |time| ms(time).into()));
        put("finish", json!(facts.finish));
        put("error", json!(facts.error));
        Value::Object(line)
    }
}

/// Tokens a second after the first.
fn rate(facts: &Facts) -> f64 {
    if facts.generated < 2 {
        0.0
    } else {
        (facts.generated - 1) as f64 / facts.decode.as_secs_f64().max(1e-9)
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The time in UTC, as RFC 3339 writes it.
fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(now.as_secs()) + &format!(".{:03}Z", now.subsec_millis())
}

/// Seconds since 1970 as a date and a time of day.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, counted from year 0: leap days come last, and eras of 400 years are equal.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (1_764_188_462, "2025-11-26T20:21:02"),
        ] {
            assert_eq!(rfc3339(seconds), date);
        }
    }

    #[test]
    fn labels_are_paths_that_exist() {
        for (path, label) in [
            ("/v1/models", "/v1/models"),
            ("/v1/models/x", "/v1/models/{id}"),
            ("/v1/responses/resp_1", "/v1/responses/{id}"),
            ("/secret?x=1", "other"),
            ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ] {
            assert_eq!(route(path), label);
        }
    }

    #[test]
    fn a_line_has_the_counts_and_no_text() {
        let record =
            Record::new("POST", "/v1/completions", "127.0.0.1".to_owned(), LogFormat::Off, Arc::default());
        record.status(200);
        let facts = Facts {
            status: 200,
            prompt: 20,
            reused: 16,
            generated: 11,
            decode: Duration::from_secs(2),
            finish: Some("stop"),
            ..Facts::default()
        };
        let line = record.0.text(&facts, Duration::from_millis(2500));
        let says =
            " POST /v1/completions 200 2500 ms  prompt 20 reused 16 new 11  5.0 tok/s  stop  127.0.0.1 req_";
        assert!(line.contains(says), "{line}");
        let line = record.0.json(&facts, Duration::from_millis(2500));
        assert_eq!(
            (&line["generated_tokens"], &line["ms"], &line["finish"]),
            (&json!(11), &json!(2500.0), &json!("stop"))
        );
    }
}
