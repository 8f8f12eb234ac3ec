//! Sizes, handles, and the steps of sequences that share nothing.

use super::super::*;
use super::Random;
use super::world::World;

/// The smallest ring of its window: 512 slots for 256 tokens.
pub(super) const SPEC: CacheSpec =
    CacheSpec { global_pages: 64, local_pages: 12, ring_pages: 2, window: 256, max_context: 4096 };

/// A sequence of `len` tokens, written in steps of at most 100.
pub(super) fn sequence(world: &mut World, len: usize) -> usize {
    let s = world.open();
    grow(world, s, len);
    s
}

/// Lets a sequence grow to `len` tokens.
pub(super) fn grow(world: &mut World, s: usize, len: usize) {
    while world.sequences[s].1.len() < len {
        let n = 100.min(len - world.sequences[s].1.len());
        step(world, s, n, n);
    }
}

pub(super) fn step(world: &mut World, s: usize, n: usize, kept: usize) {
    world.step(s, n, kept, &mut Random::new(0)).unwrap().unwrap();
    world.check().unwrap();
}

pub(super) fn id(world: &World, s: usize) -> SeqId {
    world.sequences[s].0
}

#[test]
fn k5_plans_count_the_pages_of_windows_rings_and_snapshots() {
    let spec = CacheSpec::for_sequences(1 << 17, 2, 1024, 512, 256, 3);
    assert_eq!((spec.ring_pages, spec.ring_slots(), spec.window), (7, 1792, 1024));
    assert_eq!((spec.global_pages, spec.local_pages), (2 * 512 + 3, 2 * 7 + 3 * 5));
    assert_eq!((spec.table_len(Span::Global), spec.table_len(Span::Local)), (512, 7));
    assert_eq!(CacheSpec::for_sequences(1 << 17, 1, 512, 512, 256, 0).ring_slots(), 1280);
    // A slack below a page is rounded up to what a page that leaves as a whole takes.
    assert_eq!(CacheSpec::for_sequences(1 << 17, 1, 1024, 512, 0, 0).ring_slots(), 1792);
    // A ring never wraps in a context that fits it.
    assert_eq!(CacheSpec::for_sequences(300, 1, 1024, 512, 256, 1).ring_pages, 2);
    assert_eq!(
        CacheSpec::for_sequences(300, 1, 0, 512, 256, 1).without(Span::Global).table_len(Span::Global),
        0
    );
    for spec in [
        CacheSpec::for_sequences(usize::MAX, usize::MAX, usize::MAX, usize::MAX, usize::MAX, usize::MAX),
        CacheSpec::for_sequences(0, 1, 8, 1, 0, 0),
        CacheSpec { ring_pages: 1, ..SPEC },
        CacheSpec { ring_pages: 17, ..SPEC },
        CacheSpec { window: 258, ..SPEC },
        CacheSpec { window: 0, ..SPEC },
        CacheSpec { global_pages: NO_PAGE as usize, ..SPEC },
    ] {
        assert!(matches!(Cache::new(spec), Err(CacheError::BadSpec { .. })), "{spec:?}");
    }
    assert!(Cache::new(CacheSpec { window: 257, ..SPEC }).is_ok());
    let error = Cache::new(CacheSpec { ring_pages: 1, ..SPEC }).unwrap_err();
    assert_eq!(error.to_string(), "KV cache: ring in pages is 1, expected 2 to 16");
}

#[test]
fn handles_of_the_dead_and_of_other_caches_are_errors() {
    let (mut cache, mut other) = (Cache::new(SPEC).unwrap(), Cache::new(SPEC).unwrap());
    let (seq, foreign) = (cache.open(), other.open());
    let unknown = Err(CacheError::UnknownSequence);
    assert_eq!(cache.len(foreign), unknown);
    assert!(cache.table(foreign, Span::Local).is_err() && cache.reserve(foreign, 1).is_err());
    assert!(
        cache.snapshot(foreign).is_err()
            && cache.fork(foreign, 0).is_err()
            && cache.commit(foreign, 0).is_err()
    );
    assert!(cache.rollback(foreign, 0).is_err() && cache.step_limit(foreign).is_err());
    let snapshot = other.snapshot(foreign).unwrap();
    assert_eq!(cache.open_from(&snapshot).unwrap_err(), CacheError::UnknownSnapshot);
    assert_eq!(cache.release(seq), Ok(()));
    assert_eq!(cache.release(seq), Err(CacheError::UnknownSequence));
    assert_eq!(cache.len(seq), unknown);
    drop(cache);
    drop(other);
    drop(snapshot);
}

#[test]
fn steps_are_bounded_by_the_ring_the_context_and_the_pages() {
    let mut world = World::new(CacheSpec { global_pages: 4, ..SPEC });
    let s = sequence(&mut world, 300);
    let seq = id(&world, s);
    // R - W + 1 once the window is full.
    assert_eq!(world.cache.step_limit(seq), Ok(257));
    assert_eq!(world.cache.reserve(seq, 258), Err(CacheError::StepTooLong { asked: 258, limit: 257 }));
    let full = CacheError::ContextFull { len: 4097, max_context: 4096 };
    assert_eq!(world.cache.reserve(seq, 3797), Err(full));
    assert!(world.cache.reserve(seq, usize::MAX).is_err());
    assert_eq!(world.cache.reserve(seq, 0), Ok(StepPages::default()));
    grow(&mut world, s, 1000);
    let none = CacheError::OutOfPages { group: "global", needed: 1, free: 0 };
    assert_eq!(world.cache.reserve(seq, 25), Err(none.clone()));
    assert_eq!(none.to_string(), "KV cache: 1 more global pages needed, 0 free");
    step(&mut world, s, 24, 24);
    assert_eq!(world.cache.commit(seq, 1), Err(CacheError::NotReserved { kept: 1, reserved: 0 }));
}

#[test]
fn a_step_says_where_its_tokens_go_and_which_pages_are_fresh() {
    let mut cache = Cache::new(SPEC).unwrap();
    let seq = cache.open();
    let step = cache.reserve(seq, 250).unwrap();
    assert_eq!(step.global, [PageRun { page: 0, offset: 0, rows: 250 }]);
    assert_eq!((step.global, step.fresh_global), (step.local, step.fresh_local.clone().clone()));
    cache.commit(seq, 250).unwrap();
    let step = cache.reserve(seq, 250).unwrap();
    let runs = [PageRun { page: 0, offset: 250, rows: 6 }, PageRun { page: 1, offset: 0, rows: 244 }];
    assert_eq!((step.global.as_slice(), step.local.as_slice()), (&runs[..], &runs[..]));
    assert_eq!((step.fresh_global, step.fresh_local), (vec![1], vec![1]));
    cache.commit(seq, 250).unwrap();
    // The third page of the sequence is the first of the ring again.
    let step = cache.reserve(seq, 13).unwrap();
    assert_eq!(step.local[1], PageRun { page: 0, offset: 0, rows: 1 });
    assert_eq!((step.fresh_global, step.fresh_local), (vec![2], vec![]));
    assert_eq!(cache.table(seq, Span::Local).unwrap(), [0, 1]);
    assert_eq!(cache.table(seq, Span::Global).unwrap()[..4], [0, 1, 2, NO_PAGE]);
    assert_eq!(cache.snapshot(seq).unwrap_err(), CacheError::StepInFlight { reserved: 13 });
    assert_eq!(cache.fork(seq, 3).unwrap_err(), CacheError::StepInFlight { reserved: 13 });
}

#[test]
fn a_host_that_runs_a_step_ahead_keeps_its_pages() {
    let mut cache = Cache::new(SPEC).unwrap();
    let seq = cache.open();
    cache.reserve(seq, 250).unwrap();
    cache.commit(seq, 250).unwrap();
    let fresh = cache.reserve(seq, 32).unwrap();
    assert_eq!((fresh.fresh_global.len(), fresh.fresh_local.len()), (1, 1));
    let table = cache.table(seq, Span::Global).unwrap().to_vec();
    for kept in [1, 2] {
        cache.commit(seq, kept).unwrap();
        let again = cache.reserve(seq, 32).unwrap();
        assert_eq!((again.fresh_global.len(), again.fresh_local.len()), (0, 0));
        assert_eq!(cache.table(seq, Span::Global).unwrap(), table);
    }
    assert_eq!(cache.rollback(seq, 250), Ok(250));
    assert_eq!(cache.stats().global.used, 1, "pages above the length went back");
}

#[test]
fn local_layers_take_a_ring_of_pages_and_no_more() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 3 * 512 + 10);
    assert_eq!(world.used(), (7, 2));
    for _ in 0..520 {
        step(&mut world, s, 1, 1);
    }
    assert_eq!(world.used(), (9, 2));
    world.end().unwrap();
}

#[test]
fn verifying_across_the_seam_keeps_every_window_whatever_is_rejected() {
    for n in 2..=16 {
        for kept in 0..=n {
            let mut world = World::new(SPEC);
            let s = sequence(&mut world, 2 * 512 - n / 2);
            step(&mut world, s, n, kept);
            for _ in 0..3 {
                step(&mut world, s, n, n.min(2));
            }
        }
    }
}

#[test]
fn two_sequences_with_different_ends_do_not_touch_each_other() {
    let mut world = World::new(SPEC);
    let (short, long) = (sequence(&mut world, 5), sequence(&mut world, 1500));
    for _ in 0..300 {
        step(&mut world, short, 3, 2);
        step(&mut world, long, 2, 1);
    }
    world.end().unwrap();
}

#[test]
fn going_back_is_legal_up_to_ring_minus_window_and_no_further() {
    let mut world = World::new(SPEC);
    // The highest position is 2000: R - W = 256 back is 1744.
    let s = sequence(&mut world, 2001);
    let error = CacheError::TooFarBack { asked: 1743, lowest: 1744 };
    assert_eq!(world.rollback(s, 1743).unwrap(), Err(error));
    assert_eq!(world.rollback(s, 1744).unwrap(), Ok(1744));
    world.check().unwrap();
    // What was written and taken back still counts.
    assert!(world.rollback(s, 1743).unwrap().is_err());
    step(&mut world, s, 257, 257);
    let error = CacheError::Beyond { asked: 2002, len: 2001 };
    assert_eq!(world.rollback(s, 2002).unwrap(), Err(error));
    assert_eq!(world.rollback(s, 0).unwrap(), Ok(0));
    assert_eq!(world.used(), (0, 0));
    grow(&mut world, s, 300);
    world.end().unwrap();
}

#[test]
fn a_rollback_limit_that_is_off_by_one_is_caught() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 2001);
    let seq = id(&world, s);
    world.cache.sequences.get_mut(&seq).unwrap().held.oldest -= 1;
    let error = world.rollback(s, 1743).unwrap_err();
    assert_eq!(error, "went back to 1743, where 1488..1743 is lost");
    // The next query misses its oldest key.
    world.sequences[s].1.truncate(1743);
    assert!(world.step(s, 1, 1, &mut Random::new(0)).is_err());
}
