//! Loads of drafters that fail leave nothing on the device.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use bytemuck::Pod;
use gemma4_conformance::backends::Device;
use gemma4_conformance::drafts::{drafter, edited};
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::on_every_backend;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_core::backend::{Backend, Step, Ticket};
use gemma4_core::engine::{Ask, DraftKind, DraftOptions, Part, Pick};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::{KvTypes, Taps};
use gemma4_core::program::{Act, Class, Program, StateSpec};
use gemma4_core::sample::{Draw, Sampling};
use gemma4_core::tensor::Tensor;

/// What goes wrong: what is told to, or the device.
#[derive(Debug, thiserror::Error)]
enum Fails<E: std::error::Error + 'static> {
    #[error("it was told to fail")]
    Told,
    #[error(transparent)]
    Device(#[from] E),
}

/// Counts what is alive on a device, and fails when it is told to.
struct Counting<B> {
    backend: Arc<B>,
    live: Arc<AtomicIsize>,
    /// Uploads and allocations until one fails.
    left: Arc<AtomicUsize>,
}

impl<B> Clone for Counting<B> {
    fn clone(&self) -> Self {
        let Self { backend, live, left } = self;
        Self { backend: Arc::clone(backend), live: Arc::clone(live), left: Arc::clone(left) }
    }
}

/// Something on the device.
#[derive(Clone)]
struct Held<T>(T, #[expect(dead_code, reason = "counts as long as it lives")] Arc<Alive>);

struct Alive(Arc<AtomicIsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Backend> Counting<B> {
    fn hold<T>(&self, make: impl FnOnce() -> Result<T, B::Error>) -> Result<Held<T>, Fails<B::Error>> {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 {
            return Err(Fails::Told);
        }
        let made = make()?;
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(Held(made, Arc::new(Alive(Arc::clone(&self.live)))))
    }
}

impl<B: Backend> Backend for Counting<B> {
    type Weight = Held<B::Weight>;
    type State = Held<B::State>;
    type Plan = (B::Plan, Vec<Self::Weight>, Vec<Self::State>);
    type Error = Fails<B::Error>;

    fn upload(&self, tensor: &Tensor) -> Result<Self::Weight, Self::Error> {
        self.hold(|| self.backend.upload(tensor))
    }

    fn state(&self, spec: &StateSpec) -> Result<Self::State, Self::Error> {
        self.hold(|| self.backend.state(spec))
    }

    fn compile(
        &self,
        program: &Program,
        weights: &[Self::Weight],
        states: &[Self::State],
    ) -> Result<Self::Plan, Self::Error> {
        let of_weights: Vec<_> = weights.iter().map(|held| held.0.clone()).collect();
        let of_states: Vec<_> = states.iter().map(|held| held.0.clone()).collect();
        let plan = self.backend.compile(program, &of_weights, &of_states)?;
        Ok((plan, weights.to_vec(), states.to_vec()))
    }

    fn run(&self, plan: &mut Self::Plan, step: &Step<'_>) -> Result<Ticket, Self::Error> {
        Ok(self.backend.run(&mut plan.0, step)?)
    }

    fn read<T: Pod>(
        &self,
        plan: &Self::Plan,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), Self::Error> {
        Ok(self.backend.read(&plan.0, ticket, output, into)?)
    }

    fn read_page(&self, state: &Self::State, page: u32, into: &mut [u8]) -> Result<(), Self::Error> {
        Ok(self.backend.read_page(&state.0, page, into)?)
    }

    fn write_page(&self, state: &Self::State, page: u32, from: &[u8]) -> Result<(), Self::Error> {
        Ok(self.backend.write_page(&state.0, page, from)?)
    }
}

const F32: DraftOptions = DraftOptions { kv: KvTypes { k: KvType::F32, v: KvType::F32 }, causal: None };

/// Twenty loads that fail; `allocated` says what the device holds, where it can. Returns how many there were.
fn loads<B: Backend>(backend: B, allocated: &dyn Fn() -> u64) -> usize {
    let tiny = Tiny::dense();
    let counting = Counting {
        backend: Arc::new(backend),
        live: Arc::default(),
        left: Arc::new(AtomicUsize::new(usize::MAX)),
    };
    let subject = Subject { new: || counting.clone(), tiny: tiny.clone(), kv: Kv::all(KvType::F32) };
    let mut engine = subject.engine(300, 256, 2).unwrap_or_else(|failure| panic!("{failure}"));
    let live = || counting.live.load(Ordering::Relaxed);
    let before = (live(), allocated());
    assert!(before.0 > 0);
    let mut failed = 0;
    for n in 0..20 {
        let kind = if n % 2 == 0 { DraftKind::DFlash } else { DraftKind::Mtp };
        // Every other one does not fit the target; the others break off at some upload or allocation.
        let fits = n % 4 >= 2;
        let file = if fits {
            counting.left.store(n, Ordering::Relaxed);
            drafter(kind, &tiny)
        } else {
            edited(kind, &tiny, |json| {
                json["hidden_size"] = 96.into();
                json["backbone_hidden_size"] = 96.into();
            })
        };
        let error = engine.attach(file, F32, &mut |_, _| ()).expect_err("it cannot be attached");
        counting.left.store(usize::MAX, Ordering::Relaxed);
        if !fits {
            let text = error.to_string();
            assert!(text.contains("96") && text.contains("64"), "both sides are named: {text}");
        }
        assert_eq!((live(), allocated()), before, "load {n}");
        assert_eq!(engine.most_drafts(kind), None);
        failed += 1;
    }
    // The engine works on, and takes a good one.
    engine.attach(drafter(DraftKind::DFlash, &tiny), F32, &mut |_, _| ()).expect("it fits");
    let seq = engine.open().expect("a sequence is free");
    let (text, sampling) = (tokens(20, 9), Sampling::default());
    let draws = vec![Draw { sampling: &sampling, position: 0, edits: &[], allowed: None }; text.len()];
    let part = Part { seq, tokens: &text, pick: Pick::All };
    engine.step(Class::Decode, &[part], &draws, Taps::None).expect("it fits");
    engine.commit(seq, text.len()).expect("it was enqueued");
    let ask = Ask { seq, anchor: 7, count: 6, sampling: &sampling, edits: &[] };
    assert_eq!(engine.propose(DraftKind::DFlash, &[ask]).expect("the device works")[0].len(), 6);
    failed
}

#[test]
fn s24_loads_of_drafters_that_fail_leave_nothing_on_the_device() {
    on_every_backend!(|at, new| {
        let allocated = || match &at.device {
            Device::Cuda(cuda) => cuda.memory().expect("it says").allocated,
            Device::Cpu | Device::Wgpu(_) => 0,
        };
        let failed = loads(new(), &allocated);
        assert_eq!(failed, 20);
        at.report("S24", failed);
    });
}
