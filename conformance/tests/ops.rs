//! Every op of the reference backend computes its definition, and no case lets a mutant through.

use std::collections::BTreeMap;

use gemma4_conformance::cases;
use gemma4_core::ops::Op;
use gemma4_core::reference::Reference;

#[test]
fn every_op_computes_its_definition_and_every_mutant_is_rejected() {
    let backend = Reference::new(None).expect("threads can be started");
    let (mut compared, mut tried) = (0, 0);
    for op in Op::ALL {
        let mut mutants = BTreeMap::new();
        let (mut count, mut share) = (0, 0.0f64);
        let cases = cases::of(op);
        assert!(!cases.is_empty(), "{op} has no cases");
        for case in cases {
            let checked = case.check(&backend).unwrap_or_else(|failure| panic!("{failure}"));
            count += checked.agreement.count;
            share = share.max(checked.agreement.share);
            for (name, rejected) in checked.mutants {
                *mutants.entry(name).or_insert(false) |= rejected;
            }
        }
        println!("{op}: {count} comparisons, {:.1} % of the bound, {} mutants", 100.0 * share, mutants.len());
        let alive: Vec<_> = mutants.iter().filter(|(_, rejected)| !**rejected).collect();
        assert!(alive.is_empty(), "{op}: no case rejects {alive:?}");
        assert!(*op == "gather_rows" || !mutants.is_empty(), "{op} has no mutants");
        compared += count;
        tried += mutants.len();
    }
    println!("{compared} comparisons, {tried} mutants");
    assert!(compared > 0 && tried > 0);
}

#[test]
fn p11_attention_over_the_stored_cache_errs_by_no_more_than_a_kernel() {
    let backend = Reference::new(None).expect("threads can be started");
    let mut compared = 0;
    for case in cases::rotation_cases() {
        let got = case.run(&backend).unwrap_or_else(|failure| panic!("{failure}"));
        let error = case.relative_error(&got);
        assert!(error <= 2e-3, "{}: {error:.1e}", case.name);
        compared += got.len();
    }
    println!("P11, P13: {compared} comparisons");
    assert!(compared > 0);
}
