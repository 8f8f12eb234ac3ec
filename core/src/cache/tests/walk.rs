//! Random walks: several sequences that step, speculate, go back, fork, and keep and reopen snapshots.

use super::super::*;
use super::Random;
use super::world::{Checked, Kernels, World, ensure};

/// What a walk has seen happen, so that a test can insist that it did.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    steps: usize,
    wraps: usize,
    out_of_pages: usize,
    long_steps: usize,
    too_far_back: usize,
    shared_page: usize,
    border_rollbacks: usize,
    whole_resumes: usize,
    border_resumes: usize,
    empty_resumes: usize,
    branches: usize,
    restores: usize,
}

struct Walk {
    spec: CacheSpec,
    sequences: usize,
    snapshots: usize,
    /// Step that the spec promises always to take; 0 if it was made too small for that on purpose.
    step: usize,
    kernels: Kernels,
}

impl Walk {
    fn new(context: usize, window: usize, step: usize, slack: usize) -> Self {
        Self {
            spec: CacheSpec::for_sequences(context, 3, window, step, slack, 3),
            sequences: 3,
            snapshots: 3,
            step,
            kernels: Kernels::default(),
        }
    }

    fn run(&self, seed: u64, turns: usize) -> Checked<Seen> {
        let mut random = Random::new(seed);
        let mut world = World::new(self.spec);
        world.kernels = self.kernels;
        let mut seen = Seen::default();
        for turn in 0..turns {
            self.turn(&mut world, &mut random, &mut seen).map_err(|error| format!("turn {turn}: {error}"))?;
            world.check().map_err(|error| format!("turn {turn}: {error}"))?;
        }
        world.end()?;
        Ok(seen)
    }

    fn turn(&self, world: &mut World, random: &mut Random, seen: &mut Seen) -> Checked {
        if world.sequences.is_empty() {
            world.open();
        }
        let s = random.below(world.sequences.len());
        let (seq, len) = (world.sequences[s].0, world.sequences[s].1.len());
        match random.below(40) {
            0 if world.sequences.len() < self.sequences => {
                world.open();
            }
            1 => world.release(s),
            2..=5 => {
                // Mostly near, where speculation goes back to.
                let reach = [4, 64, 1024, 1 << 20][random.below(4)];
                let back = random.below(reach);
                match world.rollback(s, len.saturating_sub(back))? {
                    Ok(kept) => seen.border_rollbacks += usize::from(kept != len.saturating_sub(back)),
                    Err(CacheError::TooFarBack { lowest, .. }) => {
                        seen.too_far_back += 1;
                        if lowest <= len {
                            match world.rollback(s, lowest)? {
                                Ok(_) | Err(CacheError::SharedPage { .. }) => {}
                                Err(error) => return Err(format!("{lowest} was said to work: {error}")),
                            }
                        }
                    }
                    Err(CacheError::SharedPage { .. }) => seen.shared_page += 1,
                    Err(error) => return Err(error.to_string()),
                }
                ensure!(world.cache.rollback(seq, 1 << 30).is_err(), "went back to the future");
            }
            6..=8 => {
                if world.snapshots.len() == self.snapshots {
                    let gone = random.below(self.snapshots);
                    world.snapshots.swap_remove(gone);
                }
                let back = if random.below(2) == 0 { 0 } else { random.below(len + 1) };
                let taken = world.snapshot_at(s, len - back)?;
                ensure!(taken.is_ok() || back > 0, "no snapshot at the current length");
            }
            9 if !world.snapshots.is_empty() => {
                let gone = random.below(world.snapshots.len());
                world.snapshots.swap_remove(gone);
            }
            10..=13 if !world.snapshots.is_empty() => {
                if world.sequences.len() == self.sequences {
                    world.release(s);
                }
                let snapshot = random.below(world.snapshots.len());
                let whole = world.snapshots[snapshot].0.len();
                let len = if random.below(3) == 0 { random.below(whole + 1) } else { whole };
                let said = world.cache.usable_of(&world.snapshots[snapshot].0, len);
                let (_, usable) = world.open_from_at(snapshot, len)?;
                ensure!(said == Ok(usable) || world.cache.stats().snapshots == 0, "{said:?}, then {usable}");
                match usable {
                    _ if usable == len => seen.whole_resumes += 1,
                    0 => seen.empty_resumes += 1,
                    _ => seen.border_resumes += 1,
                }
            }
            16..=18 if !world.snapshots.is_empty() => {
                if world.sequences.len() == self.sequences {
                    world.release(s);
                }
                let snapshot = random.below(world.snapshots.len());
                let whole = world.snapshots[snapshot].0.len();
                let reach = [1, 8, 300, 1 << 20][random.below(4)];
                let back = random.below(reach);
                match world.branch(snapshot, whole.saturating_sub(back))? {
                    Ok(_) => seen.branches += 1,
                    Err(CacheError::TooFarBack { .. } | CacheError::OutOfPages { .. }) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            19 if !world.snapshots.is_empty() => {
                if world.sequences.len() == self.sequences {
                    world.release(s);
                }
                let snapshot = random.below(world.snapshots.len());
                let whole = world.snapshots[snapshot].0.len() / PAGE;
                match world.restore(snapshot, random.below(whole + 1))? {
                    Ok(_) => seen.restores += 1,
                    Err(CacheError::OutOfPages { .. }) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            14 | 15 if world.sequences.len() < self.sequences => {
                let back = if random.below(2) == 0 { 0 } else { random.below(len + 1) };
                world.fork(s, len - back)?;
            }
            _ => self.step(world, s, random, seen)?,
        }
        Ok(())
    }

    fn step(&self, world: &mut World, s: usize, random: &mut Random, seen: &mut Seen) -> Checked {
        let (seq, len) = (world.sequences[s].0, world.sequences[s].1.len());
        let limit = world.cache.step_limit(seq).unwrap();
        let left = self.spec.max_context - len;
        ensure!(limit >= self.step.min(left) && (limit > 0 || left == 0), "limit {limit} at {len}");
        let too_long = world.step(s, limit + 1, 0, random)?;
        match too_long {
            Err(CacheError::StepTooLong { limit: said, .. }) if said == limit => {}
            Err(CacheError::ContextFull { .. }) if limit == left => {}
            other => return Err(format!("a step of {limit} + 1 gave {other:?}")),
        }
        let n = match random.below(8) {
            0 => limit,
            1 => random.below(limit + 1),
            2 => PAGE - len % PAGE,
            3 => PAGE - len % PAGE + 1,
            4 | 5 => 1 + random.below(16),
            _ => 1,
        };
        let n = n.min(limit);
        let kept = if random.below(2) == 0 { n } else { random.below(n + 1) };
        match world.step(s, n, kept, random)? {
            Ok(()) => {
                seen.steps += 1;
                seen.long_steps += usize::from(n > 16);
                seen.wraps += usize::from(len + kept > self.spec.ring_slots());
                Ok(())
            }
            Err(CacheError::OutOfPages { group, needed, free }) => {
                seen.out_of_pages += 1;
                ensure!(needed > free, "{needed} needed, {free} free");
                ensure!(group == "global" || self.step == 0, "out of {group} pages in spite of the plan");
                // What a server does: let somebody go.
                if world.snapshots.pop().is_none() && world.sequences.len() > 1 {
                    let gone = random.below(world.sequences.len());
                    world.release(gone);
                }
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The sum of what happened in walks from several seeds.
fn walk(name: &str, walk: &Walk, seeds: u64, turns: usize) -> Seen {
    let mut sum = Seen::default();
    for seed in 0..seeds {
        let seen = walk.run(seed, turns).unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}"));
        sum.steps += seen.steps;
        sum.wraps += seen.wraps;
        sum.out_of_pages += seen.out_of_pages;
        sum.long_steps += seen.long_steps;
        sum.too_far_back += seen.too_far_back;
        sum.shared_page += seen.shared_page;
        sum.border_rollbacks += seen.border_rollbacks;
        sum.whole_resumes += seen.whole_resumes;
        sum.border_resumes += seen.border_resumes;
        sum.empty_resumes += seen.empty_resumes;
        sum.branches += seen.branches;
        sum.restores += seen.restores;
    }
    sum
}

#[test]
fn everybody_reads_back_their_own_tokens_whatever_happens() {
    for (window, step, slack) in
        [(1, 1, 0), (2, 4, 0), (8, 16, 0), (64, 300, 40), (256, 1, 0), (257, 64, 300), (512, 512, 256)]
    {
        let name = format!("window {window}, step {step}, slack {slack}");
        let seen = walk(&name, &Walk::new(6000, window, step, slack), 4, 1000);
        let Seen {
            steps,
            wraps,
            long_steps,
            too_far_back,
            border_rollbacks,
            whole_resumes,
            border_resumes,
            branches,
            restores,
            ..
        } = seen;
        let rare = [too_far_back, whole_resumes, border_resumes, branches, restores];
        assert!([steps, wraps, long_steps].iter().all(|&n| n > 100), "{name}: {seen:?}");
        assert!(rare.iter().all(|&n| n > 10) && border_rollbacks > 2, "{name}: {seen:?}");
    }
}

#[test]
fn a_cache_that_runs_out_of_pages_stays_whole() {
    for (window, global_pages, local_pages) in [(8, 20, 5), (300, 30, 9), (512, 12, 13)] {
        let mut tight = Walk::new(5000, window, 16, 0);
        tight.step = 0;
        tight.spec = CacheSpec { global_pages, local_pages, ..tight.spec };
        let seen = walk("tight", &tight, 4, 1000);
        assert!(seen.out_of_pages > 20, "{seen:?}");
    }
}

#[test]
fn contexts_around_the_window_and_the_page_work() {
    for context in [1, 7, 8, 9, 16, 255, 256, 257, 299, 300, 301, 511, 512, 513, 800] {
        for window in [8, 300] {
            walk(&format!("context {context}, window {window}"), &Walk::new(context, window, 32, 0), 2, 200);
        }
    }
}

#[test]
fn models_with_one_kind_of_layers_work() {
    let global = Walk::new(3000, 0, 512, 0);
    assert_eq!((global.spec.local_pages, global.spec.ring_pages), (0, 0));
    let seen = walk("global only", &global, 4, 500);
    assert!(seen.too_far_back == 0 && seen.border_resumes > 0, "{seen:?}");
    let mut local = Walk::new(3000, 300, 64, 0);
    local.spec = local.spec.without(Span::Global);
    walk("local only", &local, 4, 500);
    let mut neither = Walk::new(3000, 0, 64, 0);
    neither.spec = neither.spec.without(Span::Global);
    let seen = walk("no layers", &neither, 1, 500);
    assert_eq!(seen.out_of_pages, 0);
}

/// A walk with broken kernels must be caught from every seed.
fn caught(kernels: Kernels) {
    let broken = Walk { kernels, ..Walk::new(6000, 256, 257, 0) };
    for seed in 0..4 {
        assert!(broken.run(seed, 1000).is_err(), "{kernels:?} passes with seed {seed}");
    }
}

#[test]
fn s12_a_ring_of_the_window_is_caught() {
    caught(Kernels { ring: Some(256), ..Kernels::default() });
}

#[test]
fn s10_a_mask_that_forgets_the_newest_key_is_caught() {
    caught(Kernels { end_error: -1, ..Kernels::default() });
}
