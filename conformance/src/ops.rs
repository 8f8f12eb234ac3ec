//! All cases of an op on a backend, and what they showed.

use std::collections::BTreeMap;

use gemma4_core::backend::Backend;

use crate::Failure;
use crate::cases::{self, Case, Lossy};
use crate::compare::Agreement;

/// What the cases of an op showed.
#[derive(Clone, Debug)]
pub struct OpReport {
    /// The op.
    pub op: &'static str,
    /// Cases that ran.
    pub cases: usize,
    /// Agreement of all of them.
    pub agreement: Agreement,
    /// The case that used most of its bound.
    pub worst: String,
    /// Mutants, and whether a case rejected them.
    pub mutants: BTreeMap<&'static str, bool>,
}

impl OpReport {
    /// Mutants that no case rejected.
    #[must_use]
    pub fn alive(&self) -> Vec<&'static str> {
        self.mutants.iter().filter_map(|(name, rejected)| (!rejected).then_some(*name)).collect()
    }

    /// Cases, share of the bound and mutants, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self { cases, agreement, mutants, .. } = self;
        let rejected = mutants.values().filter(|rejected| **rejected).count();
        let share = 100.0 * agreement.share;
        format!("{cases} cases, {share:.1} % of the bound, {rejected} of {} mutants rejected", mutants.len())
    }
}

/// Whether mutants are tried too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutants {
    /// They are, until a case rejects them, and all must be rejected.
    Tried,
    /// Only agreement is checked, which takes a fraction of the time.
    Left,
}

/// Runs all cases of an op.
///
/// # Errors
///
/// The first case that fails, a mutant that no case rejects, or nothing compared.
pub fn check<B: Backend>(backend: &B, op: &'static str, mutants: Mutants) -> Result<OpReport, Failure> {
    check_cases(backend, op, cases::of(op), mutants)
}

/// The same where products of prompts are in fewer bits, with the bounds of those.
///
/// # Errors
///
/// As for [`check`].
pub fn check_lossy<B: Backend>(
    backend: &B,
    op: &'static str,
    kind: Lossy,
    mutants: Mutants,
) -> Result<OpReport, Failure> {
    if op != "linear" {
        return check(backend, op, mutants);
    }
    let others = cases::of(op).into_iter().filter(|case| !case.is_prompt());
    check_cases(backend, op, others.chain(cases::lossy_cases(kind)), mutants)
}

/// Runs these cases of an op.
///
/// # Errors
///
/// As [`check`].
pub fn check_cases<B: Backend>(
    backend: &B,
    op: &'static str,
    cases: impl IntoIterator<Item = Case>,
    mutants: Mutants,
) -> Result<OpReport, Failure> {
    let mut report = OpReport {
        op,
        cases: 0,
        agreement: Agreement::default(),
        worst: String::new(),
        mutants: BTreeMap::new(),
    };
    for case in cases {
        let name = case.name.clone();
        let agreement = match mutants {
            Mutants::Tried => {
                // One case that rejects a mutant is what is asked for: others have nothing to add.
                let rejected = |name: &str| report.mutants.get(name).copied().unwrap_or(false);
                let checked = case.check(backend, |name| !rejected(name))?;
                for (name, rejected) in checked.mutants {
                    *report.mutants.entry(name).or_insert(false) |= rejected;
                }
                checked.agreement
            }
            Mutants::Left => case.compare(&case.run(backend)?).map_err(Failure::differs(name.clone()))?,
        };
        if agreement.share >= report.agreement.share {
            report.worst = name;
        }
        report.agreement = report.agreement.and(agreement);
        report.cases += 1;
    }
    let alive = report.alive();
    if !alive.is_empty() {
        return Err(Failure::False(format!("{op}: no case rejects {alive:?}")));
    }
    if report.agreement.count == 0 {
        return Err(Failure::False(format!("{op}: nothing was compared")));
    }
    Ok(report)
}

/// Whether every case of an op still agrees: what a mutant of a shader must not achieve.
pub fn agrees<B: Backend>(backend: &B, op: &str) -> bool {
    cases::of(op).iter().all(|case| case.run(backend).is_ok_and(|got| case.compare(&got).is_ok()))
}
