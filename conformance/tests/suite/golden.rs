//! Every backend against recorded outputs of Hugging Face transformers.

use std::path::Path;

use gemma4_conformance::backends::Name;
use gemma4_conformance::golden::{Feed, Golden, Target};
use gemma4_conformance::{backends, on_every_backend};
use gemma4_core::kv_type::KvType;
use gemma4_core::program::StateSpec;
use gemma4_core::reference::Distortion;

fn open(name: &str) -> Target {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    match Golden::open(&dir) {
        Ok(Golden::Target(target)) => *target,
        other => panic!("{}: {other:?}", dir.display()),
    }
}

/// What a pool gives back for an entry, if it is stored as `kv` and its domain forgotten.
fn through(kv: KvType, entry: &mut [f32]) {
    let mut bytes = vec![0; kv.row_bytes(entry.len()).expect("whole blocks")];
    kv.encode(entry, &mut bytes).expect("finite values");
    kv.decode(&bytes, entry);
}

fn keys(pool: &StateSpec) -> bool {
    pool.name.ends_with('k')
}

/// A mistake in storing an entry, and the type whose bound it must miss.
type Mistake = (&'static str, KvType, fn(&StateSpec, &mut [f32]));

const MISTAKES: [Mistake; 8] = [
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

/// What a driver that computes on the processor is asked for: between its two backends and the three models, everything
/// once.
fn shortened(name: Name, model: &str) -> (&'static [Feed], &'static [KvType]) {
    match (name, model) {
        (Name::Cpu | Name::Cuda, _) => (&Feed::ALL, &KvType::ALL),
        (Name::Wgpu, "dense") => (&[Feed::Whole], &[KvType::F16]),
        (Name::Wgpu, "moe") => (&[Feed::Tokens], &[KvType::Q8_0]),
        (Name::Wgpu, _) => (&[Feed::Chunks(5)], &[KvType::TQ3_0]),
        (Name::WgpuCore, "dense") => (&[Feed::Tokens], &[KvType::TQ3_0]),
        (Name::WgpuCore, "moe") => (&[Feed::Chunks(16)], &[KvType::F16]),
        (Name::WgpuCore, _) => (&[Feed::Whole], &[KvType::Q4_0]),
    }
}

/// The longest prompt, and how much of continuations, that such a driver is asked for. One prompt is a token longer than the
/// window, and its continuation goes on there; a longer one adds no case but what it costs, unless it is a single step of more
/// rows. Continuations are decoded token by token whatever the way.
fn lengths(feed: Feed) -> (usize, usize) {
    (if feed == Feed::Whole { usize::MAX } else { 33 }, 6)
}

/// Runs a model in every way on every backend, and with every type of cache; then with mistakes, which must miss the
/// type's bound.
fn agrees(name: &str, mistakes: &[Mistake]) {
    let target = open(name);
    let lossy = || KvType::ALL.into_iter().filter(|&kv| kv != KvType::F32);
    let bound = |kv| target.noise_bound(kv).unwrap_or_else(|error| panic!("{name}: {error}"));
    let bounds: Vec<(KvType, f64)> = lossy().map(|kv| (kv, bound(kv))).collect();
    on_every_backend!(|at, new| {
        let (short, few) = shortened(at.name, name);
        for &feed in at.pick(&Feed::ALL[..], short) {
            let what = format!("{name}, {feed}");
            let lengths = at.pick((usize::MAX, usize::MAX), lengths(feed));
            let Some(run) = at.judge(&what, target.exact(new(), feed, lengths)) else { continue };
            let worst =
                format!("logits within {:.1e}, hidden within {:.1e}", run.logits.worst, run.hidden.worst);
            at.report_with(what, run.logits.count + run.hidden.count + run.tokens, &worst);
        }
        for &(kv, bound) in bounds.iter().filter(|(kv, _)| at.pick(true, few.contains(kv))) {
            let what = format!("{name}, {kv}");
            // A driver that computes on the processor takes as long for a chunk of 16 as for one of 64, a tile.
            let feed = Feed::Chunks(at.pick(16, 64));
            let Some(noise) = at.judge(&what, target.quantised(new(), feed, (kv, bound))) else { continue };
            let error = format!("relative error {:.1e} of {:.1e}", noise.error, noise.bound);
            at.report_with(what, noise.count, &error);
        }
    });
    let mut tried = 0;
    for &(mistake, kv, distort) in mistakes {
        let bound =
            bounds.iter().find(|(of, _)| *of == kv).expect("mistakes are about types that lose something").1;
        let wrong = backends::reference().with_distortion(Distortion::new(move |pool, _, entry| {
            entry.chunks_exact_mut(pool.head_dim).for_each(|head| distort(pool, head));
        }));
        let error = target.logit_error(wrong, KvType::F32, Feed::Whole);
        let error = error.unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}, {kv}, {mistake}: relative error {error:.2e} of {bound:.2e}");
        assert!(error > bound, "{name}, {mistake}: {error:.2e} is within {bound:.2e}");
        tried += 1;
    }
    println!("{name}: {tried} mistakes");
    assert!(tried > 0);
}

#[test]
fn the_dense_model_agrees_with_transformers_and_mistakes_in_storing_do_not() {
    agrees("dense", &MISTAKES);
}

// Rotations are a matter of the head's width and kind, so every model has them wrong; the other mistakes are the same
// in all.

#[test]
fn the_mixture_of_experts_agrees_with_transformers_and_wrong_rotations_do_not() {
    agrees("moe", &MISTAKES[..2]);
}

#[test]
fn the_model_with_per_layer_embeddings_and_shared_keys_agrees_with_transformers_and_wrong_rotations_do_not() {
    agrees("ple", &MISTAKES[..2]);
}
