//! The reference backend gives a row the same bits in any company, order and history.

use gemma4_conformance::Failure;
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::tiny::{Kv, Tiny};
use gemma4_core::kv_type::KvType;
use gemma4_core::program::Class;
use gemma4_core::reference::Reference;

/// Runs a property for every model with every cache type, and prints how many values it compared.
fn each(property: &str, holds: impl Fn(&Subject<fn() -> Reference>) -> Result<usize, Failure>) {
    let new: fn() -> Reference = || Reference::new(None).expect("threads can be started");
    let mut compared = 0;
    for tiny in Tiny::all() {
        for kv in KvType::ALL.map(Kv::all).into_iter().chain([Kv::MIXED]) {
            let subject = Subject { new, tiny: tiny.clone(), kv };
            compared += holds(&subject).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
    println!("{property}: {compared} comparisons");
    assert!(compared > 0);
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    each("chunks", |subject| subject.chunks_change_nothing(520, &[7, 255, 256, 257]));
    each("chunks of one", |subject| subject.chunks_change_nothing(300, &[1]));
}

#[test]
fn verifying_gives_the_bits_of_decoding() {
    each("verification", |subject| subject.verifying_equals_decoding(270, &[2, 5, 16]));
}

#[test]
fn prefill_gives_the_bits_of_decoding_on_the_reference() {
    each("classes", |subject| subject.prefill_equals_decoding(262));
}

#[test]
fn rows_in_another_order_have_the_same_bits() {
    each("order", |subject| {
        let prefill = subject.the_order_of_rows_changes_nothing(Class::Prefill)?;
        Ok(prefill + subject.the_order_of_rows_changes_nothing(Class::Decode)?)
    });
}

#[test]
fn sequences_of_different_lengths_have_the_same_bits_in_company() {
    each("company", |subject| {
        Ok(subject.company_changes_nothing(Class::Prefill)?
            + subject.company_changes_nothing(Class::Decode)?)
    });
}

#[test]
fn behind_a_shared_prefix_the_bits_are_the_same() {
    each("prefix", |subject| {
        // In the first page, at a border, past one, past two.
        let lengths = if subject.kv == Kv::MIXED { &[40, 256, 300, 513][..] } else { &[300] };
        subject.a_shared_prefix_changes_nothing(lengths)
    });
}

#[test]
fn after_a_rollback_the_bits_are_the_same() {
    each("rollback", Subject::going_back_equals_never_having_gone);
}

#[test]
fn sampled_tokens_are_the_same_alone_in_company_and_ahead_of_the_host() {
    each("sampling", Subject::sampling_is_the_same_alone_in_company_and_ahead);
}
