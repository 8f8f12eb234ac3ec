//! `cargo xtask check`: everything a change must pass.

use std::time::Instant;

use clap::{Args, ValueEnum};

use crate::{Failure, abi, bench, cargo};

mod duplicates;
mod habits;
mod licences;
mod links;
mod programs;
mod spdx;
mod tally;

/// Check everything that a change must pass; CI runs this and nothing else.
///
/// Steps run in the order below and the first that fails ends the run. Name steps to run only those.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cargo xtask check                everything
  cargo xtask check fmt clippy     two steps
  cargo xtask check --keep-going   everything, even after a failure")]
pub(crate) struct Options {
    /// Steps to run; all of them if none is named.
    #[arg(value_enum)]
    steps: Vec<Step>,
    /// Go on after a failure; the exit code is still that of a failure.
    #[arg(long)]
    keep_going: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Formatting, by rustfmt.
    Fmt,
    /// Lints of all targets, by clippy; a warning is an error.
    Clippy,
    /// Generated files are what their tables say.
    Generated,
    /// Every third-party package in Cargo.lock has a licence from the list in xtask/src/check/licences.rs.
    Licences,
    /// No package is in Cargo.lock in two incompatible versions, but for those in xtask/duplicates.txt.
    Duplicates,
    /// No notes to self, no overlong file; links in README.md and ARCHITECTURE.md resolve; the latter names every
    /// folder.
    Habits,
    /// Tests of the whole workspace, short fuzz runs with a fixed seed among them; says how much was compared on which
    /// backend, and what was skipped. `REQUIRE_BACKENDS=cpu,wgpu` makes a missing one a failure.
    Test,
    /// Documentation builds; a broken link is an error.
    Docs,
}

impl Step {
    fn run(self) -> Result<(), Failure> {
        match self {
            Step::Fmt => cargo::succeed(cargo::command(&["fmt", "--all", "--check"])),
            Step::Clippy => cargo::succeed(cargo::command(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])),
            Step::Generated => abi::check().and_then(|()| bench::check()),
            Step::Licences => licences::check(),
            Step::Duplicates => duplicates::check(),
            Step::Habits => habits::check(),
            Step::Test => tally::check(),
            Step::Docs => {
                // Examples, of which there are none, bring the features of the tests' dependencies: with those clippy
                // has looked at everything that is needed here.
                let mut command = cargo::command(&[
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--locked",
                    "--lib",
                    "--bins",
                    "--examples",
                ]);
                command.env("RUSTDOCFLAGS", "-D rustdoc::broken_intra_doc_links -D warnings");
                cargo::succeed(command)
            }
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let chosen = |step: &Step| options.steps.is_empty() || options.steps.contains(step);
    let start = Instant::now();
    let mut failed = Vec::new();
    for step in Step::value_variants().iter().copied().filter(chosen) {
        let start = Instant::now();
        let result = step.run();
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("check {:<10} ok      {seconds:6.1} s", step.name()),
            Err(failure) => {
                eprintln!("{failure}");
                println!("check {:<10} FAILED  {seconds:6.1} s", step.name());
                failed.push(step.name());
                if !options.keep_going {
                    break;
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if failed.is_empty() {
        println!("check all        ok      {seconds:6.1} s");
        return Ok(());
    }
    let again = format!("cargo xtask check {}", failed.join(" "));
    Err(format!("check failed after {seconds:.1} s; to see it again: {again}"))
}
