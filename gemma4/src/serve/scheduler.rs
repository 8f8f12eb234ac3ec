//! Many requests, one engine.
//!
//! One thread owns the engine; a [`Scheduler`] is the handle that everybody else talks to. A turn of that thread is at
//! most two steps of the device: one that decodes a token for every request that is past its prompt, and one that
//! computes a piece of the prompts of the others (`work.rs`). So a long prompt delays tokens by one piece at most, and
//! running answers never keep a prompt from going on. Pieces go to whoever had the fewest prompt tokens computed so
//! far, and end at multiples of the page.
//!
//! What a request hears depends on nothing but the request: rows of a step do not depend on each other, nor on how a
//! prompt is cut (an invariant of the engine), and tokens are drawn by seed and position. A prefix from the cache has
//! the bits that computing it would give where it was computed as a prompt; tokens that were generated keep the bits
//! of the decode class. See [`CachePolicy`](super::job::CachePolicy).
//!
//! What stays on the device is in `shelf.rs`: places that prompts are likely to come back to. What has to leave it goes
//! to main memory or a folder ([`gemma4_core::vault`]). When pages are short, kept places go first, least recently used
//! first; then the youngest request is put aside, and computed again when somebody has ended.

pub(crate) mod counters;
mod desk;
mod errand;
mod reuse;
mod rounds;
mod running;
mod shelf;
mod steps;
#[cfg(test)]
mod tests;
mod work;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gemma4_core::backend::Backend;
use gemma4_core::cache::CacheStats;
use gemma4_core::engine::Engine;
use gemma4_core::speculate::Settings;
use gemma4_core::vault::{Key, Meter, Vault, VaultStats};

use super::job::{Finish, Job, Refused, Ticket};
use crate::failure::Failure;
use counters::Counters;
use desk::{Desk, Wish};
use errand::Errand;
pub(crate) use errand::{ErrandError, Moved};

/// What requests may ask for, and how they share the engine.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Requests that are answered at once.
    pub(crate) parallel: usize,
    /// Requests that may wait.
    pub(crate) queue: usize,
    /// Most tokens of prompt and answer.
    pub(crate) context: usize,
    /// Tokens of the vocabulary.
    pub(crate) vocab: usize,
    /// Most prompt tokens of a step while somebody decodes.
    pub(crate) budget: usize,
    /// Time without a request after which the model's memory is given back.
    pub(crate) park_after: Option<Duration>,
    /// Tokens that end a turn: prompts are likely to part behind them.
    pub(crate) turn_ends: Vec<u32>,
}

impl Limits {
    /// Checks what can be checked before a request waits.
    fn check(&self, job: &Job) -> Result<(), Refused> {
        let (tokens, context) = (job.tokens.len(), self.context);
        if tokens == 0 {
            return Err(Refused::Invalid("the prompt is empty".to_owned()));
        }
        if tokens > context {
            return Err(Refused::TooLong { tokens, context });
        }
        if let Some(token) = job.tokens.iter().find(|&&token| token as usize >= self.vocab) {
            let text = format!("token {token} is not in the vocabulary of {} tokens", self.vocab);
            return Err(Refused::Invalid(text));
        }
        if job.params.max_tokens == 0 {
            return Err(Refused::Invalid("max_tokens is 0, expected at least 1".to_owned()));
        }
        job.params.sampling.check().map_err(|error| Refused::Invalid(error.to_string()))
    }
}

/// What the engine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The model is being loaded, for the first time or after it was parked.
    Loading,
    /// It answers.
    Ready,
    /// Its memory was given back; the next request loads it.
    Parked,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It is gone: drained, or failed for good.
    Stopped,
}

/// What the scheduler is doing, for `/health`, `/metrics` and status lines.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    /// What the engine is doing.
    pub(crate) phase: Phase,
    /// Why it stopped, if it failed.
    pub(crate) failure: Option<String>,
    /// Requests that are being answered, and most at once.
    pub(crate) running: usize,
    /// See above.
    pub(crate) parallel: usize,
    /// Requests that wait, and most that may.
    pub(crate) queued: usize,
    /// See above.
    pub(crate) queue: usize,
    /// Most tokens of prompt and answer.
    pub(crate) context: usize,
    /// Pages of the cache on the device.
    pub(crate) pages: CacheStats,
    /// Places on the device that prompts can go on from.
    pub(crate) kept: usize,
    /// Conversations in main memory.
    pub(crate) memory: VaultStats,
    /// Conversations in the folder.
    pub(crate) disk: VaultStats,
    /// Totals.
    pub(crate) counters: Counters,
}

/// Places for conversations that leave the device.
#[derive(Debug, Default)]
pub(crate) struct Vaults {
    /// In main memory.
    pub(crate) memory: Option<Vault>,
    /// In a folder.
    pub(crate) disk: Option<Vault>,
    /// Name of what keys and values depend on; see [`gemma4_core::vault::fingerprint`].
    pub(crate) fingerprint: Option<Key>,
}

/// Why an engine was left.
#[derive(Debug)]
pub(crate) enum Exit {
    /// It is to be parked.
    Parked,
    /// The program ends.
    Drained,
    /// Its device failed.
    Failed(String),
}

/// A model that could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotLoaded(String);

/// What the engine's thread has beside its engine.
#[derive(Debug)]
pub(crate) struct Life {
    desk: Arc<Desk>,
    vaults: Vaults,
    /// Steps since the engine was loaded: a device that fails at once is not tried for ever.
    steps: u64,
}

impl Life {
    /// Answers with this engine until it is to be parked, the program ends, or the device fails; drafts as `drafting`
    /// says, or not at all.
    pub(crate) fn work<B: Backend>(&mut self, engine: Engine<B>, drafting: Option<Settings>) -> Exit {
        work::Work::new(self, engine, drafting).run()
    }

    /// The vaults, to be set up by whoever knows the device.
    pub(crate) fn vaults(&mut self) -> &mut Vaults {
        &mut self.vaults
    }
}

/// Loads the model and hands its engine to [`Life::work`]. Called again after it was parked.
pub(crate) type Start = Box<dyn FnMut(&mut Life) -> Result<Exit, Failure> + Send>;

/// A handle to the thread that owns the engine. Clones are the same scheduler.
#[derive(Clone)]
pub(crate) struct Scheduler {
    desk: Arc<Desk>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("limits", &self.desk.limits).finish_non_exhaustive()
    }
}

/// Failures in a row, without a step between them, after which a device is given up.
const TRIES: usize = 3;

impl Scheduler {
    /// Starts the thread, which loads the model; see [`Scheduler::loaded`].
    pub(crate) fn start(limits: Limits, start: Start) -> std::io::Result<Self> {
        let desk = Desk::new(limits);
        let life = Life { desk: Arc::clone(&desk), vaults: Vaults::default(), steps: 0 };
        let builder = std::thread::Builder::new().name("engine".to_owned());
        let thread = builder.spawn(move || live(life, start))?;
        Ok(Self { desk, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Waits until the model is loaded.
    ///
    /// # Errors
    ///
    /// Why it could not be.
    pub(crate) fn loaded(&self) -> Result<(), NotLoaded> {
        self.desk.wait_for(|state| state.phase != Phase::Loading);
        let state = self.desk.lock();
        match (&state.failure, state.phase) {
            (Some(failure), Phase::Stopped) => Err(NotLoaded(failure.clone())),
            _ => Ok(()),
        }
    }

    /// Hands a request over. Whatever becomes of it is sent to its channel.
    pub(crate) fn submit(&self, job: Job) -> Result<Ticket, Refused> {
        self.desk.submit(job)
    }

    /// What is going on.
    pub(crate) fn status(&self) -> Status {
        let state = self.desk.lock();
        let limits = &self.desk.limits;
        let vaults = [0, 1].map(|at| state.vaults[at].as_ref().map(Meter::stats).unwrap_or_default());
        Status {
            phase: state.phase,
            failure: state.failure.clone(),
            running: state.active,
            parallel: limits.parallel,
            queued: state.line.len(),
            queue: limits.queue,
            context: limits.context,
            pages: state.pages,
            kept: state.kept,
            memory: vaults[0],
            disk: vaults[1],
            counters: state.counters.clone(),
        }
    }

    /// Gives the model's memory back as soon as all requests have ended. Does not wait.
    pub(crate) fn park(&self) {
        self.desk.change(|state| state.wish = (state.phase != Phase::Parked).then_some(Wish::Park));
    }

    /// Loads the model again if it is parked, and takes back a wish to park. Does not wait.
    pub(crate) fn unpark(&self) {
        self.desk.change(|state| state.wish = (state.phase == Phase::Parked).then_some(Wish::Unpark));
    }

    /// Parks, and waits until that is done, or somebody took the wish back. Blocks; not for async code.
    pub(crate) fn park_and_wait(&self) {
        self.park();
        self.desk.wait_for(|state| state.wish != Some(Wish::Park) || state.phase == Phase::Stopped);
    }

    /// Loads the model if it is parked, and waits until that is done or failed. Blocks; not for async code.
    pub(crate) fn unpark_and_wait(&self) {
        self.unpark();
        self.desk.wait_for(|state| state.wish.is_none() && state.phase != Phase::Loading);
    }

    /// Writes the longest kept beginning of a prompt to a file. Blocks; not for async code.
    pub(crate) fn save(&self, tokens: Vec<u32>, path: PathBuf) -> Result<Moved, ErrandError> {
        self.errand(|reply| Errand::Save { tokens, path, reply })
    }

    /// Keeps the conversation that [`Scheduler::save`] wrote. Blocks; not for async code.
    pub(crate) fn restore(&self, path: PathBuf) -> Result<Moved, ErrandError> {
        self.errand(|reply| Errand::Restore { path, reply })
    }

    /// Forgets every kept conversation, on the device, in main memory and in the folder. Blocks; not for async code.
    pub(crate) fn forget(&self) -> Result<Moved, ErrandError> {
        self.errand(|reply| Errand::Forget { reply })
    }

    fn errand(&self, make: impl FnOnce(errand::Reply) -> Errand) -> Result<Moved, ErrandError> {
        let (reply, answer) = sync_channel(1);
        let errand = make(reply);
        let taken = self.desk.change(|state| {
            let alive = state.phase != Phase::Stopped && state.drain.is_none();
            if alive {
                state.errands.push_back(errand);
            }
            alive
        });
        if !taken {
            return Err(ErrandError::Stopped);
        }
        answer.recv().unwrap_or(Err(ErrandError::Stopped))
    }

    /// Takes nothing new, finishes what runs and waits; cancels what is left after `limit`. Blocks until the thread is
    /// gone: call it where blocking is allowed.
    pub(crate) fn drain(&self, limit: Duration) {
        self.desk.change(|state| {
            if state.phase == Phase::Ready {
                state.phase = Phase::Draining;
            }
            // A limit that no clock reaches is a long one.
            let long = Instant::now() + Duration::from_secs(1 << 30);
            let until = Instant::now().checked_add(limit).unwrap_or(long);
            state.drain = Some(state.drain.map_or(until, |before| before.min(until)));
        });
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread {
            // A thread that panicked has said so.
            Some(thread) => drop(thread.join()),
            None => self.desk.wait_for(|state| state.phase == Phase::Stopped),
        }
    }
}

/// Says that the thread is gone, however it went.
struct Gone(Arc<Desk>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.phase = Phase::Stopped;
            if std::thread::panicking() {
                state.failure.get_or_insert_with(|| "the engine's thread panicked".to_owned());
            }
            let reason = state.failure.clone().map_or(Finish::Cancelled, Finish::Failed);
            state.refuse_all(&reason);
            state.errands.clear();
            state.wish = None;
        });
    }
}

/// The thread: loads, answers, parks, and begins again.
fn live(mut life: Life, mut start: Start) {
    let desk = Arc::clone(&life.desk);
    let _gone = Gone(Arc::clone(&desk));
    let (mut first, mut failures) = (true, 0);
    loop {
        desk.change(|state| state.phase = Phase::Loading);
        life.steps = 0;
        let exit = start(&mut life);
        let never_loaded = first && exit.is_err();
        if life.steps > 0 {
            failures = 0;
        }
        match exit {
            Ok(Exit::Drained) => break,
            Ok(Exit::Parked) => desk.change(|state| {
                state.phase = Phase::Parked;
                // Whoever wished for it is told by this.
                state.wish = None;
            }),
            failed => {
                let text = match failed {
                    Ok(Exit::Failed(text)) => text,
                    Err(failure) => failure.to_string(),
                    Ok(_) => String::new(),
                };
                failures += 1;
                let give_up = never_loaded || failures >= TRIES;
                desk.change(|state| {
                    // What waits has no better chance; what comes later may have, if memory was short.
                    state.refuse_all(&Finish::Failed(format!("the model is not available: {text}")));
                    state.failure = Some(text);
                    state.wish = None;
                    state.phase = if give_up { Phase::Stopped } else { Phase::Parked };
                });
                if give_up {
                    break;
                }
            }
        }
        first = false;
        if !wanted(&desk) {
            break;
        }
    }
    // What was taken in is written before the process may end.
    drop(std::mem::take(&mut life.vaults));
}

/// Waits until a parked model is wanted again; `false` if the program ends instead.
fn wanted(desk: &Desk) -> bool {
    loop {
        desk.wait(None);
        let wanted = desk.change(|state| {
            if state.drain.is_some() {
                return Some(false);
            }
            let work = !state.line.is_empty() || !state.errands.is_empty();
            let wanted = work || state.wish == Some(Wish::Unpark);
            if wanted {
                // In one go with the wish, so that nobody sees a parked model that nobody wants.
                state.phase = Phase::Loading;
            }
            state.wish = None;
            wanted.then_some(true)
        });
        if let Some(wanted) = wanted {
            return wanted;
        }
    }
}

/// A remark for whoever runs the program.
pub(super) fn warn(text: &str) {
    // Whoever closed stderr does not want to know.
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}
