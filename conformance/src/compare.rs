//! The only comparator.

use std::fmt;

/// How far an element may lie from the reference: `abs + rel · |reference|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Absolute part, in the unit of the values.
    pub abs: f64,
    /// Relative part.
    pub rel: f64,
}

impl Bound {
    /// An absolute bound.
    #[must_use]
    pub const fn abs(abs: f64) -> Self {
        Self { abs, rel: 0.0 }
    }

    fn allowed(self, want: f64) -> f64 {
        self.abs + self.rel * want.abs()
    }
}

/// What was compared, and how much of the bound the worst element used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Elements compared.
    pub count: usize,
    /// Largest difference.
    pub worst: f64,
    /// Largest difference over what was allowed there.
    pub share: f64,
}

impl Agreement {
    /// Both comparisons together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            worst: self.worst.max(other.worst),
            share: self.share.max(other.share),
        }
    }
}

/// Elements outside the bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// First of them.
    pub index: usize,
    /// Reference there.
    pub want: f64,
    /// Value there.
    pub got: f64,
    /// Difference allowed there.
    pub allowed: f64,
    /// How many there are.
    pub count: usize,
    /// Elements compared.
    pub of: usize,
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            want,
            got,
            allowed,
            count,
            of,
        } = self;
        write!(
            f,
            "element {index} is {got:.6e}, expected {want:.6e} ± {allowed:.1e} ({count} of {of} are outside)"
        )
    }
}

/// Checks every element of `got` against `want`.
///
/// NaN never agrees with anything, and neither does an infinity: the test is "inside the bound", so a comparison
/// that is false because of a NaN counts as a mismatch. Nothing to compare is a mismatch too.
///
/// # Errors
///
/// The first element outside the bound.
///
/// # Panics
///
/// If the lengths differ.
pub fn compare(want: &[f32], got: &[f32], bound: Bound) -> Result<Agreement, Mismatch> {
    let want: Vec<f64> = want.iter().map(|&want| want.into()).collect();
    let allowed: Vec<f64> = want.iter().map(|&want| bound.allowed(want)).collect();
    compare_within(&want, got, &allowed)
}

/// The same with a bound for each element, against values that need not be of `f32`.
///
/// # Errors
///
/// The first element outside its bound.
///
/// # Panics
///
/// If the lengths differ.
pub fn compare_within(want: &[f64], got: &[f32], allowed: &[f64]) -> Result<Agreement, Mismatch> {
    assert!(want.len() == got.len() && want.len() == allowed.len(), "tensors of different length");
    let mut agreement = Agreement { count: want.len(), ..Agreement::default() };
    let mut first: Option<Mismatch> = None;
    for (index, ((&want, &got), &allowed)) in want.iter().zip(got).zip(allowed).enumerate() {
        let got = f64::from(got);
        let difference = (want - got).abs();
        if want.is_finite() && difference <= allowed {
            agreement.worst = agreement.worst.max(difference);
            let share = if difference > 0.0 { difference / allowed } else { 0.0 };
            agreement.share = agreement.share.max(share);
        } else {
            let outside = Mismatch { index, want, got, allowed, count: 0, of: agreement.count };
            first.get_or_insert(outside).count += 1;
        }
    }
    match first {
        Some(mismatch) => Err(mismatch),
        None if want.is_empty() => {
            let nan = f64::NAN;
            Err(Mismatch { index: 0, want: nan, got: nan, allowed: nan, count: 0, of: 0 })
        }
        None => Ok(agreement),
    }
}

/// Checks that `got` has the bits of `want`, and returns how many values were compared.
///
/// For results that must not depend on company or history: there even a rounding error is a difference. NaN
/// never agrees, not with the same NaN either, and nothing to compare is a mismatch.
///
/// # Errors
///
/// The first element with other bits; a difference in length is one.
pub fn same_bits(want: &[f32], got: &[f32]) -> Result<usize, Mismatch> {
    let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits() || a.is_nan();
    let pairs = || want.iter().zip(got);
    let count = pairs().filter(|&pair| differs(pair)).count();
    if count == 0 && want.len() == got.len() && !want.is_empty() {
        return Ok(want.len());
    }
    let index = pairs().position(differs).unwrap_or(want.len().min(got.len()));
    let at = |values: &[f32]| values.get(index).map_or(f64::NAN, |&v| f64::from(v));
    Err(Mismatch {
        index,
        want: at(want),
        got: at(got),
        allowed: 0.0,
        count: count + want.len().abs_diff(got.len()),
        of: want.len(),
    })
}

/// Root of the mean square difference over the root of the mean square of `want`.
///
/// NaN if anything is NaN or nothing is compared, so that a test "at most" fails.
///
/// # Panics
///
/// If the lengths differ.
#[must_use]
pub fn relative_error(want: &[f32], got: &[f32]) -> f64 {
    assert_eq!(want.len(), got.len(), "tensors of different length");
    let pairs = want.iter().zip(got).map(|(&w, &g)| (f64::from(w), f64::from(g)));
    let (error, energy) = pairs.fold((0.0, 0.0), |(e, n), (w, g)| (e + (w - g).powi(2), n + w.powi(2)));
    (error / energy).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_what_naive_comparators_let_through() {
        let bound = Bound { abs: 0.0, rel: 1e-3 };
        for (want, got) in [
            (1.0, f32::NAN),
            (f32::NAN, f32::NAN),
            (-1.0, -100.0),
            (1.0, f32::INFINITY),
            (f32::INFINITY, f32::INFINITY),
            (0.0, 1e-9),
        ] {
            assert!(compare(&[want], &[got], bound).is_err(), "{want} against {got}");
        }
        assert!(compare(&[], &[], bound).is_err(), "nothing was compared");
    }

    #[test]
    fn same_bits_are_neither_close_values_nor_nothing() {
        assert_eq!(same_bits(&[1.0, -2.0], &[1.0, -2.0]), Ok(2));
        let close = 1.0 + f32::EPSILON;
        for (want, got) in [(1.0, close), (0.0, -0.0), (f32::NAN, f32::NAN), (1.0, f32::NAN)] {
            assert!(same_bits(&[want], &[got]).is_err(), "{want} against {got}");
        }
        let mismatch = same_bits(&[1.0, 2.0, 3.0], &[1.0, 5.0]).expect_err("one differs, one is missing");
        assert_eq!((mismatch.index, mismatch.count, mismatch.of), (1, 2, 3));
        assert!(same_bits(&[], &[]).is_err());
    }

    #[test]
    fn accepts_up_to_the_bound_and_reports_its_share() {
        let agreement = compare(&[2.0, -4.0], &[2.5, -4.0], Bound { abs: 0.0, rel: 0.5 }).expect("inside");
        assert_eq!(
            agreement,
            Agreement {
                count: 2,
                worst: 0.5,
                share: 0.5
            }
        );
        let mismatch = compare(&[2.0, 0.0], &[2.5, 1.0], Bound::abs(0.25)).expect_err("outside");
        assert_eq!((mismatch.index, mismatch.count, mismatch.of), (0, 2, 2));
    }

    #[test]
    fn a_relative_error_of_nothing_or_of_nan_is_nan() {
        assert!(relative_error(&[], &[]).is_nan());
        assert!(relative_error(&[1.0], &[f32::NAN]).is_nan());
        assert!((relative_error(&[3.0, 4.0], &[3.0, 4.5]) - 0.1).abs() < 1e-12);
    }

    #[test]
    #[should_panic(expected = "different length")]
    fn tensors_of_different_length_are_a_bug() {
        let _ = compare(&[1.0], &[], Bound::abs(1.0));
    }
}
