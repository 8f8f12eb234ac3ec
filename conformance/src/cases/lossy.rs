//! Bounds of products that a user may ask for in fewer bits: faster, and not exact.
//!
//! Both add to the bound of `f32` what a term can lose, with `|x · w|` summed over the columns.
//!
//! - 16-bit floats: `x` and `w` are rounded once each, and 16 products are added up with one rounding each, all by at
//!   most 2^-11 of what is rounded; a sum of 16 is at most the sum of their magnitudes. Below the normal numbers the
//!   rounding is absolute: 2^-25, for `x` in units of the power of two that its half a chunk was divided by.
//! - 8-bit integers: 32 columns of a row share the step `largest / 127`, and each is off by half a step at most.

use gemma4_core::quant;

use super::{Case, linear};

/// Columns that share a step.
const CHUNK: usize = 32;

/// Fewer bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lossy {
    /// 16-bit floats.
    F16,
    /// 8-bit integers.
    Int8,
}

/// Products of prompts, with the bounds of `kind`.
#[must_use]
pub fn lossy_cases(kind: Lossy) -> Vec<Case> {
    linear::cases().into_iter().filter(Case::is_prompt).map(|case| widened(case, kind)).collect()
}

/// Products of prompts that a library for halves takes, with the bounds of these.
///
/// A row that is divided by no power of two has a largest value of 1/4 or more (`kernels/halves.cu`). The 32 columns of a
/// chunk have one of 1 or more in these cases, which is what the bound below the normal numbers counts on.
#[must_use]
pub fn library_cases() -> Vec<Case> {
    let cases = [1, 5, 130].into_iter().flat_map(linear::whole_groups);
    cases.map(|case| widened(case, Lossy::F16)).collect()
}

/// All cases of `linear` for a device whose prompts are halves: generated rows have the bounds of `f32`.
#[must_use]
pub fn half_cases() -> Vec<Case> {
    let decoded = linear::cases().into_iter().filter(|case| !case.is_prompt());
    decoded.chain(lossy_cases(Lossy::F16)).chain(library_cases()).collect()
}

fn widened(mut case: Case, kind: Lossy) -> Case {
    widen(&mut case, kind);
    case
}

/// Adds to a case's bounds what `kind` loses. Its first tensor holds the activations, the others the weights.
fn widen(case: &mut Case, kind: Lossy) {
    let decoded: Vec<Vec<f32>> = case
        .tensors
        .iter()
        .map(|tensor| {
            let mut values = vec![0.0; tensor.experts * tensor.rows * tensor.cols];
            quant::decode(tensor.dtype, &tensor.data, &mut values);
            values
        })
        .collect();
    let cols = case.tensors[0].cols;
    let (x, weights) = decoded.split_first().expect("a product has an input");
    let outputs = || weights.iter().flat_map(|weight| weight.chunks(cols));
    let lost = x.chunks(cols).flat_map(|x| outputs().map(move |w| lost(x, w, kind)));
    for (allowed, lost) in case.allowed.iter_mut().zip(lost) {
        *allowed += lost;
    }
}

/// What one output may lose.
fn lost(x: &[f32], w: &[f32], kind: Lossy) -> f64 {
    let half_ulp = 2f64.powi(-11);
    let subnormal = 2f64.powi(-25);
    let chunks = x.chunks(CHUNK).zip(w.chunks(CHUNK));
    chunks
        .map(|(x, w)| {
            let size = |v: &f32| f64::from(v.abs());
            let largest = x.iter().map(size).fold(0.0, f64::max);
            let weights: f64 = w.iter().map(size).sum();
            let terms: f64 = x.iter().zip(w).map(|(x, w)| size(x) * size(w)).sum();
            match kind {
                Lossy::Int8 => largest / 254.0 * weights,
                Lossy::F16 => {
                    18.0 * half_ulp * terms
                        + subnormal * (largest * weights + x.iter().map(size).sum::<f64>())
                }
            }
        })
        .sum()
}
