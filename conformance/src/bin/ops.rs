//! Checks single ops of a backend: `ops --backend wgpu linear route`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use gemma4_conformance::cases;
use gemma4_core::backend::Backend;
use gemma4_core::ops::Op;
use gemma4_core::reference::Reference;
use gemma4_wgpu::{Options, Variants, Wgpu};

/// Compare a backend's ops with their definitions, op by op.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What computes.
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    backend: BackendName,
    /// Core features alone.
    #[arg(long)]
    core: bool,
    /// Bindings of at most so many bytes.
    #[arg(long)]
    max_binding: Option<u64>,
    /// Names of ops [default: all].
    ops: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendName {
    Cpu,
    Wgpu,
}

fn check<B: Backend>(backend: &B, ops: &[String]) -> bool {
    let mut good = true;
    for op in Op::ALL.iter().filter(|op| ops.is_empty() || ops.iter().any(|name| name == *op)) {
        let (mut count, mut share) = (0, 0.0f64);
        let mut mutants = BTreeMap::new();
        for case in cases::of(op) {
            match case.check(backend) {
                Ok(checked) => {
                    count += checked.agreement.count;
                    share = share.max(checked.agreement.share);
                    for (name, rejected) in checked.mutants {
                        *mutants.entry(name).or_insert(false) |= rejected;
                    }
                }
                Err(failure) => {
                    good = false;
                    println!("MISS  {failure}: {:?}", std::error::Error::source(&failure).map(ToString::to_string));
                }
            }
        }
        let alive: Vec<_> = mutants.iter().filter(|(_, rejected)| !**rejected).collect();
        println!("{op}: {count} comparisons, {:.1} % of the bound, mutants alive: {alive:?}", 100.0 * share);
    }
    good
}

fn main() -> ExitCode {
    let args = Args::parse();
    let good = match args.backend {
        BackendName::Cpu => check(&Reference::new(None).expect("threads can be started"), &args.ops),
        BackendName::Wgpu => {
            let allow = if args.core { Variants::CORE } else { Variants::ALL };
            let options = Options { allow, poison: true, max_binding: args.max_binding, ..Options::default() };
            let backend = Wgpu::new(&options).unwrap_or_else(|error| panic!("{error}"));
            println!("{} {:?}", backend.adapter().title(), backend.variants());
            check(&backend, &args.ops)
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
