//! Drafts change the time that a text takes, and never the text: every drafter, length, cache and way of sampling.

use std::ops::ControlFlow;

use gemma4_conformance::drafts::{drafter, edited};
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{Failure, backends, on_every_backend};
use gemma4_core::backend::Backend;
use gemma4_core::engine::{DraftKind, DraftOptions, Engine, Part, Pick};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::Taps;
use gemma4_core::program::Class;
use gemma4_core::reference::Reference;
use gemma4_core::sample::{Draw, Sampling};
use gemma4_core::session::{Ended, Event, Generated, Request, Session};
use gemma4_core::speculate::{Choice, Policy, Sample, Settings, Source, Speculator, accepted};

const CONTEXT: usize = 700;

/// The engine of a small model with both of its drafters.
fn engine<B: Backend>(new: impl Fn() -> B, tiny: &Tiny, kv: Kv, drafts: bool) -> Result<Engine<B>, Failure> {
    let subject = Subject { new, tiny: tiny.clone(), kv };
    let mut engine = subject.engine(CONTEXT, 256, 2)?;
    if drafts {
        for kind in [DraftKind::Mtp, DraftKind::DFlash] {
            let options = DraftOptions { kv: kv.global, causal: None };
            engine.attach(drafter(kind, tiny), options, &mut |_, _| ())?;
        }
    }
    Ok(engine)
}

/// How a text is made.
#[derive(Clone)]
struct Way {
    sampling: Sampling,
    max_tokens: usize,
    end: Vec<u32>,
    /// The listener stops after so many tokens.
    patience: usize,
}

impl Way {
    fn greedy() -> Self {
        Self { sampling: Sampling::default(), max_tokens: 24, end: Vec::new(), patience: usize::MAX }
    }

    fn drawn() -> Self {
        let sampling = Sampling { temperature: 0.8, seed: 5, ..Sampling::default() };
        Self { sampling, ..Self::greedy() }
    }

    fn penalised() -> Self {
        let sampling = Sampling {
            temperature: 0.8,
            top_k: 40,
            repetition_penalty: 1.3,
            frequency_penalty: 0.4,
            presence_penalty: 0.2,
            seed: 6,
            ..Sampling::default()
        };
        Self { sampling, ..Self::greedy() }
    }
}

fn settings(source: Source, most: usize, policy: Policy) -> Settings {
    Settings { policy, sources: vec![source], most: Some(most), simulate: None }
}

/// One turn of a conversation.
fn turn<B: Backend>(
    engine: &mut Engine<B>,
    session: &mut Session,
    prompt: &[u32],
    way: &Way,
) -> Result<Generated, Failure> {
    let request = Request {
        prompt,
        border: prompt.len() - 2,
        sampling: &way.sampling,
        max_tokens: way.max_tokens,
        end: &way.end,
        suppress: &[3],
    };
    let mut heard = Vec::new();
    let generated = session.generate(engine, &request, &mut |event| {
        if let Event::Token(token) = event {
            heard.push(token);
        }
        if heard.len() == way.patience { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let generated = generated.map_err(|error| Failure::False(format!("{error:?}")))?;
    // K10: however many tokens a round commits, a listener hears them one by one, and none behind the end.
    if heard != generated.tokens {
        return Err(Failure::False(format!("{heard:?} were heard, {:?} generated", generated.tokens)));
    }
    Ok(generated)
}

/// A text that repeats itself, so that the text itself offers drafts.
fn repeating(n: usize) -> Vec<u32> {
    let piece = tokens(7, 50);
    piece.iter().cycle().take(n).copied().collect()
}

/// Texts with drafts as without, for all of these; returns tokens compared, and how many drafts were accepted.
fn same_text<B: Backend, F: Fn() -> B>(
    new: &F,
    tiny: &Tiny,
    kv: Kv,
    cases: &[(Settings, Way)],
) -> Result<(usize, u64), Failure> {
    let prompt = repeating(75);
    let (mut compared, mut accepted) = (0, 0);
    let mut plain = engine(new, tiny, kv, false)?;
    let mut drafted = engine(new, tiny, kv, true)?;
    let mut known: Vec<(Sampling, Vec<u32>)> = Vec::new();
    for (settings, way) in cases {
        let want = if let Some((_, tokens)) = known.iter().find(|(sampling, _)| *sampling == way.sampling) {
            tokens.clone()
        } else {
            let mut session = Session::new(&mut plain)?;
            let tokens = turn(&mut plain, &mut session, &prompt, way)?.tokens;
            session.close(&mut plain)?;
            known.push((way.sampling.clone(), tokens.clone()));
            tokens
        };
        let mut session = Session::new(&mut drafted)?;
        session.speculate(Speculator::new(settings.clone(), &drafted));
        let got = turn(&mut drafted, &mut session, &prompt, way)?.tokens;
        let stats = &session.speculator().expect("it was given").stats;
        accepted += stats.sources.values().map(|source| source.accepted).sum::<u64>();
        session.close(&mut drafted)?;
        if want != got {
            return Err(Failure::False(format!(
                "{}, {kv:?}, {settings:?}, {:?}: {got:?}, expected {want:?}",
                tiny.name, way.sampling
            )));
        }
        compared += got.len();
    }
    Ok((compared, accepted))
}

fn lengths(source: Source) -> &'static [usize] {
    match source {
        Source::Mtp => &[1, 2, 3, 8],
        Source::DFlash => &[1, 4, 7, 15],
        Source::Ngram => &[1, 5, 15],
    }
}

#[test]
fn x1_s18_s21_texts_are_the_same_with_every_drafter_length_cache_and_sampling() {
    on_every_backend!(|at, new| {
        let kvs = [Kv::all(KvType::F16), Kv::all(KvType::Q8_0), Kv::MIXED, Kv::all(KvType::F32)];
        for (tiny, kv) in at.pick(
            Tiny::all().into_iter().flat_map(|tiny| kvs.map(|kv| (tiny.clone(), kv))).collect::<Vec<_>>(),
            vec![(Tiny::dense(), Kv::MIXED)],
        ) {
            let mut cases = Vec::new();
            for source in Source::ALL {
                for &most in at.pick(lengths(source), &lengths(source)[1..2]) {
                    for way in at.pick(vec![Way::greedy(), Way::drawn()], vec![Way::drawn()]) {
                        let way = Way { max_tokens: at.pick(24, 8), ..way };
                        cases.push((settings(source, most, Policy::Fixed), way));
                    }
                }
            }
            if at.effort == backends::Effort::Full {
                cases.push((settings(Source::Mtp, 4, Policy::Fixed), Way::penalised()));
                cases.push((settings(Source::Ngram, 8, Policy::Fixed), Way::penalised()));
                cases.push((Settings::default(), Way::drawn()));
                cases.push((Settings::default(), Way::greedy()));
            }
            let result = same_text(&new, &tiny, kv, &cases);
            let result = result.map(|(compared, _)| compared);
            at.holds(&format!("{}, {kv:?}: the same text with drafts", tiny.name), result);
        }
    });
}

/// An engine of the dense model, and what one text is without drafts.
fn plainly(prompt: &[u32], way: &Way) -> (Generated, Vec<u32>) {
    let mut engine = engine(backends::reference, &Tiny::dense(), Kv::MIXED, false).expect("it fits");
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let generated = turn(&mut engine, &mut session, prompt, way).expect("a good request");
    (generated, session.tokens().to_vec())
}

#[test]
fn x4_f11_s23_k10_a_text_ends_inside_a_block_where_it_ends_without_drafts() {
    let tiny = Tiny::dense();
    let prompt = repeating(40);
    // What the model goes on with repeats itself soon, so that the text offers drafts that are accepted.
    let way = Way { max_tokens: 40, ..Way::greedy() };
    let (whole, _) = plainly(&prompt, &way);
    let mut ways = Vec::new();
    for n in [1, 2, 3, 6, 11, 20] {
        ways.push(Way { max_tokens: n, ..Way::greedy() });
        ways.push(Way { patience: n, ..way.clone() });
        ways.push(Way { end: vec![whole.tokens[n]], ..way.clone() });
    }
    let mut engine = engine(backends::reference, &tiny, Kv::MIXED, true).expect("it fits");
    let mut accepted = 0;
    for way in ways {
        let (want, cached) = plainly(&prompt, &way);
        for source in [Source::Ngram, Source::DFlash, Source::Mtp] {
            let mut session = Session::new(&mut engine).expect("a sequence is free");
            session.speculate(Speculator::new(settings(source, 8, Policy::Fixed), &engine));
            let got = turn(&mut engine, &mut session, &prompt, &way).expect("a good request");
            assert_eq!((&got.tokens, got.ended), (&want.tokens, want.ended), "{source}");
            // The cache holds all but the last token, as without drafts, and goes on from there.
            assert_eq!(session.tokens(), cached, "{source}");
            accepted +=
                session.speculator().expect("given").stats.sources.values().map(|s| s.accepted).sum::<u64>();
            let mut next = session.tokens().to_vec();
            next.extend(tokens(9, 51));
            let again = turn(&mut engine, &mut session, &next, &Way::greedy()).expect("a good request");
            let (fresh, _) = plainly(&next, &Way::greedy());
            assert_eq!(again.tokens, fresh.tokens, "{source}: the turn after");
            assert!(again.reused > 0, "{source}: nothing was reused");
            session.close(&mut engine).expect("it is open");
        }
    }
    assert!(accepted > 10, "only {accepted} drafts were accepted: nothing ended inside a block");
}

#[test]
fn the_context_fills_up_as_without_drafts() {
    let tiny = Tiny::dense();
    let prompt = repeating(CONTEXT - 12);
    let way = Way { max_tokens: 100, ..Way::greedy() };
    let (want, _) = plainly(&prompt, &way);
    assert_eq!(want.ended, Ended::ContextFull);
    let mut engine = engine(backends::reference, &tiny, Kv::MIXED, true).expect("it fits");
    for source in Source::ALL {
        let mut session = Session::new(&mut engine).expect("a sequence is free");
        session.speculate(Speculator::new(settings(source, 15, Policy::Fixed), &engine));
        let got = turn(&mut engine, &mut session, &prompt, &way).expect("a good request");
        assert_eq!((&got.tokens, got.ended), (&want.tokens, want.ended), "{source}");
        session.close(&mut engine).expect("it is open");
    }
}

#[test]
fn s21_a_block_has_no_more_drafts_than_its_drafter_says() {
    let tiny = Tiny::dense();
    let mut engine = engine(backends::reference, &tiny, Kv::MIXED, false).expect("it fits");
    let six = edited(DraftKind::DFlash, &tiny, |json| json["block_size"] = 6.into());
    let kv = Kv::MIXED.global;
    engine.attach(six, DraftOptions { kv, causal: None }, &mut |_, _| ()).expect("it fits");
    assert_eq!(engine.most_drafts(DraftKind::DFlash), Some(5));
    let prompt = repeating(75);
    let (want, _) = plainly(&prompt, &Way::drawn());
    for most in [1, 5, 6, 15] {
        let mut session = Session::new(&mut engine).expect("a sequence is free");
        session.speculate(Speculator::new(settings(Source::DFlash, most, Policy::Fixed), &engine));
        let got = turn(&mut engine, &mut session, &prompt, &Way::drawn()).expect("a good request");
        assert_eq!(got.tokens, want.tokens, "at most {most} drafts");
        let stats = &session.speculator().expect("given").stats.sources[&Source::DFlash];
        assert_eq!(stats.lengths.keys().max(), Some(&most.min(5)), "at most {most} drafts");
        session.close(&mut engine).expect("it is open");
    }
}

#[test]
fn f20_first_blocks_make_8_rows_for_dense_models_and_have_4_drafts_for_mixtures() {
    for (tiny, first) in [(Tiny::dense(), 7), (Tiny::ple(), 7), (Tiny::moe(), 4)] {
        let engine = engine(backends::reference, &tiny, Kv::MIXED, true).expect("it fits");
        for (most, want) in [(None, first), (Some(15), first), (Some(2), 2)] {
            let settings = Settings { sources: vec![Source::DFlash], most, ..Settings::default() };
            let mut speculator = Speculator::new(settings, &engine).expect("it has a drafter");
            let text = tokens(40, 9);
            // Plain steps first: what they take is what blocks are compared with.
            let Choice::Plain(steps) = speculator.choose(&text, 60) else { panic!("nothing was measured") };
            let mut sample = Sample::new(text.len());
            (sample.steps, sample.verify_seconds) = (steps as u64, steps as f64);
            speculator.observe(&sample);
            let choice = speculator.choose(&text, 60);
            assert_eq!(choice, Choice::Draft(Source::DFlash, want), "{}, {most:?}", tiny.name);
        }
    }
}

#[test]
fn s25_the_same_seed_gives_the_same_text_twice_in_one_session() {
    let tiny = Tiny::moe();
    let mut engine = engine(backends::reference, &tiny, Kv::all(KvType::F16), true).expect("it fits");
    let prompt = repeating(30);
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    session.speculate(Speculator::new(Settings::default(), &engine));
    let first = turn(&mut engine, &mut session, &prompt, &Way::drawn()).expect("a good request");
    let second = turn(&mut engine, &mut session, &prompt, &Way::drawn()).expect("a good request");
    assert_eq!(first.tokens, second.tokens);
    let other = Way { sampling: Sampling { seed: 77, ..Way::drawn().sampling }, ..Way::drawn() };
    let third = turn(&mut engine, &mut session, &prompt, &other).expect("a good request");
    assert_ne!(first.tokens, third.tokens);
}

/// What a grammar allows behind a token.
fn mask(before: u32) -> Vec<u32> {
    let mut words = vec![0u32; 160 / 32];
    for token in (0..160u32).filter(|token| !(token + before).is_multiple_of(3)) {
        words[token as usize / 32] |= 1 << (token % 32);
    }
    words
}

#[test]
fn x3_masks_inside_a_block_are_those_of_plain_decoding() {
    let sampling = Sampling { temperature: 1.2, seed: 8, ..Sampling::default() };
    let prompt = tokens(30, 60);
    let fresh = || {
        let mut engine =
            engine(backends::reference, &Tiny::moe(), Kv::all(KvType::Q8_0), false).expect("it fits");
        let seq = engine.open().expect("a sequence is free");
        let mask = mask(prompt[29]);
        let draw = Draw { sampling: &sampling, position: 30, edits: &[], allowed: Some(&mask) };
        let part = Part { seq, tokens: &prompt, pick: Pick::Last };
        let step = engine.step(Class::Prefill, &[part], &[draw], Taps::None).expect("it fits");
        engine.commit(seq, 30).expect("reserved");
        let first = engine.tokens(&step).expect("the device works")[0];
        (engine, seq, first)
    };
    // Rows behind each other's tokens, each with the mask of what is before it; gives what the target chose.
    let step = |engine: &mut Engine<Reference>, seq, at: usize, rows: &[u32]| {
        let masks: Vec<Vec<u32>> = rows.iter().map(|&token| mask(token)).collect();
        let draws: Vec<Draw<'_>> = masks
            .iter()
            .enumerate()
            .map(|(i, mask)| Draw {
                sampling: &sampling,
                position: u32::try_from(at + i + 1).expect("small"),
                edits: &[],
                allowed: Some(mask),
            })
            .collect();
        let part = Part { seq, tokens: rows, pick: Pick::All };
        let step = engine.step(Class::Decode, &[part], &draws, Taps::None).expect("it fits");
        engine.tokens(&step).expect("the device works")
    };
    let (mut engine, seq, first) = fresh();
    let mut plain = vec![first];
    for at in 30..60 {
        let token = step(&mut engine, seq, at, &plain[plain.len() - 1..])[0];
        engine.commit(seq, 1).expect("reserved");
        plain.push(token);
    }
    assert!(plain.windows(2).all(|pair| (pair[0] + pair[1]) % 3 != 0), "a token that was not allowed");
    let (mut engine, seq, first) = fresh();
    let mut text = vec![first];
    let mut wrong = 0;
    while text.len() < plain.len() {
        let at = text.len();
        // Five drafts, one of which is wrong, each time another one.
        let mut rows = vec![text[at - 1]];
        rows.extend(plain[at..].iter().take(5).copied());
        let bad = 1 + wrong % 5;
        if let Some(token) = rows.get_mut(bad) {
            *token = (*token + 1) % 160;
        }
        wrong += 1;
        let chosen = step(&mut engine, seq, 29 + at, &rows);
        let kept = accepted(&rows[1..], &chosen) + 1;
        engine.commit(seq, kept).expect("reserved");
        text.extend_from_slice(&chosen[..kept]);
    }
    assert_eq!(&text[..plain.len()], plain);
}
