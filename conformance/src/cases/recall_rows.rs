//! Cases of `recall_rows`.

use gemma4_core::program::Ring;

use super::{Case, bytes, op, plain, wide};

pub(super) fn cases() -> Vec<Case> {
    vec![case(3, 64, (8, 6), (0, 0)), case(5, 257, (16, 16), (1, 1)), case(2, 2112, (512, 1023), (1, 0))]
}

fn case(rows: usize, cols: usize, (depth, start): (usize, u32), (slot, back): (u32, u32)) -> Case {
    let mut case =
        Case::new("recall_rows", rows, format!("{cols} columns, {depth} places, slot {slot}, {back} back"));
    (start..).zip(&mut case.rows).for_each(|(position, row)| (row.position, row.slot) = (position, slot));
    let spec = Ring::spec("ring", cols, depth, 2);
    let held = plain(spec.pages * 256 * cols, 64);
    let state = case.state(spec, bytes(&held));
    let out = case.program.recall_rows(Ring { state, rows: depth }, back);
    let place = |r: usize| slot as usize * depth + (start as usize + r - back as usize) % depth;
    let want: Vec<f64> = (0..rows).flat_map(|r| wide(&held[place(r) * cols..][..cols])).collect();
    // A copy.
    let allowed = vec![0.0; want.len()];
    case.expect(out, want, allowed)
        .mutant("one position off", |case| {
            let op = op!(case, RecallRows);
            op.back = 1 - op.back;
        })
        .mutant("a ring of another length", |case| op!(case, RecallRows).ring.rows -= 1)
        .mutant("the other slot", |case| case.rows.iter_mut().for_each(|row| row.slot = 1 - row.slot))
}
