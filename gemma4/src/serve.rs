//! `gemma4 serve`: the model behind HTTP, or behind stdin and stdout.

pub(crate) mod args;
pub(crate) mod dialogue;
pub(crate) mod guide;
pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod scheduler;

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;
use args::EngineArgs;

/// Serve the model to other programs
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Speak newline-delimited JSON on stdin and stdout instead of HTTP
    #[arg(long)]
    stdio: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) fn run(args: &ServeArgs, _global: &Global) -> Result<ExitCode, Failure> {
    if args.stdio {
        return Err(Failure::usage("--stdio is not in this build yet"));
    }
    Err(Failure::usage("HTTP is not in this build yet"))
}
