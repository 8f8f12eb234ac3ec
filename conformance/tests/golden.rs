//! The reference backend against recorded outputs of Hugging Face transformers.

use std::path::Path;

use gemma4_conformance::golden::{Feed, Golden, Target};
use gemma4_core::kv_type::KvType;
use gemma4_core::program::StateSpec;
use gemma4_core::reference::{Distortion, Reference};

fn new() -> Reference {
    Reference::new(None).expect("threads can be started")
}

fn open(name: &str) -> Target {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    match Golden::open(&dir) {
        Ok(Golden::Target(target)) => *target,
        other => panic!("{}: {other:?}", dir.display()),
    }
}

fn agrees(name: &str) {
    let target = open(name);
    let mut compared = 0;
    for feed in Feed::ALL {
        let run = target.exact(new(), feed).unwrap_or_else(|error| panic!("{name}: {error}"));
        compared += run.logits.count + run.hidden.count + run.tokens;
        println!("{name}, {feed}: logits within {:.1e}, hidden within {:.1e}", run.logits.worst, run.hidden.worst);
    }
    for kv in KvType::ALL {
        let noise = target.quantised(new(), kv).unwrap_or_else(|error| panic!("{name}: {error}"));
        compared += noise.count;
        println!("{name}, {kv}: relative error {:.1e} of {:.1e}", noise.error, noise.bound);
    }
    println!("{name}: {compared} comparisons");
    assert!(compared > 0);
}

#[test]
fn the_dense_model_agrees_with_transformers() {
    agrees("dense");
}

#[test]
fn the_mixture_of_experts_agrees_with_transformers() {
    agrees("moe");
}

#[test]
fn the_model_with_per_layer_embeddings_and_shared_keys_agrees_with_transformers() {
    agrees("ple");
}

/// What a pool gives back for an entry, if it is stored as `kv` and its domain forgotten.
fn through(kv: KvType, entry: &mut [f32]) {
    let mut bytes = vec![0; kv.row_bytes(entry.len()).expect("whole blocks")];
    kv.encode(entry, &mut bytes).expect("finite values");
    kv.decode(&bytes, entry);
}

#[test]
fn a_mistake_in_storing_misses_the_bound_of_its_type() {
    fn keys(pool: &StateSpec) -> bool {
        pool.name.ends_with('k')
    }
    type Mistake = fn(&StateSpec, &mut [f32]);
    let mistakes: [(&str, KvType, Mistake); 8] = [
        ("queries are not rotated", KvType::TQ3_0, |pool, entry| {
            if keys(pool) {
                through(KvType::TQ3_0, entry);
            }
        }),
        ("outputs are not turned back", KvType::TQ3_0, |pool, entry| {
            if !keys(pool) {
                through(KvType::TQ3_0, entry);
            }
        }),
        ("neither side is rotated", KvType::TQ3_0, |_, entry| through(KvType::TQ3_0, entry)),
        ("4 bits for 8", KvType::Q8_0, |_, entry| through(KvType::Q4_0, entry)),
        ("bf16 for f16", KvType::F16, |_, entry| {
            for value in entry {
                *value = f32::from_bits((value.to_bits() + 0x8000) & 0xFFFF_0000);
            }
        }),
        ("nibbles of a block in turns", KvType::Q4_0, |_, entry| {
            through(KvType::Q4_0, entry);
            for block in entry.chunks_exact_mut(32) {
                let old = block.to_vec();
                for i in 0..16 {
                    (block[2 * i], block[2 * i + 1]) = (old[i], old[i + 16]);
                }
            }
        }),
        ("8 is not taken off", KvType::Q4_0, |_, entry| {
            through(KvType::Q4_0, entry);
            for block in entry.chunks_exact_mut(32) {
                let step = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 8.0;
                for v in block {
                    *v += 8.0 * step;
                }
            }
        }),
        ("one scale a head", KvType::Q8_0, |_, entry| {
            let step = entry.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 31.0;
            for v in entry {
                *v = (*v / step).round() * step;
            }
        }),
    ];
    // Rotations are a matter of the head's width and kind, so every model has them wrong; the other mistakes are the
    // same in all.
    for (name, mistakes) in [("dense", &mistakes[..]), ("moe", &mistakes[..2]), ("ple", &mistakes[..2])] {
        let target = open(name);
        let mut bounds = std::collections::BTreeMap::new();
        for &(mistake, kv, distort) in mistakes {
            let bound = bounds.entry(kv).or_insert_with(|| target.noise_bound(kv));
            let bound = *bound.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
            let wrong = new().with_distortion(Distortion::new(move |pool, _, entry| {
                entry.chunks_exact_mut(pool.head_dim).for_each(|head| distort(pool, head));
            }));
            let error = target.logit_error(wrong, KvType::F32, Feed::Whole);
            let error = error.unwrap_or_else(|error| panic!("{name}: {error}"));
            println!("{name}, {mistake}: relative error {error:.2e}, bound of {kv} {bound:.2e}");
            assert!(error > bound, "{name}, {mistake}: {error:.2e} is within {bound:.2e} of {kv}");
        }
    }
}
