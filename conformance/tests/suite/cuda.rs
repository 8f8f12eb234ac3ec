//! What only the CUDA backend has: captured steps, a cache of compiled kernels, a limit of memory. Skipped where there is no
//! device; `REQUIRE_BACKENDS=cuda` makes that a failure.

use std::collections::BTreeMap;
use std::path::Path;

use gemma4_conformance::backends::{self, Covered, Device};
use gemma4_conformance::cases::{self, fast_cases, library_cases};
use gemma4_conformance::compare::same_bits;
use gemma4_conformance::invariance::{Subject, feed};
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_core::backend::{Backend, Row};
use gemma4_core::engine::{Engine, EngineError, Part, Pick};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::Taps;
use gemma4_core::ops::Op;
use gemma4_core::program::Class;
use gemma4_core::sample::{Draw, Edit, Sampling};
use gemma4_cuda::{Cuda, CudaError, Folder, Options, Prompts};

/// The device of this run, if it has one.
fn covered() -> Option<(&'static Covered, &'static Cuda)> {
    backends::covered().iter().find_map(|at| match &at.device {
        Device::Cuda(cuda) => Some((at, cuda)),
        _ => None,
    })
}

fn options() -> Options {
    backends::cuda_options().unwrap_or_else(|error| panic!("{error}"))
}

fn open(options: &Options) -> Cuda {
    Cuda::new(options).unwrap_or_else(|error| panic!("{error}"))
}

fn subject(cuda: &Cuda, tiny: Tiny, kv: Kv) -> Subject<impl Fn() -> Cuda> {
    let cuda = cuda.clone();
    Subject { new: move || cuda.clone(), tiny, kv }
}

#[test]
fn captured_steps_have_the_bits_of_direct_ones() {
    let Some((at, captured)) = covered() else { return };
    let turn = at.turn();
    let direct = open(&Options { graphs: false, ..options() });
    let mut compared = 0;
    for tiny in Tiny::all() {
        for kv in [Kv::all(KvType::F16), Kv::MIXED] {
            // Plans of 1, 2, 4 and 8 rows, the last with fewer rows than it could have.
            for size in [1, 2, 4, 7] {
                let text = tokens(300 + 6 * size, 50);
                let mut both = Vec::new();
                for cuda in [captured, &direct] {
                    let subject = subject(cuda, tiny.clone(), kv);
                    let mut engine = subject.engine(512, 256, 1).expect("it fits");
                    let seq = engine.open().expect("there is room");
                    feed(&mut engine, seq, Class::Prefill, &text[..300], 256).expect("a prompt");
                    both.push(feed(&mut engine, seq, Class::Decode, &text[300..], size).expect("steps"));
                }
                same_bits(&both[1], &both[0])
                    .unwrap_or_else(|error| panic!("{}, {kv:?}, steps of {size}: {error}", tiny.name));
                compared += both[0].len();
            }
        }
    }
    drop(turn);
    at.report("captured steps", compared);
}

/// Samples `count` tokens, each step ahead of the host; some steps edit many logits.
fn sampled(engine: &mut Engine<Cuda>, count: usize) -> Result<Vec<u32>, EngineError> {
    let sampling = Sampling { temperature: 1.3, seed: 5, ..Sampling::default() };
    // More than any step had before. Each names another token, as edits do; those beyond the vocabulary change nothing.
    let many: Vec<Edit> = (0..4096).map(|token| Edit { token, repetition: 1.1, offset: -0.01 }).collect();
    let seq = engine.open()?;
    let (mut tokens, mut before) = (Vec::new(), None);
    for i in 0..count {
        let edits: &[Edit] = if i % 7 == 5 { &many[..many.len() >> (i % 2)] } else { &[] };
        let position = u32::try_from(i + 1).expect("few");
        let draw = Draw { sampling: &sampling, position, edits, allowed: None };
        let token = if i == 0 { 3 } else { Row::SAMPLED };
        let part = Part { seq, tokens: &[token], pick: Pick::Last };
        let step = engine.step(Class::Decode, &[part], &[draw], Taps::None)?;
        engine.commit(seq, 1)?;
        if let Some(before) = before.replace(step) {
            tokens.extend(engine.tokens(&before)?);
        }
    }
    if let Some(last) = before {
        tokens.extend(engine.tokens(&last)?);
    }
    engine.close(seq)?;
    Ok(tokens)
}

#[test]
fn room_for_draws_grows_without_a_trace() {
    let Some((at, captured)) = covered() else { return };
    let turn = at.turn();
    let direct = open(&Options { graphs: false, ..options() });
    let run = |cuda: &Cuda| {
        let subject = subject(cuda, Tiny::all().into_iter().next().expect("there are models"), Kv::MIXED);
        sampled(&mut subject.engine(64, 16, 1).expect("it fits"), 40).expect("steps")
    };
    let (want, got) = (run(&direct), run(captured));
    assert_eq!(want, got);
    assert_eq!(got, run(captured), "the same once more");
    drop(turn);
    at.report("growing draws", want.len());
}

#[test]
fn what_was_allocated_is_freed() {
    let Some((at, cuda)) = covered() else { return };
    let turn = at.turn();
    let allocated = || cuda.memory().expect("it says").allocated;
    let run = || {
        let subject = subject(cuda, Tiny::all().into_iter().next().expect("there are models"), Kv::MIXED);
        let mut engine = subject.engine(512, 256, 2).expect("it fits");
        sampled(&mut engine, 5).expect("steps").len()
    };
    // Scratch memory stays for the next plans.
    let mut count = run();
    let before = allocated();
    for _ in 0..3 {
        count += run();
    }
    assert_eq!(allocated(), before);
    drop(turn);
    at.report("memory is freed", count);
}

#[test]
fn a_limit_of_memory_is_kept_and_named() {
    let Some((at, cuda)) = covered() else { return };
    let turn = at.turn();
    let memory = cuda.memory().expect("it says");
    // Room for what is in use now, and 64 MiB more.
    let limit = memory.total - memory.free + (64 << 20);
    let small = open(&Options { vram_limit: Some(limit), ..options() });
    let now = small.memory().expect("it says");
    assert!(now.total == limit && now.free <= 64 << 20, "{now:?}");
    let tiny = Tiny::all().into_iter().next().expect("there are models");
    let specs = {
        let subject = subject(&small, tiny, Kv::all(KvType::F32));
        let engine = subject.engine(256, 256, 1).expect("a small one fits");
        let model = engine.model();
        let (_, mut layout) =
            gemma4_core::engine::layout(&model.config, engine.options()).expect("the sizes work");
        layout.global_pages = 1 << 16;
        layout.local_pages = 1 << 16;
        model.states(&layout)
    };
    let error = small.state(&specs[0]).expect_err("it is far too large");
    let text = error.to_string();
    assert!(matches!(error, CudaError::OutOfMemory { .. }), "{text}");
    assert!(text.contains("does not fit") && text.contains("--vram-limit"), "{text}");
    // The device works on.
    small.state(&gemma4_core::program::StateSpec { pages: 1, ..specs[0].clone() }).expect("a page fits");
    drop(turn);
    at.report("limit of memory", 1);
}

/// Files of a folder and their contents.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("it is there");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .map(|path| (path.clone(), std::fs::read(&path).expect("it can be read")))
        .collect();
    files.sort();
    files
}

#[test]
fn compiled_kernels_are_kept_and_damaged_ones_made_anew() {
    let Some((at, _)) = covered() else { return };
    let turn = at.turn();
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options { cache: Folder::At(folder.path().to_owned()), ..options() };
    let run = || {
        let cuda = open(&options);
        let subject = subject(&cuda, Tiny::all().into_iter().next().expect("there are models"), Kv::MIXED);
        sampled(&mut subject.engine(64, 16, 1).expect("it fits"), 8).expect("steps")
    };
    let first = run();
    let kept = files(folder.path());
    assert!(!kept.is_empty());
    for (number, (path, bytes)) in kept.iter().enumerate() {
        // Cut, changed, or whole.
        let damaged = match number % 3 {
            0 => bytes[..bytes.len() / 2].to_vec(),
            1 => bytes.iter().enumerate().map(|(i, byte)| byte ^ u8::from(i == bytes.len() / 2)).collect(),
            _ => continue,
        };
        std::fs::write(path, damaged).expect("it can be written");
    }
    assert_eq!(first, run());
    assert!(files(folder.path()) == kept, "the same code was made again");
    drop(turn);
    at.report("cache of kernels", first.len());
}

/// The variable that makes a missing library of products a failure.
const REQUIRE_LIBRARY: &str = "REQUIRE_CUBLASLT";

/// The device with halves in prompts, multiplied by NVIDIA's library wherever it can; none where that is missing.
fn with_library() -> Option<Cuda> {
    match Cuda::new(&Options { exact: false, prompts: Prompts::Library, ..options() }) {
        Ok(cuda) => Some(cuda),
        Err(error @ (CudaError::NoLibrary { .. } | CudaError::Library(_))) => {
            let required = std::env::var(REQUIRE_LIBRARY).is_ok_and(|value| value == "1");
            assert!(!required, "{REQUIRE_LIBRARY} is set, and {error}");
            backends::say(format_args!("{}skipped: cublaslt: {error}", backends::LINE));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn products_by_the_library_lose_no_more_than_halves_may_and_know_no_company() {
    let Some((at, _)) = covered() else { return };
    let turn = at.turn();
    let Some(cuda) = with_library() else { return };
    let (mut compared, mut share) = (0, 0.0f64);
    for mut case in library_cases() {
        let before = cuda.library_products();
        let got = case.run(&cuda).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert!(cuda.library_products() > before, "{}: the library did nothing", case.name);
        let agreement = case.compare(&got).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        compared += agreement.count;
        share = share.max(agreement.share);
        // The same rows in plans of other sizes, whose products have other numbers of rows.
        let rows = std::mem::take(&mut case.rows);
        let cols = got.len() / rows.len();
        for (some, want) in rows.chunks(37).zip(got.chunks(37 * cols)) {
            for capacity in [some.len().next_power_of_two(), 512] {
                case.rows = some.to_vec();
                case.picked = (0..some.len()).map(|row| u32::try_from(row).expect("few")).collect();
                case.settings.truncate(some.len());
                (case.program.rows, case.program.picked) = (capacity, capacity);
                let again = case.run(&cuda).unwrap_or_else(|error| panic!("{}: {error}", case.name));
                same_bits(want, &again).unwrap_or_else(|error| {
                    panic!("{}, {} rows of {capacity}: {error}", case.name, some.len())
                });
                compared += again.len();
            }
        }
    }
    drop(turn);
    at.report_with("products by the library", compared, &format!("{:.1} % of the bound", 100.0 * share));
}

#[test]
fn products_that_users_have_lose_no_more_than_they_may_and_more_than_f32() {
    let Some((at, _)) = covered() else { return };
    let turn = at.turn();
    let cuda = open(&Options { exact: false, prompts: Prompts::Tiles, ..options() });
    for op in ["linear", "moe_ffn"] {
        let (mut compared, mut share) = (0, 0.0f64);
        // Of generated rows, and of prompts.
        let mut exact = [true; 2];
        let strict: BTreeMap<_, _> =
            cases::of(op).into_iter().map(|case| (case.name.clone(), case)).collect();
        for case in fast_cases(op) {
            let got = case.run(&cuda).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let agreement = case.compare(&got).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            compared += agreement.count;
            share = share.max(agreement.share);
            if let Some(strict) = strict.get(&case.name) {
                exact[usize::from(case.is_prompt())] &= strict.compare(&got).is_ok();
            }
        }
        assert_eq!(exact, [false; 2], "{op}: the bounds of f32 hold, so fewer bits were not used");
        at.report_with(
            format!("{op} as users have it"),
            compared,
            &format!("{:.1} % of the bound", 100.0 * share),
        );
    }
    drop(turn);
}

#[test]
fn blocks_that_share_steps_equally_go_from_one_group_to_the_next() {
    let Some((at, _)) = covered() else { return };
    let turn = at.turn();
    let (mut compared, mut share) = (0, 0.0f64);
    for (exact, cases) in [(true, cases::long_cases()), (false, cases::fast_long_cases())] {
        let cuda = open(&Options { exact, multiprocessors: Some(1), ..options() });
        for case in cases {
            let got = case.run(&cuda).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let agreement = case.compare(&got).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            compared += agreement.count;
            share = share.max(agreement.share);
        }
    }
    drop(turn);
    at.report_with("equal shares".to_owned(), compared, &format!("{:.1} % of the bound", 100.0 * share));
}

#[test]
fn units_that_are_gated_where_they_are_multiplied_have_the_bits_of_others() {
    let Some((at, _)) = covered() else { return };
    let turn = at.turn();
    let mut compared = 0;
    for exact in [true, false] {
        let cuda = open(&Options { exact, ..options() });
        for mut case in cases::projection_cases() {
            let mut run = |apart: bool| {
                // What is an output has a launch of its own.
                let units = case.program.ops.iter().filter_map(|op| match op {
                    Op::Glu(op) if apart => Some(op.out),
                    _ => None,
                });
                for unit in units.collect::<Vec<_>>() {
                    case.program.output(unit);
                }
                case.run(&cuda).unwrap_or_else(|error| panic!("{}: {error}", case.name))
            };
            let (together, apart) = (run(false), run(true));
            same_bits(&apart, &together).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            compared += together.len();
        }
    }
    drop(turn);
    at.report("gated units", compared);
}

#[test]
fn generated_rows_as_users_have_them_know_no_company() {
    let Some((at, _)) = covered() else { return };
    let turn = at.turn();
    let cuda = open(&Options { exact: false, ..options() });
    let mut compared = 0;
    for tiny in Tiny::all() {
        let subject = subject(&cuda, tiny, Kv::MIXED);
        let properties = [
            subject.verifying_equals_decoding(270, &[2, 4, 5, 8, 16, 32]),
            subject.company_changes_nothing(Class::Decode),
        ];
        for result in properties {
            compared += result.unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
    drop(turn);
    at.report("generated rows as users have them", compared);
}
