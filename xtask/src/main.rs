//! The project's own tasks: `cargo xtask --help`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod abi;
mod bench;
mod cargo;
mod check;
mod fuzz;

/// Tasks of the gemma4 repository.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    Check(check::Options),
    Abi(abi::Options),
    Bench(bench::Options),
    Fuzz(fuzz::Options),
}

/// Why a task failed, as one or more lines for a person.
type Failure = String;

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Check(options) => check::run(&options),
        Task::Abi(options) => abi::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository that this program was built in.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is a folder of the repository").to_owned()
}
