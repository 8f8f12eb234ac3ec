//! Queues, deadlines, clients that leave or do not listen, parking.

use super::*;
use crate::serve::job::Cancel;

/// A request that goes on for long.
fn endless(number: u64) -> Ask {
    Ask::new(text(20, number), 3000)
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let scheduler = Setup { parallel: 1, queue: 2, ..Setup::default() }.start();
    let (job, talking) = endless(1).job();
    let cancel = job.cancel.clone();
    scheduler.submit(job).unwrap();
    until("the first", &scheduler, |status| status.running == 1);
    let waiting: Vec<_> = (2..4).map(|number| Ask::new(text(20, number), 3).send(&scheduler)).collect();
    let refused = scheduler.submit(endless(4).job().0).unwrap_err();
    let Refused::Busy { retry_after } = refused else { panic!("{refused:?}") };
    assert!((Duration::from_secs(1)..Duration::from_secs(601)).contains(&retry_after), "{retry_after:?}");
    let status = scheduler.status();
    assert_eq!((status.queued, status.counters.busy), (2, 1));
    cancel.cancel(Cancel::Stop);
    assert_eq!(Answer::of(talking).finish, Finish::Stop);
    for receiver in waiting {
        assert_eq!(Answer::of(receiver).tokens.len(), 3);
    }
    scheduler.drain(STUCK);
    assert_eq!(scheduler.submit(endless(5).job().0).unwrap_err(), Refused::Draining);
}

#[test]
fn what_no_request_may_have_is_refused_at_once() {
    let scheduler = Setup { context: 512, ..Setup::default() }.start();
    let refused = |change: &dyn Fn(&mut Ask)| {
        let mut ask = Ask::new(text(20, 1), 3);
        change(&mut ask);
        scheduler.submit(ask.job().0).unwrap_err()
    };
    assert_eq!(refused(&|ask| ask.tokens = text(513, 1)), Refused::TooLong { tokens: 513, context: 512 });
    let changes: [&dyn Fn(&mut Ask); 4] =
        [&|ask| ask.tokens.clear(), &|ask| ask.tokens.push(160), &|ask| ask.max_tokens = 0, &|ask| {
            ask.sampling.temperature = f32::NAN;
        }];
    for change in changes {
        assert!(matches!(refused(change), Refused::Invalid(_)));
    }
    assert_eq!(scheduler.status().counters.submitted, 0);
    scheduler.drain(STUCK);
}

#[test]
fn a_request_that_is_cancelled_gives_its_pages_back() {
    for queues in [false, true] {
        let scheduler = Setup { context: 8192, queues, ..Setup::default() }.start();
        assert_eq!(used(&scheduler.status()), (0, 0));
        let none = |ask: Ask| Ask { cache: CachePolicy::None, ..ask };
        // In the middle of its prompt.
        let (job, mut receiver) = none(Ask { progress: true, ..Ask::new(text(8000, 1), 10) }).job();
        let cancel = job.cancel.clone();
        scheduler.submit(job).unwrap();
        while !matches!(receiver.blocking_recv(), Some(Event::Prefill { .. })) {}
        cancel.cancel(Cancel::Left);
        let answer = Answer::of(receiver);
        assert_eq!((answer.finish, answer.tokens.len()), (Finish::Cancelled, 0));
        until("no pages", &scheduler, |status| used(status) == (0, 0));

        // In the middle of its answer, beside one that goes on.
        let neighbour = none(Ask::new(text(30, 3), 50));
        let want = neighbour.answer(&scheduler).tokens;
        let (job, mut receiver) = none(endless(2)).job();
        let guard = job.cancel.guard();
        scheduler.submit(job).unwrap();
        while !matches!(receiver.blocking_recv(), Some(Event::Token { .. })) {}
        let beside = neighbour.send(&scheduler);
        drop(guard);
        assert_eq!(Answer::of(receiver).finish, Finish::Cancelled);
        assert_eq!(Answer::of(beside).tokens, want);
        until("no pages", &scheduler, |status| used(status) == (0, 0));

        // A client that just vanishes.
        drop(none(endless(4)).send(&scheduler));
        until("nobody", &scheduler, |status| status.running == 0 && status.queued == 0);
        until("no pages", &scheduler, |status| used(status) == (0, 0));
        assert_eq!(scheduler.status().counters.ended.cancelled, 3);
        scheduler.drain(STUCK);
    }
}

#[test]
fn a_cancelled_prompt_goes_on_where_it_was_left() {
    let scheduler = Setup { context: 8192, ..Setup::default() }.start();
    let ask = Ask { progress: true, ..Ask::new(text(4000, 1), 3) };
    let (job, mut receiver) = ask.job();
    let cancel = job.cancel.clone();
    scheduler.submit(job).unwrap();
    while !matches!(receiver.blocking_recv(), Some(Event::Prefill { .. })) {}
    cancel.cancel(Cancel::Left);
    assert_eq!(Answer::of(receiver).finish, Finish::Cancelled);
    let answer = ask.answer(&scheduler);
    assert!(answer.reused >= 512 && answer.tokens.len() == 3, "{}", answer.reused);
    scheduler.drain(STUCK);
}

#[test]
fn a_deadline_ends_a_request_wherever_it_is() {
    let scheduler = Setup { parallel: 1, ..Setup::default() }.start();
    let late = |time| Ask { deadline: Some(Duration::from_millis(time)), ..endless(1) };
    let answer = late(300).answer(&scheduler);
    assert_eq!(answer.finish, Finish::Deadline);
    let talking = late(600).send(&scheduler);
    let waiting = late(100).answer(&scheduler);
    assert_eq!((waiting.finish, waiting.why), (Finish::Deadline, None));
    assert_eq!(Answer::of(talking).finish, Finish::Deadline);
    assert_eq!(scheduler.status().counters.ended.deadline, 3);
    scheduler.drain(STUCK);
}

#[test]
fn a_client_that_does_not_listen_keeps_nobody_else_from_being_answered() {
    for queues in [false, true] {
        let scheduler = Setup { parallel: 1, queues, ..Setup::default() }.start();
        let ask = Ask::new(text(40, 1), 60);
        let want = ask.answer(&scheduler).tokens;
        // Room for three events: it is stuck after two tokens.
        let slow = Ask { room: 3, ..ask.clone() }.send(&scheduler);
        until("the slow one", &scheduler, |status| status.running == 1);
        for number in 2..5 {
            assert_eq!(Ask::new(text(40, number), 20).answer(&scheduler).tokens.len(), 20);
        }
        assert!(scheduler.status().counters.paused > 0);
        let answer = Answer::of(slow);
        assert_eq!((answer.tokens, answer.finish), (want, Finish::Length));
        scheduler.drain(STUCK);
    }
}

#[test]
fn an_idle_model_is_parked_and_the_next_request_loads_it() {
    let setup = Setup { park_after: Some(Duration::from_millis(200)), memory: 1 << 28, ..Setup::default() };
    let scheduler = setup.start();
    let ask = Ask::new(text(600, 1), 5);
    let first = ask.answer(&scheduler);
    until("parking", &scheduler, |status| status.phase == Phase::Parked);
    let status = scheduler.status();
    assert!(status.memory.conversations > 0 && status.failure.is_none(), "{status:?}");
    let again = ask.answer(&scheduler);
    assert_eq!((again.reused, again.tokens), (599, first.tokens));
    scheduler.drain(STUCK);
}

#[test]
fn parking_waits_for_answers_and_unparking_needs_no_request() {
    let scheduler = Setup { memory: 1 << 28, ..Setup::default() }.start();
    let talking = Ask::new(text(30, 1), 100).send(&scheduler);
    scheduler.park();
    assert_eq!(Answer::of(talking).tokens.len(), 100);
    scheduler.park_and_wait();
    assert_eq!(scheduler.status().phase, Phase::Parked);
    // Parking what is parked changes nothing.
    scheduler.park();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(scheduler.status().phase, Phase::Parked);
    scheduler.unpark_and_wait();
    assert_eq!(scheduler.status().phase, Phase::Ready);
    assert_eq!(Ask::new(text(30, 1), 1).answer(&scheduler).reused, 29);
    scheduler.park_and_wait();
    scheduler.drain(STUCK);
    assert_eq!(scheduler.status().phase, Phase::Stopped);
}

#[test]
fn draining_finishes_what_runs_and_gives_up_at_its_limit() {
    let scheduler = Setup { parallel: 1, ..Setup::default() }.start();
    let (running, waiting) =
        (Ask::new(text(30, 1), 50).send(&scheduler), Ask::new(text(30, 2), 5).send(&scheduler));
    scheduler.drain(STUCK);
    assert_eq!((Answer::of(running).tokens.len(), Answer::of(waiting).tokens.len()), (50, 5));

    let scheduler = Setup { parallel: 1, ..Setup::default() }.start();
    let (running, waiting) = (endless(1).send(&scheduler), endless(2).send(&scheduler));
    until("the first", &scheduler, |status| status.running == 1);
    scheduler.drain(Duration::from_millis(50));
    assert_eq!(Answer::of(running).finish, Finish::Cancelled);
    assert_eq!(Answer::of(waiting).finish, Finish::Cancelled);
}

#[test]
fn many_short_requests_leave_nothing_behind() {
    let scheduler = Setup { parallel: 8, windows: 8, pool: Some(4096), ..Setup::default() }.start();
    let mut most = (0, 0);
    for round in 0..25 {
        let receivers: Vec<_> =
            (0..40).map(|n| Ask::new(text(12, round * 40 + n), 3).send(&scheduler)).collect();
        for receiver in receivers {
            assert_eq!(Answer::of(receiver).finish, Finish::Length);
        }
        let status = scheduler.status();
        most = most.max(used(&status));
        // A short conversation takes a page of each group; there are 16 and 8 rings of 2.
        assert!(status.kept <= 40, "{status:?}");
    }
    let forgotten = scheduler.forget().unwrap();
    assert!(forgotten.tokens > 0);
    let status = scheduler.status();
    assert_eq!((used(&status), status.pages.snapshots, status.pages.sequences), ((0, 0), 0, 0), "{most:?}");
    assert_eq!(status.counters.ended.length, 1000);
    scheduler.drain(STUCK);
}
