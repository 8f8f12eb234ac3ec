//! What the types do to attention, and what a wrong rotation does: one number, the relative error of the
//! output, tells quantised (about 0.25 for `tq3_0`) from broken (near or above 1).

use super::super::tq3::{self, BLOCK, CENTROIDS, GROUP, THRESHOLDS};
use super::*;
use crate::kv_type::tq3::tests::{indices, rotation};

const DIM: usize = 256;

/// Queries, keys and values with logits `q k` of standard deviation 1.
struct Scene {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Scene {
    fn new(seed: u64, queries: usize, keys: usize) -> Self {
        let mut random = Random::new(seed);
        let mut queries = random.normals(queries * DIM);
        for v in &mut queries {
            *v /= 16.0; // sqrt(DIM)
        }
        Self { queries, keys: random.normals(keys * DIM), values: random.normals(keys * DIM) }
    }

    /// The logits without any storing, the output in f64, `[queries, DIM]`.
    fn exact(&self, sharpness: f64) -> Vec<f64> {
        let logits = logits(&self.queries, &self.keys);
        output(&logits, sharpness, &self.values)
    }
}

/// A dot product in four running sums, which the compiler keeps in vectors.
fn dot4(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 4];
    for (a, b) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0) {
        for i in 0..4 {
            sums[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    sums.iter().sum()
}

/// `[queries, keys]`
fn logits(queries: &[f32], keys: &[f32]) -> Vec<Vec<f64>> {
    queries.chunks(DIM).map(|q| keys.chunks(DIM).map(|k| dot4(q, k)).collect()).collect()
}

/// `softmax(sharpness * logits) values`, in f64.
fn output(logits: &[Vec<f64>], sharpness: f64, values: &[f32]) -> Vec<f64> {
    let mut out = Vec::new();
    for row in logits {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        let mut o = [0.0; DIM];
        for (logit, v) in row.iter().zip(values.chunks(DIM)) {
            let p = (sharpness * (logit - max)).exp();
            sum += p;
            for (o, v) in o.iter_mut().zip(v) {
                *o += p * f64::from(*v);
            }
        }
        out.extend(o.map(|o| o / sum));
    }
    out
}

/// `|got - want| / |want|` over all queries.
fn error(want: &[f64], got: &[f64]) -> f64 {
    assert_eq!(want.len(), got.len());
    let difference: f64 = want.iter().zip(got).map(|(w, g)| (w - g).powi(2)).sum();
    (difference / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

type Turn = fn(&mut [f32]);

fn stay(_: &mut [f32]) {}

/// The turns that a type asks for: of the query if K has it, of the output if V has it.
fn turns(kind: KvType) -> (Turn, Turn) {
    if kind.rotated() { (tq3::rotate, tq3::unrotate) } else { (stay, stay) }
}

fn turned(x: &[f32], turn: Turn) -> Vec<f32> {
    let mut x = x.to_vec();
    turn(&mut x);
    x
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to f32")]
fn turned_f64(x: &[f64], turn: Turn) -> Vec<f64> {
    let x: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    turned(&x, turn).into_iter().map(f64::from).collect()
}

fn stored(kind: KvType, x: &[f32]) -> Vec<f32> {
    decoded(kind, &encoded(kind, x))
}

/// `x` un-rotated with the matrix of the definition.
#[expect(clippy::cast_possible_truncation, reason = "rounds to f32")]
fn unrotated_by_matrix(x: &[f32]) -> Vec<f32> {
    let r = rotation();
    let column = |j: usize, x: &[f32]| -> f64 { (0..GROUP).map(|i| r[i][j] * f64::from(x[i])).sum() };
    x.chunks(GROUP).flat_map(|x| (0..GROUP).map(move |j| (j, x))).map(|(j, x)| column(j, x) as f32).collect()
}

#[test]
fn f5_p11_turning_query_and_output_equals_attention_on_the_unrotated_cache() {
    let scene = Scene::new(110, 8, 512);
    let keys = stored(KvType::TQ3_0, &scene.keys);
    let values = stored(KvType::TQ3_0, &scene.values);
    let queries = turned(&scene.queries, tq3::rotate);
    let got = turned_f64(&output(&logits(&queries, &keys), 1.0, &values), tq3::unrotate);
    let (keys, values) = (unrotated_by_matrix(&keys), unrotated_by_matrix(&values));
    let want = output(&logits(&scene.queries, &keys), 1.0, &values);
    let error = error(&want, &got);
    assert!(error <= 1e-5, "{error}");
}

/// The measured relative errors of the output; 48 queries may be a fifth from them. Those of f16 follow from its
/// rounding (2.0e-4 of a normal value) in the proportions of the row of `q8_0`.
#[test]
fn p11_the_output_errs_as_much_as_was_measured() {
    use KvType::{F16, Q4_0, Q8_0, TQ3_0};
    let scene = Scene::new(111, 48, 2048);
    let exact = [1.0, 3.0].map(|sharpness| scene.exact(sharpness));
    for (k, v, want) in [
        (F16, F16, [2.9e-4, 5e-4]),
        (Q8_0, Q8_0, [0.0075, 0.013]),
        (Q4_0, Q4_0, [0.12, 0.21]),
        (TQ3_0, TQ3_0, [0.25, 0.42]),
        (TQ3_0, F16, [0.18, 0.38]),
        (F16, TQ3_0, [0.175, 0.189]),
        (Q8_0, TQ3_0, [0.175, 0.189]),
    ] {
        let ((turn_q, _), (_, turn_o)) = (turns(k), turns(v));
        let logits = logits(&turned(&scene.queries, turn_q), &stored(k, &scene.keys));
        let values = stored(v, &scene.values);
        for ((sharpness, exact), want) in [1.0, 3.0].into_iter().zip(&exact).zip(want) {
            let got = turned_f64(&output(&logits, sharpness, &values), turn_o);
            let error = error(exact, &got);
            let (low, high) = (0.8 * want, 1.2 * want);
            assert!((low..=high).contains(&error), "{k}/{v}, logits {sharpness}: {error}, expected {want}");
        }
    }
}

#[test]
fn p11_one_key_with_nearly_all_the_mass_errs_as_much_as_was_measured() {
    let mut scene = Scene::new(112, 1, 2048);
    // Query i is along key i, so its logit is 10.56 and those of the others have deviation 10.56 / 16:
    // softmax gives the key 0.95.
    scene.queries = scene.keys[..64 * DIM]
        .chunks(DIM)
        .flat_map(|k| {
            let squares: f32 = k.iter().map(|v| v * v).sum();
            k.iter().map(move |v| v * 10.78 / squares).collect::<Vec<_>>()
        })
        .collect();
    let exact = scene.exact(1.0);
    for (kind, want) in [(KvType::Q8_0, 0.0055), (KvType::Q4_0, 0.086), (KvType::TQ3_0, 0.186)] {
        let (turn_q, turn_o) = turns(kind);
        let logits = logits(&turned(&scene.queries, turn_q), &stored(kind, &scene.keys));
        let got = turned_f64(&output(&logits, 1.0, &stored(kind, &scene.values)), turn_o);
        let error = error(&exact, &got);
        assert!((0.8 * want..=1.2 * want).contains(&error), "{kind}: {error}");
    }
}

/// Whether the output's error is what `tq3_0` on both sides makes: 0.25, give or take a fifth.
fn is_quantised_and_no_worse(error: f64) -> bool {
    (0.20..=0.30).contains(&error)
}

/// `diag(s1) H diag(s2)`: the rotation with its sign vectors swapped, which is the inverse.
fn swapped(x: &mut [f32]) {
    tq3::unrotate(x);
}

/// Indices read as a sign and a magnitude, which holds for positive values only.
fn stored_with_magnitudes(x: &[f32]) -> Vec<f32> {
    let bytes = encoded(KvType::TQ3_0, x);
    let right = decoded(KvType::TQ3_0, &bytes);
    let index = indices(&bytes);
    right
        .iter()
        .zip(index)
        .map(|(right, index)| {
            let norm = right / CENTROIDS[usize::from(index)];
            let magnitude = CENTROIDS[usize::from(4 + index % 4)] * norm;
            magnitude.copysign(*right)
        })
        .collect()
}

/// A group's way through the codebook with one length for each block of 32 values instead of one a group.
///
/// `before` says whether the length that normalises is so; the length that corrects always is.
fn stored_with_block_norms(x: &[f32], before: BlockNorm) -> Vec<f32> {
    let length = |x: &[f32]| dot(x, x).sqrt();
    let mut out = Vec::new();
    for group in x.as_chunks::<GROUP>().0 {
        let lengths: [f64; 4] = std::array::from_fn(|b| match before {
            BlockNorm::Both => length(&group[b * BLOCK..][..BLOCK]),
            BlockNorm::Correction => length(group),
        });
        #[expect(clippy::cast_possible_truncation, reason = "rounds to f32")]
        let mut unit: [f32; GROUP] =
            std::array::from_fn(|j| (f64::from(group[j]) / lengths[j / BLOCK]) as f32);
        tq3::rotate(&mut unit);
        let unit = unit.map(|u| CENTROIDS[THRESHOLDS.iter().filter(|t| **t <= u).count()]);
        for (b, block) in unit.chunks(BLOCK).enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to f32")]
            let norm = (lengths[b] / length(block)) as f32;
            out.extend(block.iter().map(|c| c * norm));
        }
    }
    out
}

#[derive(Clone, Copy)]
enum BlockNorm {
    Both,
    Correction,
}

#[test]
fn f5_p12_every_mistake_leaves_the_bounds_of_the_measured_error() {
    type Store = fn(&[f32]) -> Vec<f32>;
    const RIGHT: Store = |x| stored(KvType::TQ3_0, x);
    let scene = Scene::new(120, 16, 1024);
    let exact = scene.exact(1.0);
    let attend = |turn_q: Turn, turn_o: Turn, store: Store| {
        let queries = turned(&scene.queries, turn_q);
        let logits = logits(&queries, &store(&scene.keys));
        let got = output(&logits, 1.0, &store(&scene.values));
        error(&exact, &turned_f64(&got, turn_o))
    };
    let right = attend(tq3::rotate, tq3::unrotate, RIGHT);
    assert!(is_quantised_and_no_worse(right), "{right}");

    let mistakes: [(&str, Turn, Turn, Store); 9] = [
        ("the query is not rotated", stay, tq3::unrotate, RIGHT),
        ("the output is not un-rotated", tq3::rotate, stay, RIGHT),
        ("neither turns", stay, stay, RIGHT),
        ("the query's signs are swapped", swapped, tq3::unrotate, RIGHT),
        ("the output is rotated forward", tq3::rotate, tq3::rotate, RIGHT),
        (
            "the query is rotated twice",
            |x| {
                tq3::rotate(x);
                tq3::rotate(x);
            },
            tq3::unrotate,
            RIGHT,
        ),
        ("low bits are read as magnitudes", tq3::rotate, tq3::unrotate, stored_with_magnitudes),
        ("both norms are per block", tq3::rotate, tq3::unrotate, |x| {
            stored_with_block_norms(x, BlockNorm::Both)
        }),
        ("the correction is per block", tq3::rotate, tq3::unrotate, |x| {
            stored_with_block_norms(x, BlockNorm::Correction)
        }),
    ];
    for (mistake, turn_q, turn_o, store) in mistakes {
        let error = attend(turn_q, turn_o, store);
        assert!(!is_quantised_and_no_worse(error), "{mistake}: {error} passes for right");
    }
}

#[test]
fn f5_p13_the_rotation_follows_the_type_of_each_side() {
    let scene = Scene::new(130, 8, 512);
    let exact = scene.exact(1.0);
    // Of one side alone, from the rows of the table: independent errors add as squares.
    let alone = |kind: KvType| match kind {
        KvType::F32 => 1e-6,
        KvType::F16 => 2e-4,
        KvType::Q8_0 => 0.0053,
        KvType::Q4_0 => 0.086,
        KvType::TQ3_0 => 0.18,
    };
    for k in KvType::ALL {
        let keys = stored(k, &scene.keys);
        for v in KvType::ALL {
            let values = stored(v, &scene.values);
            let attend = |turn_q: Turn, turn_o: Turn| {
                let logits = logits(&turned(&scene.queries, turn_q), &keys);
                error(&exact, &turned_f64(&output(&logits, 1.0, &values), turn_o))
            };
            let ((turn_q, _), (_, turn_o)) = (turns(k), turns(v));
            let right = attend(turn_q, turn_o);
            let bound = 1.25 * f64::hypot(alone(k), alone(v));
            assert!(right <= bound, "{k}/{v}: {right}, at most {bound}");
            let other_q: Turn = if k.rotated() { stay } else { tq3::rotate };
            let other_o: Turn = if v.rotated() { stay } else { tq3::unrotate };
            for (what, wrong) in
                [("the query", attend(other_q, turn_o)), ("the output", attend(turn_q, other_o))]
            {
                assert!(wrong >= 0.9, "{k}/{v}, {what} turned against the type: {wrong}");
            }
        }
    }
}
