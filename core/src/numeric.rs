//! Arithmetic of the reference: every sum is taken in `f64`.
//!
//! The product of two `f32` is exact in `f64`, so a sum depends only on its order, and that is fixed here
//! (`LANES` partial sums, then a tree). The same bits come out with and without fused multiply-add, on any
//! vector width, alone or among other rows.

use std::sync::LazyLock;

use pulp::Arch;

/// Partial sums of one dot product. Part of the specification of the reference's bits: do not tune it a machine.
const LANES: usize = 16;

/// Rows that share one pass over a weight row.
const TILE: usize = 4;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Runs `work` compiled for the widest vectors this processor has.
///
/// Only what is inlined into [`Vectorised::run`] is: closures are not, so work is a struct.
pub(crate) fn vectorised<W: Vectorised>(work: W) -> W::Output {
    ARCH.dispatch(Dispatched(work))
}

/// Work for `vectorised`. Its `run` is `#[inline(always)]`, and so is everything hot that it calls.
pub(crate) trait Vectorised {
    type Output;
    fn run(self) -> Self::Output;
}

struct Dispatched<W>(W);

impl<W: Vectorised> pulp::WithSimd for Dispatched<W> {
    type Output = W::Output;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> W::Output {
        self.0.run()
    }
}

/// Rounds a result to the `f32` that ops exchange.
#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is the point")]
#[must_use]
pub fn round(x: f64) -> f32 {
    x as f32
}

/// `gelu(x)` by its tanh approximation (`gelu_pytorch_tanh`).
#[must_use]
pub fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// Mean of the squares of a row.
#[must_use]
pub fn mean_square(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64
}

#[inline(always)]
fn tree(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `N` dot products with the same `w`, each in the order of a single one.
#[inline(always)]
fn dots<const N: usize>(w: &[f64], x: [&[f64]; N]) -> [f64; N] {
    let mut sums = [[0.0f64; LANES]; N];
    let (blocks, tail) = w.as_chunks::<LANES>();
    for (b, w) in blocks.iter().enumerate() {
        for n in 0..N {
            let x = &x[n][b * LANES..(b + 1) * LANES];
            for lane in 0..LANES {
                sums[n][lane] += w[lane] * x[lane];
            }
        }
    }
    let done = blocks.len() * LANES;
    let mut totals = [0.0; N];
    for n in 0..N {
        for (lane, (&w, &x)) in tail.iter().zip(&x[n][done..]).enumerate() {
            sums[n][lane] += w * x;
        }
        totals[n] = tree(sums[n]);
    }
    totals
}

/// Dot products of one weight row with every row of `x`.
///
/// - `w`: `[cols]`; `x`: `[rows, cols]`; `out`: `[rows]`.
#[inline(always)]
pub(crate) fn dot_rows(w: &[f64], x: &[f64], out: &mut [f32]) {
    let cols = w.len();
    let mut tiles = x.chunks_exact(TILE * cols);
    let mut outs = out.chunks_exact_mut(TILE);
    for (x, out) in tiles.by_ref().zip(outs.by_ref()) {
        let rows = [&x[..cols], &x[cols..2 * cols], &x[2 * cols..3 * cols], &x[3 * cols..]];
        for (out, sum) in out.iter_mut().zip(dots(w, rows)) {
            *out = round(sum);
        }
    }
    for (x, out) in tiles.remainder().chunks_exact(cols).zip(outs.into_remainder()) {
        *out = round(dots(w, [x])[0]);
    }
}

/// The dot product of two `f32` rows, in the order of [`dot_rows`].
#[inline(always)]
#[must_use]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(a[lane]) * f64::from(b[lane]);
        }
    }
    for (lane, (&a, &b)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[lane] += f64::from(a) * f64::from(b);
    }
    tree(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct All<'a> {
        w: &'a [f64],
        x: &'a [f64],
        out: &'a mut [f32],
    }

    impl Vectorised for All<'_> {
        type Output = ();

        #[inline(always)]
        fn run(self) {
            dot_rows(self.w, self.x, self.out);
        }
    }

    struct One<'a>(&'a [f32], &'a [f32]);

    impl Vectorised for One<'_> {
        type Output = f64;

        #[inline(always)]
        fn run(self) -> f64 {
            dot(self.0, self.1)
        }
    }

    fn values(n: usize, seed: u32) -> Vec<f32> {
        (0..n)
            .map(|i| {
                let h =
                    (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_mul(u64::from(2 * seed + 1));
                round((h >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
            })
            .collect()
    }

    #[test]
    fn a_dot_product_has_the_same_bits_alone_in_a_tile_and_without_vectors() {
        for cols in [1, 15, 16, 17, 255, 512] {
            let w = values(cols, 1);
            let wide: Vec<f64> = w.iter().map(|&v| f64::from(v)).collect();
            let rows: Vec<Vec<f32>> = (0..7).map(|r| values(cols, 100 + r)).collect();
            let flat: Vec<f64> = rows.iter().flatten().map(|&v| f64::from(v)).collect();
            let mut together = vec![0.0; rows.len()];
            vectorised(All { w: &wide, x: &flat, out: &mut together });
            for (row, &got) in rows.iter().zip(&together) {
                assert_eq!(round(vectorised(One(&w, row))).to_bits(), got.to_bits(), "{cols} columns");
                assert_eq!(round(dot(&w, row)).to_bits(), got.to_bits(), "{cols} columns, plain");
                let exact: f64 = w.iter().zip(row).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                assert!((f64::from(got) - exact).abs() <= 1e-6, "{cols} columns: {got} against {exact}");
            }
        }
    }
}
