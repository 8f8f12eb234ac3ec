//! `gemma4 perplexity`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;

/// PerplexityArgs
#[derive(Args, Debug)]
pub(crate) struct PerplexityArgs {}

pub(crate) fn run(_: &PerplexityArgs, _: &Global) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
