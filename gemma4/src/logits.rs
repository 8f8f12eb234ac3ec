//! `gemma4 logits`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;

/// LogitsArgs
#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {}

pub(crate) fn run(_: &LogitsArgs, _: &Global) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
