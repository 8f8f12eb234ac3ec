//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::KvTypes;

use crate::failure::Failure;
#[cfg(feature = "serve")]
use crate::serve;
use crate::{bench, inspect, logits, perplexity, quantize, run, shell, tokenize, verify};

/// Headings of help texts.
const MODEL: &str = "Model and device";
const CACHE: &str = "Cache";

const EXAMPLES: &str = "\
Examples:
  gemma4 run \"What does numpy.linspace do?\"        one answer, from the model inside this program
  gemma4 run --model gemma-4-E4B-it-Q4_K_M.gguf    a chat with a model of yours
  gemma4 inspect --model gemma-4-E4B-it            what is in a model, and the memory it needs
  gemma4 help run                                  every option of a command";

/// Run Google's Gemma 4 on your own machine.
///
/// Without --model, a small model inside this program answers: it knows some Python functions by name, calls tools
/// and thinks when asked to, and shows that everything works.
#[derive(Parser, Debug)]
#[command(version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// What computes
    #[arg(long, global = true, value_enum, default_value_t = BackendName::Auto, help_heading = MODEL)]
    pub(crate) backend: BackendName,
    /// A GPU by its number or by a part of its name, as `gemma4 inspect --devices` lists them
    #[arg(long, global = true, value_name = "N|NAME", help_heading = MODEL)]
    pub(crate) device: Option<String>,
    /// Let the GPU multiply prompts in fewer bits, f16 or int8, also where it would not without being asked: with errors of
    /// some parts in a thousand
    #[arg(long, global = true, value_enum, value_delimiter = ',', value_name = "FEATURES", help_heading = MODEL)]
    #[arg(hide_short_help = true)]
    pub(crate) with: Vec<Lossy>,
    /// Do without features of the GPU: f16 (on CUDA, products are then exact to f32), int8 (they are on wgpu), subgroups
    #[arg(long, global = true, value_enum, value_delimiter = ',', value_name = "FEATURES", help_heading = MODEL)]
    #[arg(hide_short_help = true)]
    pub(crate) without: Vec<Feature>,
    /// Compile CUDA kernels for no newer architecture than this, such as `sm_86` of an RTX 3090; for tests and reports
    #[arg(long, global = true, value_name = "sm_NN", help_heading = MODEL, hide_short_help = true)]
    pub(crate) arch_limit: Option<String>,
    /// Who multiplies prompts on CUDA, in 16-bit floats: kernels of this program (tiles), NVIDIA's library wherever it can
    /// (cublaslt), or whoever was measured to be faster (auto, the default)
    #[arg(long, global = true, value_enum, value_name = "HOW", help_heading = MODEL, hide_short_help = true)]
    pub(crate) prompts: Option<Prompts>,
    /// Use an NVIDIA GPU as if it had no more memory than this, such as 24GiB
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, help_heading = MODEL)]
    #[arg(hide_short_help = true)]
    pub(crate) vram_limit: Option<u64>,
    /// A GGUF file (any part of a split one), or a checkpoint folder with config.json and safetensors
    /// [default: the small model inside this program]
    #[arg(long, short, global = true, value_name = "PATH", help_heading = MODEL)]
    pub(crate) model: Option<PathBuf>,
    /// Threads of the cpu backend [default: one a core]
    #[arg(long, global = true, value_name = "N", help_heading = MODEL, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

#[cfg(test)]
impl Global {
    /// The built-in model on the processor.
    pub(crate) fn on_the_processor() -> Self {
        let backend = BackendName::Cpu;
        Self {
            backend,
            device: None,
            with: Vec::new(),
            without: Vec::new(),
            arch_limit: None,
            prompts: None,
            vram_limit: None,
            model: None,
            threads: None,
        }
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    /// The best GPU, or the processor where there is none
    Auto,
    /// The processor: the reference that all others are compared with
    Cpu,
    /// NVIDIA GPUs from Ampere on, through CUDA
    Cuda,
    /// Any GPU, through Vulkan, Metal or D3D12
    Wgpu,
}

/// What shaders have entry points for and can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Feature {
    /// 16-bit floats
    F16,
    /// Sums and shuffles within subgroups
    Subgroups,
    /// Dot products of packed 8-bit integers
    Int8,
}

/// Features that make products faster and less exact. Without being asked for, 8-bit integers are used where they are known to be
/// fast, and 16-bit floats on CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lossy {
    /// 16-bit floats
    F16,
    /// 8-bit integers
    Int8,
}

/// Who multiplies prompts on CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Prompts {
    /// Whoever was measured to be faster
    Auto,
    /// Kernels of this program
    Tiles,
    /// NVIDIA's library
    Cublaslt,
}

/// How the cache is laid out.
#[derive(Args, Debug, Clone)]
pub(crate) struct CacheArgs {
    /// Most tokens of prompt and answer together [default: 8192, or what the model was trained for if less]
    #[arg(long, value_name = "TOKENS", help_heading = CACHE, allow_negative_numbers = true)]
    pub(crate) ctx: Option<usize>,
    /// Stored types of keys and values.
    #[arg(help = "Types of cached keys and values: f32, f16, q8_0, q4_0 or tq3_0, as K,V or one for both")]
    #[arg(long, value_name = "K,V", default_value = "f16", value_parser = parse_kv, help_heading = CACHE)]
    pub(crate) kv: KvTypes,
    /// The same for local (sliding-window) layers alone [default: as --kv]
    #[arg(long, value_name = "K,V", value_parser = parse_kv, help_heading = CACHE)]
    pub(crate) kv_local: Option<KvTypes>,
}

/// Reads `q8_0` or `q8_0,tq3_0`.
fn parse_kv(text: &str) -> Result<KvTypes, String> {
    let (k, v) = text.split_once(',').unwrap_or((text, text));
    let read = |text: &str| text.trim().parse::<KvType>().map_err(|error| error.to_string());
    Ok(KvTypes { k: read(k)?, v: read(v)? })
}

/// Reads `24GiB`, `500 MiB`, `24GB` or a number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c.is_whitespace());
    let unit: u64 = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => 0,
    };
    let number = digits.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    let bytes = number.map(|number| number * unit as f64).filter(|bytes| (1.0..1e18).contains(bytes));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was checked to fit")]
    bytes.map(|bytes| bytes as u64).ok_or_else(|| "expected a size such as 24GiB or 23.5GB".to_owned())
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::RunArgs),
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    Tokenize(tokenize::TokenizeArgs),
    Inspect(inspect::InspectArgs),
    Perplexity(perplexity::PerplexityArgs),
    Logits(logits::LogitsArgs),
    Bench(bench::BenchArgs),
    Quantize(quantize::QuantizeArgs),
    Verify(verify::VerifyArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let global = &self.global;
        match self.command {
            Command::Run(args) => run::run(&args, global),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(&args, global),
            Command::Tokenize(args) => tokenize::run(&args, global),
            Command::Inspect(args) => inspect::run(&args, global),
            Command::Perplexity(args) => perplexity::run(&args, global),
            Command::Logits(args) => logits::run(&args, global),
            Command::Bench(args) => bench::run(&args, global),
            Command::Quantize(args) => quantize::run(&args),
            Command::Verify(args) => verify::run(&args, global),
            Command::Completions(args) => shell::completions(&args),
            Command::Man(args) => shell::man(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("24GiB", 24 << 30),
            ("1.5 GiB", 3 << 29),
            ("24g", 24 << 30),
            ("500MiB", 500 << 20),
            ("23GB", 23_000_000_000),
            ("4096", 4096),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "24 apples", "-1GiB", "0", "1e300GiB", "nan"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
