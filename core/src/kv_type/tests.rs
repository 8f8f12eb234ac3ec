use super::*;

mod attention;

/// Seeded random numbers: splitmix64, and Box-Muller for normal ones.
pub(super) struct Random {
    state: u64,
    spare: Option<f64>,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed, spare: None }
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Above 0, at most 1.
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// Student's t with 3 degrees of freedom.
    pub(super) fn student3(&mut self) -> f64 {
        let chi2: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / (chi2 / 3.0).sqrt()
    }

    /// `len` normal values.
    #[expect(clippy::cast_possible_truncation, reason = "rounds to f32")]
    pub(super) fn normals(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal() as f32).collect()
    }
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().map(|c| u8::try_from(c.to_digit(16).expect("hex digit")).expect("one digit")).collect();
    digits.as_chunks().0.iter().map(|[h, l]| h << 4 | l).collect()
}

pub(super) fn encoded(kind: KvType, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xAA; kind.row_bytes(x.len()).expect("whole blocks")];
    kind.encode(x, &mut bytes).expect("finite");
    bytes
}

pub(super) fn decoded(kind: KvType, bytes: &[u8]) -> Vec<f32> {
    let mut x = vec![f32::NAN; bytes.len() / kind.block_bytes() * kind.block_len()];
    kind.decode(bytes, &mut x);
    x
}

/// What is read back after storing `x`, un-rotated if need be.
fn restored(kind: KvType, x: &[f32]) -> Vec<f32> {
    let mut x = decoded(kind, &encoded(kind, x));
    if kind.rotated() {
        tq3::unrotate(&mut x);
    }
    x
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// `|got - want|^2 / |want|^2`
pub(super) fn nmse(want: &[f32], got: &[f32]) -> f64 {
    let difference: Vec<f32> = want.iter().zip(got).map(|(w, g)| g - w).collect();
    dot(&difference, &difference) / dot(want, want)
}

/// The rows of the error table: `n` vectors of 256 values of a distribution with a name.
#[expect(clippy::cast_possible_truncation, reason = "rounds to f32")]
pub(super) fn vectors(name: &str, n: usize) -> Vec<Vec<f32>> {
    let mut random = Random::new(256);
    let mut value = |channel: usize| match name {
        "gauss" => random.normal(),
        "student" => random.student3(),
        "outlier channels" => random.normal() * if channel.is_multiple_of(64) { 20.0 } else { 1.0 },
        "shifted" => random.normal() + 3.0,
        _ => panic!("no distribution `{name}`"),
    };
    (0..n).map(|_| (0..256).map(|c| value(c) as f32).collect()).collect()
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in KvType::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
        assert_eq!(kind.to_string(), kind.to_string().to_lowercase());
    }
    assert_eq!("tq3".parse(), Ok(KvType::TQ3_0));
    for wrong in ["", "F16", "q5_0", " f16", "tq3_1"] {
        let message = wrong.parse::<KvType>().unwrap_err().to_string();
        assert!(message.contains(&format!("`{wrong}`")), "{message}");
        for kind in KvType::ALL {
            assert!(message.contains(kind.name()), "{message}");
        }
    }
}

#[test]
fn sizes_are_those_of_the_formats() {
    // Bytes of rows of 32, 128, 256 and 512 values.
    for (kind, bits, bytes) in [
        (KvType::F32, 32.0, [Some(128), Some(512), Some(1024), Some(2048)]),
        (KvType::F16, 16.0, [Some(64), Some(256), Some(512), Some(1024)]),
        (KvType::Q8_0, 8.5, [Some(34), Some(136), Some(272), Some(544)]),
        (KvType::Q4_0, 4.5, [Some(18), Some(72), Some(144), Some(288)]),
        (KvType::TQ3_0, 3.5, [None, Some(56), Some(112), Some(224)]),
    ] {
        assert_eq!([32, 128, 256, 512].map(|d| kind.row_bytes(d)), bytes, "{kind}");
        assert!((kind.bits() - bits).abs() < 1e-12, "{kind}: {} bits", kind.bits());
        // Only what takes more than a byte a value can overflow.
        let overflows = kind.row_bytes(usize::MAX - 127).is_none();
        assert_eq!(overflows, bits > 8.0, "{kind}");
    }
    assert_eq!(KvType::Q8_0.row_bytes(33), None);
    assert_eq!(KvType::Q4_0.row_bytes(48), None);
    assert_eq!(KvType::TQ3_0.row_bytes(192), None);
    assert_eq!(KvType::F16.row_bytes(7), Some(14));
    assert_eq!(KvType::ALL.map(KvType::rotated), [false, false, false, false, true], "only tq3_0 is rotated");
}

#[test]
fn q8_0_and_q4_0_store_the_bytes_of_ggml() {
    let fixture = include_str!("../../testdata/kv_blocks.txt");
    let mut cases = 0;
    for line in fixture.lines().filter(|l| !l.starts_with('#')) {
        let [kind, name, values, block] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not four fields: {line}");
        };
        let kind: KvType = kind.parse().unwrap();
        let values: Vec<f32> = unhex(values).as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        assert_eq!(values.len(), 32);
        assert_eq!(encoded(kind, &values), unhex(block), "{kind} {name}");
        cases += 1;
    }
    assert_eq!(cases, 20);
}

#[test]
fn q8_0_and_q4_0_decode_by_their_formulas() {
    let mut q8_0 = vec![0x00, 0xB8]; // -0.5
    q8_0.extend((0..32).map(|i: u8| i.wrapping_mul(8)));
    for (i, v) in (0u8..).zip(decoded(KvType::Q8_0, &q8_0)) {
        let q = f32::from(i.wrapping_mul(8).cast_signed());
        assert_eq!(v.to_bits(), (q * -0.5).to_bits(), "element {i}");
    }
    let mut q4_0 = vec![0x00, 0x40]; // 2
    q4_0.extend((0..16).map(|i: u8| i | (15 - i) << 4));
    for (i, v) in (0u8..).zip(decoded(KvType::Q4_0, &q4_0)) {
        let q = f32::from(if i < 16 { i } else { 31 - i });
        assert_eq!(v.to_bits(), ((q - 8.0) * 2.0).to_bits(), "element {i}");
    }
}

#[test]
fn f16_rounds_to_nearest_even_and_saturates() {
    for (x, bits) in [
        (1.0f32, 0x3C00u16),
        (-0.0, 0x8000),
        (1.0 + 1.0 / 2048.0, 0x3C00),
        (1.0 + 3.0 / 2048.0, 0x3C02),
        (65504.0, 0x7BFF),
        (65519.9, 0x7BFF),
        (65520.0, 0x7BFF),
        (-1e30, 0xFBFF),
        (f32::MAX, 0x7BFF),
        (5.96e-8, 0x0001),
        (1e-9, 0x0000),
    ] {
        assert_eq!(encoded(KvType::F16, &[x]), bits.to_le_bytes(), "{x}");
    }
    // Lengths around the run that one conversion handles.
    for len in [0u8, 1, 63, 64, 65, 129] {
        let x: Vec<f32> = (0..len).map(|i| f32::from(i) / 8.0).collect();
        assert_eq!(decoded(KvType::F16, &encoded(KvType::F16, &x)), x);
    }
}

#[test]
fn p3_heads_and_groups_are_stored_each_by_itself() {
    let mut random = Random::new(3);
    for kind in KvType::ALL {
        let heads = random.normals(2 * 256);
        let both = encoded(kind, &heads);
        let apart = [encoded(kind, &heads[..256]), encoded(kind, &heads[256..])];
        assert_eq!(both, apart.concat(), "{kind}: two heads of 256");
        let mut changed = heads.clone();
        for v in &mut changed[128..256] {
            *v = -2.0 * *v + 1.0;
        }
        let changed = encoded(kind, &changed);
        let group = kind.row_bytes(128).unwrap();
        assert_eq!(changed[..group], both[..group], "{kind}: the group before");
        assert_ne!(changed[group..2 * group], both[group..2 * group], "{kind}");
        assert_eq!(changed[2 * group..], both[2 * group..], "{kind}: the next head");
    }
}

#[test]
fn p9_zeros_are_read_back_as_zeros() {
    for kind in KvType::ALL {
        let bytes = encoded(kind, &[0.0; 256]);
        assert!(decoded(kind, &bytes).iter().all(|v| *v == 0.0), "{kind}");
    }
}

#[test]
fn p9_one_value_alone_is_kept() {
    for kind in KvType::ALL {
        for (at, value) in [(0, 1.0), (127, -1.0), (128, 3.0), (200, -0.125)] {
            let mut x = [0.0; 256];
            x[at] = value;
            // The codebook's own error for a one-hot vector is 4e-8; the norm's rounding to f16 and
            // q8_0's step add (2^-11)^2.
            let error = nmse(&x, &restored(kind, &x));
            assert!(error <= 4e-7, "{kind}: {value} at {at}: {error}");
        }
    }
}

#[test]
fn p9_the_largest_values_saturate_and_stay_finite() {
    for kind in KvType::ALL {
        for size in [65504.0, 65520.0, 1e6, 1e19, 1e30, f32::MAX] {
            let x: Vec<f32> = Random::new(9).normals(256).iter().map(|v| size * v.signum()).collect();
            let got = restored(kind, &x);
            assert!(got.iter().all(|v| v.is_finite()), "{kind}: {size}");
            // Length may be lost to saturation, direction only to the codebook.
            let x: Vec<f32> = x.iter().map(|v| v.signum()).collect();
            let cosine = dot(&x, &got) / (dot(&x, &x) * dot(&got, &got)).sqrt();
            assert!(cosine >= 0.95, "{kind}: {size}: cosine {cosine}");
        }
    }
}

#[test]
fn p9_subnormal_values_are_read_back_small() {
    let smallest = f32::from_bits(1);
    for kind in KvType::ALL {
        for size in [smallest, 1e-44, 1e-40, f32::MIN_POSITIVE, 1e-30, 1e-12, 1e-9] {
            let x: Vec<f32> = Random::new(10).normals(256).iter().map(|v| v * size).collect();
            let got = restored(kind, &x);
            // f16 ends at 6e-8; a step or a norm of at most that is what rounding can add.
            assert!(got.iter().all(|v| v.abs() <= 1e-6), "{kind}: {size}");
        }
    }
}

#[test]
fn p9_what_is_not_finite_is_refused_and_nothing_is_stored() {
    for kind in KvType::ALL {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for index in [0, 31, 128, 255] {
                let mut x = [1.0; 256];
                x[index] = value;
                x[255] = value;
                let mut bytes = vec![0x5A; kind.row_bytes(256).unwrap()];
                let error = kind.encode(&x, &mut bytes).unwrap_err();
                assert_eq!(error.index, index, "{kind}");
                assert_eq!(error.value.to_bits(), value.to_bits(), "{kind}");
                assert!(error.to_string().contains(&format!("value {index} ")), "{error}");
                assert!(bytes.iter().all(|b| *b == 0x5A), "{kind}: bytes were written");
            }
        }
    }
}

#[test]
fn any_bytes_decode() {
    let mut random = Random::new(11);
    for kind in KvType::ALL {
        for _ in 0..200 {
            let bytes: Vec<u8> =
                (0..kind.row_bytes(256).unwrap()).map(|_| random.bits().to_le_bytes()[0]).collect();
            assert_eq!(decoded(kind, &bytes).len(), 256);
        }
        let ones = vec![0xFF; kind.row_bytes(256).unwrap()];
        assert!(decoded(kind, &ones).iter().all(|v| v.is_nan() || *v != 0.0), "{kind}");
    }
}

#[test]
#[should_panic(expected = "tq3_0: wrong number of bytes for 256 values")]
fn a_row_of_the_wrong_length_is_a_bug_of_the_caller() {
    KvType::TQ3_0.decode(&[0; 111], &mut [0.0; 256]);
}

/// Mean over vectors of 256, against the table of measured errors, within the digits it prints: 4000 vectors
/// leave about 1 % of noise, 5 % where the tails are heavy.
#[test]
fn q8_0_and_q4_0_err_as_much_as_was_measured() {
    for (name, q4_0, q8_0) in [
        ("gauss", 0.00730..=0.00746, 2.85e-5..=2.95e-5),
        ("student", 0.0145..=0.0167, 5.5e-5..=6.5e-5),
        ("outlier channels", 0.0249..=0.0259, 1.25e-4..=1.35e-4),
        ("shifted", 0.00325..=0.00335, 0.95e-5..=1.5e-5),
    ] {
        let vectors = vectors(name, 4000);
        for (kind, want) in [(KvType::Q4_0, q4_0), (KvType::Q8_0, q8_0)] {
            let sum: f64 = vectors.iter().map(|x| nmse(x, &restored(kind, x))).sum();
            let mean = sum / 4000.0;
            assert!(want.contains(&mean), "{kind}, {name}: {mean}, expected {want:?}");
        }
    }
}
