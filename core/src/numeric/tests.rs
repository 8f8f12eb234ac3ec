use super::*;

struct All<'a> {
    w: &'a [f64],
    x: &'a [f64],
    cols: usize,
    out: &'a mut [f64],
}

impl Vectorised for All<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        products(simd, self.w, self.x, self.cols, self.out);
    }
}

struct Sums<'a> {
    p: &'a [f64],
    stride: usize,
    values: &'a [f64],
    dim: usize,
    out: &'a mut [f64],
}

impl Vectorised for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        weigh(simd, self.p, self.stride, self.values, self.dim, self.out);
    }
}

/// Values of `f32` precision in -1..1.
fn values(n: usize, seed: u32) -> Vec<f64> {
    (0..n)
        .map(|i| {
            let h = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_mul(u64::from(2 * seed + 1));
            f64::from(round((h >> 11) as f64 / (1u64 << 52) as f64 - 1.0))
        })
        .collect()
}

/// The order that is promised: 16 partial sums by column, then halves onto halves.
fn plain(w: &[f64], x: &[f64]) -> f64 {
    let mut lanes = [0.0; 16];
    for (column, (w, x)) in w.iter().zip(x).enumerate() {
        lanes[column % 16] += w * x;
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

#[test]
fn a_dot_product_has_the_same_bits_in_every_tile_and_without_vectors() {
    for cols in [1, 15, 16, 17, 255, 512] {
        for (outputs, rows) in [(1, 1), (4, 4), (9, 1), (1, 7), (7, 9), (2, 5)] {
            let (w, x) = (values(outputs * cols, 1), values(rows * cols, 2));
            let mut wide = vec![f64::NAN; outputs * rows];
            vectorised(All { w: &w, x: &x, cols, out: &mut wide });
            let mut narrow = vec![f64::NAN; outputs * rows];
            products(pulp::Scalar, &w, &x, cols, &mut narrow);
            for o in 0..outputs {
                for r in 0..rows {
                    let expected = plain(&w[o * cols..][..cols], &x[r * cols..][..cols]).to_bits();
                    let at = o * rows + r;
                    assert_eq!(
                        wide[at].to_bits(),
                        expected,
                        "{cols} columns, {outputs} by {rows}, {o} and {r}"
                    );
                    assert_eq!(narrow[at].to_bits(), expected, "{cols} columns, {outputs} by {rows}, plain");
                }
            }
        }
    }
}

#[test]
fn a_weighted_sum_has_the_same_bits_in_every_tile_and_without_vectors() {
    for dim in [1, 31, 32, 40, 256] {
        for (queries, keys, beyond) in [(1, 1, 0), (4, 3, 2), (5, 33, 0), (16, 7, 1)] {
            let stride = keys + beyond;
            // No f32 values: products are rounded.
            let p: Vec<f64> = values(queries * stride, 3).iter().map(|p| p.exp()).collect();
            let v = values(keys * dim, 4);
            let start = values(queries * dim, 5);
            let mut wide = start.clone();
            vectorised(Sums { p: &p, stride, values: &v, dim, out: &mut wide });
            let mut narrow = start.clone();
            weigh(pulp::Scalar, &p, stride, &v, dim, &mut narrow);
            for q in 0..queries {
                for c in 0..dim {
                    let mut sum = start[q * dim + c];
                    for key in 0..keys {
                        sum += p[q * stride + key] * v[key * dim + c];
                    }
                    let at = q * dim + c;
                    assert_eq!(
                        wide[at].to_bits(),
                        sum.to_bits(),
                        "{dim} wide, {queries} over {keys}, {q} and {c}"
                    );
                    assert_eq!(
                        narrow[at].to_bits(),
                        sum.to_bits(),
                        "{dim} wide, {queries} over {keys}, plain"
                    );
                }
            }
        }
    }
}
