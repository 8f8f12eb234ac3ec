//! Devices that fail.

use super::*;

#[test]
fn a_device_that_fails_is_said_to_those_who_wait_and_loaded_again_for_those_who_come() {
    let setup = Setup { parallel: 2, memory: 1 << 28, ..Setup::default() };
    let scheduler = setup.start();
    let want = Ask::new(text(30, 1), 5).answer(&scheduler).tokens;
    let talking: Vec<_> = (2..5).map(|number| Ask::new(text(20, number), 3000).send(&scheduler)).collect();
    until("two", &scheduler, |status| status.running == 2);
    setup.broken.store(true, Ordering::Relaxed);
    for receiver in talking {
        let answer = Answer::of(receiver);
        assert!(matches!(&answer.finish, Finish::Failed(why) if why.contains("device failed")), "{answer:?}");
    }
    until("the end", &scheduler, |status| status.phase == Phase::Parked);
    assert!(scheduler.status().failure.is_some());
    setup.broken.store(false, Ordering::Relaxed);
    assert_eq!(Ask::new(text(30, 1), 5).answer(&scheduler).tokens, want);
    let status = scheduler.status();
    assert_eq!((status.phase, status.failure), (Phase::Ready, None));
    scheduler.drain(STUCK);
}

#[test]
fn a_device_that_always_fails_is_given_up() {
    let setup = Setup::default();
    let scheduler = setup.start();
    setup.broken.store(true, Ordering::Relaxed);
    let start = Instant::now();
    let refused = loop {
        match scheduler.submit(Ask::new(text(20, 1), 5).job().0) {
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(refused) => break refused,
        }
        assert!(start.elapsed() < STUCK);
    };
    assert!(matches!(refused, Refused::Broken(_)), "{refused:?}");
    scheduler.drain(STUCK);
}

#[test]
fn a_model_that_cannot_be_loaded_is_said_at_once() {
    let limits = Limits {
        parallel: 1,
        queue: 1,
        context: 256,
        vocab: 160,
        budget: 256,
        park_after: None,
        turn_ends: Vec::new(),
    };
    let start = Box::new(|_: &mut crate::serve::scheduler::Life| {
        Err(crate::failure::Failure::usage("no such device"))
    });
    let scheduler = Scheduler::start(limits, start).unwrap();
    assert_eq!(scheduler.loaded().unwrap_err().to_string(), "no such device");
    scheduler.drain(STUCK);
}
