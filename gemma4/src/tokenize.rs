//! `gemma4 tokenize`.

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;

/// TokenizeArgs
#[derive(Args, Debug)]
pub(crate) struct TokenizeArgs {}

pub(crate) fn run(_: &TokenizeArgs, _: &Global) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
