//! `gemma4 inspect`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;

/// InspectArgs
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {}

pub(crate) fn run(_: &InspectArgs, _: &Global) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
