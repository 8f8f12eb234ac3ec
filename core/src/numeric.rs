//! Arithmetic of the reference: every sum is taken in `f64`.
//!
//! The product of two `f32` is exact in `f64`, so a sum depends only on its order, and that is fixed here
//! (`LANES` partial sums, then a tree). The same bits come out with and without fused multiply-add, on any
//! vector width, alone or among other rows.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd};

/// Partial sums of one dot product. Part of the specification of the reference's bits: do not tune it a machine.
const LANES: usize = 16;

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
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

struct Dispatched<W>(W);

impl<W: Vectorised> pulp::WithSimd for Dispatched<W> {
    type Output = W::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> W::Output {
        self.0.run(simd)
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

/// `silu(x) = x / (1 + exp(-x))`.
#[must_use]
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
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

/// Dot products of every row of `w` with every row of `x`, each in the order of a single one.
///
/// Both hold `f32` values, so that products are exact.
///
/// - `w`: `[outputs, cols]`; `x`: `[rows, cols]`; `out`: `[outputs, rows]`.
#[inline(always)]
pub(crate) fn products<S: Simd>(simd: S, w: &[f64], x: &[f64], cols: usize, out: &mut [f64]) {
    // As many sums at once as there are registers for, the operands beside them.
    if S::REGISTER_COUNT >= 32 {
        by_tiles::<S, 4>(simd, w, x, cols, out);
    } else {
        by_tiles::<S, 2>(simd, w, x, cols, out);
    }
}

/// [`products`] of `W` rows of `w` and [`TILE`] rows of `x` at a time; what is left over goes by smaller tiles.
#[inline(always)]
fn by_tiles<S: Simd, const W: usize>(simd: S, w: &[f64], x: &[f64], cols: usize, out: &mut [f64]) {
    let rows = x.len() / cols;
    let whole = rows / TILE * TILE;
    for (r, x) in x.chunks_exact(TILE * cols).enumerate() {
        band::<S, W, TILE>(simd, w, x, cols, &mut out[r * TILE..], rows);
    }
    for (r, x) in x[whole * cols..].chunks_exact(cols).enumerate() {
        band::<S, W, 1>(simd, w, x, cols, &mut out[whole + r..], rows);
    }
}

/// Rows of `x` in a tile of [`products`], and of `p` in one of [`weigh`].
const TILE: usize = 4;

/// Products of all rows of `w` with the `X` rows of `x`; the rows of `out` are `stride` apart.
#[inline(always)]
fn band<S: Simd, const W: usize, const X: usize>(
    simd: S,
    w: &[f64],
    x: &[f64],
    cols: usize,
    out: &mut [f64],
    stride: usize,
) {
    let outputs = w.len() / cols;
    let whole = outputs / W * W;
    for (o, w) in w.chunks_exact(W * cols).enumerate() {
        tile::<S, W, X>(simd, w, x, cols, &mut out[o * W * stride..], stride);
    }
    for (o, w) in w[whole * cols..].chunks_exact(cols).enumerate() {
        tile::<S, 1, X>(simd, w, x, cols, &mut out[(whole + o) * stride..], stride);
    }
}

/// Products of `W` rows with `X` rows, their sums in registers.
///
/// A pass takes one vector of the [`LANES`] partial sums, so the width of vectors changes nothing.
#[inline(always)]
fn tile<S: Simd, const W: usize, const X: usize>(
    simd: S,
    w: &[f64],
    x: &[f64],
    cols: usize,
    out: &mut [f64],
    stride: usize,
) {
    let width = S::F64_LANES;
    let passes = LANES / width;
    let done = cols / LANES * LANES;
    let mut w_rows = [(&[] as &[S::f64s], &[] as &[f64]); W];
    for (row, w) in w_rows.iter_mut().zip(w.chunks_exact(cols)) {
        *row = (S::as_simd_f64s(&w[..done]).0, &w[done..]);
    }
    let mut x_rows = [(&[] as &[S::f64s], &[] as &[f64]); X];
    for (row, x) in x_rows.iter_mut().zip(x.chunks_exact(cols)) {
        *row = (S::as_simd_f64s(&x[..done]).0, &x[done..]);
    }
    let mut lanes = [[[0.0f64; LANES]; X]; W];
    for pass in 0..passes {
        let mut sums = [[simd.splat_f64s(0.0); X]; W];
        for at in (pass..done / width).step_by(passes) {
            let mut xs = [simd.splat_f64s(0.0); X];
            for j in 0..X {
                xs[j] = x_rows[j].0[at];
            }
            for i in 0..W {
                let w = w_rows[i].0[at];
                for j in 0..X {
                    sums[i][j] = multiply_add(simd, w, xs[j], sums[i][j]);
                }
            }
        }
        for i in 0..W {
            for j in 0..X {
                S::as_mut_simd_f64s(&mut lanes[i][j]).0[pass] = sums[i][j];
            }
        }
    }
    for i in 0..W {
        for j in 0..X {
            for (lane, (&w, &x)) in w_rows[i].1.iter().zip(x_rows[j].1).enumerate() {
                lanes[i][j][lane] += w * x;
            }
            out[i * stride + j] = tree(lanes[i][j]);
        }
    }
}

/// `a * b + c` of exact products: fused or not, the bits are the same.
#[inline(always)]
fn multiply_add<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
    // Without vectors there may be no fused instruction, and calling a function in its place takes forever.
    if S::F64_LANES == 1 { simd.add_f64s(simd.mul_f64s(a, b), c) } else { simd.mul_add_e_f64s(a, b, c) }
}

/// Adds to every row of `sums` the rows of `values`, weighed by the row's `p`, in the order of the rows of `values`.
///
/// Products are rounded before they are added, for they are not exact.
///
/// - `p`: `[queries, keys]`, rows `stride` apart; `values`: `[keys, dim]`; `sums`: `[queries, dim]`.
#[inline(always)]
pub(crate) fn weigh<S: Simd>(
    simd: S,
    p: &[f64],
    stride: usize,
    values: &[f64],
    dim: usize,
    sums: &mut [f64],
) {
    let (keys, queries) = (values.len() / dim, sums.len() / dim);
    let whole = queries / TILE * TILE;
    for (q, sums) in sums.chunks_mut(TILE * dim).enumerate() {
        let p = &p[q * TILE * stride..];
        if q * TILE < whole {
            weigh_tile::<S, TILE>(simd, p, stride, values, keys, sums);
        } else {
            for (q, sums) in sums.chunks_exact_mut(dim).enumerate() {
                weigh_tile::<S, 1>(simd, &p[q * stride..], stride, values, keys, sums);
            }
        }
    }
}

/// Vectors of a row that [`weigh`] sums at once.
const VECTORS: usize = 4;

/// [`weigh`] for `Q` queries.
#[inline(always)]
fn weigh_tile<S: Simd, const Q: usize>(
    simd: S,
    p: &[f64],
    stride: usize,
    values: &[f64],
    keys: usize,
    sums: &mut [f64],
) {
    let dim = sums.len() / Q;
    let block = VECTORS * S::F64_LANES;
    let whole = dim / block * block;
    for start in (0..whole).step_by(block) {
        let mut totals = [[simd.splat_f64s(0.0); VECTORS]; Q];
        for q in 0..Q {
            let from = S::as_simd_f64s(&sums[q * dim + start..][..block]).0;
            totals[q].copy_from_slice(from);
        }
        for key in 0..keys {
            let value = S::as_simd_f64s(&values[key * dim + start..][..block]).0;
            for q in 0..Q {
                let p = simd.splat_f64s(p[q * stride + key]);
                for n in 0..VECTORS {
                    totals[q][n] = simd.add_f64s(totals[q][n], simd.mul_f64s(p, value[n]));
                }
            }
        }
        for q in 0..Q {
            let to = S::as_mut_simd_f64s(&mut sums[q * dim + start..][..block]).0;
            to.copy_from_slice(&totals[q]);
        }
    }
    for q in 0..Q {
        for key in 0..keys {
            let weight = p[q * stride + key];
            for c in whole..dim {
                sums[q * dim + c] += weight * values[key * dim + c];
            }
        }
    }
}

/// `f64` values for [`products`] that begin where a cache line does: an AVX-512 load that spans two takes twice as long.
#[derive(Default)]
pub(crate) struct Wide(Vec<Line>);

/// A cache line.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f64; 8]);

impl Wide {
    /// `from` as `f64`.
    pub(crate) fn of(from: &[f32]) -> Self {
        let mut wide = Self::default();
        let to = wide.resize(from.len());
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f64::from(from);
        }
        wide
    }

    /// Room for `len` values; what they are does not matter.
    pub(crate) fn resize(&mut self, len: usize) -> &mut [f64] {
        self.0.resize(len.div_ceil(8), Line::default());
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }

    /// All values, up to seven more than were asked for.
    pub(crate) fn as_slice(&self) -> &[f64] {
        bytemuck::cast_slice(&self.0)
    }
}

/// `f32` values as `f64`.
#[inline(always)]
pub(crate) fn widen(from: &[f32], to: &mut [f64]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f64::from(from);
    }
}

#[cfg(test)]
mod tests;
