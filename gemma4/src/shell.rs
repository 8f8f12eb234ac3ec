//! `gemma4 completions` and `gemma4 man`.

use std::process::ExitCode;

use clap::Args;

use crate::failure::Failure;

/// CompletionsArgs
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {}

/// ManArgs
#[derive(Args, Debug)]
pub(crate) struct ManArgs {}

pub(crate) fn completions(_: &CompletionsArgs) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(_: &ManArgs) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
