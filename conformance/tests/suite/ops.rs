//! Every op of every backend computes its definition, and no case lets a mutant through.

use gemma4_conformance::backends::{self, Covered, Device, Name};
use gemma4_conformance::cases::{self, Case};
use gemma4_conformance::on_every_backend;
use gemma4_conformance::ops::{Mutants, check_cases};
use gemma4_core::backend::Backend;
use gemma4_core::ops::Op;
use gemma4_wgpu::{Variants, Wgpu};

/// Of cases that have a shader of their own each is for one of the devices of a slow driver: such a shader takes longer to
/// compile than to run.
fn own(at: &Covered, cases: Vec<Case>) -> impl Iterator<Item = Case> {
    cases.into_iter().filter(|case| case.shared.is_none_or(|n| at.takes(n)))
}

#[test]
fn every_op_computes_its_definition_and_every_mutant_is_rejected() {
    on_every_backend!(|at, new| {
        let (backend, mut tried) = (new(), 0);
        for op in Op::ALL {
            let cases = own(at, cases::of(op));
            let Some(report) = at.judge(op, check_cases(&backend, op, cases, Mutants::Tried)) else {
                continue;
            };
            at.report_with(op, report.agreement.count, &report.summary());
            assert!(!report.mutants.is_empty(), "{op} has no mutants");
            tried += report.mutants.len();
        }
        assert!(tried > 0);
    });
}

#[test]
fn f5_f12_p11_attention_over_the_stored_cache_errs_by_no_more_than_a_kernel() {
    on_every_backend!(|at, new| {
        let backend = new();
        let mut compared = 0;
        for case in own(at, cases::rotation_cases()) {
            let Some(got) = at.judge("P11", case.run(&backend)) else { continue };
            let error = case.relative_error(&got);
            assert!(error <= 2e-3, "{}: {}: {error:.1e}", at.name, case.name);
            compared += got.len();
        }
        at.report("P11, P13", compared);
    });
}

#[test]
fn a_row_of_a_product_has_the_same_bits_in_any_company() {
    on_every_backend!(|at, new| {
        let backend = new();
        let mut compared = 0;
        for case in own(at, cases::company_cases()) {
            let Some(all) = at.judge("company", case.run(&backend)) else { continue };
            compared += rows_alone(at, &backend, case, &all, 1);
        }
        at.report("company", compared);
    });
}

/// Compares one of `each` rows of a case alone with what `all` of them gave, bit for bit: how many numbers.
fn rows_alone<B: Backend>(at: &Covered, backend: &B, mut case: Case, all: &[f32], each: usize) -> usize {
    let rows = std::mem::take(&mut case.rows);
    let cols = all.len() / rows.len();
    let mut compared = 0;
    for (&row, want) in rows.iter().zip(all.chunks(cols)).step_by(each) {
        (case.rows, case.picked) = (vec![row], vec![0]);
        case.settings.truncate(1);
        (case.program.rows, case.program.picked) = (1, 1);
        let Some(alone) = at.judge("company", case.run(backend)) else { continue };
        for (col, (alone, want)) in alone.iter().zip(want).enumerate() {
            let what = format_args!("{}: {}, row {}, column {col}", at.name, case.name, row.token);
            assert!(alone.to_bits() == want.to_bits(), "{what}: {alone:e} alone, {want:e} in company");
        }
        compared += cols;
    }
    compared
}

#[test]
fn products_in_fewer_bits_lose_no_more_than_they_may_and_more_than_f32() {
    use cases::{Lossy, lossy_cases};
    for at in backends::covered().iter().filter(|at| at.name == Name::Wgpu) {
        let Device::Wgpu(wgpu) = &at.device else { continue };
        let turn = at.turn();
        for (kind, allow) in [
            (Lossy::F16, Variants { f16: true, ..Variants::EXACT }),
            (Lossy::Int8, Variants { int8: true, ..Variants::EXACT }),
        ] {
            if wgpu.adapter().variants(allow) != allow {
                backends::say(format_args!(
                    "skipped: {kind:?} products: {} has none",
                    wgpu.adapter().title()
                ));
                continue;
            }
            let backend = Wgpu::new(&backends::options(allow)).expect("it was opened before");
            let (mut compared, mut company, mut share, mut exact) = (0, 0, 0.0f64, true);
            let plain =
                lossy_cases(kind).into_iter().zip(cases::of("linear").into_iter().filter(Case::is_prompt));
            for (case, strict) in plain {
                let Some(got) = at.judge("fewer bits", case.run(&backend)) else { continue };
                let Some(agreement) = at.judge("fewer bits", case.compare(&got)) else { continue };
                compared += agreement.count;
                share = share.max(agreement.share);
                exact &= strict.compare(&got).is_ok();
                company += rows_alone(at, &backend, case, &got, at.pick(7, 60));
            }
            at.report(format!("{kind:?} products, rows alone"), company);
            assert!(!exact, "{kind:?}: the bounds of f32 hold, so fewer bits were not used");
            at.report_with(
                format!("{kind:?} products"),
                compared,
                &format!("{:.1} % of the bound", 100.0 * share),
            );
        }
        drop(turn);
    }
}
