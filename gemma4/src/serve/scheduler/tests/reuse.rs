//! What a prompt costs when the cache has some of it, with counts.

use super::*;

/// A conversation as a client keeps it.
#[derive(Clone, Default)]
struct Talk {
    history: Vec<u32>,
    /// Lengths of the prompts, and what the model wrote behind each.
    turns: Vec<(usize, Vec<u32>)>,
}

impl Talk {
    /// One more turn: asks with everything so far, and returns the answer.
    fn turn(&mut self, scheduler: &Scheduler, number: u64) -> Answer {
        self.history.extend(turn(57, number));
        let prompt = self.history.clone();
        let answer = Ask { stop: vec![TURN_END], ..Ask::new(prompt.clone(), 12) }.answer(scheduler);
        self.turns.push((prompt.len(), answer.tokens.clone()));
        self.history.extend(&answer.tokens);
        if answer.tokens.last() != Some(&TURN_END) {
            self.history.push(TURN_END);
        }
        answer
    }

    /// Tokens of the cache after turn `turn`: the last one was never fed.
    fn fed(&self, turn: usize) -> usize {
        let (prompt, answer) = &self.turns[turn];
        prompt + answer.len() - 1
    }

    /// The same up to turn `turn`, for another question.
    fn until(&self, turn: usize) -> Self {
        let turns = self.turns[..turn].to_vec();
        let (prompt, answer) = &turns[turn - 1];
        let mut end = prompt + answer.len();
        if answer.last() != Some(&TURN_END) {
            end += 1;
        }
        Self { history: self.history[..end].to_vec(), turns }
    }
}

/// Checks that turn `number` computes its new tokens only.
fn computes_only_what_is_new(talk: &mut Talk, scheduler: &Scheduler, number: u64) -> Answer {
    let before = scheduler.status().counters.computed_tokens;
    let kept = talk.turns.len().checked_sub(1).map_or(0, |last| talk.fed(last));
    let answer = talk.turn(scheduler, number);
    let (prompt, _) = talk.turns[talk.turns.len() - 1];
    assert_eq!(answer.reused, kept, "turn {number}");
    let computed = scheduler.status().counters.computed_tokens - before;
    assert_eq!(computed, (prompt - kept) as u64, "turn {number}");
    answer
}

/// Checks that another question instead of turn `turn` goes on where the answer before it ended.
fn editing_goes_back_to_the_turn_before(
    talk: &Talk,
    scheduler: &Scheduler,
    turn: usize,
    number: u64,
) -> Talk {
    let mut edited = talk.until(turn);
    let kept = edited.fed(turn - 1);
    let answer = edited.turn(scheduler, number);
    let (prompt, _) = edited.turns[turn];
    // The answer, the end of its turn, and whatever the two questions have in common.
    assert!(answer.reused >= kept, "{} of {kept}", answer.reused);
    assert!(prompt - answer.reused <= 57 + 2, "{} tokens computed", prompt - answer.reused);
    edited
}

#[test]
fn each_of_twenty_turns_computes_its_new_tokens_only_also_after_an_edit() {
    for (tiny, queues) in [(Tiny::moe(), false), (Tiny::ple(), true)] {
        let setup = Setup { tiny, queues, ..Setup::default() };
        let scheduler = setup.start();
        let mut talk = Talk::default();
        for number in 0..20 {
            computes_only_what_is_new(&mut talk, &scheduler, number);
        }
        let mut edited = editing_goes_back_to_the_turn_before(&talk, &scheduler, 10, 100);
        for number in 101..105 {
            computes_only_what_is_new(&mut edited, &scheduler, number);
        }
        // The conversation that was left goes on as well.
        computes_only_what_is_new(&mut talk, &scheduler, 20);
        scheduler.drain(STUCK);

        // All of it is what a server without a cache says.
        for talk in [talk, edited] {
            let prompt = |turn: &(usize, Vec<u32>)| Ask {
                stop: vec![TURN_END],
                ..Ask::new(talk.history[..turn.0].to_vec(), 12)
            };
            let asks: Vec<Ask> = talk.turns.iter().map(prompt).collect();
            let said: Vec<Vec<u32>> = talk.turns.iter().map(|(_, answer)| answer.clone()).collect();
            assert_eq!(alone(&setup, &asks), said);
        }
    }
}

#[test]
fn two_conversations_share_a_beginning_and_do_not_mind_each_other() {
    let scheduler = Setup::default().start();
    let system = turn(300, 50);
    let mut talks = [1, 2].map(|_| Talk { history: system.clone(), turns: Vec::new() });
    for number in 0..8 {
        for (which, talk) in talks.iter_mut().enumerate() {
            if number == 0 {
                let answer = talk.turn(&scheduler, which as u64 * 100);
                assert_eq!(answer.reused, if which == 0 { 0 } else { system.len() });
                continue;
            }
            computes_only_what_is_new(talk, &scheduler, which as u64 * 100 + number);
        }
    }
    scheduler.drain(STUCK);
}

#[test]
fn conversations_survive_a_restart_in_their_folder() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { dir: Some(dir.path().to_owned()), ..Setup::default() };
    let mut talk = Talk::default();
    let scheduler = setup.start();
    for number in 0..20 {
        talk.turn(&scheduler, number);
    }
    let disk = scheduler.status().disk;
    scheduler.drain(STUCK);
    // Pages are shared: not every turn has all of them.
    assert!(disk.pages < 20 * 4, "{disk:?}");

    let scheduler = setup.start();
    assert_eq!(scheduler.status().kept, 0);
    editing_goes_back_to_the_turn_before(&talk, &scheduler, 10, 200);
    let answer = computes_only_what_is_new(&mut talk, &scheduler, 20);
    assert_eq!(answer.why, Some(ReuseEnd::NewTokens));
    assert!(scheduler.status().counters.restored >= 2);
    let want = alone(
        &setup,
        &[Ask { stop: vec![TURN_END], ..Ask::new(talk.history[..talk.turns[20].0].to_vec(), 12) }],
    );
    assert_eq!(want[0], answer.tokens);
    scheduler.drain(STUCK);

    // Another model finds nothing.
    let scheduler = Setup { tiny: Tiny::dense(), ..setup.clone() }.start();
    assert_eq!(talk.clone().turn(&scheduler, 300).reused, 0);
    scheduler.drain(STUCK);
    // A page whose bits changed is not used, and nothing else is lost.
    let place = dir.path().join(&setup.name().to_string()[..16]);
    for file in std::fs::read_dir(&place).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "page") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[99] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let scheduler = setup.start();
    let before = talk.history.clone();
    let answer = talk.turn(&scheduler, 21);
    assert_eq!((answer.reused, answer.finish == Finish::Length || answer.finish == Finish::Stop), (0, true));
    let prompt = [&before[..], &turn(57, 21)].concat();
    let want = alone(&setup, &[Ask { stop: vec![TURN_END], ..Ask::new(prompt, 12) }]);
    assert_eq!(want[0], answer.tokens);
    scheduler.drain(STUCK);
}

#[test]
fn what_has_to_leave_the_device_comes_back_from_main_memory() {
    // One conversation of 1500 tokens fills the device.
    let setup = Setup {
        parallel: 1,
        context: 2048,
        pool: Some(2048),
        windows: 1,
        memory: 1 << 28,
        ..Setup::default()
    };
    let prompts: Vec<Vec<u32>> = (1..4).map(|number| text(1500, number)).collect();
    let scheduler = setup.start();
    for prompt in &prompts {
        Ask::new(prompt.clone(), 5).answer(&scheduler);
    }
    let status = scheduler.status();
    assert!(status.counters.evicted > 0 && status.memory.conversations > 0, "{status:?}");
    let want = alone(&setup, &prompts.iter().map(|prompt| Ask::new(prompt.clone(), 5)).collect::<Vec<_>>());
    for (prompt, want) in prompts.iter().zip(&want) {
        let answer = Ask::new(prompt.clone(), 5).answer(&scheduler);
        assert_eq!((answer.reused, &answer.tokens), (1499, want));
    }
    assert!(scheduler.status().counters.restored > 0);
    scheduler.drain(STUCK);

    // Without main memory it is said what happened.
    let scheduler = Setup { memory: 0, ..setup }.start();
    for prompt in &prompts {
        Ask::new(prompt.clone(), 5).answer(&scheduler);
    }
    let answer = Ask::new(prompts[0].clone(), 5).answer(&scheduler);
    assert_eq!((answer.reused, answer.why), (0, Some(ReuseEnd::Evicted { common: 1500 })));
    scheduler.drain(STUCK);
}

#[test]
fn equal_prompts_that_come_together_are_computed_once() {
    let setup = Setup { parallel: 8, ..Setup::default() };
    let scheduler = setup.start();
    let prompt = text(1200, 1);
    let asks: Vec<Ask> = (0..8)
        .map(|seed| {
            let mut tokens = prompt.clone();
            // Half of them part from the others in the middle of a page.
            if seed % 2 == 1 {
                tokens.truncate(900);
                tokens.extend(text(40, seed));
            }
            let mut ask = Ask::new(tokens, 10);
            ask.sampling.seed = seed;
            ask
        })
        .collect();
    let want = alone(&setup, &asks);
    let receivers: Vec<_> = asks.iter().map(|ask| ask.send(&scheduler)).collect();
    let answers: Vec<Answer> = receivers.into_iter().map(Answer::of).collect();
    assert!(answers.iter().zip(&want).all(|(answer, want)| answer.tokens == *want));
    let computed = scheduler.status().counters.computed_tokens;
    // The prompt, one token of each copy, forty of each other one: some few tokens of all may be in common.
    assert!(computed <= 1200 + 4 * 40 + 4 + 8, "{computed} tokens computed");
    scheduler.drain(STUCK);
}

#[test]
fn prompts_that_share_a_beginning_without_turns_find_it_from_the_third_on() {
    let scheduler = Setup::default().start();
    let shared = text(700, 1);
    let ask = |number| Ask::new([&shared[..], &text(600, number)].concat(), 2).answer(&scheduler);
    assert_eq!((ask(2).reused, ask(3).reused), (0, 0));
    let third = ask(4);
    assert!((700..702).contains(&third.reused), "{third:?}");
    scheduler.drain(STUCK);
}

#[test]
fn a_request_that_wants_prompts_only_reuses_no_generated_token() {
    let scheduler = Setup::default().start();
    let mut talk = Talk::default();
    talk.turn(&scheduler, 1);
    talk.turn(&scheduler, 2);
    let (prompt, answer) = talk.turns[0].clone();
    let again = talk.history.clone();
    let exact = Ask { cache: CachePolicy::Exact, ..Ask::new(again.clone(), 4) }.answer(&scheduler);
    assert_eq!((exact.reused, exact.why), (prompt, Some(ReuseEnd::Generated { common: talk.fed(1) })));
    assert!(answer.len() > 1);
    // Now all of it was computed as a prompt.
    let exact = Ask { cache: CachePolicy::Exact, ..Ask::new(again.clone(), 4) }.answer(&scheduler);
    assert_eq!(exact.reused, again.len() - 1);
    let none = Ask { cache: CachePolicy::None, ..Ask::new(again, 4) }.answer(&scheduler);
    assert_eq!((none.reused, none.why), (0, Some(ReuseEnd::Off)));
    assert_eq!(none.tokens, exact.tokens);
    scheduler.drain(STUCK);
}

#[test]
fn why_no_more_was_reused_is_said() {
    let scheduler = Setup::default().start();
    let first = text(900, 1);
    let ask = |tokens: &[u32]| Ask::new(tokens.to_vec(), 3).answer(&scheduler);
    assert_eq!(ask(&first).why, Some(ReuseEnd::NewConversation));
    // The ring still has the window before the end.
    let edited = [&first[..890], &[(first[890] + 1) % 150], &text(20, 2)[..]].concat();
    let answer = ask(&edited);
    assert_eq!((answer.reused, answer.why), (890, Some(ReuseEnd::EditedAt(890))));
    // It has long passed this place, where no turn ended.
    let far = [&first[..300], &[(first[300] + 1) % 150], &text(20, 3)[..]].concat();
    let answer = ask(&far);
    assert_eq!((answer.reused, answer.why), (0, Some(ReuseEnd::WindowGone { common: 300 })));
    scheduler.drain(STUCK);
}

#[test]
fn a_conversation_goes_to_a_file_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("talk.kept");
    let setup = Setup::default();
    let scheduler = setup.start();
    let error = scheduler.save(text(40, 9), path.clone()).unwrap_err().to_string();
    assert!(error.starts_with("nothing of this conversation is kept"), "{error}");
    let mut talk = Talk::default();
    for number in 0..5 {
        talk.turn(&scheduler, number);
    }
    let moved = scheduler.save(talk.history.clone(), path.clone()).unwrap();
    assert_eq!(moved.tokens, talk.fed(4));
    let forgotten = scheduler.forget().unwrap();
    assert!(forgotten.tokens > 0);
    assert_eq!(used(&scheduler.status()), (0, 0));
    assert_eq!(talk.clone().turn(&scheduler, 5).reused, 0);
    scheduler.forget().unwrap();
    assert_eq!(scheduler.restore(path.clone()).unwrap(), moved);
    computes_only_what_is_new(&mut talk, &scheduler, 5);
    scheduler.drain(STUCK);
    assert!(scheduler.restore(path.clone()).is_err(), "nobody is there any more");

    let scheduler = Setup { tiny: Tiny::ple(), ..setup }.start();
    let error = scheduler.restore(path.clone()).unwrap_err().to_string();
    assert!(error.contains("another model"), "{error}");
    std::fs::write(&path, b"nonsense").unwrap();
    let error = scheduler.restore(path.clone()).unwrap_err().to_string();
    assert!(error.ends_with("is not a saved conversation: it ends too early"), "{error}");
    assert!(scheduler.restore(dir.path().join("absent")).is_err());
    scheduler.drain(STUCK);
}
