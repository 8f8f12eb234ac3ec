//! Bounds of products in fewer bits than `f32` has: faster, and not exact.
//!
//! All add to the bound of `f32` what a term can lose, with `|x · w|` summed over the columns.
//!
//! - 16-bit floats: `x` and `w` are rounded once each, and 16 products are added up with one rounding each, all by at
//!   most 2^-11 of what is rounded; a sum of 16 is at most the sum of their magnitudes. Below the normal numbers the
//!   rounding is absolute: 2^-25, for `x` in units of the power of two that its half a chunk was divided by.
//! - 8-bit integers: 32 columns of a row share the step `largest / 127`, and each is off by half a step at most.
//! - 16-bit integers: 256 columns of a row share the step `largest / 32639`, and each is off by half a step at most, and by
//!   a hundredth for an inverse that is off by 2^-22. Weights that are no codes are multiplied otherwise, and lose nothing.

use gemma4_core::program::Class;
use gemma4_core::tensor::DType;

use super::{Case, linear, moe_ffn};

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
    let losses: Losses = match kind {
        Lossy::F16 => |_, x, w, _| halves(x, w),
        Lossy::Int8 => |_, x, w, _| bytes(x, w),
    };
    linear::cases(losses).into_iter().filter(Case::is_prompt).collect()
}

/// Products of prompts that a library for halves takes, with the bounds of these.
///
/// A row that is divided by no power of two has a largest value of 1/4 or more (`kernels/halves.cu`). The 32 columns of a
/// chunk have one of 1 or more in these cases, which is what the bound below the normal numbers counts on.
#[must_use]
pub fn library_cases() -> Vec<Case> {
    [1, 5, 130].into_iter().flat_map(|rows| linear::whole_groups(rows, |_, x, w, _| halves(x, w))).collect()
}

/// All cases of an op for a device whose prompts are halves and whose generated rows are 16-bit integers where weights are
/// codes: what users of CUDA have.
#[must_use]
pub fn fast_cases(op: &str) -> Vec<Case> {
    match op {
        "linear" => linear::cases(fast).into_iter().chain(library_cases()).collect(),
        "moe_ffn" => moe_ffn::cases(fast),
        _ => super::of(op),
    }
}

/// [`super::long_cases`] for such a device.
#[must_use]
pub fn fast_long_cases() -> Vec<Case> {
    linear::long(fast)
}

fn fast(class: Class, x: &[f64], w: &[f64], dtype: DType) -> f64 {
    match (class, dtype) {
        (Class::Prefill, _) => halves(x, w),
        (Class::Decode, DType::F32 | DType::F16 | DType::BF16) => 0.0,
        (Class::Decode, _) => words(x, w),
    }
}

/// What an output of a product may lose beyond `f32`, given its class, its operands, and the type of the weight.
pub(super) type Losses = fn(Class, &[f64], &[f64], DType) -> f64;

/// Nothing.
pub(super) fn no_losses(_: Class, _: &[f64], _: &[f64], _: DType) -> f64 {
    0.0
}

fn sum(values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).sum()
}

/// The largest magnitude of so many columns of `x` times the sum of those of `w`, for all of them.
fn largest_terms(x: &[f64], w: &[f64], columns: usize) -> f64 {
    let largest = |x: &[f64]| x.iter().map(|v| v.abs()).fold(0.0, f64::max);
    x.chunks(columns).zip(w.chunks(columns)).map(|(x, w)| largest(x) * sum(w)).sum()
}

/// Of 8-bit integers.
fn bytes(x: &[f64], w: &[f64]) -> f64 {
    largest_terms(x, w, 32) / 254.0
}

/// Of 16-bit integers.
fn words(x: &[f64], w: &[f64]) -> f64 {
    largest_terms(x, w, 256) * 0.51 / 32639.0
}

/// Of 16-bit floats.
fn halves(x: &[f64], w: &[f64]) -> f64 {
    let half_ulp = 2f64.powi(-11);
    let subnormal = 2f64.powi(-25);
    let terms: f64 = x.iter().zip(w).map(|(x, w)| (x * w).abs()).sum();
    18.0 * half_ulp * terms + subnormal * (largest_terms(x, w, 32) + sum(x))
}
