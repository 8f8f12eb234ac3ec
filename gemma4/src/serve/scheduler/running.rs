//! One request that has left the line: where it stands, and what it was told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gemma4_core::cache::SeqId;
use tokio::sync::mpsc::error::TrySendError;

use super::desk::Waiting;
use crate::serve::job::{Cancel, Event, Finish, Job, ReuseEnd, Usage};

/// What a request does next, which follows from how many tokens of its stream are in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Tokens of the prompt are to be computed.
    Prefill,
    /// Tokens that it generated before it was put aside are to be computed again, in the class that computed them.
    Replay,
    /// Its last token is to be computed, and the next drawn.
    Decode,
    /// A step is under way that draws its next token.
    InFlight,
}

/// A request that has left the line.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) prompt: Arc<[u32]>,
    /// Its number, by which the youngest is known.
    pub(super) order: u64,
    /// `None` while it is put aside.
    pub(super) seq: Option<SeqId>,
    /// Tokens of prompt and answer that are in the cache.
    pub(super) fed: usize,
    /// How many of the leading ones were computed as a prompt.
    pub(super) exact: usize,
    pub(super) generated: Vec<u32>,
    /// Lengths of the prompt at which a place is to be kept, the next one last.
    pub(super) borders: Vec<usize>,
    /// The place at the end of its prompt.
    pub(super) prompt_place: Option<u64>,
    /// Prompt tokens computed since it joined, beside those that others had then: who has fewest goes first.
    pub(super) served: u64,
    pub(super) reused: usize,
    /// Tokens that were drafted for it, and those that were kept.
    pub(super) drafted: usize,
    /// See above.
    pub(super) accepted: usize,
    since: Instant,
    started: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Events for which there was no room.
    outbox: VecDeque<Event>,
    /// Since when there is none.
    stalled: Option<Instant>,
    /// Whether its client is gone.
    gone: bool,
}

impl Running {
    pub(super) fn new(waiting: Waiting, order: u64) -> Self {
        let Waiting { mut job, since, .. } = waiting;
        let prompt = Arc::from(std::mem::take(&mut job.tokens));
        Self {
            job,
            prompt,
            order,
            seq: None,
            fed: 0,
            exact: 0,
            generated: Vec::new(),
            borders: Vec::new(),
            prompt_place: None,
            served: 0,
            reused: 0,
            drafted: 0,
            accepted: 0,
            since,
            started: Instant::now(),
            first: None,
            last: None,
            outbox: VecDeque::new(),
            stalled: None,
            gone: false,
        }
    }

    /// Tokens of prompt and answer.
    pub(super) fn len(&self) -> usize {
        self.prompt.len() + self.generated.len()
    }

    /// Prompt and answer up to `len` tokens.
    pub(super) fn stream(&self, len: usize) -> Vec<u32> {
        self.prompt.iter().chain(&self.generated).take(len).copied().collect()
    }

    pub(super) fn stage(&self) -> Stage {
        if self.fed < self.prompt.len() {
            Stage::Prefill
        } else if self.fed >= self.len() {
            Stage::InFlight
        } else if self.fed + 1 == self.len() {
            Stage::Decode
        } else {
            Stage::Replay
        }
    }

    /// Whether it takes part in decode steps now.
    pub(super) fn decodes(&self) -> bool {
        self.seq.is_some() && self.stalled.is_none() && self.stage() != Stage::Prefill
    }

    /// Whether the host has to know its last token before the next can be drawn.
    pub(super) fn needs_host(&self) -> bool {
        self.job.constraint.is_some() || self.job.params.sampling.has_penalties()
    }

    /// Whether the token that is under way is the last, whatever it is.
    pub(super) fn last_is_under_way(&self, context: usize) -> bool {
        self.generated.len() + 1 >= self.job.params.max_tokens || self.fed >= context
    }

    /// How long it has been waiting for its client to make room.
    pub(super) fn stalled(&self) -> Option<Duration> {
        self.stalled.map(|since| since.elapsed())
    }

    /// Why it is to end before its next step, if it is.
    pub(super) fn over(&self, now: Instant) -> Option<Finish> {
        match self.job.cancel.cancelled() {
            Some(Cancel::Stop) => Some(Finish::Stop),
            Some(Cancel::Left) => Some(Finish::Cancelled),
            None if self.gone || self.job.events.is_closed() => Some(Finish::Cancelled),
            None if self.job.deadline.is_some_and(|deadline| deadline <= now) => Some(Finish::Deadline),
            None => None,
        }
    }

    /// Takes note of a token and sends it; says why the answer ends with it, if it does, and the times since the
    /// request came and since the token before.
    pub(super) fn token(&mut self, event: Event, id: u32, context: usize) -> (Option<Finish>, Pace) {
        let now = Instant::now();
        let pace = Pace {
            first: self.first.is_none().then(|| now - self.since),
            between: self.last.map(|last| now - last),
        };
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.generated.push(id);
        self.send(event);
        let complete = match &mut self.job.constraint {
            Some(constraint) => constraint.accept(id),
            None => Ok(false),
        };
        let finish = match complete {
            _ if self.job.params.stop_tokens.contains(&id) => Some(Finish::Stop),
            Err(error) => Some(Finish::Failed(error.to_string())),
            Ok(true) => Some(Finish::Constraint),
            Ok(false) if self.generated.len() >= self.job.params.max_tokens || self.len() > context => {
                Some(Finish::Length)
            }
            Ok(false) => None,
        };
        (finish, pace)
    }

    pub(super) fn started(&mut self, reused: usize, why: ReuseEnd) {
        self.reused = reused;
        self.started = Instant::now();
        self.send(Event::Started { reused, prompt: self.prompt.len(), why });
    }

    /// Time from coming to leaving the line.
    pub(super) fn queue_time(&self) -> Duration {
        self.started - self.since
    }

    /// Time since it came, and since it left the line.
    pub(super) fn ages(&self) -> (Duration, Duration) {
        (self.since.elapsed(), self.started.elapsed())
    }

    pub(super) fn usage(&self) -> Usage {
        let end = self.first.unwrap_or_else(Instant::now);
        Usage {
            prompt: self.prompt.len(),
            reused: self.reused,
            generated: self.generated.len(),
            drafted: self.drafted,
            accepted: self.accepted,
            queue_time: self.queue_time(),
            prefill_time: end - self.started,
            decode_time: self.last.map_or(Duration::ZERO, |last| last - end),
        }
    }

    /// Tells of progress, if that was asked for and there is room: nobody misses what is outdated.
    pub(super) fn progress(&mut self) {
        if self.job.progress && self.outbox.is_empty() {
            let event = Event::Prefill { done: self.fed, total: self.prompt.len() };
            let _ = self.job.events.try_send(event);
        }
    }

    /// Sends an event, or keeps it until there is room.
    fn send(&mut self, event: Event) {
        self.outbox.push_back(event);
        self.flush();
    }

    /// Sends what there is room for.
    pub(super) fn flush(&mut self) {
        self.gone |= flush(&mut self.outbox, &self.job);
        self.stalled = if self.outbox.is_empty() || self.gone {
            None
        } else {
            Some(self.stalled.unwrap_or_else(Instant::now))
        };
    }

    /// What is left to be sent, `Finished` last.
    pub(super) fn leave(mut self, reason: Finish) -> Leaving {
        let usage = self.usage();
        self.outbox.push_back(Event::Finished { reason, usage });
        Leaving { job: self.job, outbox: self.outbox, since: Instant::now() }
    }
}

/// How fast tokens come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Time to the first token, if this is it.
    pub(super) first: Option<Duration>,
    /// Time since the token before.
    pub(super) between: Option<Duration>,
}

/// Longest time that the end of an answer waits for a client to make room.
const PATIENCE: Duration = Duration::from_mins(1);

/// A request that has ended, but for events that its client has no room for yet.
#[derive(Debug)]
pub(super) struct Leaving {
    job: Job,
    outbox: VecDeque<Event>,
    since: Instant,
}

impl Leaving {
    /// Sends what there is room for; whether it is done.
    pub(super) fn done(&mut self) -> bool {
        flush(&mut self.outbox, &self.job) || self.outbox.is_empty() || self.since.elapsed() > PATIENCE
    }
}

/// Sends what there is room for; whether nobody listens any more.
fn flush(outbox: &mut VecDeque<Event>, job: &Job) -> bool {
    while let Some(event) = outbox.pop_front() {
        match job.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(event)) => {
                outbox.push_front(event);
                return false;
            }
            Err(TrySendError::Closed(_)) => {
                outbox.clear();
                return true;
            }
        }
    }
    false
}
