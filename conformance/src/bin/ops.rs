//! Checks single ops of a backend: `ops --backend wgpu linear route`.

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use gemma4_conformance::Failure;
use gemma4_conformance::backends;
use gemma4_conformance::cases::{self, Lossy};
use gemma4_conformance::known::chain;
use gemma4_conformance::ops::{self, Mutants, OpReport};
use gemma4_core::backend::Backend;
use gemma4_core::ops::Op;
use gemma4_core::reference::Reference;
use gemma4_cuda::{Cuda, Prompts};
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
    /// Multiply prompts in 16-bit floats, and on CUDA generated rows in 16-bit integers, within the bounds of those.
    #[arg(long)]
    f16: bool,
    /// Who multiplies prompts on CUDA: `auto`, `tiles` or `cublaslt`; implies `--f16`.
    #[arg(long, value_name = "HOW")]
    prompts: Option<Prompts>,
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

/// `run` runs the cases of an op.
fn check<B: Backend>(
    backend: &B,
    ops: &[String],
    run: impl Fn(&B, &'static str) -> Result<OpReport, Failure>,
) -> bool {
    let (mut good, mut comparisons) = (true, 0);
    for op in Op::ALL.iter().filter(|op| ops.is_empty() || ops.iter().any(|name| name == *op)) {
        match run(backend, op) {
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

/// The cases of an op within the bounds of f32.
fn within_f32<B: Backend>(backend: &B, op: &'static str) -> Result<OpReport, Failure> {
    ops::check(backend, op, Mutants::Tried)
}

fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    Ok(match args.backend {
        BackendName::Cpu => check(&Reference::new(None)?, &args.ops, within_f32),
        BackendName::Wgpu => {
            let exact = if args.core { Variants::CORE } else { Variants::EXACT };
            let allow = Variants { f16: args.f16, int8: args.int8, ..exact };
            let adapter = args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default();
            let options = Options { adapter, max_binding: args.max_binding, ..backends::options(allow) };
            let backend = Wgpu::new(&options)?;
            println!("{}", backends::title(&backend));
            // What the device has no variant for is computed in f32.
            let used = backend.variants();
            if used.int8 {
                check(&backend, &args.ops, |b, op| ops::check_lossy(b, op, Lossy::Int8, Mutants::Tried))
            } else if used.f16 {
                check(&backend, &args.ops, |b, op| ops::check_lossy(b, op, Lossy::F16, Mutants::Tried))
            } else {
                check(&backend, &args.ops, within_f32)
            }
        }
        BackendName::Cuda => {
            let device = args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default();
            let arch_limit = backends::arch_limit(args.arch_limit.as_deref())?;
            let fast = args.f16 || args.prompts.is_some();
            let options = gemma4_cuda::Options {
                device,
                arch_limit,
                exact: !fast,
                prompts: args.prompts.unwrap_or_default(),
                ..backends::cuda_options()?
            };
            let backend = Cuda::new(&options)?;
            println!("{}", backends::cuda_title(&backend));
            let good = check(&backend, &args.ops, |backend, op| {
                let cases = if fast { cases::fast_cases(op) } else { cases::of(op) };
                backend
                    .make_kernels(cases.iter().map(|case| &case.program))
                    .map_err(Failure::device::<Cuda>)?;
                ops::check_cases(backend, op, cases, Mutants::Tried)
            });
            println!("{} products by cuBLASLt", backend.library_products());
            good
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
