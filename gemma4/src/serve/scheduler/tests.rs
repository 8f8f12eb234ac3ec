//! Requests against small models on the reference backend.

mod answers;
mod faults;
mod limits;
mod reuse;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytemuck::Pod;
use gemma4_conformance::drafts::drafter;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_core::backend::{Backend, Step, Ticket};
use gemma4_core::engine::{DraftKind, DraftOptions, Engine, Options};
use gemma4_core::program::{Act, Program, StateSpec};
use gemma4_core::reference::{Reference, ReferenceError};
use gemma4_core::sample::Sampling;
use gemma4_core::speculate::Settings;
use gemma4_core::tensor::Tensor;
use gemma4_core::vault::{Key, Vault, fingerprint};
use tokio::sync::mpsc::{Receiver, channel};

use super::{Limits, Phase, Scheduler, Status, Vaults};
use crate::serve::job::{CachePolicy, CancelToken, Event, Finish, Generation, Job, Refused, ReuseEnd, Usage};

/// Ends a turn, as far as the scheduler is concerned.
const TURN_END: u32 = 159;

/// How long anything may take before a test is stuck.
const STUCK: Duration = Duration::from_mins(2);

/// A reference that says it queues steps, and fails when it is told to.
struct Device<const QUEUES: bool> {
    reference: Reference,
    broken: Arc<AtomicBool>,
}

impl<const QUEUES: bool> Backend for Device<QUEUES> {
    type Weight = <Reference as Backend>::Weight;
    type State = <Reference as Backend>::State;
    type Plan = <Reference as Backend>::Plan;
    type Error = ReferenceError;
    const QUEUES: bool = QUEUES;

    fn upload(&self, tensor: &Tensor) -> Result<Self::Weight, ReferenceError> {
        self.reference.upload(tensor)
    }

    fn state(&self, spec: &StateSpec) -> Result<Self::State, ReferenceError> {
        self.reference.state(spec)
    }

    fn compile(
        &self,
        program: &Program,
        weights: &[Self::Weight],
        states: &[Self::State],
    ) -> Result<Self::Plan, ReferenceError> {
        self.reference.compile(program, weights, states)
    }

    fn run(&self, plan: &mut Self::Plan, step: &Step<'_>) -> Result<Ticket, ReferenceError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(ReferenceError::Gone(0));
        }
        self.reference.run(plan, step)
    }

    fn read<T: Pod>(
        &self,
        plan: &Self::Plan,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), ReferenceError> {
        self.reference.read(plan, ticket, output, into)
    }

    fn read_page(&self, state: &Self::State, page: u32, into: &mut [u8]) -> Result<(), ReferenceError> {
        self.reference.read_page(state, page, into)
    }

    fn write_page(&self, state: &Self::State, page: u32, from: &[u8]) -> Result<(), ReferenceError> {
        self.reference.write_page(state, page, from)
    }
}

/// How a server is set up.
#[derive(Clone)]
struct Setup {
    tiny: Tiny,
    parallel: usize,
    queue: usize,
    context: usize,
    chunk: usize,
    budget: usize,
    windows: usize,
    pool: Option<usize>,
    park_after: Option<Duration>,
    memory: u64,
    dir: Option<PathBuf>,
    queues: bool,
    drafting: Option<Settings>,
    broken: Arc<AtomicBool>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            tiny: Tiny::moe(),
            parallel: 4,
            queue: 64,
            context: 4096,
            chunk: 512,
            budget: 256,
            windows: 64,
            pool: None,
            park_after: None,
            memory: 0,
            dir: None,
            queues: false,
            drafting: None,
            broken: Arc::default(),
        }
    }
}

impl Setup {
    fn start(&self) -> Scheduler {
        let setup = self.clone();
        let limits = Limits {
            parallel: self.parallel,
            queue: self.queue,
            context: self.context,
            vocab: self.tiny.config().vocab,
            budget: self.budget,
            park_after: self.park_after,
            turn_ends: vec![TURN_END],
        };
        let scheduler = Scheduler::start(
            limits,
            Box::new(move |life| {
                setup.vaults(life.vaults());
                Ok(if setup.queues {
                    life.work(setup.engine::<true>(), setup.drafting.clone())
                } else {
                    life.work(setup.engine::<false>(), setup.drafting.clone())
                })
            }),
        );
        let scheduler = scheduler.expect("threads can be started");
        scheduler.loaded().expect("a small model fits");
        scheduler
    }

    fn engine<const QUEUES: bool>(&self) -> Engine<Device<QUEUES>> {
        let kv = Kv::MIXED;
        let options = Options {
            context: self.context,
            sequences: self.parallel,
            kv_local: kv.local,
            kv_global: kv.global,
            chunk: self.chunk,
            snapshots: self.windows,
            pool: self.pool,
        };
        let reference = Reference::new(Some(1)).expect("threads can be started");
        let device = Device { reference, broken: Arc::clone(&self.broken) };
        let mut engine =
            Engine::new(device, self.tiny.model(), options, &mut |_, _| ()).expect("a small model fits");
        if self.drafting.is_some() {
            for kind in [DraftKind::Mtp, DraftKind::DFlash] {
                let options = DraftOptions { kv: Kv::MIXED.global, causal: None };
                engine
                    .attach(drafter(kind, &self.tiny), options, &mut |_, _| ())
                    .expect("a small drafter fits");
            }
        }
        engine
    }

    fn name(&self) -> Key {
        fingerprint(&self.tiny.model(), Kv::MIXED.local, Kv::MIXED.global, "test")
    }

    fn vaults(&self, vaults: &mut Vaults) {
        if vaults.fingerprint.is_none() {
            vaults.memory = (self.memory > 0).then(|| Vault::in_memory(self.memory));
            vaults.disk = self.dir.as_ref().map(|dir| {
                Vault::in_folder(dir, self.name(), 1 << 30).expect("a folder for this test alone").0
            });
            vaults.fingerprint = Some(self.name());
        }
    }
}

/// A request of a test.
#[derive(Clone)]
struct Ask {
    tokens: Vec<u32>,
    sampling: Sampling,
    max_tokens: usize,
    stop: Vec<u32>,
    cache: CachePolicy,
    logprobs: Option<u8>,
    deadline: Option<Duration>,
    progress: bool,
    room: usize,
}

impl Ask {
    /// Draws `max_tokens` behind a prompt: drawn tokens show a change of the logits that greedy ones hide.
    fn new(tokens: Vec<u32>, max_tokens: usize) -> Self {
        let sampling = Sampling { temperature: 2.0, seed: 9, ..Sampling::default() };
        let (stop, cache) = (Vec::new(), CachePolicy::Reuse);
        Self {
            tokens,
            sampling,
            max_tokens,
            stop,
            cache,
            logprobs: None,
            deadline: None,
            progress: false,
            room: 4096,
        }
    }

    fn job(&self) -> (Job, Receiver<Event>) {
        let (events, receiver) = channel(self.room);
        let job = Job {
            id: 0,
            tokens: self.tokens.clone(),
            borders: Vec::new(),
            params: Generation {
                sampling: self.sampling.clone(),
                max_tokens: self.max_tokens,
                stop_tokens: self.stop.clone(),
                suppress: Vec::new(),
            },
            logprobs: self.logprobs,
            constraint: None,
            deadline: self.deadline.map(|time| Instant::now() + time),
            cache: self.cache,
            progress: self.progress,
            events,
            cancel: CancelToken::new(),
        };
        (job, receiver)
    }

    fn send(&self, scheduler: &Scheduler) -> Receiver<Event> {
        let (job, receiver) = self.job();
        scheduler.submit(job).expect("the line is long enough");
        receiver
    }

    fn answer(&self, scheduler: &Scheduler) -> Answer {
        Answer::of(self.send(scheduler))
    }
}

/// What came of a request.
#[derive(Clone, Debug)]
struct Answer {
    tokens: Vec<u32>,
    reused: usize,
    why: Option<ReuseEnd>,
    finish: Finish,
    usage: Usage,
    progress: Vec<usize>,
    logprobs: Vec<(f32, Vec<(u32, f32)>)>,
}

impl Answer {
    fn of(mut events: Receiver<Event>) -> Self {
        let (mut tokens, mut reused, mut why) = (Vec::new(), 0, None);
        let (mut progress, mut logprobs) = (Vec::new(), Vec::new());
        while let Some(event) = events.blocking_recv() {
            match event {
                Event::Started { reused: n, why: end, .. } => (reused, why) = (n, Some(end)),
                Event::Prefill { done, .. } => progress.push(done),
                Event::Token { id, logprob, top } => {
                    tokens.push(id);
                    logprobs.extend(logprob.map(|own| (own, top)));
                }
                Event::Finished { reason: finish, usage } => {
                    assert!(events.blocking_recv().is_none(), "nothing follows");
                    return Self { tokens, reused, why, finish, usage, progress, logprobs };
                }
            }
        }
        panic!("the channel closed without `Finished`, after {} tokens", tokens.len());
    }
}

/// What a server that knows nothing answers, one request at a time.
fn alone(setup: &Setup, asks: &[Ask]) -> Vec<Vec<u32>> {
    let scheduler = Setup { dir: None, parallel: 1, ..setup.clone() }.start();
    let answers =
        asks.iter().map(|ask| Ask { cache: CachePolicy::None, ..ask.clone() }.answer(&scheduler).tokens);
    let answers = answers.collect();
    scheduler.drain(STUCK);
    answers
}

/// Waits for something that the thread does on its own.
fn until(what: &str, scheduler: &Scheduler, mut done: impl FnMut(&Status) -> bool) {
    let start = Instant::now();
    loop {
        let status = scheduler.status();
        if done(&status) {
            return;
        }
        assert!(start.elapsed() < STUCK, "{what} never came: {status:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A text without ends of turns.
fn text(n: usize, number: u64) -> Vec<u32> {
    tokens(n, number).into_iter().map(|token| token % TURN_END).collect()
}

/// A turn: a text and its end.
fn turn(n: usize, number: u64) -> Vec<u32> {
    let mut turn = text(n - 1, number);
    turn.push(TURN_END);
    turn
}

fn used(status: &Status) -> (usize, usize) {
    (status.pages.global.used, status.pages.local.used)
}
