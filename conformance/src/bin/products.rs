//! Times products of prompts on CUDA, this program's against NVIDIA's: `products --rows 512,2048 5376x43008`.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use gemma4_conformance::backends;
use gemma4_conformance::cases;
use gemma4_conformance::known::chain;
use gemma4_core::backend::{Backend, PageTable, Row, Step};
use gemma4_core::program::{Class, Program, Weight, WeightSpec};
use gemma4_core::tensor::{Bytes, DType, Tensor};
use gemma4_cuda::{Cuda, Options, Prompts, Span};

/// Rows of the table that inputs come from.
const INPUTS: usize = 64;

/// Time products of prompts by this program's tiles and by cuBLASLt.
///
/// A line for each type of weight, shape and number of rows: microseconds of each way, all its kernels together and of
/// the library's also the parts, what that is in TFLOP/s, and how many times faster the library is. Each number is of
/// the run in the middle of --repeat. A run multiplies two weights in turn and counts the second, which the first has
/// brought out of the cache if that could hold one.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Number of a GPU, or a part of its name.
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
    /// Compile CUDA kernels for this architecture at most, or for that of the device [default: that of the device]
    #[arg(long, value_name = "sm_NN|native", default_value = "native")]
    arch_limit: String,
    /// Rows of a step.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [64, 512, 2048])]
    rows: Vec<usize>,
    /// Types of weights, as GGUF names them.
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_values_t = ["Q4_K".to_owned(), "Q6_K".to_owned()])]
    types: Vec<String>,
    /// Runs of each measurement.
    #[arg(long, value_name = "N", default_value_t = 9)]
    repeat: usize,
    /// Shapes of weights [default: those of the layers of E4B and 31B]
    #[arg(value_name = "COLUMNSxOUTPUTS")]
    shapes: Vec<Shape>,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    cols: usize,
    outputs: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes = text.split_once('x').map(|(cols, outputs)| (cols.parse(), outputs.parse()));
        match sizes {
            Some((Ok(cols), Ok(outputs))) if cols > 0 && outputs > 0 => Ok(Self { cols, outputs }),
            _ => Err(format!("`{text}` is no shape, such as 5376x43008")),
        }
    }
}

/// Queries, keys and values; their output; gate and up, and down.
const SHAPES: [[usize; 2]; 8] = [
    [2560, 3072],
    [2048, 2560],
    [2560, 20480],
    [10240, 2560],
    [5376, 16384],
    [8192, 5376],
    [5376, 43008],
    [21504, 5376],
];

/// Microseconds of a product, and of each of its kernels.
struct Time {
    all: f64,
    parts: BTreeMap<&'static str, f64>,
}

impl Time {
    fn of(spans: &[Span]) -> Self {
        let mut parts = BTreeMap::new();
        for span in spans.iter().filter(|span| span.op == "linear") {
            *parts.entry(span.entry).or_insert(0.0) += (span.end_ns - span.start_ns) * 1e-3;
        }
        Self { all: parts.values().sum(), parts }
    }
}

fn tensor(dtype: DType, rows: usize, cols: usize) -> Result<Tensor, String> {
    if dtype.row_bytes(cols).is_none() {
        return Err(format!("{cols} columns are no whole blocks of {dtype}"));
    }
    let data = Bytes::from_owner(cases::blocks(dtype, rows, cols));
    Tensor::new("weight", dtype, [1, rows, cols], data).ok_or_else(|| "the sizes do not fit".to_owned())
}

/// The run in the middle.
fn measure(
    cuda: &Cuda,
    dtype: DType,
    shape: Shape,
    rows: usize,
    repeat: usize,
) -> Result<Time, Box<dyn Error>> {
    let Shape { cols, outputs } = shape;
    let weight = tensor(dtype, outputs, cols)?;
    let tensors = [tensor(DType::F16, INPUTS, cols)?, weight.clone(), weight];
    let specs: Vec<WeightSpec> = tensors.iter().map(WeightSpec::of).collect();
    let weights = tensors.iter().map(|tensor| cuda.upload(tensor)).collect::<Result<Vec<_>, _>>()?;
    let mut program = Program::new(Class::Prefill, rows, 1, specs.into(), [].into());
    // The first product brings the weight of the second out of the cache.
    for weight in 1..3 {
        let x = program.embed(Weight::new(0), 1.0);
        let out = program.linear(x, &[Weight::new(weight)])?;
        program.output(out);
    }
    let mut plan = cuda.compile(&program, &weights, &[])?;
    let narrow = |n: usize| u32::try_from(n).expect("rows fit 32 bits");
    let rows: Vec<Row> =
        (0..rows).map(|r| Row { token: narrow(r % INPUTS), position: narrow(r), slot: 0 }).collect();
    let tables = [PageTable { global: &[0], local: &[0] }; 2];
    let step = Step { rows: &rows, picked: &[], tables: &tables, draws: &[] };
    let mut times = Vec::new();
    for _ in 0..=repeat {
        let spans = cuda.profile(&mut plan, &step)?.ok_or("the driver cannot time kernels")?;
        times.push(Time::of(&spans[spans.len() / 2..]));
    }
    // The first warms up.
    times.remove(0);
    times.sort_by(|a, b| a.all.total_cmp(&b.all));
    let middle = (times.len() - 1) / 2;
    Ok(times.swap_remove(middle))
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let device = args.device.as_deref().map(str::parse).transpose()?.unwrap_or_default();
    let arch_limit = backends::arch_limit(Some(&args.arch_limit))?;
    let options = Options { device, arch_limit, ..Options::default() };
    let tiles = Cuda::new(&Options { prompts: Prompts::Tiles, ..options.clone() })?;
    let library = Cuda::new(&Options { prompts: Prompts::Library, ..options })?;
    println!("{}", backends::cuda_title(&library));
    let types = args.types.iter().map(|name| {
        let named = DType::ALL.into_iter().find(|dtype| dtype.name() == name);
        named.ok_or_else(|| format!("{name} is no type of weight"))
    });
    let types = types.collect::<Result<Vec<_>, _>>()?;
    let usual = SHAPES.map(|[cols, outputs]| Shape { cols, outputs });
    let shapes = if args.shapes.is_empty() { &usual[..] } else { &args.shapes };
    println!(
        "| type | columns x outputs | rows | tiles us (TFLOP/s) | cuBLASLt us (TFLOP/s) | of that: halves, dequantise, product, back | times faster |"
    );
    println!("|---|---|---|---|---|---|---|");
    for dtype in types {
        for &shape in shapes {
            for &rows in &args.rows {
                let [own, its] =
                    [&tiles, &library].map(|cuda| measure(cuda, dtype, shape, rows, args.repeat));
                let (own, its) = (own?, its?);
                let Shape { cols, outputs } = shape;
                let rate = |time: &Time| 2e-6 * (rows * cols * outputs) as f64 / time.all;
                let part = |entry| its.parts.get(entry).copied().unwrap_or(0.0);
                println!(
                    "| {dtype} | {cols} x {outputs} | {rows} | {:.1} ({:.0}) | {:.1} ({:.0}) | {:.1}, {:.1}, {:.1}, {:.1} | {:.2} |",
                    own.all,
                    rate(&own),
                    its.all,
                    rate(&its),
                    part("halves"),
                    part("dequantise"),
                    part("cublaslt"),
                    part("halves__back"),
                    own.all / its.all
                );
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}
