//! Runs golden models on a backend: `golden --backend cpu DIR...`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use gemma4_conformance::backends;
use gemma4_conformance::golden::{Feed, Golden, GoldenError, Target};
use gemma4_conformance::known::chain;
use gemma4_core::backend::Backend;
use gemma4_core::kv_type::KvType;
use gemma4_core::reference::Reference;
use gemma4_cuda::Cuda;
use gemma4_wgpu::{Options, Variants, Wgpu};

/// Compare a backend with recorded outputs of Hugging Face transformers.
///
/// Each DIR holds config.json, tensors.json and golden.safetensors; that of a drafter, such as `dense-dflash`, lies
/// beside that of its target, `dense`. Prints the worst error of each case; exits with
/// 1 if one is outside its bound or if nothing was compared.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What runs the models.
    #[arg(long, value_enum, default_value_t = BackendName::Cpu)]
    backend: BackendName,
    /// Leave out every optional ability of the GPU.
    #[arg(long)]
    core: bool,
    /// Number of a GPU, or a part of its name.
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// Compile CUDA kernels for this architecture at most, or for that of the device [default: `sm_86`]
    #[arg(long, value_name = "sm_NN|native")]
    arch_limit: Option<String>,
    /// Folders of golden models.
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
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

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    comparisons: usize,
}

impl Tally {
    fn line(&mut self, label: &str, result: Result<(String, usize), GoldenError>) {
        match result {
            Ok((text, comparisons)) => {
                self.passed += 1;
                self.comparisons += comparisons;
                println!("  ok    {label:<16} {text}");
            }
            Err(error) => {
                self.failed += 1;
                println!("  MISS  {label:<16} {}", chain(&error));
            }
        }
    }
}

fn target<B: Backend>(new: &impl Fn() -> B, target: &Target, tally: &mut Tally) {
    for feed in Feed::ALL {
        let result = target.exact(new(), feed, (usize::MAX, usize::MAX)).map(|run| {
            let (logits, hidden) = (run.logits, run.hidden);
            let text = format!(
                "logits within {:.1e}, hidden within {:.1e}, {} greedy tokens equal",
                logits.worst, hidden.worst, run.tokens
            );
            (text, logits.count + hidden.count + run.tokens)
        });
        tally.line(&feed.to_string(), result);
    }
    for kv in KvType::ALL.into_iter().filter(|&kv| kv != KvType::F32) {
        if let Some(head_dim) = target.does_not_fit(kv) {
            tally.skipped += 1;
            println!("  skipped: heads of {head_dim} values do not fill blocks of {kv}");
            continue;
        }
        let result = target
            .noise_bound(kv)
            .and_then(|bound| target.quantised(new(), Feed::Chunks(16), (kv, bound)))
            .map(|noise| (format!("relative error {:.1e} of {:.1e}", noise.error, noise.bound), noise.count));
        tally.line(&format!("{kv} cache"), result);
    }
}

fn all<B: Backend>(new: &impl Fn() -> B, dirs: &[PathBuf]) -> bool {
    let mut tally = Tally::default();
    for dir in dirs {
        let start = Instant::now();
        println!("{}", dir.display());
        match Golden::open(dir) {
            Ok(Golden::Target(model)) => {
                target(new, &model, &mut tally);
                println!("  {:.1} s", start.elapsed().as_secs_f64());
            }
            Ok(Golden::Drafter(drafter)) => {
                let result = drafter.exact(new()).map(|run| (run.summary(), run.comparisons()));
                tally.line(drafter.label(), result);
                println!("  {:.1} s", start.elapsed().as_secs_f64());
            }
            Err(error) => {
                tally.failed += 1;
                println!("  MISS  {}", chain(&error));
            }
        }
    }
    let Tally { passed, failed, skipped, comparisons } = tally;
    println!("{comparisons} comparisons");
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0 && comparisons > 0
}

fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    Ok(match args.backend {
        BackendName::Cpu => all(&|| Reference::new(None).expect("threads can be started"), &args.dirs),
        BackendName::Wgpu => {
            let allow = if args.core { Variants::CORE } else { Variants::EXACT };
            let adapter = args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default();
            let backend = Wgpu::new(&Options { adapter, ..backends::options(allow) })?;
            println!("{}", backends::title(&backend));
            all(&|| backend.clone(), &args.dirs)
        }
        BackendName::Cuda => {
            let device = args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default();
            let arch_limit = backends::arch_limit(args.arch_limit.as_deref())?;
            let backend =
                Cuda::new(&gemma4_cuda::Options { device, arch_limit, ..backends::cuda_options()? })?;
            println!("{}", backends::cuda_title(&backend));
            all(&|| backend.clone(), &args.dirs)
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
