//! Long fuzz runs: `cargo xtask fuzz TARGET --seconds N`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use gemma4_conformance::fuzz::{self, Budget, Counts, Finding, Target, memory, targets};

#[global_allocator]
static MEMORY: memory::Counter = memory::COUNTER;

/// Feed mutated samples to a parser until it panics, allocates too much or its error names nobody.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask fuzz", bin_name = "cargo xtask fuzz")]
struct Arguments {
    /// What to fuzz, or `list` to name the targets.
    target: String,
    /// Run for so many seconds.
    #[arg(long, default_value_t = 60, conflicts_with = "inputs")]
    seconds: u64,
    /// Run so many inputs instead.
    #[arg(long)]
    inputs: Option<u64>,
    /// Repeat the run that printed this seed; by default the clock decides.
    #[arg(long)]
    seed: Option<u64>,
    /// Run one saved input, letting a panic through.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "inputs", "seed"])]
    replay: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut targets = targets::all();
    let names: Vec<&str> = targets.iter().map(|target| target.name()).collect();
    if arguments.target == "list" {
        println!("{}", names.join("\n"));
        return ExitCode::SUCCESS;
    }
    let Some(found) = names.iter().position(|name| *name == arguments.target) else {
        eprintln!("there is no target `{}`; there are: {}", arguments.target, names.join(", "));
        return ExitCode::from(2);
    };
    let target = targets.swap_remove(found);
    let result = match &arguments.replay {
        Some(file) => replay(&*target, file),
        None => run(&*target, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Where inputs are saved: this repository's target folder.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("fuzz")
}

fn run(target: &dyn Target, arguments: &Arguments) -> Result<(), String> {
    let seed = arguments.seed.unwrap_or_else(seed_of_the_clock);
    let budget = match arguments.inputs {
        Some(inputs) => Budget::Inputs(inputs),
        None => Budget::Time(Duration::from_secs(arguments.seconds)),
    };
    let name = target.name();
    let folder = folder();
    fs::create_dir_all(&folder).map_err(|error| format!("cannot write to {}: {error}", folder.display()))?;
    let running = folder.join(format!("{name}-running"));
    println!("{name}: seed {seed}; if the process dies, its input is {}", running.display());

    let start = Instant::now();
    match fuzz::fuzz(target, seed, budget, &running) {
        Ok(Counts { accepted, refused, peak }) => {
            let seconds = start.elapsed().as_secs_f64();
            let inputs = accepted + refused;
            println!(
                "{name}: {inputs} inputs in {seconds:.1} s, {accepted} accepted, {refused} refused, at most {} KiB at once",
                peak >> 10
            );
            Ok(())
        }
        Err(failure) => {
            let file = folder.join(format!("{name}-{:016x}", hash(&failure.input)));
            let saved = match fs::write(&file, &failure.input) {
                Ok(()) => format!("replay with: cargo xtask fuzz {name} --replay {}", file.display()),
                Err(error) => format!("cannot write {}: {error}", file.display()),
            };
            Err(format!("{name}: {}\n{} bytes of input; {saved}", failure.finding, failure.input.len()))
        }
    }
}

fn replay(target: &dyn Target, file: &Path) -> Result<(), String> {
    let input = fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    match fuzz::replay(target, &input).map_err(|finding: Finding| finding.to_string())? {
        None => println!("accepted"),
        Some(error) => println!("refused: {error}"),
    }
    Ok(())
}

fn seed_of_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs().rotate_left(32) ^ u64::from(now.subsec_nanos())
}

/// FNV-1a, so that a finding has the same file name every time.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
