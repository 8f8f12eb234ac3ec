use super::super::tests::{Random, decoded, dot, encoded, nmse, unhex, vectors};
use super::*;
use crate::kv_type::KvType;

/// `R` from its definition, in f64: the reference for the fast transform.
pub(in super::super) fn rotation() -> Vec<[f64; GROUP]> {
    let sign = |words: &[u32; 4], i: usize| {
        if words[i / 32] >> (i % 32) & 1 == 1 { -1.0 } else { 1.0 }
    };
    (0..GROUP)
        .map(|i| {
            std::array::from_fn(|j| {
                let hadamard = if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
                sign(&SIGNS2, i) * hadamard * sign(&SIGNS1, j) / 128f64.sqrt()
            })
        })
        .collect()
}

/// `R x` for each group, in f64.
fn rotated_f64(x: &[f32]) -> Vec<f64> {
    let r = rotation();
    let row = |row: &[f64; GROUP], x: &[f32]| row.iter().zip(x).map(|(r, x)| r * f64::from(*x)).sum();
    x.chunks(GROUP).flat_map(|x| r.iter().map(|r| row(r, x)).collect::<Vec<f64>>()).collect()
}

fn rotated(x: &[f32]) -> Vec<f32> {
    let mut x = x.to_vec();
    rotate(&mut x);
    x
}

fn unrotated(x: &[f32]) -> Vec<f32> {
    let mut x = x.to_vec();
    unrotate(&mut x);
    x
}

fn unit(i: usize) -> [f32; GROUP] {
    std::array::from_fn(|j| if i == j { 1.0 } else { 0.0 })
}

/// The indices in stored groups, read as the layout's table says: one element at a time.
pub(in super::super) fn indices(bytes: &[u8]) -> Vec<u8> {
    let element = |block: &[u8; BLOCK_BYTES], j: usize| {
        (block[2 + j / 4] >> (2 * (j % 4)) & 3) | (block[10 + j / 8] >> (j % 8) & 1) << 2
    };
    bytes.as_chunks().0.iter().flat_map(|block| (0..BLOCK).map(|j| element(block, j))).collect()
}

fn golden_a() -> Vec<f32> {
    (0u8..128).map(|j| (f32::from((u16::from(j) * 37 + 11) % 64) - 31.5) / 16.0).collect()
}

fn golden_b() -> Vec<f32> {
    (0u32..128)
        .map(|j| (f32::from(u8::try_from((5 * j * j + 3 * j + 7) % 97).unwrap()) - 48.0) / 32.0)
        .collect()
}

const GOLDEN_A: &str = "d14a45f686427e63f5338f6088b5\
                        d14a53fb43e0d0d9afb5ac7a85e1\
                        d14a352204b41c81e8a4ab3f7df1\
                        d14af2116fca529d7a76f278d3a0";
const GOLDEN_B: &str = "b3485962672aeb6dedbf3fc481fd\
                        b34866c02ff184a92b2a667825dc\
                        b3485f9e210e46a4b75c7ccabf92\
                        b3485bded63f6a9fdf318c804eb0";
const GOLDEN_ONE_HOT: &str = "613daa6956565a6696a990eeac16\
                              613d5a59556aa69655a5dc8f623f\
                              613d669599a5996695657a35a5b7\
                              613da6969996996656656265a5be";

/// The golden numbers are printed to six decimals.
fn starts_with(got: &[f32], want: &[f64]) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 2e-6, "element {i} is {g}, expected {w}");
    }
}

#[test]
fn p1_unrotate_undoes_rotate() {
    for i in 0..GROUP {
        for (name, back) in [("R' R", unrotated(&rotated(&unit(i)))), ("R R'", rotated(&unrotated(&unit(i))))]
        {
            for (got, want) in back.iter().zip(unit(i)) {
                assert!((got - want).abs() <= 1e-6, "{name}, column {i}: {got}");
            }
        }
    }
    let x = Random::new(1).normals(512);
    let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (got, want) in unrotated(&rotated(&x)).iter().zip(&x) {
        assert!((got - want).abs() <= 1e-5 * largest, "{got} {want}");
    }
}

#[test]
fn p1_rotate_is_the_product_with_the_matrix_of_the_definition() {
    let x = Random::new(2).normals(512);
    // Eight roundings (seven stages and the scale) of values no longer than the group.
    let bound = |x: &[f32]| 8.0 * f64::from(f32::EPSILON) * dot(x, x).sqrt();
    for (group, x) in x.chunks(GROUP).enumerate() {
        for (i, (got, want)) in rotated(x).iter().zip(rotated_f64(x)).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= bound(x), "group {group}, row {i}: {got} {want}");
        }
    }
}

#[test]
fn p2_the_transform_is_in_natural_order() {
    let signs = |x: Vec<f32>| -> String {
        x.iter()
            .take(16)
            .map(|v| {
                assert!((v.abs() - SCALE).abs() <= 1e-7);
                if *v > 0.0 { '+' } else { '-' }
            })
            .collect()
    };
    assert_eq!(signs(rotated(&unit(0))), "----+--+-+++-+++");
    assert_eq!(signs(rotated(&unit(1))), "+-+---++++-+++-+");
    let ones = rotated(&[1.0; GROUP]);
    let want = [8.0, 4.0, 0.0, -4.0, -12.0, 16.0, -12.0, 24.0];
    for (got, want) in ones.iter().zip(want) {
        assert!((got / SCALE - want).abs() <= 1e-5, "{got} {want}");
    }
    // H alone: element [3][5] is negative in natural order, not in sequency order.
    let mut h = unit(5);
    transform(&mut h, &[1.0; GROUP], &[SCALE; GROUP]);
    assert_eq!(h[3].to_bits(), (-SCALE).to_bits());
}

#[test]
fn golden_vectors_encode_to_their_bytes() {
    for (name, x, bytes) in [
        ("a", golden_a(), GOLDEN_A),
        ("b", golden_b(), GOLDEN_B),
        ("one-hot", unit(0).to_vec(), GOLDEN_ONE_HOT),
    ] {
        assert_eq!(encoded(KvType::TQ3_0, &x), unhex(bytes), "{name}");
    }
    let zero = unhex("00000000000000000000ffffffff").repeat(4);
    assert_eq!(encoded(KvType::TQ3_0, &[0.0; GROUP]), zero);
}

#[test]
fn golden_vectors_rotate_and_decode_to_their_numbers() {
    let (a, b) = (golden_a(), golden_b());
    assert!((dot(&a, &a).sqrt() - 13.062_350).abs() <= 1e-6);
    assert!((dot(&b, &b).sqrt() - 9.102_015).abs() <= 1e-6);
    let rotated_a = rotated(&a);
    starts_with(
        &rotated_a,
        &[0.828_641, 0.905_981, 0.055_243, 0.662_913, -0.972_272, -1.491_553, -0.066_291, 3.281_417],
    );
    let decoded_a = decoded(KvType::TQ3_0, &unhex(GOLDEN_A));
    let back = unrotated(&decoded_a);
    starts_with(&back, &[-0.847_277, 0.928_553, -0.699_655, 1.854_218]);
    let error = nmse(&a, &back);
    assert!((error - 0.040_877).abs() <= 2e-6, "{error}");
    let cosine = dot(&a, &back) / (dot(&a, &a) * dot(&back, &back)).sqrt();
    assert!((cosine - 0.979_566).abs() <= 2e-6, "{cosine}");

    let rotated_b = rotated(&b);
    let decoded_b = decoded(KvType::TQ3_0, &unhex(GOLDEN_B));
    for (name, got, want) in [
        ("a b", dot(&a, &b), 4.918_945),
        ("Ra Rb", dot(&rotated_a, &rotated_b), 4.918_945),
        ("Ra stored b", dot(&rotated_a, &decoded_b), 4.691_205),
        ("stored a Rb", dot(&decoded_a, &rotated_b), 6.293_793),
        ("a stored b, the bug of an unrotated query", dot(&a, &decoded_b), -5.537_173),
    ] {
        assert!((got - want).abs() <= 5e-6, "{name}: {got}, expected {want}");
    }
}

#[test]
fn decoding_follows_the_layout_element_by_element() {
    let mut random = Random::new(4);
    let mut bytes = encoded(KvType::TQ3_0, &random.normals(64 * GROUP));
    for block in bytes.as_chunks_mut::<BLOCK_BYTES>().0 {
        for byte in &mut block[2..] {
            *byte = random.bits().to_le_bytes()[0];
        }
    }
    let index = indices(&bytes);
    for (j, got) in decoded(KvType::TQ3_0, &bytes).iter().enumerate() {
        let group = &bytes[j / GROUP * GROUP_BYTES..];
        let norm = f16::from_le_bytes([group[0], group[1]]).to_f32();
        let want = CENTROIDS[usize::from(index[j])] * norm;
        assert_eq!(got.to_bits(), want.to_bits(), "element {j}");
    }
}

/// Where a device that has only 32-bit words finds element `e` of a group.
#[test]
fn words_of_32_bits_address_the_layout() {
    let bytes = encoded(KvType::TQ3_0, &golden_a());
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
    assert_eq!(words.len(), 14);
    let low_at = |e: usize| {
        let (b, j) = (e / 32, e % 32);
        let byte = 14 * b + 2 + j / 4;
        (byte / 4, byte % 4 * 8 + 2 * (j % 4))
    };
    let high_at = |e: usize| {
        let (b, j) = (e / 32, e % 32);
        let byte = 14 * b + 10 + j / 8;
        (byte / 4, byte % 4 * 8 + j % 8)
    };
    assert_eq!((low_at(0), high_at(0)), ((0, 16), (2, 16)));
    assert_eq!((low_at(31), high_at(31)), ((2, 14), (3, 15)));
    assert_eq!((low_at(32), high_at(32)), ((4, 0), (6, 0)));
    assert_eq!((low_at(127), high_at(127)), ((12, 30), (13, 31)));
    for (e, index) in indices(&bytes).into_iter().enumerate() {
        let ((w, s), (v, t)) = (low_at(e), high_at(e));
        let word = (words[w] >> s & 3) | (words[v] >> t & 1) << 2;
        assert_eq!(word, u32::from(index), "element {e}");
    }
}

#[test]
fn a_value_on_a_threshold_goes_to_the_upper_cell() {
    // All ones: R x / |x| holds multiples of 1/32 at whole steps, among them exact zeros.
    let x = [1.0; GROUP];
    let u = rotated(&x.map(|v| v / 128f32.sqrt()));
    let zeros: Vec<usize> = (0..GROUP).filter(|j| u[*j] == 0.0).collect();
    assert!(!zeros.is_empty());
    let index = indices(&encoded(KvType::TQ3_0, &x));
    assert!(zeros.iter().all(|j| index[*j] == 4));
}

#[test]
fn p4_gaussian_vectors_err_within_the_measured_bounds() {
    for (dim, p99_bound, max_bound) in [(128, 0.060, 0.13), (256, 0.052, 0.09), (512, 0.046, 0.08)] {
        const VECTORS: usize = 20_000;
        let mut random = Random::new(4);
        let (mut errors, mut cosines) = (Vec::new(), 0.0);
        for _ in 0..VECTORS {
            let want = random.normals(dim);
            let got = decoded(KvType::TQ3_0, &encoded(KvType::TQ3_0, &want));
            let want = rotated(&want);
            errors.push(nmse(&want, &got));
            cosines += dot(&want, &got) / (dot(&want, &want) * dot(&got, &got)).sqrt();
        }
        errors.sort_by(f64::total_cmp);
        let mean = errors.iter().sum::<f64>() / VECTORS as f64;
        let (p99, max) = (errors[VECTORS * 99 / 100], errors[VECTORS - 1]);
        let cosine = cosines / VECTORS as f64;
        assert!((0.0330..=0.0347).contains(&mean), "{dim}: mean {mean}");
        assert!(p99 <= p99_bound, "{dim}: p99 {p99}");
        assert!(max <= max_bound, "{dim}: max {max}");
        assert!((0.9825..=0.9837).contains(&cosine), "{dim}: cosine {cosine}");
    }
}

#[test]
fn p5_groups_keep_their_length() {
    let x = Random::new(5).normals(4000 * GROUP);
    let got = decoded(KvType::TQ3_0, &encoded(KvType::TQ3_0, &x));
    for (i, (x, got)) in x.chunks(GROUP).zip(got.chunks(GROUP)).enumerate() {
        let ratio = (dot(got, got) / dot(x, x)).sqrt();
        assert!((ratio - 1.0).abs() <= 6e-4, "group {i}: {ratio}");
    }
}

#[test]
fn p6_inner_products_are_close_and_shrink_by_the_known_share() {
    let mut random = Random::new(6);
    for dim in [128, 256, 512] {
        let (mut squares, mut aligned, mut lengths) = (0.0, 0.0, 0.0);
        for _ in 0..4000 {
            let (x, y) = (random.normals(dim), random.normals(dim));
            let stored = decoded(KvType::TQ3_0, &encoded(KvType::TQ3_0, &x));
            let error = dot(&stored, &rotated(&y)) - dot(&x, &y);
            squares += error * error / (dot(&x, &x) * dot(&y, &y));
            aligned += dot(&stored, &rotated(&x));
            lengths += dot(&x, &x);
        }
        let rms = (squares / 4000.0 * dim as f64).sqrt();
        let slope = aligned / lengths;
        assert!((0.175..=0.195).contains(&rms), "{dim}: rms {rms}");
        assert!((0.980..=0.986).contains(&slope), "{dim}: slope {slope}");
    }
}

#[test]
fn p7_heavy_tails_and_outlier_channels_err_no_more() {
    for (name, want) in
        [("gauss", 0.03382), ("student", 0.0325), ("outlier channels", 0.0293), ("shifted", 0.0377)]
    {
        let vectors = vectors(name, 4000);
        let mean = |store: &dyn Fn(&[f32]) -> Vec<f32>| {
            let sum: f64 = vectors.iter().map(|x| nmse(x, &store(x))).sum();
            sum / vectors.len() as f64
        };
        let error = mean(&|x| unrotated(&decoded(KvType::TQ3_0, &encoded(KvType::TQ3_0, x))));
        assert!((error / want - 1.0).abs() <= 0.03, "{name}: {error}");
        assert!(error <= 0.036 || name == "shifted", "{name}: {error}");
        // The same codebook without a rotation: un-rotating first cancels the one inside the encoder.
        if ["student", "outlier channels"].contains(&name) {
            let bare = mean(&|x| decoded(KvType::TQ3_0, &encoded(KvType::TQ3_0, &unrotated(x))));
            assert!(bare > 0.05, "{name}, not rotated: {bare}");
        }
    }
}

#[test]
fn the_worst_vector_is_as_bad_as_computed() {
    let x = unrotated(&unit(17));
    let got = unrotated(&decoded(KvType::TQ3_0, &encoded(KvType::TQ3_0, &x)));
    let cosine = dot(&x, &got) / (dot(&x, &x) * dot(&got, &got)).sqrt();
    assert!((cosine - 0.619).abs() <= 1e-3, "{cosine}");
    assert!((nmse(&x, &got) - 0.761).abs() <= 2e-3, "{}", nmse(&x, &got));
}

#[test]
fn p8_storing_again_what_was_read_changes_nothing() {
    let first = encoded(KvType::TQ3_0, &Random::new(8).normals(4000 * GROUP));
    let values = decoded(KvType::TQ3_0, &first);
    let second = encoded(KvType::TQ3_0, &unrotated(&values));
    assert_eq!(indices(&first), indices(&second));
    let again = decoded(KvType::TQ3_0, &second);
    assert!(values.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn p10_indices_of_gaussian_vectors_are_spread_as_the_cells_are() {
    let index = indices(&encoded(KvType::TQ3_0, &Random::new(12).normals(4000 * GROUP)));
    let shares = [0.0404, 0.1100, 0.1615, 0.1880, 0.1880, 0.1615, 0.1100, 0.0404];
    let mut counts = [0u32; 8];
    for i in &index {
        counts[usize::from(*i)] += 1;
    }
    for (cell, (count, want)) in counts.into_iter().zip(shares).enumerate() {
        let share = f64::from(count) / index.len() as f64;
        assert!((share - want).abs() <= 0.003, "cell {cell}: {share}");
    }
}

#[test]
fn every_index_is_that_of_the_f64_formula() {
    let x = Random::new(13).normals(2000 * GROUP);
    let bytes = encoded(KvType::TQ3_0, &x);
    let index = indices(&bytes);
    let mut close = 0;
    for (group, (x, bytes)) in x.chunks(GROUP).zip(bytes.chunks(GROUP_BYTES)).enumerate() {
        let length = dot(x, x).sqrt();
        let mut squares = 0.0;
        for (j, u) in rotated_f64(x).iter().map(|v| v / length).enumerate() {
            let got = index[group * GROUP + j];
            let want = THRESHOLDS.iter().filter(|t| f64::from(**t) <= u).count();
            squares += f64::from(CENTROIDS[usize::from(got)]).powi(2);
            // f32 may fall on the other side of a border this near.
            if THRESHOLDS.iter().any(|t| (f64::from(*t) - u).abs() < 2e-6) {
                close += 1;
            } else {
                assert_eq!(usize::from(got), want, "group {group}, element {j}");
            }
        }
        let want = length / squares.sqrt();
        for block in bytes.chunks(BLOCK_BYTES) {
            let norm = f16::from_le_bytes([block[0], block[1]]).to_f64();
            // Half a step of f16, and what f32 adds to it.
            assert!((norm / want - 1.0).abs() <= 0.5005 * 2f64.powi(-10), "group {group}");
        }
    }
    // The borders' neighbourhoods hold about 7 * 4e-6 * 4 (the density) of all values.
    assert!(close <= 60, "{close} values near a border");
}

#[test]
#[should_panic(expected = "64 values past the last group of 128")]
fn a_part_of_a_group_cannot_be_rotated() {
    rotate(&mut [0.0; 192]);
}

#[test]
fn only_groups_no_longer_than_tiny_are_stored_as_zeros() {
    // A power of two changes no rounding; the group of length 13 ends up above and below the limit of 1e-10.
    let scaled = |exponent: i32| -> Vec<u8> {
        let x: Vec<f32> = golden_a().iter().map(|v| v * 2f32.powi(exponent)).collect();
        indices(&encoded(KvType::TQ3_0, &x))
    };
    assert_eq!(scaled(-36), scaled(0));
    assert_eq!(scaled(-37), [4; GROUP]);
}
