//! Every backend gives a row the same bits in any company, order and history.

use gemma4_conformance::compare::same_bits;
use gemma4_conformance::invariance::{Subject, feed};
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{Failure, backends, on_every_backend};
use gemma4_core::kv_type::KvType;
use gemma4_core::program::Class;
use gemma4_core::reference::Reference;

/// Types of caches: all of them, or on a slow driver a different one on every side, which is every kernel once.
fn types(all: bool) -> Vec<Kv> {
    let every = if all { &KvType::ALL[..] } else { &[] };
    every.iter().copied().map(Kv::all).chain([Kv::MIXED]).collect()
}

/// Runs a property on every backend for every model with every type of cache. Of the models that backends share, the one
/// that takes even numbers has the first if `$first` is even; see `Covered::takes`.
macro_rules! each {
    ($first:literal, $property:literal, |$at:ident, $subject:ident| $holds:expr) => {
        on_every_backend!(|$at, new| {
            let mut compared = Ok(0);
            for (n, tiny) in ($first..).zip(Tiny::all()) {
                if !$at.takes(n) {
                    continue;
                }
                for kv in types($at.pick(true, false)) {
                    let $subject = &Subject { new, tiny: tiny.clone(), kv };
                    compared = compared.and_then(|compared| Ok(compared + $holds?));
                }
            }
            $at.holds($property, compared as Result<usize, Failure>);
        })
    };
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    // Tiles and pages are met from both sides.
    each!(0, "chunks", |at, subject| {
        let (len, sizes) = at.pick((520, &[7, 255, 256, 257][..]), (270, &[64, 255, 257]));
        subject.chunks_change_nothing(len, sizes)
    });
    each!(1, "chunks of one", |at, subject| subject.chunks_change_nothing(at.pick(300, 20), &[1]));
}

#[test]
fn verifying_gives_the_bits_of_decoding() {
    each!(0, "verification", |at, subject| subject.verifying_equals_decoding(at.pick(270, 24), &[2, 5, 16]));
}

#[test]
fn prefill_gives_the_bits_of_decoding_on_the_reference() {
    // The classes of other backends take their sums in different orders.
    let mut compared = 0;
    for tiny in Tiny::all() {
        for kv in types(true) {
            let subject = Subject { new: backends::reference, tiny: tiny.clone(), kv };
            let result = subject.prefill_equals_decoding(262);
            compared += result.unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
    println!("classes: {compared} comparisons");
    assert!(compared > 0);
}

#[test]
fn rows_in_another_order_have_the_same_bits() {
    each!(1, "order", |at, subject| {
        let prefill = subject.the_order_of_rows_changes_nothing(Class::Prefill);
        prefill.and_then(|n| Ok(n + subject.the_order_of_rows_changes_nothing(Class::Decode)?))
    });
}

#[test]
fn sequences_of_different_lengths_have_the_same_bits_in_company() {
    each!(1, "company", |at, subject| {
        let prefill = subject.company_changes_nothing(Class::Prefill);
        prefill.and_then(|n| Ok(n + subject.company_changes_nothing(Class::Decode)?))
    });
}

#[test]
fn behind_a_shared_prefix_the_bits_are_the_same() {
    each!(0, "prefix", |at, subject| {
        // In the first page, at a border, past one, past two.
        let mixed = at.pick(&[40, 256, 300, 513][..], &[256]);
        let lengths = if subject.kv == Kv::MIXED { mixed } else { &[300] };
        subject.a_shared_prefix_changes_nothing(lengths)
    });
}

#[test]
fn after_a_rollback_the_bits_are_the_same() {
    each!(1, "rollback", |at, subject| subject.going_back_equals_never_having_gone());
}

#[test]
fn sampled_tokens_are_the_same_alone_in_company_and_ahead_of_the_host() {
    each!(0, "sampling", |at, subject| subject.sampling_is_the_same_alone_in_company_and_ahead());
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let text = tokens(290, 6);
    let mut compared = 0;
    for tiny in Tiny::all() {
        let run = |threads| {
            let new = || Reference::new(threads).expect("threads can be started");
            let subject = Subject { new, tiny: tiny.clone(), kv: Kv::MIXED };
            let mut engine = subject.engine(text.len(), 256, 1)?;
            let seq = engine.open()?;
            feed(&mut engine, seq, Class::Prefill, &text, 256)
        };
        let [want, three, all] = [Some(1), Some(3), None]
            .map(|threads| run(threads).unwrap_or_else(|failure| panic!("{failure}")));
        for got in [three, all] {
            compared += same_bits(&want, &got).unwrap_or_else(|mismatch| panic!("{}: {mismatch}", tiny.name));
        }
    }
    println!("threads: {compared} comparisons");
    assert!(compared > 0);
}
