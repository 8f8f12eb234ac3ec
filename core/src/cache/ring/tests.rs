use proptest::prelude::*;

use super::*;
use crate::cache::tests::Random;

/// The slots that a query sees, as a string of slots with 1 for visible.
fn picture(query: usize, end: usize, ring: usize, window: usize) -> String {
    (0..ring).map(|slot| if visible(slot, query, end, ring, window) { '1' } else { '0' }).collect()
}

/// The slots that a query sees, as inclusive runs.
fn visible_runs(query: usize, end: usize, ring: usize, window: usize) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for slot in (0..ring).filter(|&slot| visible(slot, query, end, ring, window)) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => runs.push((slot, slot)),
        }
    }
    runs
}

#[test]
fn a_ring_of_8_with_a_window_of_4_shows_these_slots() {
    for (query, end, expected) in [
        (0, 1, "10000000"),
        (0, 4, "10000000"),
        (3, 4, "11110000"),
        (4, 8, "01111000"),
        (7, 8, "00001111"),
        (8, 9, "10000111"),
        (8, 12, "10000111"),
        (9, 12, "11000011"),
        (11, 12, "11110000"),
        (14, 15, "00011110"),
        (13, 16, "00111100"),
        (16, 17, "10000111"),
    ] {
        assert_eq!(picture(query, end, 8, 4), expected, "query {query}, end {end}");
    }
}

#[test]
fn a_ring_of_2048_with_a_window_of_1024_shows_these_slots() {
    let two = |a, b| vec![a, b];
    for (query, end, expected) in [
        (0, 1, vec![(0, 0)]),
        (1023, 1024, vec![(0, 1023)]),
        (1024, 2048, vec![(1, 1024)]),
        (2047, 2048, vec![(1024, 2047)]),
        (2048, 2049, two((0, 0), (1025, 2047))),
        (2559, 3072, two((0, 511), (1536, 2047))),
        (3071, 3072, vec![(0, 1023)]),
        (3100, 3101, vec![(29, 1052)]),
        (4095, 4096, vec![(1024, 2047)]),
        (4096, 4097, two((0, 0), (1025, 2047))),
        (50000, 50001, two((0, 848), (1873, 2047))),
        (2000, 2048, vec![(977, 2000)]),
        (2100, 2105, two((0, 52), (1077, 2047))),
    ] {
        assert_eq!(visible_runs(query, end, 2048, 1024), expected, "query {query}, end {end}");
    }
}

#[test]
fn writes_split_at_the_seam() {
    for (position, n, expected) in [
        (2000, 100, [(2000, 48), (0, 52)]),
        (2047, 2, [(2047, 1), (0, 1)]),
        (2047, 1, [(2047, 1), (0, 0)]),
        (2048, 1, [(0, 1), (0, 0)]),
        (5000, 1024, [(904, 1024), (0, 0)]),
        (7, 0, [(0, 0), (0, 0)]),
        (5, 2048, [(5, 2043), (0, 5)]),
    ] {
        assert_eq!(write_pieces(position, n, 2048), expected, "{n} rows at {position}");
    }
}

#[test]
#[should_panic(expected = "overwrites itself")]
fn a_write_longer_than_the_ring_is_refused() {
    let _ = write_pieces(0, 9, 8);
}

#[test]
fn rings_are_as_large_as_window_step_and_slack_need() {
    assert_eq!(ring_slots(1024, 512, 256, 1 << 18), 1792);
    assert_eq!(ring_slots(512, 512, 256, 1 << 18), 1280);
    assert_eq!(ring_slots(1024, 1, 0, 1 << 18), 1024);
    assert_eq!(ring_slots(1024, 2, 0, 1 << 18), 1280);
    // Capped at the padded context: such a ring never wraps.
    assert_eq!(ring_slots(1024, 512, 256, 1535), 1536);
    assert_eq!(ring_slots(1024, 512, 256, 300), 512);
    assert_eq!(ring_slots(1024, 512, 256, 1), 256);
    // What a user types does not overflow.
    assert_eq!(ring_slots(usize::MAX, 512, 256, 300), 512);
    assert_eq!(max_step(2048, 1024), 1025);
    assert_eq!(max_step(8, 9), 0);
}

#[test]
fn resuming_is_legal_up_to_ring_minus_window_back() {
    for (window, ring) in [(4, 8), (8, 16), (1024, 2048), (512, 1280)] {
        for highest in [ring + window, 3 * ring - 1, 3 * ring, 3 * ring + 1] {
            assert!(can_resume(highest, highest - (ring - window), ring, window));
            assert!(!can_resume(highest, highest - (ring - window) - 1, ring, window));
            assert!(can_resume(highest, 0, ring, window), "position 0 needs nothing");
        }
        assert!(can_resume(ring - 1, 1, ring, window), "nothing is lost before the first wrap");
        assert!(!can_resume(ring, window - 1, ring, window), "position 0 is lost with the first wrap");
        assert!(can_resume(ring, window, ring, window));
    }
}

/// A ring that stores the absolute position of each key, and how a broken one would differ.
struct Keys {
    slots: Vec<Option<usize>>,
    window: usize,
    /// Added to the end that the mask is built from: 0 is right.
    end_error: isize,
}

impl Keys {
    fn new(ring: usize, window: usize) -> Self {
        Self { slots: vec![None; ring], window, end_error: 0 }
    }

    fn write(&mut self, position: usize, n: usize) {
        let mut row = position;
        for (slot, rows) in write_pieces(position, n, self.slots.len()) {
            for cell in &mut self.slots[slot..slot + rows] {
                *cell = Some(row);
                row += 1;
            }
        }
    }

    /// Whether a query sees each position of its window once, and nothing else.
    fn sees_its_window(&self, query: usize, end: usize) -> bool {
        let ring = self.slots.len();
        let end = end.saturating_add_signed(self.end_error);
        let seen = (0..ring).filter(|&slot| visible(slot, query, end, ring, self.window));
        let Some(mut seen) = seen.map(|slot| self.slots[slot]).collect::<Option<Vec<_>>>() else {
            return false;
        };
        seen.sort_unstable();
        let start = (query + 1).saturating_sub(self.window);
        seen.into_iter().eq(start..=query)
    }
}

/// Steps of random length up to `n`, of which a random part is kept; whether every query saw its window.
///
/// At least `steps` steps, and three times around the ring.
fn walk(keys: &mut Keys, n: usize, steps: usize, random: &mut Random) -> bool {
    let (mut len, mut step) = (0, 0);
    while step < steps || len < 3 * keys.slots.len() {
        step += 1;
        let rows = if random.below(4) == 0 { n } else { 1 + random.below(n) };
        if rows > keys.slots.len() {
            return false;
        }
        keys.write(len, rows);
        let queries = [len, len + rows - 1, len + random.below(rows), len + random.below(rows)];
        if !queries.iter().all(|&query| keys.sees_its_window(query, len + rows)) {
            return false;
        }
        len += if random.below(3) == 0 { rows } else { random.below(rows + 1) };
    }
    true
}

#[test]
fn a_ring_of_window_plus_step_minus_1_loses_nothing_and_one_slot_less_does() {
    let mut random = Random::new(1);
    for window in [4, 64, 512, 1024] {
        for n in [1, 2, 3, 16, 100] {
            assert!(
                walk(&mut Keys::new(window + n - 1, window), n, 1000, &mut random),
                "window {window}, step {n}"
            );
            // One slot less: the first query of a full step has lost its oldest key.
            assert!(
                !walk(&mut Keys::new(window + n - 2, window), n, 1000, &mut random),
                "window {window}, step {n}"
            );
        }
    }
}

#[test]
fn a_ring_of_the_window_is_only_enough_for_single_tokens() {
    let mut random = Random::new(2);
    for window in [4, 8, 512] {
        assert!(walk(&mut Keys::new(window, window), 1, 1000, &mut random));
        assert!(!walk(&mut Keys::new(window, window), 4, 1000, &mut random));
        assert!(walk(&mut Keys::new(window + 3, window), 4, 1000, &mut random));
    }
}

#[test]
fn a_mask_built_from_one_position_too_many_or_too_few_is_caught() {
    let mut random = Random::new(3);
    for end_error in [1, -1] {
        let mut keys = Keys { end_error, ..Keys::new(8 + 4 - 1, 8) };
        assert!(!walk(&mut keys, 4, 1000, &mut random), "end off by {end_error}");
    }
}

#[test]
fn chunks_of_any_legal_size_show_every_query_its_window() {
    // W = 8, R = 16: steps of up to 9; longer chunks go in pieces.
    for chunk in [1, 5, 7, 9, 16, 50] {
        let mut keys = Keys::new(16, 8);
        let mut len = 0;
        while len < 50 {
            for rows in [chunk.min(50 - len).min(max_step(16, 8))] {
                keys.write(len, rows);
                for query in len..len + rows {
                    assert!(keys.sees_its_window(query, len + rows), "chunk {chunk}, query {query}");
                }
                len += rows;
            }
        }
    }
}

#[test]
fn single_tokens_see_their_window_across_the_seam() {
    for (window, ring) in [(8, 16), (8, 8), (4, 256), (300, 768)] {
        let mut keys = Keys::new(ring, window);
        for position in 0..3 * ring + 3 {
            keys.write(position, 1);
            assert!(keys.sees_its_window(position, position + 1), "position {position}");
            // The newest key is among them: a query sees itself.
            assert!(visible(position % ring, position, position + 1, ring, window));
        }
    }
}

#[test]
fn two_ends_in_one_ring_size_have_each_their_own_mask() {
    // Same ring, same query, different ends: the slots stand for different positions.
    assert_eq!(slot_position(3, 4, 8), Some(3));
    assert_eq!(slot_position(3, 12, 8), Some(11));
    assert_eq!(slot_position(3, 3, 8), None);
    assert_eq!(slot_position(0, 0, 8), None);
    let (mut short, mut long) = (Keys::new(8, 4), Keys::new(8, 4));
    short.write(0, 3);
    long.write(0, 5);
    long.write(5, 5);
    assert!(short.sees_its_window(2, 3) && long.sees_its_window(9, 10));
    assert!(!short.sees_its_window(2, 10) && !long.sees_its_window(9, 3));
}

proptest! {
    #[test]
    fn slot_positions_are_the_newest_below_the_end(ring in 1usize..40, end in 0usize..200, slot in 0usize..40) {
        prop_assume!(slot < ring);
        let newest = (0..end).rev().find(|position| position % ring == slot);
        prop_assert_eq!(slot_position(slot, end, ring), newest);
    }

    #[test]
    fn resuming_is_legal_iff_the_window_is_still_there(
        ring in 1usize..40, window in 1usize..40, highest in 0usize..160, position in 0usize..160,
    ) {
        prop_assume!(window <= ring && position <= highest);
        let mut keys = Keys::new(ring, window);
        for written in 0..=highest {
            keys.write(written, 1);
        }
        // A window of 1 needs no past: then the rule, which guards the page written to as well, is stricter.
        let present = (window_start(position, window)..position).all(|p| keys.slots[p % ring] == Some(p));
        let strict = window > 1 || position == 0;
        prop_assert!(!can_resume(highest, position, ring, window) || present);
        prop_assert!(!strict || can_resume(highest, position, ring, window) == present);
    }

    #[test]
    fn rolling_back_as_far_as_is_legal_then_stepping_loses_nothing(
        window in 1usize..20, extra in 0usize..20, long in 0usize..100, seed: u64,
    ) {
        let ring = window + extra;
        let mut random = Random::new(seed);
        let mut keys = Keys::new(ring, window);
        let n = max_step(ring, window);
        let mut highest = 0;
        let mut len = 0;
        while len < long {
            let rows = 1 + random.below(n);
            keys.write(len, rows);
            highest = highest.max(len + rows - 1);
            len += random.below(rows + 1).max(1);
        }
        if len > 0 {
            let back = (0..=len).find(|&p| p > 0 && can_resume(highest, p, ring, window)).unwrap_or(0);
            keys.write(back, n);
            for query in back..back + n {
                prop_assert!(keys.sees_its_window(query, back + n), "back to {} of {}", back, highest);
            }
        }
    }
}
