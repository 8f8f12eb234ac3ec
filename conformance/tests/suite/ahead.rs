//! A conversation on a device that queues steps: the host runs one ahead, and nobody can tell from the tokens.

use std::ops::ControlFlow;

use gemma4_conformance::invariance::Subject;
use gemma4_conformance::queue::{Queue, Seen};
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_core::backend::Backend;
use gemma4_core::engine::Engine;
use gemma4_core::reference::Reference;
use gemma4_core::sample::Sampling;
use gemma4_core::session::{Ended, Event, Generated, Request, Session};

const CONTEXT: usize = 700;

fn reference() -> Reference {
    Reference::new(None).expect("threads can be started")
}

fn engine<B: Backend>(new: impl Fn() -> B) -> Engine<B> {
    let subject = Subject { new, tiny: Tiny::moe(), kv: Kv::MIXED };
    subject.engine(CONTEXT, 256, 1).unwrap_or_else(|failure| panic!("{failure}"))
}

/// A turn: more of the prompt, most tokens, tokens that end it, and after how many the listener stops.
struct Turn {
    add: usize,
    most: usize,
    end: Vec<u32>,
    stop: usize,
    sampling: Sampling,
}

fn turn(add: usize, most: usize) -> Turn {
    let sampling = Sampling { temperature: 2.0, seed: 9, ..Sampling::default() };
    Turn { add, most, end: Vec::new(), stop: usize::MAX, sampling }
}

/// Plays turns one after the other; every prompt is all that came before and something new.
fn play<B: Backend>(mut engine: Engine<B>, turns: &[Turn]) -> Vec<Generated> {
    let mut session = Session::new(&mut engine).expect("a sequence is free");
    let mut text = Vec::new();
    let mut answers = Vec::new();
    for (turn, number) in turns.iter().zip(1..) {
        text.extend(tokens(turn.add, number));
        let request = Request {
            prompt: &text,
            border: text.len(),
            sampling: &turn.sampling,
            max_tokens: turn.most,
            end: &turn.end,
            suppress: &[3],
        };
        let mut heard = 0;
        let generated = session.generate(&mut engine, &request, &mut |event| {
            heard += usize::from(matches!(event, Event::Token(_)));
            if heard == turn.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let generated = generated.unwrap_or_else(|error| panic!("{error}"));
        // What was generated and never fed is not in the cache.
        let fed = generated.tokens.len() - 1;
        assert_eq!(session.tokens(), [&text[..], &generated.tokens[..fed]].concat());
        assert_eq!(engine.cache_stats().sequences, 1);
        text.extend(&generated.tokens);
        answers.push(generated);
    }
    answers
}

#[test]
fn a_step_ahead_changes_no_token_and_leaves_no_trace() {
    let repeated = Sampling { repetition_penalty: 1.3, ..turn(0, 0).sampling };
    let mut turns = vec![
        turn(250, 20),
        Turn { stop: 7, ..turn(30, 40) },
        Turn { sampling: repeated, ..turn(5, 12) },
        Turn { sampling: Sampling::default(), ..turn(11, 6) },
        turn(1, 1),
    ];
    // One that ends by a token of its own: the fifth that it says.
    let said = play(engine(reference), &[turn(40, 9)])[0].tokens.clone();
    turns.insert(0, Turn { end: vec![said[4]], ..turn(40, 9) });
    // And one that fills the context.
    turns.push(turn(200, usize::MAX));

    let want = play(engine(reference), &turns);
    let queue = Queue::new(reference());
    let got = play(engine(|| queue.clone()), &turns);
    let mut compared = 0;
    for (want, got) in want.iter().zip(&got) {
        assert_eq!(
            (&want.tokens, want.ended, want.reused, want.prompt),
            (&got.tokens, got.ended, got.reused, got.prompt)
        );
        compared += want.tokens.len();
    }
    assert!(matches!(want[0].ended, Ended::Token(_)), "{:?}", want[0].ended);
    assert_eq!(want[2].ended, Ended::Stopped);
    assert_eq!(want[6].ended, Ended::ContextFull);
    // All but the first token of an answer, and none where there are penalties.
    let ahead: usize = want.iter().map(|answer| answer.tokens.len() - 1).sum();
    let penalised = want[3].tokens.len() - 1;
    let taken_back = 2;
    assert_eq!(Seen::get(&queue.seen.sampled), ahead - penalised + taken_back);
    println!("ahead: {compared} tokens");
    assert!(compared > 0);
}
