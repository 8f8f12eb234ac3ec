//! Short fuzz runs with a fixed seed, and proof that the engine sees what it looks for.
//!
//! A test binary of its own: the allocator counts for the whole process, so one input is run at a time.

use std::hint::black_box;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use gemma4_conformance::fuzz::{
    BadKey, Budget, Counts, Failure, Finding, Syntax, Target, fuzz, memory, targets,
};

#[global_allocator]
static MEMORY: memory::Counter = memory::COUNTER;

fn run(target: &dyn Target, inputs: u64) -> Result<Counts, Failure> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Left behind if the process dies; otherwise removed.
    let running = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-running", target.name()));
    fuzz(target, 2, Budget::Inputs(inputs), &running)
}

#[test]
fn every_target_survives_its_mutations() {
    let targets = targets::all();
    for target in &targets {
        let name = target.name();
        let counts = run(&**target, target.inputs()).unwrap_or_else(|failure| {
            panic!("{name}: {}\ninput: {:?}", failure.finding, String::from_utf8_lossy(&failure.input))
        });
        println!("{name}: {counts:?}");
        assert!(counts.accepted > 0, "{name}: every input was refused, so nothing past the first check ran");
        assert!(counts.refused > 0 || target.never_refuses(), "{name}: no mutation was refused");
    }
    assert!(!targets.is_empty());
}

/// Reads `N` records of one byte after a four-byte count, with the bug asked for.
struct Planted(Bug);

#[derive(PartialEq)]
enum Bug {
    None,
    Panics,
    TrustsTheCount,
    BlamesNobody,
    RefusesItsSample,
    ForgetsTheKey,
}

impl Target for Planted {
    fn name(&self) -> &'static str {
        "planted"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Bytes
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        vec![[&4_u32.to_le_bytes()[..], b"1234"].concat()]
    }

    fn label(&self) -> &'static str {
        "planted.bin"
    }

    fn one_bad_key(&self) -> Vec<BadKey> {
        vec![BadKey { names: vec!["count".to_owned()], input: vec![9, 0, 0, 0, 1] }]
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let Some((count, rest)) = input.split_first_chunk() else {
            let label = if self.0 == Bug::BlamesNobody { "somebody" } else { self.label() };
            return Err(format!("{label}: too short for a count"));
        };
        let count = u32::from_le_bytes(*count) as usize;
        match self.0 {
            Bug::TrustsTheCount => drop(black_box(Vec::<u8>::with_capacity(count))),
            Bug::Panics if count == rest.len() + 1 => panic!("one too few"),
            Bug::RefusesItsSample => return Err(self.label().to_owned()),
            _ => {}
        }
        if rest.len() == count {
            return Ok(());
        }
        let key = if self.0 == Bug::ForgetsTheKey { "a number" } else { "count" };
        Err(format!("{}: {key} is {count}, expected {}", self.label(), rest.len()))
    }
}

fn finding(bug: Bug) -> Finding {
    run(&Planted(bug), 20_000).expect_err("the bug is there to be found").finding
}

#[test]
fn a_parser_without_bugs_passes() {
    let counts = run(&Planted(Bug::None), 5_000).unwrap();
    assert_eq!(counts.accepted + counts.refused, 5_002);
    assert!(counts.accepted > 10 && counts.refused > 100, "{counts:?}");
}

#[test]
fn a_panic_is_found_with_its_message_and_made_small() {
    let failure = run(&Planted(Bug::Panics), 20_000).unwrap_err();
    let Finding::Panic(message) = &failure.finding else { panic!("{}", failure.finding) };
    assert!(message.contains("one too few") && message.contains("fuzz.rs"), "{message}");
    assert!(failure.input.len() <= 8, "{:?}", failure.input);
}

#[test]
fn an_allocation_of_a_size_from_the_file_is_found() {
    let Finding::Memory { peak, limit } = finding(Bug::TrustsTheCount) else { panic!("not the memory") };
    assert!(peak > limit && limit > 64 << 20 && limit < 65 << 20, "{peak} {limit}");
}

#[test]
fn an_error_without_the_file_is_found() {
    let Finding::Unnamed { missing, .. } = finding(Bug::BlamesNobody) else { panic!("not the label") };
    assert_eq!(missing, "planted.bin");
}

#[test]
fn an_error_without_the_bad_key_is_found() {
    let Finding::Unnamed { missing, .. } = finding(Bug::ForgetsTheKey) else { panic!("not the key") };
    assert_eq!(missing, "count");
}

#[test]
fn a_sample_that_is_refused_is_found() {
    assert_eq!(finding(Bug::RefusesItsSample), Finding::Sample("planted.bin".to_owned()));
}
