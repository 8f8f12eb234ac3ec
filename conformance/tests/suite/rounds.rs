//! Rounds on a device that queues steps: drafts stay there, the host waits once a round, and the text is the plain one.

use std::ops::ControlFlow;
use std::time::Duration;

use gemma4_conformance::drafts::drafter;
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::queue::{Queue, Seen};
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{backends, on_every_backend};
use gemma4_core::backend::Backend;
use gemma4_core::engine::{DraftKind, DraftOptions, Engine};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::KvTypes;
use gemma4_core::sample::Sampling;
use gemma4_core::session::{Request, Session};
use gemma4_core::speculate::{Policy, Settings, Source, Speculator, Stats};

const F32: DraftOptions = DraftOptions { kv: KvTypes { k: KvType::F32, v: KvType::F32 }, causal: None };

/// An engine with both drafters, whose drafts are mostly wrong.
fn engine<B: Backend>(new: impl Fn() -> B, context: usize) -> Engine<B> {
    let tiny = Tiny::dense();
    let subject = Subject { new, tiny: tiny.clone(), kv: Kv::MIXED };
    let mut engine = subject.engine(context, 256, 2).unwrap_or_else(|failure| panic!("{failure}"));
    for kind in [DraftKind::Mtp, DraftKind::DFlash] {
        engine.attach(drafter(kind, &tiny), F32, &mut |_, _| ()).expect("it fits");
    }
    engine
}

/// A text of `most` tokens, and what drafts gave.
fn text<B: Backend>(
    engine: &mut Engine<B>,
    most: usize,
    sampling: &Sampling,
    settings: Option<Settings>,
) -> (Vec<u32>, Stats) {
    let mut session = Session::new(engine).expect("a sequence is free");
    session.speculate(settings.and_then(|settings| Speculator::new(settings, engine)));
    let prompt = tokens(30, 8);
    let request = Request { prompt: &prompt, border: 0, sampling, max_tokens: most, end: &[], suppress: &[] };
    let generated = session.generate(engine, &request, &mut |_| ControlFlow::Continue(())).expect("it works");
    let stats = session.speculator().map(|speculator| speculator.stats.clone()).unwrap_or_default();
    session.close(engine).expect("it is open");
    (generated.tokens, stats)
}

fn fixed(source: Source, most: usize) -> Settings {
    Settings { policy: Policy::Fixed, sources: vec![source], most: Some(most), simulate: None }
}

#[test]
fn a_round_waits_for_the_device_once() {
    let drawn = Sampling { temperature: 1.5, seed: 3, ..Sampling::default() };
    let penalised = Sampling { repetition_penalty: 1.3, ..drawn.clone() };
    let mut compared = 0;
    for sampling in [&Sampling::default(), &drawn, &penalised] {
        let (want, _) = text(&mut engine(backends::reference, 400), 60, sampling, None);
        for settings in [fixed(Source::DFlash, 5), fixed(Source::Mtp, 4), fixed(Source::Mtp, 1)] {
            let queue = Queue::new(backends::reference());
            let (got, stats) = text(&mut engine(|| queue.clone(), 400), 60, sampling, Some(settings.clone()));
            assert_eq!(want, got, "{settings:?}");
            compared += got.len();
            let drafts: u64 = stats.sources.values().map(|source| source.drafted).sum();
            let steps = usize::try_from(stats.rounds() + stats.plain_steps).expect("few");
            let (idle, drafted) = (Seen::get(&queue.seen.idle), Seen::get(&queue.seen.drafted));
            if sampling.has_penalties() {
                // A row's penalties count drafts, so the host sees them first.
                assert!(idle > steps, "{settings:?}: {idle} waits in {steps} steps");
                continue;
            }
            assert!(drafted as u64 >= drafts && drafts > 0, "{settings:?}: {drafted} of {drafts} drafts");
            // For the prompt, and once for each round.
            assert_eq!(idle, 1 + steps, "{settings:?}");
        }
    }
    println!("rounds: {compared} tokens");
    assert!(compared > 0);
}

#[test]
fn plain_steps_run_ahead_beside_drafters_of_no_use() {
    let greedy = Sampling::default();
    let (want, _) = text(&mut engine(backends::reference, 700), 600, &greedy, None);
    let queue = Queue::new(backends::reference());
    // N-grams are of use: small models repeat themselves.
    let sources = vec![Source::DFlash, Source::Mtp];
    let settings = Settings { sources, ..Settings::default() };
    let (got, stats) = text(&mut engine(|| queue.clone(), 700), 600, &greedy, Some(settings));
    assert_eq!(want, got);
    let idle = Seen::get(&queue.seen.idle);
    println!("{} rounds, {idle} waits for 600 tokens", stats.rounds());
    assert!(stats.rounds() >= 2, "both were tried");
    assert!(stats.rounds() < 60, "{} rounds of drafters of no use", stats.rounds());
    assert!(idle < 100, "the device waited {idle} times");
}

#[test]
fn warming_up_makes_the_plans_of_rounds_and_leaves_no_trace() {
    on_every_backend!(|at, new| {
        let (most, length) = at.pick((7, 40), (1, 8));
        let greedy = Sampling::default();
        let (want, _) = text(&mut engine(new, 300), length, &greedy, Some(fixed(Source::DFlash, most)));
        let mut engine = engine(new, 300);
        let warm = engine.warm_drafts(most, Duration::from_mins(10)).expect("it works");
        assert_eq!(engine.cache_stats().sequences, 0);
        // The prompt has a plan of its own, and drafters read it by the step for many tokens.
        let before = engine.plans_made();
        let (got, _) = text(&mut engine, length, &greedy, Some(fixed(Source::DFlash, most)));
        assert_eq!(want, got);
        let made = engine.plans_made() - before;
        if warm.plans > 0 {
            assert!(made <= 1, "{made} plans were made after {warm:?}");
        }
        at.report("warming up", want.len());
    });
}
