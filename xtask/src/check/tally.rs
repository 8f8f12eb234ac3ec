//! Tests of the workspace, and how much they compared.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use super::programs;
use crate::Failure;

/// How the conformance suite begins its lines; see `backends::LINE` there.
const LINE: &str = "conformance: ";

pub(crate) fn check() -> Result<(), Failure> {
    let programs = programs::build()?;
    let tally = Mutex::new(Tally::default());
    let result = programs::run(&programs, &|name, line| {
        // A closed pipe is no reason to stop.
        let _ = writeln!(std::io::stdout().lock(), "{name} | {line}");
        tally.lock().unwrap_or_else(PoisonError::into_inner).add(line);
    });
    for line in tally.into_inner().unwrap_or_else(PoisonError::into_inner).summary() {
        println!("{line}");
    }
    result
}

/// What all tests together did.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    /// By backend and property.
    comparisons: BTreeMap<String, BTreeMap<String, u64>>,
    skipped: Vec<String>,
}

impl Tally {
    fn add(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ok. ") {
            self.passed += leading(rest).unwrap_or(0);
        }
        // A test that runs alone has its name before what it writes.
        let Some((_, told)) = line.split_once(LINE) else { return };
        if let Some(skipped) = told.strip_prefix("skipped: ") {
            if !self.skipped.iter().any(|known| known == skipped) {
                self.skipped.push(skipped.to_owned());
            }
            return;
        }
        // `backend: property: N comparisons, more`
        let Some((backend, rest)) = told.split_once(": ") else { return };
        let Some((what, rest)) = rest.rsplit_once(": ").filter(|(_, rest)| rest.contains(" comparisons"))
        else {
            return;
        };
        if let Some(count) = leading(rest) {
            *self.comparisons.entry(backend.to_owned()).or_default().entry(what.to_owned()).or_default() +=
                count;
        }
    }

    fn summary(&self) -> Vec<String> {
        let mut lines = vec![format!("tests passed: {}", self.passed)];
        for (backend, properties) in &self.comparisons {
            let count: u64 = properties.values().sum();
            lines.push(format!(
                "compared on {backend}: {count} values in {} properties and ops",
                properties.len()
            ));
        }
        lines.extend(self.skipped.iter().map(|skipped| format!("skipped: {skipped}")));
        lines
    }
}

/// The number that a text begins with.
fn leading(text: &str) -> Option<u64> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_added_up_by_backend() {
        let mut tally = Tally::default();
        for line in [
            "conformance: cpu: the reference",
            "conformance: cpu: linear: 10 comparisons, 3 cases, 5.7 % of the bound",
            "conformance: wgpu: linear: 20 comparisons",
            "test a ... conformance: wgpu: dense, chunks of 5: 5 comparisons, logits within 1e-5",
            "conformance: skipped: wgpu-core: no adapter (none)",
            "conformance: skipped: wgpu-core: no adapter (none)",
            "conformance: portability: 64 files, 503 pipelines",
            "test result: ok. 12 passed; 0 failed; 0 ignored",
        ] {
            tally.add(line);
        }
        assert_eq!(
            tally.summary(),
            [
                "tests passed: 12",
                "compared on cpu: 10 values in 1 properties and ops",
                "compared on wgpu: 25 values in 2 properties and ops",
                "skipped: wgpu-core: no adapter (none)",
            ]
        );
    }
}
