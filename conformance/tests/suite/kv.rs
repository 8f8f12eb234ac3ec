//! The cache of every backend, seen through the ops.

use gemma4_conformance::backends::{Covered, Name};
use gemma4_conformance::invariance::{Subject, feed};
use gemma4_conformance::kv::Classes;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{Failure, backends, compare::same_bits, kv, on_every_backend};
use gemma4_core::backend::Backend;
use gemma4_core::cache::PAGE;
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::program::{Class, StateSpec};

/// Types of caches: all of them, or on a slow driver a different one on every side.
fn types(at: &Covered) -> Vec<Kv> {
    let every = at.pick(&KvType::ALL[..], &[]);
    every.iter().copied().map(Kv::all).chain([Kv::MIXED]).collect()
}

/// Those of several runs that this backend takes, if they are counted from `first`; see [`Covered::takes`].
fn taken<T>(at: &Covered, first: usize, all: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    all.into_iter().zip(first..).filter(move |&(_, n)| at.takes(n)).map(|(one, _)| one)
}

fn classes(at: &Covered) -> Classes {
    if at.name == Name::Cpu { Classes::Alike } else { Classes::Apart }
}

/// Adds up what several properties compared; the first failure is that of all.
fn sum(results: impl IntoIterator<Item = Result<usize, Failure>>) -> Result<usize, Failure> {
    results.into_iter().sum()
}

#[test]
fn f1_chunks_of_5_7_and_16_in_a_ring_equal_one_chunk() {
    // A window of 8 in a ring that wraps.
    on_every_backend!(|at, new| {
        let sizes = at.pick(&[5, 7, 16, 249][..], &[16, 249]);
        at.holds("F1", kv::chunks_in_a_ring(&new, &Tiny::moe(), Kv::all(KvType::F32), (1, 300), sizes));
    });
}

#[test]
fn f2_what_lies_beyond_the_tokens_of_a_cache_changes_nothing_though_it_is_nan() {
    on_every_backend!(|at, new| {
        let all = taken(at, 0, Tiny::all())
            .flat_map(|tiny| types(at).into_iter().map(move |kv| (tiny.clone(), kv)));
        let run = |(tiny, kv): (Tiny, Kv)| {
            // The last is past every window; on a slow driver only for the window that the others do not leave.
            let spots = [1, 255, 256, 257, 511];
            let count = at.pick(5, if tiny.config().window > PAGE { 5 } else { 4 });
            kv::decoding_in_poison(&new, &tiny, kv, (3, classes(at)), &spots[..count])
        };
        at.holds("F2, T-i, T-j", sum(all.map(run)));
    });
}

#[test]
fn f3_past_three_wraps_a_ring_in_a_large_context_equals_an_unbounded_cache() {
    on_every_backend!(|at, new| {
        if !at.takes(0) {
            continue;
        }
        let subject = Subject { new, tiny: Tiny::moe(), kv: Kv::all(KvType::Q8_0) };
        // Three times a ring of 768, or once on a slow driver: attention over all of it grows with the square.
        let (context, len) = (65_536, at.pick(3, 1) * 768 + 100);
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
        let both = run(len, len).and_then(|want| Ok((want, run(context, 256)?)));
        let same = |(want, got): (Vec<f32>, Vec<f32>)| {
            same_bits(&want, &got).map_err(Failure::differs("past the wraps"))
        };
        at.holds("F3", both.and_then(same));
    });
}

#[test]
fn f4_s28_every_group_of_layers_stores_in_its_own_types() {
    on_every_backend!(|at, new| {
        for tiny in taken(at, 0, [Tiny::dense(), Tiny::moe()]) {
            at.holds(&format!("F4, {}", tiny.name), kv::every_group_stores_in_its_own_types(&new, &tiny));
        }
    });
}

#[test]
fn f9_one_token_decoded_around_the_window_and_the_ring_equals_prefill() {
    on_every_backend!(|at, new| {
        let run = |(tiny, ring): (Tiny, usize)| {
            let (w, r) = (tiny.config().window, ring * PAGE);
            let spots = [w - 1, w, w + 1, r - 1, r, r + 1];
            kv::decoding_in_poison(&new, &tiny, Kv::MIXED, (ring, classes(at)), &spots)
        };
        let all = [(Tiny::moe(), 2), (Tiny::ple(), 3), (Tiny::dense(), 2)];
        at.holds("F9", sum(taken(at, 0, all).map(run)));
    });
}

#[test]
fn t_e_s8_s11_chunks_around_the_ring_and_the_page_equal_one_step() {
    on_every_backend!(|at, new| {
        if !at.takes(1) {
            continue;
        }
        // 300 + 1025 - 1 slots and more: six pages. 300 + 257 - 1 are three, which wrap sooner.
        let (ring, sizes) = at.pick(((6, 1100), &[1, 7, 256, 1023, 1024, 1025][..]), ((3, 800), &[257]));
        at.holds("T-e", kv::chunks_in_a_ring(&new, &Tiny::ple(), Kv::MIXED, ring, sizes));
    });
}

#[test]
fn t_e_s12_a_ring_with_fewer_pages_than_a_step_needs_is_caught() {
    let new = backends::reference;
    let result = kv::chunks_in_a_ring(&new, &Tiny::ple(), Kv::all(KvType::F16), (2, 768), &[256]);
    let failure = result.expect_err("512 slots are too few for a window of 300 and steps of 256");
    assert!(failure.to_string().contains("chunks of 256 in 2 pages"), "{failure}");
}

#[test]
fn t_f_k4_s10_f12_decoding_across_the_seam_equals_prefill_for_every_type() {
    on_every_backend!(|at, new| {
        let r = 512;
        let all = [r - 2, r - 1, r, r + 1, r + 2, 2 * r - 2, 2 * r - 1, 2 * r, 2 * r + 1, 2 * r + 2];
        // Slots are positions by a remainder: on a slow driver the first seam stands for the second.
        let spots = at.pick(&all[..], &all[..5]);
        if !at.takes(0) {
            continue;
        }
        let run = |kv| kv::decoding_in_poison(&new, &Tiny::moe(), kv, (2, classes(at)), spots);
        at.holds("T-f", sum(types(at).into_iter().map(run)));
    });
}

#[test]
fn t_g_s7_f10_k1_rejected_drafts_across_the_seam_leave_no_trace() {
    on_every_backend!(|at, new| {
        let (ring, drafts) = ((2, classes(at)), at.pick(&[2, 3, 5, 16][..], &[3]));
        for (tiny, kv) in taken(at, 0, [(Tiny::moe(), Kv::all(KvType::TQ3_0)), (Tiny::ple(), Kv::MIXED)]) {
            let holds = kv::rejections_across_the_seam(&new, &tiny, kv, ring, drafts);
            at.holds(&format!("T-g, {}", tiny.name), holds);
        }
    });
}

#[test]
fn t_k_k7_shared_layers_read_the_donor_of_their_own_kind() {
    on_every_backend!(|at, new| {
        let run = |kv| kv::donors_are_of_the_layers_own_kind(&new, &Tiny::ple(), kv);
        at.holds("T-k", sum(types(at).into_iter().map(run)));
    });
}

/// Pages that were written, and one that was copied, are read as they were; the others stay what they are.
fn pages_there_and_back<B: Backend>(backend: &B, kv_type: KvType) -> Result<usize, Failure> {
    let (kv_heads, head_dim, pages) = (3, 128, 4);
    let spec = StateSpec { name: "pool".into(), span: Span::Global, kv_type, kv_heads, head_dim, pages };
    let state = backend.state(&spec).map_err(Failure::device::<B>)?;
    let page = |n: u32| {
        let value = |i: u32| f32::from(u16::try_from((i * 37 + n * 11) % 251).expect("small")) / 64.0 - 2.0;
        let values: Vec<f32> = (0..).map(value).take(kv_heads * PAGE * head_dim).collect();
        let mut bytes = vec![0; spec.page_bytes()];
        kv_type.encode(&values, &mut bytes).expect("finite values");
        bytes
    };
    for n in 0..4 {
        backend.write_page(&state, n, &page(n)).map_err(Failure::device::<B>)?;
    }
    backend.copy_page(&state, spec.page_bytes(), 1, 3).map_err(Failure::device::<B>)?;
    let mut compared = 0;
    for (n, want) in [0, 1, 2, 1].into_iter().enumerate() {
        let mut bytes = vec![0; spec.page_bytes()];
        let at = u32::try_from(n).expect("four pages");
        backend.read_page(&state, at, &mut bytes).map_err(Failure::device::<B>)?;
        if bytes != page(want) {
            return Err(Failure::False(format!(
                "{kv_type}: page {n} is not what was written to page {want}"
            )));
        }
        compared += bytes.len();
    }
    Ok(compared)
}

#[test]
fn s27_pages_behind_the_first_come_back_and_are_copied_as_they_are() {
    on_every_backend!(|at, new| {
        let backend = new();
        let all = KvType::ALL.into_iter().map(|kv_type| pages_there_and_back(&backend, kv_type));
        at.holds("S27", sum(all));
    });
}
