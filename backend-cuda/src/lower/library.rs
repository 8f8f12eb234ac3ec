//! Products of prompts by NVIDIA's library: weight and activation become halves, which it multiplies.
//!
//! | launch | what it does |
//! |---|---|
//! | `halves` | the activation, row by row, divided by a power of two where it is not well inside their range |
//! | `dequantise` | a weight, 64 times its values; once for each, into one matrix for up to [`MOST`] bytes of them |
//! | the product | sums in `f32`, divided by 64 |
//! | `halves__back` | times the power of each row: nothing to do for almost all |
//!
//! Which products are taken depends on the class of the program and the shapes of weights alone, and so does the algorithm
//! of each: not on how many rows a plan has, for a row's bits must not. For a shape that the library offers no such algorithm
//! for, tiles stand in, on this device and with this version of it always; where the user insists on the library, that is an
//! error.

use std::collections::HashMap;
use std::fmt::Debug;

use gemma4_core::abi::{DequantiseParams, PREPARED_BLOCK, PrepareFormParams};
use gemma4_core::ops::linear::Linear;
use gemma4_core::program::{Act, Class, Rows, Weight};
use gemma4_core::tensor::DType;

use super::{Arg, Count, Launch, Lowering, ONE, Product, narrow};
use crate::compile::Arch;
use crate::device::Prompts;
use crate::driver::{Shape, WORKSPACE, padded};
use crate::error::CudaError;
use crate::kernels::Unit;

const HALVES: &str = "halves";
const DEQUANTISE: &str = "dequantise";

/// What quantised values are multiplied with when they become halves: `UNIT` of `kernels/dequantise.cu`.
const UNIT: f32 = 64.0;

/// Tiles of a block of `dequantise`, each of 16 rows and a block of columns.
const WARPS: u32 = 8;

/// Most bytes of weights that are halves at once, unless one alone has more.
const MOST: u64 = 256 << 20;

/// Outputs of a weight and columns come in multiples of this: the library then finds every operand at a multiple of 256
/// bytes, as its fastest algorithms want it.
const ALIGN: usize = 64;

/// Products that the library was measured to be faster at: on an architecture, those with at least so many columns and so
/// many outputs, of all weights of a `linear` together.
type Faster = (&'static str, usize, usize);

/// The measurements: `conformance/records/2026-11-27-h200-cuda.md`. An architecture that is not here keeps its tiles.
const FASTER: &[Faster] = &[("sm_90", 1536, 1536)];

fn worth(measured: &[Faster], arch: Arch, cols: usize, outputs: usize) -> bool {
    let arch = arch.to_string();
    measured.iter().any(|faster| faster.0 == arch && cols >= faster.1 && outputs >= faster.2)
}

/// Whether the library is worth being looked for on an architecture.
pub(crate) fn is_faster_on(arch: Arch) -> bool {
    worth(FASTER, arch, usize::MAX, usize::MAX)
}

/// What the library multiplies.
pub(crate) trait Offers: Debug {
    /// Whether products of a shape are the library's.
    fn offers(&self, shape: Shape) -> bool;
}

/// A library that multiplies everything: where there is none to ask.
#[derive(Debug)]
pub(crate) struct Everything;

impl Offers for Everything {
    fn offers(&self, _: Shape) -> bool {
        true
    }
}

/// What the library answered for each shape, so that all plans multiply it alike: how it does, or that it does not.
#[derive(Debug)]
pub(crate) struct Answers<A> {
    known: HashMap<Shape, Option<A>>,
}

impl<A> Default for Answers<A> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

impl<A: Copy> Answers<A> {
    /// How the library multiplies a shape, which `ask` finds out; `None` if tiles have to. `remark` hears of the first
    /// shape that they have to.
    ///
    /// # Errors
    ///
    /// What `ask` says, if the user insists on the library, or if it is something else than that the library has no way.
    pub(crate) fn of(
        &mut self,
        shape: Shape,
        prompts: Prompts,
        ask: impl FnOnce() -> Result<A, CudaError>,
        remark: impl FnOnce(&str),
    ) -> Result<Option<A>, CudaError> {
        if let Some(&known) = self.known.get(&shape) {
            return Ok(known);
        }
        let answer = match ask() {
            Ok(algorithm) => Some(algorithm),
            Err(CudaError::Library(reason)) if prompts == Prompts::Auto => {
                if self.known.values().all(Option::is_some) {
                    remark(&format!("cuBLASLt: {reason}; such prompts are read by tiles of this program"));
                }
                None
            }
            Err(error) => return Err(error),
        };
        self.known.insert(shape, answer);
        Ok(answer)
    }
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    let mut units: Vec<Unit> =
        DType::ALL.into_iter().filter(|&dtype| becomes_halves(dtype)).map(unit).collect();
    units.push(Unit::new(HALVES));
    units
}

fn unit(dtype: DType) -> Unit {
    Unit::new(DEQUANTISE).with("WEIGHT", dtype.name())
}

/// Whether halves hold every value of a type, as far as products of halves keep it. Floats of other types go beyond them.
fn becomes_halves(dtype: DType) -> bool {
    !matches!(dtype, DType::F32 | DType::BF16)
}

/// What values of a type are multiplied with when they become halves.
fn unit_of(dtype: DType) -> f32 {
    if dtype == DType::F16 { 1.0 } else { UNIT }
}

/// Whether the library does a product.
///
/// Not those of picked rows: the head is as large as a layer, and few of its rows are picked.
pub(super) fn takes(op: &Linear, cx: &Lowering<'_>) -> bool {
    let weights = || op.weights.iter().map(|&weight| cx.weight(weight));
    let fits = |weight: &crate::Weight| {
        becomes_halves(weight.dtype())
            && weight.cols().is_multiple_of(ALIGN)
            && weight.rows().is_multiple_of(ALIGN)
    };
    cx.program.class == Class::Prefill
        && !cx.split()
        && cx.program.spec(op.x).rows == Rows::Step
        && weights().all(fits)
        && match cx.device.prompts {
            Prompts::Tiles => false,
            Prompts::Library => true,
            Prompts::Auto => {
                let (cols, outputs) = (cx.program.cols(op.x), weights().map(crate::Weight::rows).sum());
                worth(FASTER, cx.device.kernels, cols, outputs)
            }
        }
        && runs(cx, &op.weights).iter().all(|run| cx.offers.offers(shape(cx, op, run)))
}

/// The product of a run of weights of an op.
fn shape(cx: &Lowering<'_>, op: &Linear, run: &[Weight]) -> Shape {
    let outputs = run.iter().map(|&weight| narrow(cx.weight(weight).rows())).sum();
    Shape { outputs, cols: cx.cols(op.x), stride: cx.cols(op.out) }
}

/// Weights that are multiplied at once: neighbours with one factor.
fn runs(cx: &Lowering<'_>, weights: &[Weight]) -> Vec<Vec<Weight>> {
    let mut runs: Vec<(u64, Vec<Weight>)> = Vec::new();
    for &weight in weights {
        let bytes = 2 * (cx.weight(weight).rows() * cx.weight(weight).cols()) as u64;
        let alike = |other: Weight| {
            let dtypes = [weight, other].map(|weight| cx.weight(weight).dtype() == DType::F16);
            dtypes[0] == dtypes[1]
        };
        match runs.last_mut() {
            Some((sum, run)) if *sum + bytes <= MOST && alike(run[0]) => {
                *sum += bytes;
                run.push(weight);
            }
            _ => runs.push((bytes, vec![weight])),
        }
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

pub(super) fn linear(op: &Linear, cx: &mut Lowering<'_>) {
    let (cols, rows) = (cx.cols(op.x), u64::from(padded(narrow(cx.program.capacity(op.x)))));
    let (x, powers) = (cx.scratch(rows * u64::from(cols) * 2), cx.scratch(rows * 4));
    cx.set_planes(op.out, 1);
    let of_rows = |cx: &Lowering<'_>, entry, act: Act, more: Vec<Arg>| {
        let params = PrepareFormParams {
            cols: cx.cols(act),
            picked: cx.picked(act),
            planes: cx.planes(act),
            plane_stride: cx.plane_stride(act),
        };
        let args = [vec![Arg::Act(act)], more, vec![Arg::params(&params), Arg::Step]].concat();
        let grid = [cx.each_row(act), ONE, ONE];
        Launch { op: "linear", unit: Unit::new(HALVES), entry, args, grid, block: [256, 1, 1], shared: 0 }
    };
    cx.launch(of_rows(cx, "halves", op.x, vec![Arg::Scratch(x), Arg::Scratch(powers)]));
    let workspace = cx.scratch(WORKSPACE);
    let mut first = 0;
    for run in runs(cx, &op.weights) {
        let shape = shape(cx, op, &run);
        let factor = 1.0 / unit_of(cx.weight(run[0]).dtype());
        let matrix = cx.scratch(u64::from(shape.outputs) * u64::from(cols) * 2);
        let mut row = 0;
        for weight in run {
            let (dtype, rows) = (cx.weight(weight).dtype(), narrow(cx.weight(weight).rows()));
            let params = DequantiseParams { first: row, blocks: cols.div_ceil(PREPARED_BLOCK) };
            let tiles = rows.div_ceil(16) * params.blocks;
            cx.launch(Launch {
                op: "linear",
                unit: unit(dtype),
                entry: "dequantise",
                args: vec![Arg::View(weight), Arg::Scratch(matrix), Arg::params(&params)],
                grid: [Count::Fixed(tiles.div_ceil(WARPS)), ONE, ONE],
                block: [32 * WARPS, 1, 1],
                shared: 0,
            });
            row += rows;
        }
        let (weight, out) = (matrix, op.out);
        cx.product(Product { op: "linear", x, weight, out, workspace, first, shape, factor });
        first += shape.outputs;
    }
    cx.launch(of_rows(cx, "halves__back", op.out, vec![Arg::Scratch(powers)]));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use gemma4_core::program::{Elem, Program, WeightSpec};

    use super::super::report::rtx_3090;
    use super::super::{Work, lower};
    use super::*;

    #[test]
    fn only_what_was_measured_to_be_faster_is_worth_it() {
        let measured = [("sm_90", 1024, 2048), ("sm_90", 4096, 512)];
        let worth = |arch: &str, cols, outputs| worth(&measured, arch.parse().unwrap(), cols, outputs);
        assert!(worth("sm_90", 1024, 2048) && worth("sm_90", 5376, 512));
        assert!(!worth("sm_90", 1023, 1 << 20) && !worth("sm_90", 4095, 2047));
        assert!(!worth("sm_86", 1 << 14, 1 << 14));
    }

    const WIDE: Shape = Shape { outputs: 2048, cols: 2048, stride: 2048 };
    const TALL: Shape = Shape { outputs: 4096, cols: 2048, stride: 4096 };

    #[test]
    fn where_the_library_has_no_way_tiles_stand_in_and_one_remark_says_so() {
        let mut answers = Answers::default();
        let (asked, remarks) = (Cell::new(0), Cell::new(0));
        let mut of = |shape, said: Result<u32, &str>| {
            let ask = || {
                asked.set(asked.get() + 1);
                said.map_err(|reason| CudaError::Library(reason.to_owned()))
            };
            let remark = |text: &str| {
                assert!(text.contains("it cuts sums") && text.contains("tiles of this program"), "{text}");
                remarks.set(remarks.get() + 1);
            };
            answers.of(shape, Prompts::Auto, ask, remark).unwrap()
        };
        assert_eq!(of(WIDE, Err("it cuts sums")), None);
        // It is asked once a shape, whatever it would say later, and one remark is enough.
        assert_eq!(of(WIDE, Ok(1)), None);
        assert_eq!(of(Shape { stride: 4096, ..WIDE }, Err("it cuts sums")), None);
        assert_eq!((of(TALL, Ok(3)), of(TALL, Err("it cuts sums"))), (Some(3), Some(3)));
        assert_eq!((asked.get(), remarks.get()), (3, 1));
    }

    #[test]
    fn what_is_no_answer_and_what_the_user_insists_on_stay_errors() {
        let mut answers = Answers::<u32>::default();
        let silent = |text: &str| panic!("{text}");
        let refused = || Err(CudaError::Library("it cuts sums".to_owned()));
        let error = answers.of(WIDE, Prompts::Library, refused, silent).unwrap_err();
        assert!(error.to_string().contains("it cuts sums; do without it (--prompts tiles)"), "{error}");
        let lost = || Err(CudaError::Lost("the device is gone".to_owned()));
        assert!(matches!(answers.of(WIDE, Prompts::Auto, lost, silent), Err(CudaError::Lost(_))));
        // Neither is remembered.
        assert_eq!(answers.of(WIDE, Prompts::Auto, || Ok(2), silent).unwrap(), Some(2));
    }

    /// A library that multiplies all shapes but one.
    #[derive(Debug)]
    struct AllBut(Shape);

    impl Offers for AllBut {
        fn offers(&self, shape: Shape) -> bool {
            shape != self.0
        }
    }

    #[test]
    fn a_program_mixes_products_of_the_library_and_tiles_shape_by_shape() {
        let spec =
            |rows| WeightSpec { name: "w".to_owned(), dtype: DType::Q4_K, experts: 1, rows, cols: 2048 };
        let weights: Arc<[WeightSpec]> = [spec(2048), spec(4096)].into();
        let mut program = Program::new(Class::Prefill, 256, 1, weights, [].into());
        let x = program.act(Rows::Step, 2048, Elem::F32);
        for weight in [Weight::new(0), Weight::new(1)] {
            let out = program.linear(x, &[weight]).expect("the shapes agree");
            program.output(out);
        }
        let device = rtx_3090(false, Prompts::Library);
        let weights: Vec<_> = program.weights.iter().map(crate::Weight::planned).collect();
        let lowered = |offers: &dyn Offers| {
            let mut lowering = Lowering::new(&device, offers, &program, &weights, &[]);
            lower(&mut lowering).expect("it has kernels");
            let products: Vec<Shape> = lowering
                .work
                .iter()
                .filter_map(|work| match work {
                    Work::Product(product) => Some(product.shape),
                    Work::Launch(_) => None,
                })
                .collect();
            let tiles = lowering.work.iter().filter_map(Work::launch);
            let tiles = tiles.filter(|launch| launch.unit.file == "linear_tiles").count();
            (products, tiles)
        };
        assert_eq!(lowered(&Everything), (vec![WIDE, TALL], 0));
        assert_eq!(lowered(&AllBut(TALL)), (vec![WIDE], 1));
        assert_eq!(lowered(&AllBut(WIDE)), (vec![TALL], 1));
    }
}
