//! A row's bits depend on nothing but the row.

use gemma4_conformance::Failure;
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::tiny::{Kv, Tiny};
use gemma4_core::program::Class;

use super::report::{Property, Report};
use super::{Progress, explain};
use crate::device::Device;

/// A property: its name, and what compares values for a subject, fewer of them if the flag is set.
type Check<F> = (&'static str, fn(&Subject<F>, bool) -> Result<usize, Failure>);

fn checks<D: Device, F: Fn() -> D>() -> [Check<F>; NAMES] {
    [
        ("a prompt in chunks", |subject, quick| {
            let (len, sizes) = if quick { (270, &[64, 257][..]) } else { (520, &[7, 255, 256, 257][..]) };
            subject.chunks_change_nothing(len, sizes)
        }),
        ("drafted rows", |subject, quick| {
            subject.verifying_equals_decoding(if quick { 24 } else { 270 }, &[2, 5, 16])
        }),
        ("rows in another order", |subject, _| {
            Ok(subject.the_order_of_rows_changes_nothing(Class::Prefill)?
                + subject.the_order_of_rows_changes_nothing(Class::Decode)?)
        }),
        ("in company", |subject, _| {
            Ok(subject.company_changes_nothing(Class::Prefill)?
                + subject.company_changes_nothing(Class::Decode)?)
        }),
        ("behind a shared prefix", |subject, quick| {
            subject.a_shared_prefix_changes_nothing(if quick { &[256] } else { &[40, 256, 300, 513] })
        }),
        ("after going back", |subject, _| subject.going_back_equals_never_having_gone()),
        ("tokens ahead of the host", |subject, _| subject.sampling_is_the_same_alone_in_company_and_ahead()),
    ]
}

const NAMES: usize = 7;

/// Steps of progress for each type of cache.
pub(super) const fn count() -> usize {
    NAMES
}

pub(super) fn check<D: Device>(report: &mut Report, progress: &Progress, device: &D, kv: Kv, quick: bool) {
    let new = || device.another().expect("a device that was opened before opens again");
    let subjects = Tiny::all().map(|tiny| Subject { new, tiny, kv });
    for (name, holds) in checks() {
        progress.begin(name);
        let mut comparisons = 0;
        for subject in &subjects {
            match holds(subject, quick) {
                Ok(count) => comparisons += count,
                Err(failure) => report.failures.push(format!("{name}: {}", explain(&failure))),
            }
        }
        match report.invariance.iter_mut().find(|property| property.name == name) {
            Some(property) => property.comparisons += comparisons,
            None => report.invariance.push(Property { name, comparisons }),
        }
        progress.end();
    }
}
