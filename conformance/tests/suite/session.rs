//! Conversations: what is computed again and what is not, files, and requests that fail.

use std::ops::ControlFlow;
use std::path::Path;

use gemma4_conformance::invariance::Subject;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_core::engine::Engine;
use gemma4_core::kv_type::KvType;
use gemma4_core::reference::Reference;
use gemma4_core::sample::Sampling;
use gemma4_core::session::{Ended, Event, FileError, Generated, Request, Session, SessionError};
use serde_json::{Value, json};

const CONTEXT: usize = 1500;
const ANSWER: usize = 6;

fn engine(tiny: Tiny, kv: Kv) -> Engine<Reference> {
    let new = || Reference::new(None).expect("threads can be started");
    let subject = Subject { new, tiny, kv };
    subject.engine(CONTEXT, 256, 1).unwrap_or_else(|failure| panic!("{failure}"))
}

fn moe() -> Engine<Reference> {
    engine(Tiny::moe(), Kv::MIXED)
}

/// Drawn tokens show a change of the logits that greedy ones hide.
fn drawing() -> Sampling {
    Sampling { temperature: 2.0, seed: 9, ..Sampling::default() }
}

/// A request for a few tokens.
fn request<'a>(prompt: &'a [u32], border: usize, sampling: &'a Sampling) -> Request<'a> {
    Request { prompt, border, sampling, max_tokens: ANSWER, end: &[], suppress: &[] }
}

fn answer(engine: &mut Engine<Reference>, session: &mut Session, prompt: &[u32], border: usize) -> Generated {
    let sampling = drawing();
    let result =
        session.generate(engine, &request(prompt, border, &sampling), &mut |_| ControlFlow::Continue(()));
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// What a conversation that starts with this prompt answers.
fn fresh(prompt: &[u32]) -> Vec<u32> {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    answer(&mut engine, &mut session, prompt, 0).tokens
}

#[test]
fn a_turn_computes_only_what_is_new() {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let first = tokens(300, 1);
    let one = answer(&mut engine, &mut session, &first, 300);
    assert_eq!((one.prompt, one.reused, one.ended), (300, 0, Ended::MaxTokens));
    // The last token of the answer was never fed.
    assert_eq!(session.tokens(), [&first[..], &one.tokens[..ANSWER - 1]].concat());

    let second = [&first[..], &one.tokens, &tokens(40, 2)].concat();
    let two = answer(&mut engine, &mut session, &second, second.len());
    assert_eq!(two.reused, 300 + ANSWER - 1);
    assert_eq!(two.tokens, fresh(&second));

    // The same prompt again: one token is computed, for its logits.
    let again = answer(&mut engine, &mut session, &second, second.len());
    assert_eq!(again.reused, second.len() - 1);
    assert_eq!(again.tokens, two.tokens);
}

#[test]
fn an_edited_turn_goes_back_to_where_it_differs() {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let first = tokens(300, 3);
    answer(&mut engine, &mut session, &first, 300);
    for kept in [290, 120, 1] {
        let edited = [&first[..kept], &tokens(50, 4)].concat();
        let got = answer(&mut engine, &mut session, &edited, edited.len());
        assert_eq!(got.reused, kept);
        assert_eq!(got.tokens, fresh(&edited), "{kept} tokens kept");
    }
    let other = tokens(30, 5);
    let got = answer(&mut engine, &mut session, &other, 30);
    assert_eq!(got.reused, usize::from(other[0] == first[0]));
    assert_eq!(got.tokens, fresh(&other));
}

#[test]
fn where_the_local_window_is_gone_a_turn_goes_back_to_the_last_border() {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let first = tokens(100, 6);
    answer(&mut engine, &mut session, &first, 90);
    // Three pages of ring have long passed position 95.
    let long = [&first[..], &tokens(1200, 7)].concat();
    answer(&mut engine, &mut session, &long, long.len());
    let edited = [&first[..95], &tokens(20, 8)].concat();
    let got = answer(&mut engine, &mut session, &edited, edited.len());
    assert_eq!(got.reused, 90, "the border");
    assert_eq!(got.tokens, fresh(&edited));

    // Without a border below, from the start.
    answer(&mut engine, &mut session, &long, long.len());
    let edited = [&first[..50], &tokens(20, 9)].concat();
    let got = answer(&mut engine, &mut session, &edited, edited.len());
    assert_eq!(got.reused, 0);
    assert_eq!(got.tokens, fresh(&edited));
}

#[test]
fn a_request_that_fails_leaves_the_conversation_as_it_was() {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let prompt = tokens(60, 10);
    answer(&mut engine, &mut session, &prompt, 60);
    let before = session.tokens().to_vec();
    let (long, good) = (tokens(CONTEXT + 1, 11), drawing());
    let (hot, unknown) = (Sampling { temperature: f32::NAN, ..good.clone() }, [1, 160]);
    for (prompt, sampling, sentence) in [
        (&[][..], &good, "the prompt is empty"),
        (&long, &good, "the prompt has 1501 tokens and the context 1500; shorten it or raise --ctx"),
        (&unknown, &good, "token 160 is not in the vocabulary of 160 tokens"),
        (&prompt, &hot, "temperature is NaN, expected 0 to 100"),
    ] {
        let mut events = 0;
        let error = session
            .generate(&mut engine, &request(prompt, 0, sampling), &mut |_| {
                events += 1;
                ControlFlow::Continue(())
            })
            .expect_err(sentence);
        assert_eq!((error.to_string().as_str(), events), (sentence, 0));
        assert!(!matches!(error, SessionError::Engine(_)));
        assert_eq!(session.tokens(), before);
    }
    let next = [&before[..], &tokens(5, 12)].concat();
    let got = answer(&mut engine, &mut session, &next, 0);
    assert_eq!((got.reused, got.tokens), (before.len(), fresh(&next)));
}

#[test]
fn a_prefill_and_an_answer_can_be_stopped_and_gone_on_from() {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let (prompt, sampling) = (tokens(900, 13), drawing());
    let mut seen = Vec::new();
    let stopped = session.generate(&mut engine, &request(&prompt, 900, &sampling), &mut |event| {
        seen.push(event);
        if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let stopped = stopped.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(seen, [256, 512].map(|done| Event::Prefill { done, total: 900 }));
    assert_eq!((stopped.ended, stopped.tokens.len()), (Ended::Stopped, 0));
    assert_eq!(session.tokens(), &prompt[..512]);

    let mut count = 0;
    let stopped = session.generate(&mut engine, &request(&prompt, 900, &sampling), &mut |event| {
        count += usize::from(matches!(event, Event::Token(_)));
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let stopped = stopped.unwrap_or_else(|error| panic!("{error}"));
    let want = fresh(&prompt);
    assert_eq!((stopped.reused, stopped.ended), (512, Ended::Stopped));
    assert_eq!(stopped.tokens, want[..3]);

    let next = [&prompt[..], &stopped.tokens, &tokens(9, 14)].concat();
    let got = answer(&mut engine, &mut session, &next, 0);
    assert_eq!((got.reused, got.tokens), (902, fresh(&next)));
}

#[test]
fn an_answer_ends_at_an_end_token_at_its_length_and_at_the_end_of_the_context() {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let (prompt, sampling) = (tokens(50, 15), drawing());
    let want = answer(&mut engine, &mut session, &prompt, 0).tokens;
    let end = [want[2]];
    let first = want.iter().position(|token| *token == end[0]).expect("it was generated");
    let ended = Request { end: &end, ..request(&prompt, 0, &sampling) };
    let got =
        session.generate(&mut engine, &ended, &mut |_| ControlFlow::Continue(())).expect("a good request");
    assert_eq!((got.ended, &got.tokens[..]), (Ended::Token(end[0]), &want[..=first]));

    let full = tokens(CONTEXT - 2, 16);
    let long = Request { max_tokens: 100, ..request(&full, 0, &sampling) };
    let got =
        session.generate(&mut engine, &long, &mut |_| ControlFlow::Continue(())).expect("a good request");
    // Two tokens fit behind the prompt, and the last one need not.
    assert_eq!((got.ended, got.tokens.len()), (Ended::ContextFull, 3));
    let full = tokens(CONTEXT, 16);
    let got = answer(&mut engine, &mut session, &full, 0);
    assert_eq!((got.ended, got.tokens.len(), got.reused), (Ended::ContextFull, 1, CONTEXT - 2));
}

#[test]
fn the_seed_decides_what_is_drawn_and_penalties_what_is_not() {
    let mut engine = moe();
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let prompt = tokens(30, 17);
    let mut run = |sampling: Sampling, suppress: &[u32]| {
        let request = Request { max_tokens: 60, suppress, ..request(&prompt, 0, &sampling) };
        let result = session.generate(&mut engine, &request, &mut |_| ControlFlow::Continue(()));
        result.unwrap_or_else(|error| panic!("{error}")).tokens
    };
    let drawn = |seed| Sampling { temperature: 2.0, seed, ..Sampling::default() };
    let distinct = |tokens: &[u32]| tokens.iter().collect::<std::collections::BTreeSet<_>>().len();
    let (one, two) = (run(drawn(1), &[]), run(drawn(2), &[]));
    assert_eq!(run(drawn(1), &[]), one);
    assert_ne!(one, two);
    assert!(distinct(&one) < 60, "some token is drawn twice without penalties");
    let presence = run(Sampling { presence_penalty: 100.0, ..drawn(1) }, &[]);
    assert_eq!(distinct(&presence), 60);
    let frequency = run(Sampling { frequency_penalty: 100.0, ..drawn(1) }, &[]);
    assert_eq!(distinct(&frequency), 60);
    // Greedy with a strong repetition penalty avoids what stood in the prompt.
    let repetition = Sampling { repetition_penalty: 100.0, ..Sampling::default() };
    assert_eq!(distinct(&run(repetition, &[])[..20]), 20);
    let biased = run(Sampling { logit_bias: vec![(77, 1000.0)], ..drawn(1) }, &[]);
    assert_eq!(biased, [77; 60]);
    let suppressed = run(drawn(1), &one);
    assert!(suppressed.iter().all(|token| !one.contains(token)));
}

#[test]
fn a_saved_conversation_goes_on_with_the_same_bits() {
    let dir = tempfile::tempdir().expect("a folder for files");
    let path = dir.path().join("chat.kv");
    let extra = json!({ "messages": ["hello"] });
    for (tiny, kv) in
        KvType::ALL.map(|kv| (Tiny::moe(), Kv::all(kv))).into_iter().chain([(Tiny::ple(), Kv::MIXED)])
    {
        for len in [0, 10, 255, 256, 1100] {
            let mut first = engine(tiny.clone(), kv);
            let mut session = Session::new(&mut first).expect("a sequence is free");
            let prompt = tokens(len, 18);
            if len > 0 {
                answer(&mut first, &mut session, &prompt, len);
            }
            session.save(&first, &path, &extra).unwrap_or_else(|error| panic!("{error}"));
            let next = [session.tokens(), &tokens(30, 19)].concat();
            let want = answer(&mut first, &mut session, &next, 0);

            let mut second = engine(tiny.clone(), kv);
            let restored = Session::load(&mut second, &path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(restored.extra, extra);
            let mut session = restored.session;
            let got = answer(&mut second, &mut session, &next, 0);
            assert_eq!((got.reused, &got.tokens), (want.reused, &want.tokens), "{kv:?}, {len} tokens");

            // Going back behind what was restored starts over.
            let edited = [&next[..len / 2], &tokens(20, 20)].concat();
            let mut third = engine(tiny.clone(), kv);
            let mut fresh = Session::new(&mut third).expect("a sequence is free");
            let want = answer(&mut third, &mut fresh, &edited, 0);
            let got = answer(&mut second, &mut session, &edited, 0);
            assert_eq!(got.tokens, want.tokens, "{kv:?}, {len} tokens, edited");
        }
    }
}

#[test]
fn a_border_below_what_was_restored_is_not_kept() {
    let dir = tempfile::tempdir().expect("a folder for files");
    let path = dir.path().join("chat.kv");
    let mut first = moe();
    let mut session = Session::new(&mut first).expect("a sequence is free");
    let prompt = tokens(700, 21);
    answer(&mut first, &mut session, &prompt, 700);
    session.save(&first, &path, &Value::Null).unwrap_or_else(|error| panic!("{error}"));

    let mut second = moe();
    let mut session = Session::load(&mut second, &path).unwrap_or_else(|error| panic!("{error}")).session;
    // The pages around position 100 are not in the file.
    let next = [&prompt[..], &tokens(10, 22)].concat();
    answer(&mut second, &mut session, &next, 100);
    let edited = [&prompt[..150], &tokens(10, 23)].concat();
    let got = answer(&mut second, &mut session, &edited, 0);
    assert_eq!((got.reused, got.tokens), (0, fresh(&edited)));
}

/// What loading says, and that a conversation can begin afterwards.
fn refused(engine: &mut Engine<Reference>, path: &Path) -> FileError {
    let error = Session::load(engine, path).map(|_| ()).expect_err("a file that cannot be restored");
    let mut session = Session::new(engine).expect("the sequence was given back");
    assert_eq!(answer(engine, &mut session, &tokens(5, 24), 0).tokens.len(), ANSWER);
    session.close(engine).expect("it is open");
    error
}

#[test]
fn a_damaged_or_foreign_file_gives_one_sentence_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder for files");
    let path = dir.path().join("chat.kv");
    let mut first = moe();
    let mut session = Session::new(&mut first).expect("a sequence is free");
    answer(&mut first, &mut session, &tokens(300, 25), 0);
    let extra = json!({ "messages": ["kept"] });
    session.save(&first, &path, &extra).unwrap_or_else(|error| panic!("{error}"));
    let good = std::fs::read(&path).expect("it was written");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1, "no temporary file is left");

    let mut engine = moe();
    let bad = dir.path().join("bad.kv");
    let name = bad.display().to_string();
    for len in [0, 7, 8, 15, 100, good.len() / 2, good.len() - 1] {
        std::fs::write(&bad, &good[..len]).expect("a file");
        let sentence = refused(&mut engine, &bad).to_string();
        assert_eq!(sentence, format!("{name} is not a saved conversation: it ends too early"), "{len} bytes");
    }
    let mut tried = 0;
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&bad, &bytes).expect("a file");
        let error = refused(&mut engine, &bad);
        assert!(matches!(error, FileError::Damaged { .. } | FileError::Other { .. }), "byte {at}: {error}");
        assert!(error.to_string().starts_with(&name) && !error.to_string().contains('\n'), "{error}");
        tried += 1;
    }
    assert!(tried >= 40);
    std::fs::write(&bad, "What does numpy.linspace do?\n").expect("a file");
    let sentence = refused(&mut engine, &bad).to_string();
    assert_eq!(sentence, format!("{name} is not a saved conversation: it does not start with GEMMA4KV"));
    let mut huge = good.clone();
    huge[12..16].fill(0xFF);
    std::fs::write(&bad, &huge).expect("a file");
    let sentence = refused(&mut engine, &bad).to_string();
    assert_eq!(sentence, format!("{name} is not a saved conversation: its header is too long"));
    let sentence = refused(&mut engine, &dir.path().join("none.kv")).to_string();
    assert!(sentence.starts_with("cannot access ") && sentence.ends_with("none.kv"), "{sentence}");

    // Of another model, of other types: the messages come back.
    let mut others =
        [self::engine(Tiny::dense(), Kv::MIXED), self::engine(Tiny::moe(), Kv::all(KvType::F16))];
    for other in &mut others {
        match refused(other, &path) {
            FileError::Other { extra: messages, saved, here, .. } => {
                assert_eq!(*messages, extra);
                assert_ne!(saved, here);
            }
            error => panic!("{error}"),
        }
    }
    // And the file itself is still good.
    assert!(Session::load(&mut engine, &path).is_ok());
}
