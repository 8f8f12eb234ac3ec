//! The controller in worlds whose clock is simulated, so that every run is the same.

use super::*;

/// A machine and a drafter: times in plain steps, and acceptance by place.
struct World {
    /// Of another row of a verifying step.
    row: f64,
    /// Of drafting so many tokens.
    draft: fn(usize) -> f64,
    accept: fn(u64, usize) -> f64,
    state: u64,
}

impl World {
    fn new(row: f64, draft: fn(usize) -> f64, accept: fn(u64, usize) -> f64) -> Self {
        Self { row, draft, accept, state: 7 }
    }

    fn coin(&mut self, share: f64) -> bool {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.state >> 33) as f64 / (1u64 << 31) as f64) < share
    }
}

/// What a text took.
struct Run {
    tokens: u64,
    seconds: f64,
    rounds: u64,
    /// Longest run of rounds in a row that gave less a second than plain steps do.
    losing: u64,
    lengths: Vec<usize>,
}

impl Run {
    /// Time over that of plain steps.
    fn cost(&self) -> f64 {
        self.seconds / self.tokens as f64
    }
}

/// `tokens` tokens by a controller.
fn run(controller: &mut Controller, world: &mut World, source: Source, tokens: u64) -> Run {
    let mut run = Run { tokens: 0, seconds: 0.0, rounds: 0, losing: 0, lengths: Vec::new() };
    let mut losing = 0;
    while run.tokens < tokens {
        let context = 100 + usize::try_from(run.tokens).expect("small");
        let limits = Limits { context, room: 64, repeats: 15 };
        let (sample, gained) = match controller.choose(&limits) {
            Choice::Plain(n) => {
                let (steps, verify_seconds) = (n as u64, n as f64);
                let sample = Sample {
                    context,
                    drafted: None,
                    steps,
                    draft_seconds: 0.0,
                    verify_seconds,
                    warming: false,
                };
                (sample, steps)
            }
            Choice::Draft(of, n) => {
                assert_eq!(of, source);
                let at = run.tokens;
                let accepted = (0..n).take_while(|&k| world.coin((world.accept)(at, k))).count();
                run.rounds += 1;
                run.lengths.push(n);
                let sample = Sample {
                    context,
                    drafted: Some((of, n, accepted)),
                    steps: 1,
                    draft_seconds: (world.draft)(n),
                    verify_seconds: 1.0 + world.row * n as f64,
                    warming: false,
                };
                (sample, accepted as u64 + 1)
            }
        };
        let seconds = sample.draft_seconds + sample.verify_seconds;
        losing = if seconds > gained as f64 { losing + 1 } else { 0 };
        run.losing = run.losing.max(losing);
        run.seconds += seconds;
        run.tokens += gained;
        controller.observe(&sample);
    }
    run
}

fn controller(source: Source, most: usize) -> Controller {
    Controller::new(Policy::Auto, &[(source, most)], 8)
}

#[test]
fn a_drafter_that_guesses_costs_at_most_three_percent() {
    // A drafter, the most it drafts, and what so many drafts cost.
    type Drafter = (Source, usize, fn(usize) -> f64);
    let drafts: [Drafter; 3] =
        [(Source::DFlash, 15, |_| 0.3), (Source::Mtp, 8, |n| 0.12 * n as f64), (Source::Ngram, 15, |_| 0.0)];
    for (source, most, draft) in drafts {
        for row in [0.02, 0.1, 0.3] {
            for accept in [0.0, 0.02, 0.1] {
                let accepts: fn(u64, usize) -> f64 = match accept {
                    0.0 => |_, _| 0.0,
                    0.02 => |_, _| 0.02,
                    _ => |_, _| 0.1,
                };
                let mut world = World::new(row, draft, accepts);
                let run = run(&mut controller(source, most), &mut world, source, 1000);
                assert!(run.cost() <= 1.03, "{source}, row {row}, acceptance {accept}: {}", run.cost());
                assert!(run.rounds > 0, "{source}: it was never tried");
            }
        }
    }
}

#[test]
fn a_good_drafter_is_used_and_its_length_follows_acceptance() {
    // As published for 31B on chat: falling acceptance, rows nearly free.
    let mut world = World::new(0.02, |_| 0.1, |_, k| [0.85, 0.75, 0.7, 0.65, 0.6, 0.55][k.min(5)]);
    let good = run(&mut controller(Source::DFlash, 15), &mut world, Source::DFlash, 2000);
    assert!(good.cost() < 0.5, "{}", good.cost());
    // Where rows are dear, rounds are short.
    let mut world = World::new(0.35, |_| 0.1, |_, k| [0.85, 0.75, 0.7, 0.65, 0.6, 0.55][k.min(5)]);
    let dear = run(&mut controller(Source::DFlash, 15), &mut world, Source::DFlash, 2000);
    let mean = |run: &Run| run.lengths.iter().sum::<usize>() as f64 / run.lengths.len() as f64;
    assert!(mean(&dear) + 1.0 < mean(&good), "{} and {}", mean(&dear), mean(&good));
    assert!(dear.cost() < 1.0, "{}", dear.cost());
}

#[test]
fn x10_a_losing_drafter_is_left_within_16_rounds_and_taken_back_when_it_helps_again() {
    // Good, then useless, then good again.
    let mut world = World::new(0.05, |_| 0.1, |at, _| if (2000..4000).contains(&at) { 0.0 } else { 0.9 });
    let run = run(&mut controller(Source::DFlash, 15), &mut world, Source::DFlash, 9000);
    assert!(run.losing <= 16, "{} rounds in a row lost", run.losing);
    // 2000 tokens at the price of plain steps, the others far below it.
    assert!(run.cost() < 0.6, "{}", run.cost());
}

#[test]
fn f13_no_mix_of_cost_and_acceptance_loses_more_than_five_percent() {
    for row in [0.01, 0.05, 0.15, 0.4] {
        for accept in [0.2, 0.4, 0.6, 0.8] {
            let accepts: fn(u64, usize) -> f64 = match accept {
                0.2 => |_, _| 0.2,
                0.4 => |_, _| 0.4,
                0.6 => |_, _| 0.6,
                _ => |_, _| 0.8,
            };
            let mut world = World::new(row, |n| 0.05 + 0.02 * n as f64, accepts);
            let run = run(&mut controller(Source::Mtp, 8), &mut world, Source::Mtp, 1500);
            assert!(run.cost() <= 1.05, "row {row}, acceptance {accept}: {}", run.cost());
        }
    }
}

#[test]
fn the_better_of_two_sources_is_used() {
    let mut controller = Controller::new(Policy::Auto, &[(Source::DFlash, 15), (Source::Mtp, 8)], 8);
    let (mut dflash, mut mtp, mut tokens) = (0u64, 0u64, 0u64);
    let mut world = World::new(0.03, |_| 0.0, |_, _| 0.0);
    while tokens < 1500 {
        let limits = Limits { context: 5000, room: 64, repeats: 0 };
        let sample = match controller.choose(&limits) {
            Choice::Plain(n) => Sample {
                context: 5000,
                drafted: None,
                steps: n as u64,
                draft_seconds: 0.0,
                verify_seconds: n as f64,
                warming: false,
            },
            Choice::Draft(source, n) => {
                let (share, draft) =
                    if source == Source::DFlash { (0.3, 0.2) } else { (0.8, 0.05 * n as f64) };
                let accepted = (0..n).take_while(|_| world.coin(share)).count();
                if source == Source::DFlash {
                    dflash += 1;
                } else {
                    mtp += 1;
                }
                Sample {
                    context: 5000,
                    drafted: Some((source, n, accepted)),
                    steps: 1,
                    draft_seconds: draft,
                    verify_seconds: 1.0 + 0.03 * n as f64,
                    warming: false,
                }
            }
        };
        tokens += sample.drafted.map_or(sample.steps, |(_, _, accepted)| accepted as u64 + 1);
        controller.observe(&sample);
    }
    assert!(mtp > 5 * dflash, "{mtp} chains and {dflash} blocks");
}

#[test]
fn a_fixed_policy_always_drafts_and_room_is_respected() {
    let sources = [(Source::DFlash, 15), (Source::Ngram, 15)];
    let mut controller = Controller::new(Policy::Fixed, &sources, 8);
    let limits = |room, repeats| Limits { context: 10, room, repeats };
    assert_eq!(controller.choose(&limits(64, 3)), Choice::Draft(Source::DFlash, 15));
    assert_eq!(controller.choose(&limits(4, 3)), Choice::Draft(Source::DFlash, 4));
    assert_eq!(controller.choose(&limits(0, 3)), Choice::Plain(1));
    let mut ngrams = Controller::new(Policy::Fixed, &sources[1..], 8);
    assert_eq!(ngrams.choose(&limits(64, 0)), Choice::Plain(1));
    assert_eq!(ngrams.choose(&limits(64, 5)), Choice::Draft(Source::Ngram, 5));
}
