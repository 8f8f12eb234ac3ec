//! `cargo xtask fuzz`: long runs of the fuzzers that `check` runs briefly.

use clap::Args;

use crate::{Failure, cargo};

/// Feed mutated samples to a parser until it panics, allocates too much or blames nobody.
///
/// This runs the `fuzz` program of the conformance package, built as tests are: optimised, with overflow checks.
/// `cargo xtask fuzz list` names the targets, `cargo xtask fuzz TARGET --help` tells more about the options.
/// A failing input is made smaller, written to target/fuzz, and can be replayed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cargo xtask fuzz gguf --seconds 600
  cargo xtask fuzz gguf --seconds 60 --seed 7
  cargo xtask fuzz gguf --replay target/fuzz/gguf-0123456789abcdef")]
pub(crate) struct Options {
    /// A target, or `list`.
    target: String,
    /// Passed on: `--seconds N`, `--inputs N`, `--seed S`, `--replay FILE`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let program = ["run", "--quiet", "--package", "gemma4-conformance", "--bin", "fuzz", "--"];
    let mut command = cargo::command(&program);
    // From where it was typed, as `--replay` takes a path.
    command.current_dir(".");
    command.arg(&options.target).args(&options.arguments);
    cargo::succeed(command)
}
