//! The cache of the reference backend, seen through the ops.

use gemma4_conformance::invariance::{Subject, feed};
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{Failure, compare::same_bits, kv};
use gemma4_core::cache::PAGE;
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::program::Class;
use gemma4_core::reference::Reference;

fn new() -> Reference {
    Reference::new(None).expect("threads can be started")
}

fn types() -> impl Iterator<Item = Kv> {
    KvType::ALL.map(Kv::all).into_iter().chain([Kv::MIXED])
}

fn report(test: &str, compared: Result<usize, Failure>) {
    let compared = compared.unwrap_or_else(|failure| panic!("{failure}"));
    println!("{test}: {compared} comparisons");
    assert!(compared > 0);
}

#[test]
fn f1_chunks_of_5_7_and_16_in_a_ring_equal_one_chunk() {
    // A window of 8 in a ring that wraps.
    report("F1", kv::chunks_in_a_ring(&new, &Tiny::moe(), Kv::all(KvType::F32), (1, 300), &[5, 7, 16, 249]));
}

#[test]
fn f2_what_lies_beyond_the_tokens_of_a_cache_changes_nothing_though_it_is_nan() {
    let mut compared = 0;
    for tiny in Tiny::all() {
        for kv in types() {
            let result = kv::decoding_in_poison(&new, &tiny, kv, 3, &[1, 255, 256, 257, 511]);
            compared += result.unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
    report("F2, T-i, T-j", Ok(compared));
}

#[test]
fn f3_past_three_wraps_a_ring_in_a_large_context_equals_an_unbounded_cache() {
    let subject = Subject { new, tiny: Tiny::moe(), kv: Kv::all(KvType::Q8_0) };
    let (context, len) = (65_536, 3 * 768 + 100);
    let text = tokens(len, 60);
    let run = |context, chunk| -> Result<Vec<f32>, Failure> {
        let mut engine = subject.engine(context, chunk, 1)?;
        let seq = engine.open()?;
        let logits = feed(&mut engine, seq, Class::Prefill, &text, chunk)?;
        if context > len {
            let spec = *engine.cache().spec();
            // Window 8, step 256, slack 256; two snapshots take two pages each.
            assert_eq!((spec.ring_pages, spec.local_pages), (3, 3 + 2 * 2));
            assert_eq!(spec.global_pages, context / PAGE + 2);
            // Two heads of 128 in q8_0, for keys and values.
            assert_eq!(engine.page_bytes(Span::Local), 2 * 2 * PAGE * 128 / 32 * 34);
        } else {
            assert!(engine.cache().spec().ring_slots() >= len, "it would wrap");
        }
        Ok(logits)
    };
    let want = run(len, len).unwrap_or_else(|failure| panic!("{failure}"));
    let got = run(context, 256).unwrap_or_else(|failure| panic!("{failure}"));
    report("F3", same_bits(&want, &got).map_err(Failure::differs("past three wraps")));
}

#[test]
fn f4_every_group_of_layers_stores_in_its_own_types() {
    report("F4, dense", kv::every_group_stores_in_its_own_types(&new, &Tiny::dense()));
    report("F4, moe", kv::every_group_stores_in_its_own_types(&new, &Tiny::moe()));
}

#[test]
fn f9_one_token_decoded_around_the_window_and_the_ring_equals_prefill() {
    let mut compared = 0;
    for (tiny, ring) in [(Tiny::moe(), 2), (Tiny::ple(), 3), (Tiny::dense(), 2)] {
        let (w, r) = (tiny.config().window, ring * PAGE);
        let result = kv::decoding_in_poison(&new, &tiny, Kv::MIXED, ring, &[w - 1, w, w + 1, r - 1, r, r + 1]);
        compared += result.unwrap_or_else(|failure| panic!("{failure}"));
    }
    report("F9", Ok(compared));
}

#[test]
fn t_e_chunks_around_the_ring_and_the_page_equal_one_step() {
    let tiny = Tiny::ple();
    let sizes = [1, 7, 256, 1023, 1024, 1025];
    // 300 + 1025 - 1 slots and more: six pages.
    report("T-e", kv::chunks_in_a_ring(&new, &tiny, Kv::MIXED, (6, 1100), &sizes));
}

#[test]
fn t_e_a_ring_with_fewer_pages_than_a_step_needs_is_caught() {
    let result = kv::chunks_in_a_ring(&new, &Tiny::ple(), Kv::all(KvType::F16), (2, 768), &[256]);
    let failure = result.expect_err("512 slots are too few for a window of 300 and steps of 256");
    assert!(failure.to_string().contains("chunks of 256 in 2 pages"), "{failure}");
}

#[test]
fn t_f_decoding_across_the_seam_equals_prefill_for_every_type() {
    let mut compared = 0;
    for kv in types() {
        let r = 512;
        let spots = [r - 2, r - 1, r, r + 1, r + 2, 2 * r - 2, 2 * r - 1, 2 * r, 2 * r + 1, 2 * r + 2];
        let result = kv::decoding_in_poison(&new, &Tiny::moe(), kv, 2, &spots);
        compared += result.unwrap_or_else(|failure| panic!("{failure}"));
    }
    report("T-f", Ok(compared));
}

#[test]
fn t_g_rejected_drafts_across_the_seam_leave_no_trace() {
    report("T-g", kv::rejections_across_the_seam(&new, &Tiny::moe(), Kv::all(KvType::TQ3_0), 2));
    report("T-g", kv::rejections_across_the_seam(&new, &Tiny::ple(), Kv::MIXED, 2));
}

#[test]
fn t_k_shared_layers_read_the_donor_of_their_own_kind() {
    for kv in types() {
        report("T-k", kv::donors_are_of_the_layers_own_kind(&new, &Tiny::ple(), kv));
    }
}
