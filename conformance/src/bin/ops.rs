//! Checks single ops of a backend: `ops --backend wgpu linear route`.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use gemma4_conformance::backends;
use gemma4_conformance::cases::Lossy;
use gemma4_conformance::known::chain;
use gemma4_conformance::ops::{self, Mutants};
use gemma4_core::backend::Backend;
use gemma4_core::ops::Op;
use gemma4_core::reference::Reference;
use gemma4_cuda::Cuda;
use gemma4_wgpu::{Options, Variants, Wgpu};

/// Compare a backend's ops with their definitions, op by op.
///
/// Prints a line for each op: values compared, how much of the derived bound the worst of them used, and how many of
/// the op's mutants were rejected. Exits with 1 if a value is outside its bound or a mutant is not rejected.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What computes.
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    backend: BackendName,
    /// Leave out every optional ability of the GPU.
    #[arg(long)]
    core: bool,
    /// Multiply prompts in 8-bit integers, within the bounds of those.
    #[arg(long, conflicts_with = "f16")]
    int8: bool,
    /// Multiply prompts in 16-bit floats; on wgpu within the bounds of those.
    #[arg(long)]
    f16: bool,
    /// Number of a GPU, or a part of its name.
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// Compile CUDA kernels for this architecture at most, or for that of the device [default: `sm_86`]
    #[arg(long, value_name = "sm_NN|native")]
    arch_limit: Option<String>,
    /// Bind at most so many bytes at once, so that weights are split.
    #[arg(long, value_name = "BYTES")]
    max_binding: Option<u64>,
    /// Names of ops; all of them if none is named.
    #[arg(value_name = "OP", value_parser = clap::builder::PossibleValuesParser::new(Op::ALL))]
    ops: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendName {
    /// The reference backend.
    Cpu,
    /// A GPU.
    Wgpu,
    /// An NVIDIA GPU through CUDA.
    Cuda,
}

fn check<B: Backend>(backend: &B, ops: &[String], products: Option<Lossy>) -> bool {
    let (mut good, mut comparisons) = (true, 0);
    for op in Op::ALL.iter().filter(|op| ops.is_empty() || ops.iter().any(|name| name == *op)) {
        let report = match products {
            Some(kind) => ops::check_lossy(backend, op, kind, Mutants::Tried),
            None => ops::check(backend, op, Mutants::Tried),
        };
        match report {
            Ok(report) => {
                comparisons += report.agreement.count;
                println!("ok    {op:<13} {:>8} comparisons, {}", report.agreement.count, report.summary());
            }
            Err(failure) => {
                good = false;
                println!("MISS  {op:<13} {}", chain(&failure));
            }
        }
    }
    println!("{comparisons} comparisons");
    good && comparisons > 0
}

fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    Ok(match args.backend {
        BackendName::Cpu => check(&Reference::new(None)?, &args.ops, None),
        BackendName::Wgpu => {
            let exact = if args.core { Variants::CORE } else { Variants::EXACT };
            let allow = Variants { f16: args.f16, int8: args.int8, ..exact };
            let adapter = args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default();
            let options = Options { adapter, max_binding: args.max_binding, ..backends::options(allow) };
            let backend = Wgpu::new(&options)?;
            println!("{}", backends::title(&backend));
            // What the device has no variant for is computed in f32.
            let used = backend.variants();
            let products = if used.int8 {
                Some(Lossy::Int8)
            } else if used.f16 {
                Some(Lossy::F16)
            } else {
                None
            };
            check(&backend, &args.ops, products)
        }
        BackendName::Cuda => {
            let device = args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default();
            let arch_limit = backends::arch_limit(args.arch_limit.as_deref())?;
            let exact_prompts = !args.f16;
            let options =
                gemma4_cuda::Options { device, arch_limit, exact_prompts, ..backends::cuda_options()? };
            let backend = Cuda::new(&options)?;
            println!("{}", backends::cuda_title(&backend));
            check(&backend, &args.ops, None)
        }
    })
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}
