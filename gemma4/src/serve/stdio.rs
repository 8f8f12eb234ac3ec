//! `gemma4 serve --stdio`: newline-delimited JSON, for programs that embed the engine.
//!
//! Every line of stdin is one request, an object with `op` and mostly an `id`, a whole number or a short text, that all
//! lines about it carry. Every line of stdout is one object with `event`. The first line is `ready`, once the model is
//! loaded. When stdin ends, or on SIGTERM and Ctrl-C, what runs is finished and the program ends.
//!
//! | `op` | with | answers |
//! |---|---|---|
//! | `generate` | `id`; one of `messages` (with `tools`, `think`, `template_args`), `prompt` (text as it is) and `tokens`; options | `started`, `prefill`…, `token`…, `delta`…, `finished` |
//! | `cancel` | `of`, an id | `done`; the request itself ends with `finished`, `"finish": "cancelled"` |
//! | `park`, `unpark` | | `done`, when the memory is given back; when the model is loaded |
//! | `save` | `path`; `messages`, `prompt` or `tokens` | `done` with `tokens` and `bytes`: the kept beginning of that prompt is in the file |
//! | `restore` | `path` | `done` with `tokens` and `bytes`: prompts that begin with them reuse them |
//! | `forget` | | `done`: nothing of any conversation is kept, in memory or in `--cache-dir` |
//! | `status` | | `status` |
//!
//! Options of `generate`: `max_tokens`, `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`,
//! `frequency_penalty`, `presence_penalty`, `logit_bias` (`{"id": bias}`), `seed`, `stop_tokens`, `logprobs` (how many of
//! the most likely tokens), `cache` (`reuse`, `exact` or `none`), `deadline_ms`, `progress`. What is left out is as the
//! model's makers say; without a seed, `finished` tells the one that was drawn.
//!
//! What cannot be done is answered by `error` with `code` (`bad_request`, `busy` with `retry_after_ms`, `too_long`,
//! `unavailable`, `failed`) and `message`; other requests go on. A line longer than 64 MiB is skipped.

mod answer;
mod lines;
mod out;
pub(crate) mod request;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gemma4_core::chat::Start;
use gemma4_core::dialogue::DialogueError;
use gemma4_core::tokenizer::Special;
use serde_json::{Value, json};
use tokio::sync::mpsc::channel;

use super::job::{CachePolicy, Cancel, CancelToken, Generation, Job, Refused};
use super::scheduler::{ErrandError, Moved, Phase, Status};
use super::start::Served;
use crate::failure::Failure;
use answer::{Answer, Reading};
use lines::Line;
use out::Out;
use request::{Cache, Generate, PromptOf, Request};

/// Longest line.
const LONGEST: usize = 64 << 20;

/// Events of an answer that may wait for stdout.
const EVENTS: usize = 256;

/// How long running answers may go on when the program is asked to end.
const DRAIN: Duration = Duration::from_secs(30);

/// What the threads of this command share.
struct Stdio {
    served: Served,
    out: Out,
    running: Mutex<HashMap<String, CancelToken>>,
    jobs: AtomicU64,
}

/// Answers stdin until it ends.
pub(crate) fn run(served: Served) -> Result<ExitCode, Failure> {
    served.scheduler.loaded()?;
    let stdio = Arc::new(Stdio::new(served, Out::stdout()));
    let signalled = Arc::clone(&stdio);
    let signals = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.block_on(asked_to_end()).is_ok() {
            signalled.served.scheduler.drain(DRAIN);
            signalled.wait(Duration::from_secs(5));
            std::process::exit(0);
        }
    })?;
    stdio.ready();
    stdio.read(&mut io::stdin().lock())?;
    // Whoever wrote has said everything; what was asked is answered.
    stdio.served.scheduler.drain(Duration::from_hours(1));
    stdio.wait(DRAIN);
    Ok(ExitCode::SUCCESS)
}

/// Waits for SIGTERM or Ctrl-C.
async fn asked_to_end() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut end, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        std::future::poll_fn(|context| {
            if end.poll_recv(context).is_ready() {
                std::task::Poll::Ready(())
            } else {
                interrupt.poll_recv(context).map(drop)
            }
        })
        .await;
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// What was saved or restored.
fn moved(result: Result<Moved, ErrandError>) -> Result<Value, Refusal> {
    match result {
        Ok(moved) => Ok(json!({ "tokens": moved.tokens, "bytes": moved.bytes })),
        Err(error) => Err(Refusal::new("failed", Failure::from(error).to_string())),
    }
}

/// The tokens of a prompt, where it leaves the model, and where the next turn parts from it.
type Rendered = (Vec<u32>, Option<Start>, Option<usize>);

/// A request that cannot be done.
struct Refusal {
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::Busy { .. } => "busy",
            Refused::TooLong { .. } => "too_long",
            Refused::Draining | Refused::Broken(_) => "unavailable",
            Refused::Invalid(_) => "bad_request",
        };
        let retry_after = if let Refused::Busy { retry_after } = refused { Some(retry_after) } else { None };
        Self { retry_after, ..Self::new(code, refused.to_string()) }
    }
}

impl Stdio {
    fn new(served: Served, out: Out) -> Self {
        Self { served, out, running: Mutex::default(), jobs: AtomicU64::new(0) }
    }

    fn ready(&self) {
        let Served { context, vocab, .. } = self.served;
        self.out.write(None, json!({ "event": "ready", "context": context, "vocab": vocab }));
    }

    /// Reads requests until there are no more, or nobody reads the answers.
    fn read(self: &Arc<Self>, input: &mut dyn BufRead) -> io::Result<()> {
        while !self.out.broken() {
            match lines::next(input, LONGEST)? {
                Line::End => return Ok(()),
                Line::TooLong => {
                    let text = format!("a line is longer than {LONGEST} bytes, and was skipped");
                    self.error(None, &Refusal::new("bad_request", text));
                }
                Line::Text(line) if line.trim_ascii().is_empty() => {}
                Line::Text(line) => {
                    let (id, request) = request::parse(&line);
                    let done = request
                        .map_err(|text| Refusal::new("bad_request", text))
                        .and_then(|request| self.request(id.as_ref(), request));
                    if let Err(refusal) = done {
                        self.error(id.as_ref(), &refusal);
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until all answers are written, at most so long.
    fn wait(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.running().is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancelToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, id: Option<&Value>, refusal: &Refusal) {
        let mut line = json!({ "event": "error", "code": refusal.code, "message": refusal.message });
        if let Some(time) = refusal.retry_after {
            line["retry_after_ms"] = json!(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        }
        self.out.write(id, line);
    }

    fn done(&self, id: Option<&Value>, more: Value) {
        let mut line = json!({ "event": "done" });
        if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
            line.extend(more);
        }
        self.out.write(id, line);
    }

    fn request(self: &Arc<Self>, id: Option<&Value>, request: Request) -> Result<(), Refusal> {
        let scheduler = &self.served.scheduler;
        match request {
            Request::Generate(generate) => self.generate(id.cloned().unwrap_or_default(), &generate),
            Request::Cancel(of) => {
                let token = self.running().get(&of.to_string()).cloned();
                let token =
                    token.ok_or_else(|| Refusal::new("bad_request", "cancel: no such request is running"))?;
                token.cancel(Cancel::Left);
                self.done(id, json!({}));
                Ok(())
            }
            Request::Status => {
                self.out.write(id, status(&scheduler.status()));
                Ok(())
            }
            // What takes its time is waited for elsewhere: other requests go on.
            Request::Park => self.aside(id, |stdio| {
                stdio.served.scheduler.park_and_wait();
                Ok(json!({}))
            }),
            Request::Unpark => self.aside(id, |stdio| {
                stdio.served.scheduler.unpark_and_wait();
                Ok(json!({}))
            }),
            Request::Save(path, prompt) => {
                let (tokens, ..) = self.tokens(&prompt)?;
                self.aside(id, move |stdio| moved(stdio.served.scheduler.save(tokens, path)))
            }
            Request::Restore(path) => {
                self.aside(id, move |stdio| moved(stdio.served.scheduler.restore(path)))
            }
            Request::Forget => self.aside(id, |stdio| moved(stdio.served.scheduler.forget())),
        }
    }

    /// Does something that takes its time, then answers.
    fn aside(
        self: &Arc<Self>,
        id: Option<&Value>,
        task: impl FnOnce(&Self) -> Result<Value, Refusal> + Send + 'static,
    ) -> Result<(), Refusal> {
        let (stdio, id) = (Arc::clone(self), id.cloned());
        spawn("errand", move || match task(&stdio) {
            Ok(more) => stdio.done(id.as_ref(), more),
            Err(refusal) => stdio.error(id.as_ref(), &refusal),
        })
    }

    fn tokens(&self, prompt: &PromptOf) -> Result<Rendered, Refusal> {
        let speaker = &self.served.speaker;
        match prompt {
            PromptOf::Tokens(tokens) => Ok((tokens.clone(), None, None)),
            PromptOf::Text(text) => {
                let tokens = speaker.tokenizer.encode_prompt(text, Special::Parse);
                Ok((
                    tokens.map_err(|error| Refusal::new("bad_request", Failure::from(error).to_string()))?,
                    None,
                    None,
                ))
            }
            PromptOf::Dialogue(dialogue) => {
                let wrong =
                    |error: DialogueError| Refusal::new("bad_request", Failure::from(error).to_string());
                let prompt = speaker.prompt(dialogue).map_err(wrong)?;
                Ok((prompt.tokens, Some(prompt.start), Some(prompt.border)))
            }
        }
    }

    fn generate(self: &Arc<Self>, id: Value, generate: &Generate) -> Result<(), Refusal> {
        let Generate { prompt, options } = generate;
        let name = id.to_string();
        if self.running().contains_key(&name) {
            return Err(Refusal::new("bad_request", "a request with this `id` is running"));
        }
        let speaker = &self.served.speaker;
        let (tokens, start, border) = self.tokens(prompt)?;
        let sampling =
            options.sampling(&speaker.sampling, || RandomState::new().build_hasher().finish() >> 11);
        if let Some((token, _)) =
            sampling.logit_bias.iter().find(|(token, _)| *token as usize >= self.served.vocab)
        {
            let text =
                format!("logit_bias: token {token} is not in the vocabulary of {} tokens", self.served.vocab);
            return Err(Refusal::new("bad_request", text));
        }
        let seed = sampling.seed;
        let (sender, mut events) = channel(EVENTS);
        let cancel = CancelToken::new();
        let deadline =
            options.deadline_ms.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        let job = Job {
            id: self.jobs.fetch_add(1, Ordering::Relaxed),
            tokens,
            borders: border.into_iter().collect(),
            params: Generation {
                sampling,
                max_tokens: options.max_tokens.unwrap_or(usize::MAX),
                stop_tokens: speaker.end.iter().chain(&options.stop_tokens).copied().collect(),
                suppress: speaker.suppress.clone(),
            },
            logprobs: options.logprobs,
            constraint: None,
            deadline,
            cache: match options.cache {
                Cache::Reuse => CachePolicy::Reuse,
                Cache::Exact => CachePolicy::Exact,
                Cache::None => CachePolicy::None,
            },
            progress: options.progress,
            events: sender,
            cancel: cancel.clone(),
        };
        // Before it is submitted: it may be over before anybody looks.
        self.running().insert(name.clone(), cancel.clone());
        let submitted = self.served.scheduler.submit(job).map_err(Refusal::from).and_then(|_| {
            let (stdio, name) = (Arc::clone(self), name.clone());
            spawn("answer", move || {
                let speaker = &stdio.served.speaker;
                let reading = match start {
                    Some(start) => Reading::dialogue(speaker, start),
                    None => Reading::Plain(String::new()),
                };
                let mut answer = Answer::new(id, speaker, &stdio.out, seed, reading);
                while let Some(event) = events.blocking_recv() {
                    answer.event(event);
                    if stdio.out.broken() {
                        cancel.cancel(Cancel::Left);
                    }
                }
                stdio.running().remove(&name);
            })
        });
        if submitted.is_err() {
            self.running().remove(&name);
        }
        submitted
    }
}

fn spawn(name: &str, task: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(task);
    thread.map(drop).map_err(|error| Refusal::new("failed", format!("cannot start a thread: {error}")))
}

fn status(status: &Status) -> Value {
    let phase = match status.phase {
        Phase::Loading => "loading",
        Phase::Ready => "ready",
        Phase::Parked => "parked",
        Phase::Draining => "draining",
        Phase::Stopped => "stopped",
    };
    let group = |group: gemma4_core::cache::GroupStats| json!({ "used": group.used, "free": group.free, "shared": group.shared });
    let vault = |vault: gemma4_core::vault::VaultStats| json!({ "conversations": vault.conversations, "bytes": vault.bytes, "limit": vault.limit });
    let counters = &status.counters;
    json!({
        "event": "status",
        "phase": phase,
        "failure": status.failure,
        "running": status.running,
        "parallel": status.parallel,
        "queued": status.queued,
        "queue": status.queue,
        "context": status.context,
        "pages": { "global": group(status.pages.global), "local": group(status.pages.local) },
        "kept": { "device": status.kept, "memory": vault(status.memory), "disk": vault(status.disk) },
        "tokens": {
            "prompt": counters.prompt_tokens,
            "reused": counters.reused_tokens,
            "computed": counters.computed_tokens,
            "generated": counters.generated_tokens,
        },
        "drafts": { "drafted": counters.drafted, "accepted": counters.accepted },
    })
}
