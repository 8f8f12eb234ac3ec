//! `gemma4`: run Google's Gemma 4 on your own machine.

mod bench;
mod cli;
mod device;
mod draft;
mod failure;
mod inspect;
mod load;
mod logits;
mod perplexity;
mod quantize;
mod run;
mod score;
#[cfg(feature = "serve")]
mod serve;
mod shell;
mod text;
mod tokenize;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(failure) => {
            // Whoever closed stderr has the exit code.
            let _ = writeln!(io::stderr(), "error: {failure}");
            failure.code()
        }
    }
}
