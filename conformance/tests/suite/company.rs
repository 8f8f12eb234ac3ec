//! On a GPU a row of a single op has the same bits alone as among others.

use gemma4_conformance::backends::{self, Device};
use gemma4_conformance::cases;
use gemma4_conformance::compare::same_bits;
use gemma4_wgpu::Wgpu;

#[test]
fn a_row_has_the_same_bits_alone_as_among_others() {
    for at in backends::covered() {
        let Device::Wgpu(backend) = &at.device else { continue };
        at.report("company of single ops", compared(backend));
    }
}

/// Values of rows alone that have the bits they have in company.
fn compared(backend: &Wgpu) -> usize {
    let mut compared = 0;
    for op in ["route", "moe_ffn", "sample"] {
        for mut case in cases::of(op) {
            let together = case.run(backend).unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
            let (rows, settings) = (case.rows.clone(), case.settings.clone());
            let cols = together.len() / rows.len();
            // The first, the last, and one between.
            for row in [0, rows.len() / 2, rows.len() - 1] {
                case.rows = vec![rows[row]];
                (case.picked, case.settings) = (vec![0], vec![settings[row].clone()]);
                let alone = case.run(backend).unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
                let want = &together[row * cols..(row + 1) * cols];
                compared +=
                    same_bits(want, &alone).unwrap_or_else(|bad| panic!("{}, row {row}: {bad}", case.name));
            }
        }
    }
    compared
}
