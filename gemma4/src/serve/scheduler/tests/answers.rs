//! One request's text does not depend on its neighbours, on chunks, on the cache or on having been put aside.

use gemma4_core::speculate::{Policy, Source};

use super::*;
use crate::serve::job::{Constraint, ConstraintError};

/// Requests of different lengths that end at different times.
fn asks() -> Vec<Ask> {
    let lengths = [(700, 40), (3, 90), (256, 12), (1300, 25), (90, 60), (511, 33), (40, 1), (257, 70)];
    let asks = lengths.into_iter().zip(1..).map(|((prompt, answer), number)| {
        let mut ask = Ask::new(text(prompt, number), answer);
        ask.sampling.seed = number;
        match number {
            2 => ask.sampling.frequency_penalty = 1.0,
            3 => ask.sampling = Sampling::default(),
            5 => ask.sampling.top_k = 20,
            _ => {}
        }
        ask
    });
    asks.collect()
}

#[test]
fn an_answer_is_the_same_alone_and_among_neighbours_in_any_chunks_on_any_device() {
    let asks = asks();
    for tiny in [Tiny::moe(), Tiny::ple()] {
        let base = Setup { tiny, ..Setup::default() };
        let want = alone(&base, &asks);
        assert!(want.iter().zip(&asks).all(|(answer, ask)| answer.len() == ask.max_tokens));
        for (queues, parallel, chunk, budget) in [
            (false, 8, 512, 256),
            (true, 8, 512, 256),
            (true, 3, 256, 1),
            (false, 5, 1024, 512),
            (false, 8, 100, 30),
        ] {
            let scheduler = Setup { parallel, chunk, budget, queues, ..base.clone() }.start();
            let receivers: Vec<_> = asks.iter().map(|ask| ask.send(&scheduler)).collect();
            for (number, (receiver, want)) in receivers.into_iter().zip(&want).enumerate() {
                let answer = Answer::of(receiver);
                assert_eq!(answer.tokens, *want, "{number}, queues: {queues}, chunks of {chunk}");
                assert_eq!(answer.finish, Finish::Length);
                assert_eq!(
                    (answer.usage.prompt, answer.usage.generated),
                    (asks[number].tokens.len(), want.len())
                );
            }
            // The same again, from what is kept.
            for (number, (ask, want)) in asks.iter().zip(&want).enumerate() {
                let answer = ask.answer(&scheduler);
                assert_eq!(answer.reused, ask.tokens.len() - 1, "{number}");
                assert_eq!(answer.why, Some(ReuseEnd::Whole));
                assert_eq!(answer.tokens, *want, "{number} from the cache");
            }
            scheduler.drain(STUCK);
        }
    }
}

#[test]
fn drafts_change_no_answer_alone_or_in_company() {
    let mut asks = asks();
    // Greedy texts of small models repeat themselves, which drafts of the text catch.
    for ask in &mut asks[4..6] {
        ask.sampling = Sampling::default();
    }
    asks[5].max_tokens = 90;
    let base = Setup { windows: 8, ..Setup::default() };
    let want = alone(&base, &asks);
    for (policy, sources, queues) in [
        (Policy::Fixed, vec![Source::Mtp], false),
        (Policy::Fixed, vec![Source::DFlash], true),
        (Policy::Fixed, vec![Source::Ngram], true),
        (Policy::Auto, Source::ALL.to_vec(), false),
        (Policy::Auto, Source::ALL.to_vec(), true),
    ] {
        let how = format!("{policy:?} {sources:?}, queues: {queues}");
        let drafting = Some(Settings { policy, sources, ..Settings::default() });
        let scheduler = Setup { queues, drafting, ..base.clone() }.start();
        let (mut drafted, mut accepted) = (0, 0);
        for (ask, want) in asks.iter().zip(&want) {
            let answer = ask.answer(&scheduler);
            assert_eq!((&answer.tokens, answer.finish), (want, Finish::Length), "{how}");
            assert!(answer.usage.accepted <= answer.usage.drafted);
            drafted += answer.usage.drafted as u64;
            accepted += answer.usage.accepted as u64;
        }
        let receivers: Vec<_> = asks.iter().map(|ask| ask.send(&scheduler)).collect();
        for (receiver, want) in receivers.into_iter().zip(&want) {
            assert_eq!(Answer::of(receiver).tokens, *want, "{how}, together");
        }
        let counters = scheduler.status().counters;
        let sums = (counters.drafted.iter().sum::<u64>(), counters.accepted.iter().sum::<u64>());
        assert!(
            drafted > 0 && sums.0 >= drafted && sums.1 >= accepted,
            "{how}: {sums:?}, {drafted} {accepted}"
        );
        scheduler.drain(STUCK);
    }
}

#[test]
fn x4_an_answer_with_drafts_ends_where_it_would_without() {
    let drafting =
        Some(Settings { policy: Policy::Fixed, sources: vec![Source::Ngram], ..Settings::default() });
    for queues in [false, true] {
        let scheduler =
            Setup { context: 600, queues, drafting: drafting.clone(), ..Setup::default() }.start();
        let plain = Setup { context: 600, ..Setup::default() }.start();
        // The prompt has the answer already, so that it is drafted, with the token that ends it.
        let mut ends_drafted = 0;
        for number in 1..20 {
            let begin = Ask { sampling: Sampling::default(), ..Ask::new(text(12, number), 12) };
            let mut tokens = begin.tokens.clone();
            tokens.extend(begin.answer(&plain).tokens);
            tokens.extend(&begin.tokens);
            let ask = Ask { tokens, ..begin };
            let all = ask.answer(&plain).tokens;
            assert_eq!(ask.answer(&scheduler).tokens, all, "{number}");
            for at in [1, 2, 5, 9] {
                let first = all.iter().position(|token| *token == all[at]).unwrap();
                let stopped = Ask { stop: vec![all[at]], ..ask.clone() }.answer(&scheduler);
                assert_eq!((stopped.finish, &stopped.tokens[..]), (Finish::Stop, &all[..=first]), "{number}");
                ends_drafted += usize::from(first > 0 && stopped.usage.accepted == first);
                let short = Ask { max_tokens: at, ..ask.clone() }.answer(&scheduler);
                assert_eq!((short.finish, &short.tokens[..]), (Finish::Length, &all[..at]), "{number}");
            }
        }
        assert!(ends_drafted > 0, "no answer ended in a draft");
        let long = Ask { sampling: Sampling::default(), ..Ask::new(text(590, 5), usize::MAX) };
        let end = long.answer(&scheduler);
        assert_eq!((end.finish, &end.tokens), (Finish::Length, &long.answer(&plain).tokens));
        plain.drain(STUCK);
        scheduler.drain(STUCK);
    }
}

#[test]
fn s25_the_seed_decides_and_nothing_else_does() {
    let scheduler = Setup::default().start();
    let ask = |seed| {
        let mut ask = Ask::new(text(20, 3), 30);
        ask.sampling.seed = seed;
        ask.answer(&scheduler).tokens
    };
    let first = ask(1);
    assert_eq!(ask(1), first);
    assert_ne!(ask(2), first);
    scheduler.drain(STUCK);
}

#[test]
fn a_request_that_was_put_aside_goes_on_as_if_nothing_had_happened() {
    // Two requests of 1600 tokens do not fit into 2048.
    let asks: Vec<Ask> = (1..4).map(|number| Ask::new(text(900, number), 700)).collect();
    for queues in [false, true] {
        let setup = Setup { parallel: 3, context: 2048, pool: Some(2048), queues, ..Setup::default() };
        let want = alone(&setup, &asks);
        let scheduler = setup.start();
        let receivers: Vec<_> = asks.iter().map(|ask| ask.send(&scheduler)).collect();
        for (receiver, want) in receivers.into_iter().zip(&want) {
            let answer = Answer::of(receiver);
            assert_eq!((answer.finish, &answer.tokens), (Finish::Length, want));
        }
        let counters = scheduler.status().counters;
        assert!(counters.paused > 0, "{counters:?}");
        scheduler.drain(STUCK);
    }
}

#[test]
fn an_answer_ends_at_a_stop_token_at_its_length_and_at_the_end_of_the_context() {
    for queues in [false, true] {
        let setup = Setup { context: 600, queues, ..Setup::default() };
        let scheduler = setup.start();
        let ask = Ask::new(text(50, 4), 30);
        let all = ask.answer(&scheduler).tokens;
        let first = all.iter().position(|token| *token == all[10]).unwrap();
        let stopped = Ask { stop: vec![all[10]], ..ask.clone() }.answer(&scheduler);
        assert_eq!((stopped.finish, &stopped.tokens[..]), (Finish::Stop, &all[..=first]));
        let one = Ask { max_tokens: 1, ..ask }.answer(&scheduler);
        assert_eq!((one.finish, &one.tokens[..]), (Finish::Length, &all[..1]));
        // The last token need not fit.
        let long = Ask::new(text(590, 5), usize::MAX).answer(&scheduler);
        assert_eq!((long.finish, long.tokens.len()), (Finish::Length, 11));
        let full = Ask::new(text(600, 5), usize::MAX).answer(&scheduler);
        assert_eq!((full.finish, full.tokens.len()), (Finish::Length, 1));
        scheduler.drain(STUCK);
    }
}

#[test]
fn probabilities_are_those_of_the_model_and_change_nothing() {
    let scheduler = Setup::default().start();
    let ask = Ask::new(text(60, 6), 20);
    let plain = ask.answer(&scheduler);
    assert!(plain.logprobs.is_empty());
    let greedy = Ask { sampling: Sampling::default(), ..ask.clone() };
    let told = Ask { logprobs: Some(5), ..greedy.clone() }.answer(&scheduler);
    assert_eq!(told.tokens, greedy.answer(&scheduler).tokens);
    for (token, (own, top)) in told.tokens.iter().zip(&told.logprobs) {
        assert_eq!((top.len(), top[0]), (5, (*token, *own)));
        assert!(top.is_sorted_by(|a, b| a.1 >= b.1) && *own < 0.0, "{top:?}");
    }
    let all = Ask { logprobs: Some(160), max_tokens: 1, ..ask }.answer(&scheduler);
    let sum: f32 = all.logprobs[0].1.iter().map(|(_, log)| log.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    scheduler.drain(STUCK);
}

/// Allows rising tokens only, and ends at the fifth.
#[derive(Debug, Default)]
struct Rising {
    last: u32,
    count: usize,
    fails: bool,
}

impl Constraint for Rising {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        if self.fails && self.count == 2 {
            return Err(ConstraintError("the grammar is lost".to_owned()));
        }
        (self.last + 1..160).for_each(|token| mask[token as usize / 32] |= 1 << (token % 32));
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        assert!(token > self.last, "{token} was not allowed behind {}", self.last);
        (self.last, self.count) = (token, self.count + 1);
        Ok(self.count == 5)
    }
}

#[test]
fn a_constraint_restricts_tokens_ends_the_answer_and_may_fail_it() {
    for queues in [false, true] {
        let scheduler = Setup { queues, ..Setup::default() }.start();
        let neighbour = Ask::new(text(100, 7), 40);
        let want = neighbour.answer(&scheduler).tokens;
        let beside = neighbour.send(&scheduler);
        let constrained = |fails| {
            let (job, receiver) = Ask::new(text(30, 8), 100).job();
            let constraint = Box::new(Rising { last: 20, fails, ..Rising::default() });
            scheduler.submit(Job { constraint: Some(constraint), ..job }).unwrap();
            Answer::of(receiver)
        };
        let answer = constrained(false);
        assert_eq!((answer.finish, answer.tokens.len()), (Finish::Constraint, 5));
        let answer = constrained(true);
        assert_eq!(answer.finish, Finish::Failed("the grammar is lost".to_owned()));
        assert_eq!(answer.tokens.len(), 2);
        assert_eq!(Answer::of(beside).tokens, want);
        scheduler.drain(STUCK);
    }
}

#[test]
fn a_long_prompt_lets_answers_go_on_and_short_prompts_pass() {
    let setup = Setup { context: 8192, ..Setup::default() };
    let scheduler = setup.start();
    let mut talking = Ask::new(text(10, 1), 400).send(&scheduler);
    assert!(matches!(talking.blocking_recv(), Some(Event::Started { .. })));
    let long = Ask { progress: true, ..Ask::new(text(6000, 2), 1) }.send(&scheduler);
    let before = Instant::now();
    let short = Ask::new(text(40, 3), 1).answer(&scheduler);
    let short_took = before.elapsed();
    let long = Answer::of(long);
    let long_took = before.elapsed();
    assert!(short_took < long_took / 2, "{short_took:?} behind a prompt that took {long_took:?}");
    assert_eq!(short.tokens.len() + long.tokens.len(), 2);
    // Pieces of a page while somebody talks, at multiples of the page.
    let pieces: Vec<usize> = long.progress.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(long.progress.len() > 12 && pieces.iter().all(|&piece| piece <= 512), "{:?}", long.progress);
    assert!(
        long.progress[..long.progress.len() - 1].iter().all(|done| done % 256 == 0),
        "{:?}",
        long.progress
    );
    assert_eq!(Answer::of(talking).tokens.len(), 400);
    scheduler.drain(STUCK);
}
