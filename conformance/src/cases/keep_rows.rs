//! Cases of `keep_rows`: what was kept is recalled by the same program.

use gemma4_core::program::Ring;

use super::{Case, bytes, inputs, op, plain, wide};

pub(super) fn cases() -> Vec<Case> {
    vec![
        // Around the end of a slot's rows, and of the second slot's.
        case(3, 64, (64, 0), (8, 6), 0),
        case(5, 257, (300, 20), (16, 14), 1),
        // More rows than the ring has: the first two are gone.
        case(6, 32, (40, 8), (4, 9), 1),
        picked(),
    ]
}

/// A ring of `ring` rows for each of two slots, filled with noise, and its contents.
fn ring(case: &mut Case, cols: usize, rows: usize, seed: u64) -> (Ring, Vec<f32>) {
    let spec = Ring::spec("ring", cols, rows, 2);
    let noise = plain(spec.pages * 256 * cols, seed);
    let state = case.state(spec, bytes(&noise));
    (Ring { state, rows }, noise)
}

/// `rows` rows of `cols` columns from a position on into columns of a ring.
fn case(
    rows: usize,
    cols: usize,
    (width, column): (usize, usize),
    (depth, start): (usize, u32),
    slot: u32,
) -> Case {
    let mut case = Case::new("keep_rows", rows, format!("{cols} columns, {depth} places, slot {slot}"));
    (start..).zip(&mut case.rows).for_each(|(position, row)| (row.position, row.slot) = (position, slot));
    let x = inputs(rows, cols, 60);
    let input = case.input(&x);
    let (ring, mut held) = ring(&mut case, width, depth, 61);
    case.program.keep_rows(input, ring, column).expect("the columns fit");
    let out = case.program.recall_rows(ring, 0);
    let place = |r: usize| (slot as usize * depth + (start as usize + r) % depth) * width;
    for (r, x) in x.chunks(cols).enumerate() {
        held[place(r) + column..][..cols].copy_from_slice(x);
    }
    let want: Vec<f64> = (0..rows).flat_map(|r| wide(&held[place(r)..][..width])).collect();
    // A copy.
    let allowed = vec![0.0; want.len()];
    case.expect(out, want, allowed)
        .mutant("nothing is kept", |case| case.program.ops.retain(|op| op.name() != "keep_rows"))
        .mutant("a ring of another length", |case| op!(case, KeepRows).ring.rows += 1)
        .mutant("from the column before", |case| {
            let op = op!(case, KeepRows);
            op.column = op.column.max(1) - 1;
        })
}

/// Picked rows are kept at the positions of the rows that they are.
fn picked() -> Case {
    let (rows, cols, depth) = (4, 32, 8);
    let mut case = Case::new("keep_rows", rows, "two picked rows");
    (5..).zip(&mut case.rows).for_each(|(position, row)| row.position = position);
    case.picked = vec![3, 1];
    case.settings.truncate(2);
    let x = inputs(rows, cols, 62);
    let input = case.input(&x);
    let gathered = case.program.gather_rows(input);
    let (ring, mut held) = ring(&mut case, cols, depth, 63);
    case.program.keep_rows(gathered, ring, 0).expect("the columns fit");
    let out = case.program.recall_rows(ring, 0);
    for r in [3, 1] {
        held[(5 + r) % depth * cols..][..cols].copy_from_slice(&x[r * cols..][..cols]);
    }
    let want: Vec<f64> = (0..rows).flat_map(|r| wide(&held[(5 + r) % depth * cols..][..cols])).collect();
    let allowed = vec![0.0; want.len()];
    case.expect(out, want, allowed).mutant("the first rows", |case| case.picked = vec![0, 1])
}
