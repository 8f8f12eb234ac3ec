//! What drafters are given of a target's steps, and what is left of others.

use gemma4_conformance::compare::same_bits;
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{Failure, on_every_backend};
use gemma4_core::backend::{Backend, PageTable, Row, Step};
use gemma4_core::cache::PAGE;
use gemma4_core::engine::{Engine, Part, Pick};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::{Keeps, KvLayout, KvTypes, Taps};
use gemma4_core::ops::Op;
use gemma4_core::program::{Class, Ring, Rows, State};
use gemma4_core::sample::{Draw, Sampling};

const F32: KvTypes = KvTypes { k: KvType::F32, v: KvType::F32 };

fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("small")
}

/// Features of some layers as they are kept, beside the streams that a step taps.
fn features<B: Backend>(backend: &B, tiny: &Tiny, rows: usize) -> Result<usize, Failure> {
    let mut model = tiny.model();
    let (hidden, count) = (model.config.hidden, model.config.layers.len());
    let layout = KvLayout { local: F32, global: F32, local_pages: 2, global_pages: 2 };
    let mut specs = model.states(&layout).to_vec();
    // The last layer's output is tapped behind its norm only.
    let kept: Vec<usize> = (0..count - 1).collect();
    let ring = Ring { state: State::new(specs.len()), rows: PAGE };
    specs.push(Ring::spec("features", kept.len() * hidden, PAGE, 1));
    model.keep(Keeps { features: Some((ring, kept.clone())), hidden: None });
    let recorded = model.verify(&specs.clone().into(), rows, Taps::Hidden)?;
    let weights = model.tensors.iter().map(|tensor| backend.upload(tensor)).collect::<Result<Vec<_>, _>>();
    let states = specs.iter().map(|spec| backend.state(spec)).collect::<Result<Vec<_>, _>>();
    let (weights, states) = (weights.map_err(Failure::device::<B>)?, states.map_err(Failure::device::<B>)?);
    let plan = backend.compile(&recorded.program, &weights, &states);
    let mut plan = plan.map_err(Failure::device::<B>)?;
    let text = tokens(rows, 5);
    let row = |(at, &token): (usize, &u32)| Row { token, position: narrow(at), slot: 0 };
    let all: Vec<Row> = text.iter().enumerate().map(row).collect();
    let picked: Vec<u32> = (0..narrow(rows)).collect();
    let sampling = Sampling::default();
    let draws = vec![Draw { sampling: &sampling, position: 1, edits: &[], allowed: None }; rows];
    let tables = [PageTable { global: &[0, 1], local: &[0, 1] }];
    let step = Step { rows: &all, picked: &picked, tables: &tables, draws: &draws };
    let ticket = backend.run(&mut plan, &step).map_err(Failure::device::<B>)?;
    let mut page = vec![0u8; PAGE * kept.len() * hidden * 4];
    backend.read_page(&states[ring.state.index()], 0, &mut page).map_err(Failure::device::<B>)?;
    let page: Vec<f32> = page.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let mut compared = 0;
    for (at, &layer) in kept.iter().enumerate() {
        // The stream that layer `layer + 1` reads: the first that is tapped is the embedding.
        let mut want = vec![0.0f32; rows * hidden];
        let act = recorded.hidden[layer + 1];
        backend.read(&plan, ticket, act, &mut want).map_err(Failure::device::<B>)?;
        let width = kept.len() * hidden;
        let got: Vec<f32> = (0..rows)
            .flat_map(|row| page[row * width + at * hidden..row * width + (at + 1) * hidden].to_vec())
            .collect();
        assert!(got.iter().any(|&value| value != 0.0));
        let what = format!("{}: the output of layer {layer}", tiny.name);
        compared += same_bits(&want, &got).map_err(Failure::differs(what))?;
    }
    Ok(compared)
}

#[test]
fn s3_a_feature_is_what_the_next_layer_reads_bit_for_bit() {
    on_every_backend!(|at, new| {
        let backend = new();
        let all = [Tiny::ple(), Tiny::dense(), Tiny::moe()];
        let result = all.iter().map(|tiny| features(&backend, tiny, 5)).sum::<Result<usize, _>>();
        at.holds("S3", result);
    });
}

#[test]
fn s22_only_the_rows_that_are_needed_reach_the_head() {
    let model = Tiny::dense().model();
    let layout = KvLayout { local: F32, global: F32, local_pages: 2, global_pages: 2 };
    let specs = model.states(&layout);
    let heads = |recorded: &gemma4_core::model::gemma4::Recorded| {
        let program = &recorded.program;
        let of = |act| if program.spec(act).rows == Rows::Picked { program.picked } else { program.rows };
        let linears = program.ops.iter().filter_map(|op| match op {
            Op::Linear(linear) if program.cols(linear.out) == model.config.vocab => Some(of(linear.out)),
            _ => None,
        });
        linears.collect::<Vec<_>>()
    };
    let prefill = model.prefill(&specs, 256, 1, Taps::None).expect("it is a model");
    assert_eq!(heads(&prefill), [1]);
    let verify = model.verify(&specs, 8, Taps::None).expect("it is a model");
    assert_eq!(heads(&verify), [8]);
}

/// Logits of decoding `text` token by token in a new sequence.
fn decode<B: Backend>(engine: &mut Engine<B>, text: &[u32]) -> Result<Vec<f32>, Failure> {
    let seq = engine.open()?;
    let sampling = Sampling::default();
    let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
    let mut logits = Vec::new();
    for &token in text {
        let part = Part { seq, tokens: &[token], pick: Pick::All };
        let step = engine.step(Class::Decode, &[part], &[draw], Taps::None)?;
        engine.commit(seq, 1)?;
        logits.extend(engine.logits(&step)?);
    }
    engine.close(seq)?;
    Ok(logits)
}

#[test]
fn k3_after_a_sequence_is_closed_the_next_is_that_of_a_new_engine() {
    on_every_backend!(|at, new| {
        let (first, second) = at.pick((400, 60), (30, 8));
        let result = (|| {
            let subject = Subject { new: &new, tiny: Tiny::moe(), kv: Kv::MIXED };
            let want = decode(&mut subject.engine(512, 256, 1)?, &tokens(second, 21))?;
            let mut engine = subject.engine(512, 256, 1)?;
            decode(&mut engine, &tokens(first, 20))?;
            let got = decode(&mut engine, &tokens(second, 21))?;
            same_bits(&want, &got).map_err(Failure::differs("K3".to_owned()))
        })();
        at.holds("K3", result);
    });
}

#[test]
fn k9_the_last_position_works_and_the_one_behind_it_is_an_error() {
    on_every_backend!(|at, new| {
        let subject = Subject { new: &new, tiny: Tiny::moe(), kv: Kv::MIXED };
        let mut engine = subject.engine(257, 256, 1).unwrap_or_else(|failure| panic!("{failure}"));
        let seq = engine.open().expect("a sequence is free");
        let sampling = Sampling::default();
        let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
        let text = tokens(256, 4);
        engine.prefill(seq, &text, &draw, &mut |_, _| true).expect("it fits");
        let part = Part { seq, tokens: &[5], pick: Pick::Last };
        let step = engine.step(Class::Decode, &[part], &[draw], Taps::None).expect("position 256 of 257");
        engine.commit(seq, 1).expect("it was enqueued");
        let logits = engine.logits(&step).expect("the device works");
        assert!(logits.iter().all(|logit| logit.is_finite()));
        let error =
            engine.step(Class::Decode, &[part], &[draw], Taps::None).expect_err("there is no position 257");
        assert!(matches!(error, gemma4_core::engine::EngineError::Cache(_)), "{error}");
        at.report("K9", logits.len());
    });
}
