//! The pocket model with its two drafters, which were trained: the same texts in fewer steps.

use std::fmt::Write as _;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use gemma4_conformance::faulty::{Faulty, Mistake};
use gemma4_conformance::{Failure, backends, on_every_backend};
use gemma4_core::backend::Backend;
use gemma4_core::checkpoint::Checkpoint;
use gemma4_core::dialogue::Speaker;
use gemma4_core::engine::{CHUNK, DraftOptions, Engine, Options};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::drafter::OpenDraft;
use gemma4_core::model::gemma4::KvTypes;
use gemma4_core::ops::Op;
use gemma4_core::program::Program;
use gemma4_core::reference::Reference;
use gemma4_core::sample::Sampling;
use gemma4_core::session::{Request, Session};
use gemma4_core::speculate::{Policy, Settings, Source, Speculator};
use gemma4_core::tokenizer::Special;

use crate::drafters::is_block;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pocket")
}

/// A prompt, where its text ends, and tokens a round that `PyTorch` measured for blocks, and for chains of 2 and 4.
struct Prompt {
    name: &'static str,
    tokens: Vec<u32>,
    /// Whether the text goes on behind its end, to 96 tokens.
    on: bool,
    measured: [f64; 3],
}

#[derive(serde::Deserialize)]
struct Recorded {
    prompt_ids: Vec<u32>,
}

/// The prompts of models/pocket/README.md.
fn prompts(speaker: &Speaker) -> Vec<Prompt> {
    let text = std::fs::read_to_string(models().join("continuations.json")).expect("it is in the repository");
    let recorded: Vec<Recorded> = serde_json::from_str(&text).expect("it is JSON of this form");
    let of = |name, at: usize, on, measured| Prompt {
        name,
        tokens: recorded[at].prompt_ids.clone(),
        on,
        measured,
    };
    let raw = |name, text: &str, measured| {
        let tokens = speaker.tokenizer.encode_prompt(text, Special::Parse).expect("plain text");
        Prompt { name, tokens, on: true, measured }
    };
    vec![
        of("What does numpy.linspace do?", 0, false, [6.50, 3.00, 4.33]),
        of("What is the signature of numpy.linspace?", 1, false, [2.23, 2.42, 2.64]),
        of("What is 3 plus 4?", 7, false, [4.50, 3.00, 3.00]),
        of("Hello!", 9, false, [9.00, 3.00, 4.50]),
        of("What is scipy.linalg.solve? (thinking, then on)", 10, true, [4.00, 2.53, 3.69]),
        of("What is the weather in Paris? (tool, then on)", 12, true, [6.00, 2.82, 4.17]),
        raw("def mean", "import numpy as np\n\ndef mean(x):\n    ", [2.00, 2.09, 2.18]),
        raw(
            "class Stack",
            "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
            [2.91, 2.82, 2.82],
        ),
        raw("def fibonacci", "def fibonacci(n):\n", [1.63, 1.68, 1.78]),
    ]
}

/// A target with both drafters.
struct Pocket {
    target: PathBuf,
    drafters: [PathBuf; 2],
    kv: KvType,
}

impl Pocket {
    fn embedded() -> Self {
        let drafters =
            ["pocket-assistant-Q8_0.gguf", "pocket-dflash-Q8_0.gguf"].map(|name| models().join(name));
        Self { target: models().join("pocket-Q8_0.gguf"), drafters, kv: KvType::F16 }
    }

    fn engine<B: Backend>(&self, backend: B) -> Engine<B> {
        let checkpoint = Checkpoint::open(&self.target).unwrap_or_else(|error| panic!("{error}"));
        let model = checkpoint.model().unwrap_or_else(|error| panic!("{error}"));
        let kv = KvTypes { k: self.kv, v: self.kv };
        let options = Options {
            context: 512,
            sequences: 1,
            kv_local: kv,
            kv_global: kv,
            chunk: CHUNK,
            snapshots: 0,
            pool: None,
        };
        let mut engine = Engine::new(backend, model, options, &mut |_, _| ()).expect("a small model fits");
        for path in &self.drafters {
            let open = OpenDraft::open(path).unwrap_or_else(|error| panic!("{error}"));
            open.check_tokens(&Self::speaker().tokenizer).unwrap_or_else(|error| panic!("{error}"));
            let options = DraftOptions { kv, causal: None };
            engine.attach(open.file, options, &mut |_, _| ()).unwrap_or_else(|error| panic!("{error}"));
        }
        engine
    }

    fn speaker() -> Speaker {
        // The folder has no template; the tokenizer is the same.
        let checkpoint =
            Checkpoint::open(&models().join("pocket-Q8_0.gguf")).unwrap_or_else(|error| panic!("{error}"));
        Speaker::new(&checkpoint).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Generates; gives the tokens, and how many steps the target took behind the first token.
fn generate<B: Backend>(
    engine: &mut Engine<B>,
    speaker: &Speaker,
    prompt: &[u32],
    (sampling, max_tokens, on): (&Sampling, usize, bool),
    settings: Option<Settings>,
) -> (Vec<u32>, u64) {
    let request = Request {
        prompt,
        border: 0,
        sampling,
        max_tokens,
        end: if on { &[] } else { &speaker.end },
        suppress: &speaker.suppress,
    };
    let mut session = Session::new(engine).expect("a sequence is free");
    session.speculate(settings.and_then(|settings| Speculator::new(settings, engine)));
    let generated = session.generate(engine, &request, &mut |_| ControlFlow::Continue(()));
    let generated = generated.unwrap_or_else(|error| panic!("{error:?}"));
    let steps =
        session.speculator().map_or(0, |speculator| speculator.stats.rounds() + speculator.stats.plain_steps);
    session.close(engine).expect("it is open");
    (generated.tokens, steps)
}

fn fixed(source: Source, most: usize) -> Settings {
    Settings { policy: Policy::Fixed, sources: vec![source], most: Some(most), simulate: None }
}

/// Tokens a round on all prompts, as `PyTorch` counts them: the first token is one of them.
fn tokens_a_round(pocket: &Pocket, least: f64) {
    let speaker = Pocket::speaker();
    let mut engine = pocket.engine(Reference::new(None).expect("threads can be started"));
    let columns = [(Source::DFlash, 15), (Source::Mtp, 2), (Source::Mtp, 4)];
    let greedy = Sampling::default();
    let (mut got, mut want) = ([0.0; 3], [0.0; 3]);
    backends::say(format_args!(
        "{:<50} {:>12} {:>12} {:>12}",
        "tokens a round (PyTorch)", "dflash 15", "mtp 2", "mtp 4"
    ));
    for prompt in prompts(&speaker) {
        let how = (&greedy, 96, prompt.on);
        let (plain, _) = generate(&mut engine, &speaker, &prompt.tokens, how, None);
        let mut cells = String::new();
        for (at, (source, most)) in columns.into_iter().enumerate() {
            let (text, rounds) =
                generate(&mut engine, &speaker, &prompt.tokens, how, Some(fixed(source, most)));
            assert_eq!(text, plain, "{}, {source} {most}", prompt.name);
            let each = text.len() as f64 / rounds as f64;
            got[at] += each;
            want[at] += prompt.measured[at];
            let _ = write!(cells, " {each:>5.2} ({:>4.2})", prompt.measured[at]);
        }
        backends::say(format_args!("{:<50}{cells}", prompt.name));
    }
    for ((source, most), (got, want)) in columns.into_iter().zip(got.into_iter().zip(want)) {
        println!("{source} {most}: {got:.2} of {want:.2}");
        assert!(got >= least * want, "{source} {most}: {got:.2} tokens a round in all, expected {want:.2}");
    }
}

#[test]
fn s19_trained_drafters_give_the_tokens_a_round_that_were_measured() {
    // Weights of 8 bits move some choices of the target and of the drafters, in either direction.
    tokens_a_round(&Pocket::embedded(), 0.95);
}

#[test]
fn the_checkpoints_themselves_do_too() {
    let Some(dir) = std::env::var_os("POCKET_DIR").map(PathBuf::from) else {
        backends::say("skipped: POCKET_DIR names no folder with target, assistant and dflash");
        return;
    };
    let drafters = ["assistant", "dflash"].map(|name| dir.join(name));
    tokens_a_round(&Pocket { target: dir.join("target"), drafters, kv: KvType::F32 }, 0.99);
}

/// Prompts of 20 to 60 tokens from the held-out text.
fn pieces(speaker: &Speaker, which: Range<usize>) -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(models().join("eval.txt")).expect("it is in the repository");
    let tokens = speaker.tokenizer.encode_prompt(&text, Special::Parse).expect("plain text");
    let bos = tokens[0];
    let piece = |i: usize| {
        let from = 1 + i * 97 % (tokens.len() - 100);
        std::iter::once(bos).chain(tokens[from..from + 20 + i % 41].iter().copied()).collect()
    };
    which.map(piece).collect()
}

/// Tokens and rounds with drafts of prompts from the held-out text, greedy; the texts are those without drafts.
fn rounds_of<B: Backend>(
    engine: &mut Engine<B>,
    prompts: &[Vec<u32>],
    (most, settings): (usize, &Settings),
) -> Rounds {
    let (speaker, greedy) = (Pocket::speaker(), Sampling::default());
    let mut all = Rounds::default();
    for prompt in prompts {
        let how = (&greedy, most, true);
        let (plain, _) = generate(engine, &speaker, prompt, how, None);
        let (text, rounds) = generate(engine, &speaker, prompt, how, Some(settings.clone()));
        assert_eq!(text, plain, "{settings:?}");
        all.add(&text, rounds);
    }
    all
}

/// Tokens that were committed in steps of the target.
#[derive(Clone, Copy, Debug, Default)]
struct Rounds {
    tokens: u64,
    steps: u64,
}

impl Rounds {
    fn add(&mut self, text: &[u32], steps: u64) {
        self.tokens += text.len() as u64;
        self.steps += steps;
    }

    fn each(self) -> f64 {
        self.tokens as f64 / self.steps as f64
    }
}

impl std::fmt::Display for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({} tokens in {})", self.each(), self.tokens, self.steps)
    }
}

#[test]
fn s19_drafters_of_8_bits_are_accepted_as_often_as_the_originals() {
    let Some(dir) = std::env::var_os("POCKET_DIR").map(PathBuf::from) else {
        backends::say("skipped: POCKET_DIR names no folder with assistant and dflash");
        return;
    };
    let small = Pocket::embedded();
    let drafters = ["assistant", "dflash"].map(|name| dir.join(name));
    let originals = Pocket { drafters, ..Pocket::embedded() };
    let prompts = pieces(&Pocket::speaker(), 0..20);
    let mut engines = [small, originals].map(|pocket| pocket.engine(backends::reference()));
    for (source, most) in [(Source::DFlash, 15), (Source::Mtp, 4)] {
        let [small, originals] =
            engines.each_mut().map(|engine| rounds_of(engine, &prompts, (64, &fixed(source, most))));
        backends::say(format_args!("{source} {most}: {small} of 8 bits, {originals} of the originals"));
        let ratio = small.each() / originals.each();
        assert!((0.95..=1.05).contains(&ratio), "{source} {most}: {small}, {originals}");
    }
}

/// What a drafter computes otherwise than it was trained, the source that this is about, and how.
type Otherwise = (&'static str, Source, fn(&Program, &mut Op));

const OTHERWISE: [Otherwise; 2] = [
    ("X7: the embedding is not scaled", Source::DFlash, |program, op| {
        if let (Op::Embed(op), true) = (op, is_block(program)) {
            op.scale = 1.0;
        }
    }),
    ("X8: the hidden state of another row", Source::Mtp, |_, op| {
        if let Op::RecallRows(op) = op {
            op.back = 1 - op.back;
        }
    }),
];

#[test]
fn x7_x8_a_trained_drafter_that_is_computed_otherwise_is_accepted_less() {
    let prompts = pieces(&Pocket::speaker(), 0..3);
    let run = |change, source| {
        let backend = Faulty { backend: backends::reference(), mistake: Mistake::Op(change) };
        rounds_of(&mut Pocket::embedded().engine(backend), &prompts, (48, &fixed(source, 4)))
    };
    let right = [Source::DFlash, Source::Mtp].map(|source| run(|_, _| (), source));
    for (what, source, change) in OTHERWISE {
        let right = right[usize::from(source == Source::Mtp)];
        let wrong = run(change, source);
        backends::say(format_args!("{what}: {wrong} tokens a round, {right} as it was trained"));
        assert!(wrong.each() < 0.95 * right.each(), "{what}: {wrong}, {right} as it was trained");
    }
}

/// A number in the environment.
fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, expected a number")))
}

/// X1, on every backend. `DRAFT_PROMPTS=200` takes so many prompts from the held-out text, and 128 tokens of each, also
/// on a software driver, whose two devices share them. `DRAFT_FROM` is the first of them, so that several processes share
/// the work: `DRAFT_FROM=0 DRAFT_PROMPTS=25`, `DRAFT_FROM=25 DRAFT_PROMPTS=25` and so on are the same texts. The line that
/// begins with `drafts:` has what was compared, and tokens and steps for each of the settings: sums of those of all parts
/// are those of the whole.
#[test]
fn x1_texts_are_the_same_with_and_without_drafters_on_every_backend() {
    let pocket = Pocket::embedded();
    let speaker = Pocket::speaker();
    let asked = number("DRAFT_PROMPTS").map(|count| {
        let from = number("DRAFT_FROM").unwrap_or(0);
        from..from + count
    });
    let all: Vec<Vec<u32>> = match asked.clone() {
        None => prompts(&speaker).into_iter().map(|prompt| prompt.tokens).step_by(4).collect(),
        Some(range) => pieces(&speaker, range),
    };
    let greedy = Sampling::default();
    let drawn = Sampling { temperature: 0.8, top_k: 64, top_p: 0.95, seed: 4, ..Sampling::default() };
    on_every_backend!(|at, new| {
        let mut engine = pocket.engine(new());
        let every = [
            ("dflash 15", fixed(Source::DFlash, 15)),
            ("dflash 4", fixed(Source::DFlash, 4)),
            ("mtp 3", fixed(Source::Mtp, 3)),
            ("mtp 8", fixed(Source::Mtp, 8)),
            ("ngram 8", fixed(Source::Ngram, 8)),
            ("auto", Settings::default()),
        ];
        let (ways, prompts, most): (_, Vec<&Vec<u32>>, _) = if asked.is_some() {
            (&every[..], all.iter().enumerate().filter(|&(n, _)| at.takes(n)).map(|(_, p)| p).collect(), 128)
        } else {
            let one = if at.takes(0) { &every[1..2] } else { &every[2..3] };
            let (ways, count, most) = at.pick((&every[..], all.len(), 40), (one, 1, 12));
            (ways, all[..count].iter().collect(), most)
        };
        if prompts.is_empty() {
            backends::say(format_args!(
                "drafts: {}: all prompts are those of the driver's other device",
                at.name
            ));
            continue;
        }
        let mut found = vec![[Rounds::default(); 2]; ways.len()];
        let (mut texts, mut equal, mut result) = (0, 0, Ok(()));
        for prompt in &prompts {
            for (column, sampling) in [&greedy, &drawn].into_iter().enumerate() {
                let how = (sampling, most, true);
                let (want, _) = generate(&mut engine, &speaker, prompt, how, None);
                for ((_, settings), found) in ways.iter().zip(&mut found) {
                    let (got, steps) = generate(&mut engine, &speaker, prompt, how, Some(settings.clone()));
                    found[column].add(&got, steps);
                    texts += 1;
                    if want == got {
                        equal += 1;
                    } else {
                        let what = format!("{prompt:?}, {settings:?}: {got:?}, expected {want:?}");
                        result = result.and(Err(Failure::False(what)));
                    }
                }
            }
        }
        let compared = found.iter().flatten().map(|rounds| rounds.tokens).sum::<u64>();
        let each = ways
            .iter()
            .zip(&found)
            .map(|((name, _), [greedy, drawn])| format!("{name}: {greedy} greedy, {drawn} at 0.8"));
        let first = asked.as_ref().map_or(0, |range| range.start);
        backends::say(format_args!(
            "drafts: {}: {} prompts from {first} on, {most} tokens each: {equal} of {texts} texts equal, {compared} tokens \
             compared; tokens a round: {}",
            at.name,
            prompts.len(),
            each.collect::<Vec<_>>().join("; ")
        ));
        let compared = usize::try_from(compared).expect("it fits into memory");
        at.holds("pocket, the same texts with drafters", result.map(|()| compared));
    });
}
