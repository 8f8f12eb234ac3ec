//! What the asking threads and the engine's thread share: the line of waiting requests, wishes, and what is going on.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gemma4_core::cache::CacheStats;
use gemma4_core::vault::Meter;

use super::counters::Counters;
use super::errand::Errand;
use super::{Limits, Phase};
use crate::serve::job::{Cancel, Event, Finish, Job, Refused, Ticket, Usage};

/// A request in the line.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) since: Instant,
    /// A running request whose prompt begins with so many tokens of this one's: it waits for them.
    pub(super) behind: Option<(u64, usize)>,
}

/// What somebody wants of the engine's thread beside answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Park,
    Unpark,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) line: VecDeque<Waiting>,
    /// Requests that have left the line and not ended.
    pub(super) active: usize,
    pub(super) wish: Option<Wish>,
    /// Until when running requests may go on, once the program is ending.
    pub(super) drain: Option<Instant>,
    pub(super) errands: VecDeque<Errand>,
    pub(super) failure: Option<String>,
    /// Typical time from leaving the line to the end, in seconds.
    service: f64,
    pub(super) pages: CacheStats,
    pub(super) kept: usize,
    /// Of main memory and of the folder, which is written in the background.
    pub(super) vaults: [Option<Meter>; 2],
    pub(super) counters: Counters,
}

/// What both sides share.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) limits: Limits,
    state: Mutex<State>,
    bell: Condvar,
}

impl Desk {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        let state = State {
            phase: Phase::Loading,
            line: VecDeque::new(),
            active: 0,
            wish: None,
            drain: None,
            errands: VecDeque::new(),
            failure: None,
            service: 2.0,
            pages: CacheStats::default(),
            kept: 0,
            vaults: [None, None],
            counters: Counters::default(),
        };
        Arc::new(Self { limits, state: Mutex::new(state), bell: Condvar::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers and requests are whole after a panic elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and wakes whoever waits for it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.bell.notify_all();
        result
    }

    /// Takes a request into the line.
    pub(super) fn submit(&self, job: Job) -> Result<Ticket, Refused> {
        self.limits.check(&job)?;
        let mut state = self.lock();
        match state.phase {
            Phase::Stopped => {
                return Err(state.failure.clone().map_or(Refused::Draining, Refused::Broken));
            }
            _ if state.drain.is_some() => return Err(Refused::Draining),
            _ => {}
        }
        state.sweep();
        let free = self.limits.parallel.saturating_sub(state.active);
        let ahead = state.line.len();
        if ahead >= self.limits.queue + free {
            state.counters.busy += 1;
            return Err(Refused::Busy { retry_after: state.retry_after(self.limits.parallel) });
        }
        state.counters.submitted += 1;
        state.line.push_back(Waiting { job, since: Instant::now(), behind: None });
        drop(state);
        self.bell.notify_all();
        Ok(Ticket { ahead })
    }

    /// Waits until there is something to do for an engine that runs nothing, or until `until`.
    pub(super) fn wait(&self, until: Option<Instant>) {
        let state = self.lock();
        let idle = |state: &mut State| {
            state.line.is_empty() && state.wish.is_none() && state.drain.is_none() && state.errands.is_empty()
        };
        // A poisoned lock is as good as another, and why the wait ended does not matter.
        match until {
            Some(until) => {
                let limit = until.saturating_duration_since(Instant::now());
                drop(self.bell.wait_timeout_while(state, limit, idle));
            }
            None => drop(self.bell.wait_while(state, idle)),
        }
    }

    /// Waits a moment, for somebody who said nothing of when: a slow client that makes room.
    pub(super) fn doze(&self, moment: Duration) {
        drop(self.bell.wait_timeout(self.lock(), moment));
    }

    /// Waits for `done` to become true.
    pub(super) fn wait_for(&self, mut done: impl FnMut(&State) -> bool) {
        drop(self.bell.wait_while(self.lock(), |state| !done(state)));
    }
}

impl State {
    /// Ends waiting requests that nobody wants any more.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while let Some(waiting) = self.line.get(at) {
            let job = &waiting.job;
            let reason = match job.cancel.cancelled() {
                Some(Cancel::Stop) => Some(Finish::Stop),
                Some(Cancel::Left) => Some(Finish::Cancelled),
                None if job.events.is_closed() => Some(Finish::Cancelled),
                None if job.deadline.is_some_and(|deadline| deadline <= now) => Some(Finish::Deadline),
                None => None,
            };
            match reason {
                Some(reason) => self.refuse(at, reason),
                None => at += 1,
            }
        }
    }

    /// Ends a waiting request.
    pub(super) fn refuse(&mut self, at: usize, reason: Finish) {
        let Some(waiting) = self.line.remove(at) else { return };
        let queue_time = waiting.since.elapsed();
        let usage = Usage { prompt: waiting.job.tokens.len(), queue_time, ..Usage::default() };
        self.counters.end(&reason, &usage, queue_time);
        // Nothing was sent before, so there is room unless nobody listens.
        let _ = waiting.job.events.try_send(Event::Finished { reason, usage });
    }

    /// Ends all waiting requests.
    pub(super) fn refuse_all(&mut self, reason: &Finish) {
        while !self.line.is_empty() {
            self.refuse(0, reason.clone());
        }
    }

    /// Takes note of how long a request ran.
    pub(super) fn served(&mut self, time: Duration) {
        self.service += 0.2 * (time.as_secs_f64() - self.service);
    }

    /// When a place in the line is likely to be free: when as many requests have ended as makes one.
    fn retry_after(&self, parallel: usize) -> Duration {
        let each = self.service / parallel.max(1) as f64;
        Duration::from_secs_f64((each * (self.line.len() + 1) as f64).clamp(1.0, 600.0))
    }
}
