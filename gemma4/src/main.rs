//! `gemma4`: run Google's Gemma 4 on your own machine.

mod cli;
mod failure;
mod inspect;
mod load;
mod logits;
mod perplexity;
mod run;
mod score;
mod shell;
mod text;
mod tokenize;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.code()
        }
    }
}
