//! The loop of the thread that owns the engine.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gemma4_core::backend::Backend;
use gemma4_core::engine::{Engine, EngineError};
use gemma4_core::speculate::{Settings, Speculator};
use gemma4_core::vault::Wanted;

use super::desk::{State, Waiting, Wish};
use super::errand::{Errand, ErrandError};
use super::reuse::{Placed, leader};
use super::rounds::Rest;
use super::running::{Leaving, Running, Stage};
use super::shelf::{Kind, Shelf};
use super::steps::Pending;
use super::{Exit, Life, Phase};
use crate::serve::job::{CachePolicy, Finish};

/// How long a request waits for a slow client before somebody else may have its place.
const SLOW: Duration = Duration::from_millis(250);

/// How often clients without room are looked at, while there is nothing else to do.
const DOZE: Duration = Duration::from_millis(2);

/// An engine and everything that it answers.
pub(super) struct Work<'l, B: Backend> {
    pub(super) life: &'l mut Life,
    pub(super) engine: Engine<B>,
    pub(super) shelf: Shelf,
    /// Chooses drafts for a request that is alone.
    pub(super) speculator: Option<Speculator>,
    /// Plain steps that the speculator chose for it.
    pub(super) rest: Option<Rest>,
    pub(super) running: Vec<Running>,
    /// Steps whose tokens were not read yet: one, or two while the next is enqueued before the last is read.
    pub(super) pending: VecDeque<Pending>,
    /// Requests that were put aside.
    aside: Vec<Running>,
    /// Requests that have ended, but for events that their clients have no room for.
    leaving: Vec<Leaving>,
    /// Whether pages were short: nobody else joins before somebody has ended.
    crowded: bool,
    order: u64,
    /// When the last request ended.
    idle: Instant,
}

impl<'l, B: Backend> Work<'l, B> {
    pub(super) fn new(life: &'l mut Life, engine: Engine<B>, drafting: Option<Settings>) -> Self {
        let speculator = drafting.and_then(|settings| Speculator::new(settings, &engine));
        Self {
            speculator,
            rest: None,
            life,
            engine,
            shelf: Shelf::default(),
            running: Vec::new(),
            pending: VecDeque::new(),
            aside: Vec::new(),
            leaving: Vec::new(),
            crowded: false,
            order: 0,
            idle: Instant::now(),
        }
    }

    pub(super) fn run(mut self) -> Exit {
        self.publish();
        self.life.desk.change(|state| {
            state.phase = if state.drain.is_some() { Phase::Draining } else { Phase::Ready };
            state.failure = None;
            if state.wish == Some(Wish::Unpark) {
                state.wish = None;
            }
        });
        loop {
            let worked = match self.turn() {
                Ok(worked) => worked,
                Err(error) => return self.fail(&error),
            };
            self.publish();
            if let Some(exit) = self.exit() {
                // What cannot be kept is computed again.
                drop(self.rescue(&exit));
                self.publish();
                return exit;
            }
            if worked {
                continue;
            }
            if self.running.is_empty() && self.aside.is_empty() && self.leaving.is_empty() {
                let until = self.life.desk.limits.park_after.map(|after| self.idle + after);
                self.life.desk.wait(until);
            } else {
                self.life.desk.doze(DOZE);
            }
        }
    }

    /// One turn; says whether the device had something to do.
    fn turn(&mut self) -> Result<bool, EngineError> {
        self.sweep()?;
        self.errands()?;
        self.admit()?;
        let decoded = self.decode()?;
        let prefilled = self.prefill()?;
        Ok(decoded || prefilled)
    }

    /// Ends what nobody wants any more, and sends what there is room for.
    fn sweep(&mut self) -> Result<(), EngineError> {
        let now = Instant::now();
        let expired = self.life.desk.lock().drain.is_some_and(|drain| drain <= now);
        for at in (0..self.running.len()).rev() {
            self.running[at].flush();
            if let Some(reason) = self.running[at].over(now).or(expired.then_some(Finish::Cancelled)) {
                self.finish(at, reason)?;
            }
        }
        for at in (0..self.aside.len()).rev() {
            self.aside[at].flush();
            if let Some(reason) = self.aside[at].over(now).or(expired.then_some(Finish::Cancelled)) {
                let request = self.aside.swap_remove(at);
                self.end(request, reason);
            }
        }
        self.leaving.retain_mut(|leaving| !leaving.done());
        self.life.desk.change(|state| {
            state.sweep();
            if expired {
                state.refuse_all(&Finish::Cancelled);
            }
        });
        // A client that does not listen may keep its request from going on, but nobody else's from beginning.
        let others =
            !self.life.desk.lock().line.is_empty() || self.aside.iter().any(|r| r.stalled().is_none());
        if others && self.running.len() >= self.life.desk.limits.parallel {
            let slow = self.running.iter().position(|r| r.stalled().is_some_and(|time| time > SLOW));
            if let Some(at) = slow {
                self.put_aside(at, true)?;
            }
        }
        Ok(())
    }

    fn errands(&mut self) -> Result<(), EngineError> {
        // A file needs a sequence for a moment.
        while self.running.len() < self.life.desk.limits.parallel {
            let Some(errand) = self.life.desk.lock().errands.pop_front() else { return Ok(()) };
            let result = match &errand {
                Errand::Save { tokens, path, .. } => self.save_file(tokens, path),
                Errand::Restore { path, .. } => self.restore_file(path),
                Errand::Forget { .. } => Ok(self.forget()),
            };
            self.publish();
            match result {
                Err(ErrandError::Engine(error @ EngineError::Device(_))) => {
                    errand.reply(Err(ErrandError::Stopped));
                    return Err(error);
                }
                result => errand.reply(result),
            }
        }
        Ok(())
    }

    /// Lets requests begin: those that were put aside first, then in the order in which they came. One whose prompt
    /// begins like one that is being computed waits for it, and lets others pass.
    fn admit(&mut self) -> Result<(), EngineError> {
        while self.running.len() < self.life.desk.limits.parallel {
            if self.crowded && !self.running.is_empty() {
                return Ok(());
            }
            self.crowded = false;
            let ready = self.aside.iter().enumerate().filter(|(_, r)| r.stalled().is_none());
            if let Some((at, _)) = ready.min_by_key(|(_, r)| r.order) {
                let request = self.aside.swap_remove(at);
                self.join(request, None)?;
                continue;
            }
            let Some(waiting) = self.next_in_line() else { return Ok(()) };
            self.order += 1;
            let request = Running::new(waiting, self.order);
            self.join(request, Some(Instant::now()))?;
        }
        Ok(())
    }

    /// Takes the first waiting request that need not wait for another's prompt.
    fn next_in_line(&mut self) -> Option<Waiting> {
        let desk = std::sync::Arc::clone(&self.life.desk);
        let mut state = desk.lock();
        let still = |running: &[Running], (order, shared): (u64, usize)| {
            running.iter().any(|r| r.order == order && r.stage() == Stage::Prefill && r.fed < shared)
        };
        let mut at = 0;
        while at < state.line.len() {
            let waiting = &mut state.line[at];
            let mut behind = waiting.behind.take().filter(|&behind| still(&self.running, behind));
            let job = &waiting.job;
            if behind.is_none() && job.cache != CachePolicy::None {
                let window = self.engine.cache().spec().window;
                let most = job.tokens.len() - 1;
                let wanted =
                    Wanted { tokens: &job.tokens, most, exact: job.cache == CachePolicy::Exact, window };
                let computing = self.running.iter().any(|r| r.stage() == Stage::Prefill);
                let mut kept = || self.shelf.find(&mut self.engine, &wanted).best.map_or(0, |best| best.len);
                behind = if computing { leader(&self.running, &job.tokens, kept()) } else { None };
                if let Some((order, shared)) = behind
                    && let Some(first) = self.running.iter_mut().find(|r| r.order == order)
                {
                    // A place where the two part, unless there is one.
                    let at = first.borders.partition_point(|&border| border > shared);
                    if shared < first.prompt.len() && first.borders.get(at) != Some(&shared) {
                        first.borders.insert(at, shared);
                    }
                }
            }
            if behind.is_some() {
                waiting.behind = behind;
                at += 1;
                continue;
            }
            let waiting = state.line.remove(at);
            state.active += 1;
            return waiting;
        }
        None
    }

    /// Gives a request a sequence that begins like it.
    fn join(&mut self, mut request: Running, first: Option<Instant>) -> Result<(), EngineError> {
        let stream = request.stream(request.len());
        // The last token is always computed: for the logits behind it.
        let most = stream.len() - 1;
        let Placed { seq, len, exact, why, common } = match self.place(&stream, most, request.job.cache) {
            Ok(placed) => placed,
            Err(error) => {
                // It is in no list, so nobody else would tell it.
                self.end(request, Finish::Failed(text(&error)));
                return Err(error);
            }
        };
        (request.seq, request.fed, request.exact) = (Some(seq), len, exact);
        request.borders = self.borders(&request, common);
        let fewest = self.running.iter().filter(|r| r.stage() == Stage::Prefill).map(|r| r.served).min();
        request.served = fewest.unwrap_or(0);
        if first.is_some() {
            request.started(len, why);
            let mut state = self.life.desk.lock();
            state.counters.queue_time.add(request.queue_time());
            if len > 1 {
                state.counters.hits += 1;
            } else {
                state.counters.misses += 1;
            }
        }
        self.running.push(request);
        Ok(())
    }

    /// Makes room for a step that found too few pages: at the cost of kept places, then of the youngest request.
    pub(super) fn make_room(&mut self) -> Result<(), EngineError> {
        if self.evict()? {
            return Ok(());
        }
        let youngest = self.running.iter().enumerate().max_by_key(|(_, request)| request.order);
        let Some((at, _)) = youngest else { return Ok(()) };
        if self.running.len() > 1 {
            self.crowded = true;
            return self.put_aside(at, false);
        }
        let full = "the cache has no room for this request alone: raise --pool, or lower --ctx";
        self.finish(at, Finish::Failed(full.to_owned()))
    }

    /// Takes a request's sequence away until there is room for it again. Its tokens stay, and are computed anew, each
    /// in the class that computed it: the answer goes on as if nothing had happened.
    fn put_aside(&mut self, at: usize, keep: bool) -> Result<(), EngineError> {
        let mut request = self.running.swap_remove(at);
        self.pending.iter_mut().for_each(|pending| pending.void(request.order));
        if let Some(seq) = request.seq.take() {
            if keep && request.job.cache != CachePolicy::None {
                let len = request.fed.min(request.len());
                let tokens = request.stream(len).into();
                self.keep(seq, &tokens, len, request.exact, Kind::End)?;
            }
            self.engine.close(seq)?;
        }
        (request.fed, request.exact) = (0, 0);
        self.aside.push(request);
        self.life.desk.lock().counters.paused += 1;
        Ok(())
    }

    /// Ends a running request.
    pub(super) fn finish(&mut self, at: usize, reason: Finish) -> Result<(), EngineError> {
        let mut request = self.running.swap_remove(at);
        self.pending.iter_mut().for_each(|pending| pending.void(request.order));
        self.crowded = false;
        let closed = match request.seq.take() {
            Some(seq) => self.keep_end(&request, seq).and_then(|()| self.engine.close(seq)),
            None => Ok(()),
        };
        self.end(request, reason);
        closed
    }

    /// Tells a request that it has ended, and counts it.
    fn end(&mut self, request: Running, reason: Finish) {
        let (total, service) = request.ages();
        let usage = request.usage();
        self.idle = Instant::now();
        self.life.desk.change(|state| {
            state.active = state.active.saturating_sub(1);
            state.counters.end(&reason, &usage, total);
            state.served(service);
        });
        let mut leaving = request.leave(reason);
        if !leaving.done() {
            self.leaving.push(leaving);
        }
    }

    /// Whether and how the engine is to be left.
    fn exit(&self) -> Option<Exit> {
        if !(self.running.is_empty() && self.aside.is_empty() && self.pending.is_empty()) {
            return None;
        }
        let desk = &self.life.desk;
        let mut state = desk.lock();
        let State { line, errands, drain, wish, .. } = &mut *state;
        if !line.is_empty() || !errands.is_empty() {
            return None;
        }
        if let Some(drain) = drain {
            // Clients that are slow to take the end of their answers have until then.
            return (self.leaving.is_empty() || *drain <= Instant::now()).then_some(Exit::Drained);
        }
        if !self.leaving.is_empty() {
            return None;
        }
        match wish {
            Some(Wish::Park) => Some(Exit::Parked),
            Some(Wish::Unpark) | None => {
                *wish = None;
                let idle = desk.limits.park_after.is_some_and(|after| self.idle.elapsed() >= after);
                idle.then_some(Exit::Parked)
            }
        }
    }

    /// Tells everybody that the device failed.
    fn fail(mut self, error: &EngineError) -> Exit {
        let text = text(error);
        for request in std::mem::take(&mut self.running).into_iter().chain(std::mem::take(&mut self.aside)) {
            self.end(request, Finish::Failed(text.clone()));
        }
        self.leaving.retain_mut(|leaving| !leaving.done());
        self.publish();
        Exit::Failed(text)
    }

    /// Writes down what is going on.
    fn publish(&mut self) {
        let pages = self.engine.cache_stats();
        let kept = self.shelf.count();
        let vaults = [&self.life.vaults.memory, &self.life.vaults.disk]
            .map(|vault| vault.as_ref().map(gemma4_core::vault::Vault::meter));
        for vault in [&self.life.vaults.memory, &self.life.vaults.disk].into_iter().flatten() {
            if let Some(warning) = vault.warning() {
                super::warn(&warning);
            }
        }
        let mut state = self.life.desk.lock();
        (state.pages, state.kept, state.vaults) = (pages, kept, vaults);
    }
}

/// An error and its causes, in one sentence.
fn text(error: &EngineError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
