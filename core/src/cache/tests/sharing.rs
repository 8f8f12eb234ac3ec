//! The rules of sharing one by one, and what happens to a cache that breaks them.

use super::super::*;
use super::Random;
use super::steps::{SPEC, grow, id, sequence, step};
use super::world::World;

#[test]
fn a_snapshot_lives_as_long_as_its_last_clone() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    let snapshot = world.cache.snapshot(id(&world, s)).unwrap();
    let clone = snapshot.clone();
    assert_eq!((snapshot.len(), world.used()), (700, (3, 2)));
    world.release(s);
    drop(snapshot);
    assert_eq!(world.used(), (3, 2));
    assert_eq!(world.cache.open_from(&clone).unwrap().1, 700);
    drop(clone);
    assert_eq!(world.cache.stats().snapshots, 0);
    assert_eq!(world.used(), (3, 2), "the sequence still holds them");
}

#[test]
fn a_sequence_goes_on_after_its_own_snapshot_in_the_same_pages() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    world.snapshot_at(s, 700).unwrap().unwrap();
    step(&mut world, s, 20, 10);
    assert_eq!(world.used(), (3, 2), "one page, two holders");
    assert_eq!(world.cache.stats().local.shared, 2);
    world.end().unwrap();
}

#[test]
fn one_of_several_resumes_appends_and_the_others_start_at_the_page_border() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    world.snapshot_at(s, 700).unwrap().unwrap();
    assert_eq!(world.open_from_at(0, 700).unwrap().1, 512, "the first sequence appends to the page");
    world.release(s);
    world.check().unwrap();
    let (b, usable) = world.open_from_at(0, 700).unwrap();
    assert_eq!(usable, 700);
    let (c, usable) = world.open_from_at(0, 700).unwrap();
    assert_eq!(usable, 512);
    for s in [b, c] {
        step(&mut world, s, 40, 40);
    }
    // Below what the snapshot relies on, even the one who appends goes back to the border.
    assert_eq!(world.rollback(b, 699).unwrap(), Ok(512));
    step(&mut world, b, 200, 200);
    // Nobody appends to the snapshot's page any more.
    world.release(c);
    world.release(b.min(world.sequences.len() - 1));
    assert_eq!(world.open_from_at(0, 700).unwrap().1, 700);
    world.check().unwrap();
    world.end().unwrap();
}

#[test]
fn a_branch_in_the_middle_of_a_page_copies_it_unless_nobody_else_needs_it() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    world.snapshot_at(s, 700).unwrap().unwrap();
    let (global, local) = world.used();
    // The first sequence appends to the page, and the snapshot relies on it: both groups need a copy.
    let b = world.branch(0, 700).unwrap().unwrap();
    assert_eq!(world.used(), (global + 1, local + 1));
    let c = world.branch(0, 650).unwrap().unwrap();
    assert_eq!(world.used(), (global + 2, local + 2));
    for s in [s, b, c] {
        step(&mut world, s, 40, 40);
    }
    world.check().unwrap();
    for s in [c, b, s] {
        world.release(s);
    }
    assert_eq!(world.used(), (global, local));
    // At the snapshot's end nobody has anything to lose.
    let d = world.branch(0, 700).unwrap().unwrap();
    assert_eq!(world.used(), (global, local));
    step(&mut world, d, 40, 40);
    // At a page border there is nothing to copy.
    world.branch(0, 512).unwrap().unwrap();
    assert_eq!(world.branch(0, 100).unwrap(), Err(CacheError::TooFarBack { asked: 100, lowest: 511 }));
    world.end().unwrap();
}

#[test]
fn a_restored_sequence_has_the_windows_that_were_saved_and_no_more() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 900);
    world.snapshot_at(s, 900).unwrap().unwrap();
    let r = world.restore(0, 2).unwrap().unwrap();
    world.check().unwrap();
    assert!(matches!(world.rollback(r, 600).unwrap(), Err(CacheError::TooFarBack { .. })));
    step(&mut world, r, 30, 30);
    let snapshot = world.snapshots[0].0.clone();
    let restored = |world: &mut World, len, oldest, pages| {
        world.cache.restore(len, oldest, Some((&snapshot, pages))).unwrap_err()
    };
    // A window that begins too late, more shared pages than there are, more tokens than the context.
    let error = restored(&mut world, 900, 899, 0);
    assert!(matches!(error, CacheError::TooFarBack { asked: 900, .. }), "{error}");
    assert_eq!(restored(&mut world, 900, 512, 4), CacheError::Beyond { asked: 1024, len: 900 });
    assert_eq!(restored(&mut world, 300, 256, 2), CacheError::Beyond { asked: 512, len: 300 });
    let error = restored(&mut world, 1 << 40, 0, 0);
    assert!(matches!(error, CacheError::ContextFull { .. }), "{error}");
    drop(snapshot);
    world.end().unwrap();
}

#[test]
fn several_snapshots_in_one_page_bind_only_while_they_live() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 600);
    world.snapshot_at(s, 600).unwrap().unwrap();
    grow(&mut world, s, 650);
    world.snapshot_at(s, 650).unwrap().unwrap();
    grow(&mut world, s, 700);
    assert_eq!(world.rollback(s, 660).unwrap(), Ok(660));
    world.snapshots.pop();
    assert_eq!(world.rollback(s, 620).unwrap(), Ok(620));
    step(&mut world, s, 20, 20);
    assert_eq!(world.rollback(s, 599).unwrap(), Ok(512));
    step(&mut world, s, 20, 20);
    world.end().unwrap();
}

#[test]
fn going_back_in_a_shared_page_needs_the_window_of_its_border() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    step(&mut world, s, 200, 60);
    world.snapshot_at(s, 760).unwrap().unwrap();
    let error = CacheError::SharedPage { asked: 700, border: 512 };
    assert_eq!(world.rollback(s, 700).unwrap(), Err(error));
    assert_eq!(world.rollback(s, 760).unwrap(), Ok(760));
    // The page of the next 256 tokens is held: the step ends where it begins.
    step(&mut world, s, 8, 8);
    step(&mut world, s, 100, 100);
    world.end().unwrap();
}

#[test]
fn a_snapshot_of_an_earlier_length_takes_what_is_left_of_its_window() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    // Page 2 is being written where page 0 was: only from 256 on may be shared.
    let error = CacheError::TooFarBack { asked: 510, lowest: 511 };
    assert_eq!(world.snapshot_at(s, 510).unwrap(), Err(error));
    world.snapshot_at(s, 511).unwrap().unwrap();
    world.snapshot_at(s, 600).unwrap().unwrap();
    world.check().unwrap();
    assert_eq!(world.open_from_at(1, 600).unwrap().1, 512, "the sequence wrote beyond 600");
    assert_eq!(world.open_from_at(1, 512).unwrap().1, 512);
    assert_eq!(world.open_from_at(0, 511).unwrap().1, 0, "nobody may append below the end of page 1");
    let beyond = world.cache.usable_of(&world.snapshots[0].0, 512);
    assert_eq!(beyond, Err(CacheError::Beyond { asked: 512, len: 511 }));
    world.end().unwrap();
}

#[test]
fn a_page_of_the_ring_that_a_snapshot_holds_is_replaced_and_goes_as_a_whole() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 512);
    let seq = id(&world, s);
    world.snapshot_at(s, 512).unwrap().unwrap();
    // Positions 257..512 are in a page that goes when position 768 comes: a step that reaches it would lose them
    // one token too early. Without the snapshot the limit is 257.
    assert_eq!(world.cache.step_limit(seq), Ok(256));
    step(&mut world, s, 256, 256);
    assert_eq!(world.cache.step_limit(seq), Ok(257));
    let before = world.cache.table(seq, Span::Local).unwrap().to_vec();
    step(&mut world, s, 1, 1);
    let after = world.cache.table(seq, Span::Local).unwrap();
    assert!(before[0] == after[0] && before[1] != after[1]);
    assert_eq!(world.used().1, 3);
    // In place, one token would have taken position 256 only.
    assert_eq!(world.rollback(s, 766).unwrap(), Err(CacheError::TooFarBack { asked: 766, lowest: 767 }));
    grow(&mut world, s, 2000);
    assert_eq!(world.open_from_at(0, 512).unwrap().1, 512);
    world.end().unwrap();
}

#[test]
fn overwriting_a_shared_page_in_place_is_caught() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 768);
    world.snapshot_at(s, 768).unwrap().unwrap();
    grow(&mut world, s, 1024);
    let page = world.cache.table(id(&world, s), Span::Local).unwrap()[0];
    let holders = world.cache.local.holders(page);
    assert_eq!(holders, (Some(id(&world, s)), 1, vec![]));
    world.cache.local.forge(page, (Some(id(&world, s)), 0, vec![]));
    world.step(s, 1, 1, &mut Random::new(0)).unwrap().unwrap();
    world.cache.local.forge(page, holders);
    let error = world.check().unwrap_err();
    assert!(error.starts_with("snapshot") && error.contains("local position 512"), "{error}");
}

#[test]
fn two_sequences_that_append_to_one_page_are_caught() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    world.snapshot_at(s, 700).unwrap().unwrap();
    for span in SPANS {
        let page = world.cache.sequences[&id(&world, s)].held.tail(span, 700).unwrap();
        world.cache.pages_mut(span).forge(page, (None, 0, vec![700 - 512]));
    }
    let (other, usable) = world.open_from_at(0, 700).unwrap();
    assert_eq!(usable, 700);
    for s in [s, other] {
        world.step(s, 1, 1, &mut Random::new(0)).unwrap().unwrap();
    }
    let error = world.check().unwrap_err();
    assert!(error.contains("global position 700 of 701 is lost"), "{error}");
}

#[test]
fn writing_below_what_a_snapshot_relies_on_is_caught() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 700);
    world.snapshot_at(s, 700).unwrap().unwrap();
    let seq = id(&world, s);
    for span in SPANS {
        let page = world.cache.sequences[&seq].held.tail(span, 700).unwrap();
        world.cache.pages_mut(span).forge(page, (Some(seq), 0, vec![]));
    }
    assert_eq!(world.rollback(s, 690).unwrap(), Ok(690));
    world.step(s, 1, 1, &mut Random::new(0)).unwrap().unwrap();
    let error = world.check().unwrap_err();
    assert!(error.starts_with("snapshot") && error.contains("global position 690"), "{error}");
}

#[test]
fn a_fork_shares_all_full_pages_and_goes_its_own_way() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 1024);
    let (fork, usable) = world.fork(s, 1024).unwrap();
    assert_eq!((usable, world.used()), (1024, (4, 2)));
    for s in [s, fork] {
        step(&mut world, s, 100, 30);
    }
    // Both had to leave the oldest page of the other's window alone; the last to come may have it.
    assert_eq!(world.used(), (6, 3));
    world.release(s);
    world.check().unwrap();
    world.end().unwrap();
}

#[test]
fn whoever_is_left_alone_with_a_page_may_go_back_into_it() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 400);
    world.snapshot_at(s, 400).unwrap().unwrap();
    world.release(s);
    let (s, usable) = world.open_from_at(0, 400).unwrap();
    assert_eq!(usable, 400);
    world.snapshots.clear();
    assert_eq!(world.rollback(s, 100).unwrap(), Ok(100), "page 0 came from the snapshot");
    step(&mut world, s, 100, 100);
    world.end().unwrap();
}

#[test]
fn who_goes_back_before_a_page_leaves_it_to_others() {
    let mut world = World::new(SPEC);
    let s = sequence(&mut world, 400);
    world.snapshot_at(s, 400).unwrap().unwrap();
    assert_eq!(world.rollback(s, 256).unwrap(), Ok(256));
    assert_eq!(world.open_from_at(0, 400).unwrap().1, 400);
    for s in 0..2 {
        step(&mut world, s, 100, 100);
    }
    world.end().unwrap();
}

#[test]
fn a_step_of_the_planned_size_is_never_refused_whatever_snapshots_hold() {
    // The largest step, window and slack for which the ring has no slot to spare.
    let spec = CacheSpec::for_sequences(4096, 1, 8, 250, 0, 16);
    assert_eq!(spec.ring_slots(), 8 + 250 - 1 + 255);
    let spec = CacheSpec { local_pages: 64, ..spec };
    let mut world = World::new(spec);
    let s = world.open();
    for len in 0..2000 {
        if len % PAGE == 128 {
            world.snapshot_at(s, len).unwrap().unwrap();
        }
        assert!(world.cache.step_limit(id(&world, s)).unwrap() >= 250, "at {len}");
        world.step(s, 1, 1, &mut Random::new(0)).unwrap().unwrap();
    }
    assert!(world.cache.stats().local.shared > 0);
    world.end().unwrap();
    let more = CacheSpec::for_sequences(4096, 1, 8, 251, 0, 16);
    assert_eq!(more.ring_slots(), 768);
}
