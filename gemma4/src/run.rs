//! `gemma4 run`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;

/// RunArgs
#[derive(Args, Debug)]
pub(crate) struct RunArgs {}

pub(crate) fn run(_: &RunArgs, _: &Global) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
