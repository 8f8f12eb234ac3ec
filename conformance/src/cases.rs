//! What every op computes: inputs, expected outputs by formulas of their own, bounds, and mutants.
//!
//! One file an op. A case is a program of that op, of `embed` ops that bring its inputs, and of whatever makes its
//! output visible. Expected values are computed here in `f64` from the op's definition and share no code with its
//! reference. Bounds hold for arithmetic in `f32`; their derivation stands beside them, where `u` is the unit
//! roundoff 2^-24 and a sum of `n` terms by a tree, or by blocks, errs by at most `(16 + log2 n) · u · Σ|terms|`.

mod add;
mod attention;
mod attn_prepare;
mod centroid_head;
mod embed;
mod gather_rows;
mod glu;
mod keep_rows;
mod kv_append;
mod linear;
mod lossy;
mod moe_ffn;
mod norm_add;
mod ple_inputs;
mod recall_rows;
mod rms_norm;
mod route;
mod sample;
mod softcap;

use gemma4_core::backend::{Backend, PageTable, Row, Step};
use gemma4_core::cache::PAGE;
use gemma4_core::program::{Act, Class, Elem, Program, Rows, State, StateSpec, Weight, WeightSpec};
use gemma4_core::sample::{Draw, Sampling};
use gemma4_core::tensor::{Bytes, DType, Tensor};

use rayon::prelude::*;

use crate::Failure;
use crate::compare::{Agreement, Mismatch, compare_within, relative_error};

pub use attention::{broken_cases, halves_cases, rotation_cases};
pub use linear::{blocks, company_cases, long_cases, projection_cases};
pub use lossy::{Lossy, fast_cases, fast_long_cases, library_cases, lossy_cases};

/// Unit roundoff of `f32`.
pub const U: f64 = 5.960_464_477_539_063e-8;

/// What a sum of `terms` numbers errs by at most, in units of `U · Σ|terms|`.
#[must_use]
pub fn sum_error(terms: usize) -> f64 {
    (16.0 + (terms as f64).log2()) * U
}

/// Makes the programs of cases ready side by side: a driver takes milliseconds for a pipeline, and keeps them.
///
/// # Errors
///
/// What the device says.
pub fn compile_together<B: Backend + Sync>(backend: &B, cases: &[Case]) -> Result<(), Failure> {
    cases.par_iter().try_for_each(|case| case.compile(backend))
}

/// The cases of an op.
///
/// # Panics
///
/// If there is no such op.
#[must_use]
pub fn of(op: &str) -> Vec<Case> {
    match op {
        "add" => add::cases(),
        "attention" => attention::cases(),
        "attn_prepare" => attn_prepare::cases(),
        "centroid_head" => centroid_head::cases(),
        "embed" => embed::cases(),
        "gather_rows" => gather_rows::cases(),
        "glu" => glu::cases(),
        "keep_rows" => keep_rows::cases(),
        "kv_append" => kv_append::cases(),
        "linear" => linear::exact(),
        "moe_ffn" => moe_ffn::exact(),
        "norm_add" => norm_add::cases(),
        "ple_inputs" => ple_inputs::cases(),
        "recall_rows" => recall_rows::cases(),
        "rms_norm" => rms_norm::cases(),
        "route" => route::cases(),
        "sample" => sample::cases(),
        "softcap" => softcap::cases(),
        other => panic!("there are no cases of {other}"),
    }
}

/// How a case is made.
type Make = Box<dyn FnOnce() -> Case + Send>;

fn later(make: impl FnOnce() -> Case + Send + 'static) -> Make {
    Box::new(make)
}

/// Makes cases on all cores, in order: what must come out takes most of the time of a case.
fn together(cases: impl IntoIterator<Item = Make>) -> Vec<Case> {
    cases.into_iter().collect::<Vec<_>>().into_par_iter().map(|make| make()).collect()
}

/// A program, its inputs, and what must come out.
pub struct Case {
    /// Op and shape.
    pub name: String,
    /// What is run.
    pub program: Program,
    /// Its weights, inputs among them.
    pub tensors: Vec<Tensor>,
    /// Contents of the pools, all pages of each.
    pub pages: Vec<Vec<u8>>,
    /// Page table of global layers.
    pub global: Vec<u32>,
    /// Page table of local layers.
    pub local: Vec<u32>,
    /// Rows of the step; token `r` picks row `r` of every input.
    pub rows: Vec<Row>,
    /// Picked rows.
    pub picked: Vec<u32>,
    /// How picked rows are sampled.
    pub settings: Vec<Settings>,
    /// Its number among cases of which each has a shader of its own, for a type or for a pair of them: two devices of a slow
    /// driver may share those.
    pub shared: Option<usize>,
    out: Option<Act>,
    want: Vec<f64>,
    allowed: Vec<f64>,
    mutants: Vec<Mutant>,
}

/// What [`Draw`] refers to.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The request's settings.
    pub sampling: Sampling,
    /// Changes to single logits.
    pub edits: Vec<gemma4_core::sample::Edit>,
    /// Allowed tokens.
    pub allowed: Option<Vec<u32>>,
}

/// A way to get an op wrong.
struct Mutant {
    name: &'static str,
    change: Box<dyn Fn(&mut Case) + Send + Sync>,
}

/// What a case showed.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The case.
    pub name: String,
    /// How well the output agrees.
    pub agreement: Agreement,
    /// Mutants that were tried, and whether this case rejects them.
    pub mutants: Vec<(&'static str, bool)>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    fn new(op: &str, rows: usize, shape: impl std::fmt::Display) -> Self {
        let row = |r| Row { token: narrow(r), position: narrow(r), slot: 0 };
        // More rows than the step has, so that padding is there to be left alone.
        let capacity = (rows + 1).next_power_of_two();
        Self {
            name: format!("{op}, {rows} rows, {shape}"),
            program: Program::new(Class::Prefill, capacity, capacity, [].into(), [].into()),
            tensors: Vec::new(),
            pages: Vec::new(),
            global: vec![0],
            local: vec![0],
            rows: (0..rows).map(row).collect(),
            picked: (0..rows).map(narrow).collect(),
            settings: vec![Settings::default(); rows],
            shared: None,
            out: None,
            want: Vec::new(),
            allowed: Vec::new(),
            mutants: Vec::new(),
        }
    }

    /// The same case in a program of no more rows: of a single one there may be other kernels.
    fn full(mut self) -> Self {
        self.name += ", full";
        (self.program.rows, self.program.picked) = (self.rows.len(), self.picked.len());
        self
    }

    /// The same case as number `n` of those that devices may share.
    fn shared(mut self, n: usize) -> Self {
        self.shared = Some(n);
        self
    }

    /// The same case with rows of another class.
    fn in_class(mut self, class: Class) -> Self {
        self.name = format!("{}, {class:?}", self.name);
        self.program.class = class;
        self
    }

    /// A weight of any type from its bytes.
    fn raw_weight(&mut self, dtype: DType, shape: [usize; 3], bytes: Vec<u8>) -> Weight {
        let name = format!("w{}", self.tensors.len());
        let tensor = Tensor::new(&name, dtype, shape, Bytes::from_owner(bytes)).expect("a case's shapes fit");
        self.tensors.push(tensor);
        self.program.weights = self.tensors.iter().map(WeightSpec::of).collect();
        Weight::new(self.tensors.len() - 1)
    }

    /// A weight of `f32`.
    fn weight(&mut self, shape: [usize; 3], values: &[f32]) -> Weight {
        self.raw_weight(DType::F32, shape, bytes(values))
    }

    /// An activation with these values, `[rows, values / rows]`.
    fn input(&mut self, values: &[f32]) -> Act {
        let cols = values.len() / self.rows.len();
        let table = self.weight([1, self.rows.len(), cols], values);
        self.program.embed(table, 1.0)
    }

    /// A pool with these contents.
    fn state(&mut self, spec: StateSpec, pages: Vec<u8>) -> State {
        assert_eq!(spec.bytes(), pages.len() as u64, "the contents of a pool");
        self.pages.push(pages);
        self.program.states = self.program.states.iter().cloned().chain([spec]).collect();
        State::new(self.pages.len() - 1)
    }

    /// Says what must come out, and how much each element may differ.
    fn expect(mut self, out: Act, want: Vec<f64>, allowed: Vec<f64>) -> Self {
        self.program.output(out);
        (self.out, self.want, self.allowed) = (Some(out), want, allowed);
        self
    }

    /// Adds a way to get it wrong.
    fn mutant(mut self, name: &'static str, change: impl Fn(&mut Case) + Send + Sync + 'static) -> Self {
        self.mutants.push(Mutant { name, change: Box::new(change) });
        self
    }

    /// Changes the values of a weight or input.
    fn change(&mut self, weight: usize, change: impl Fn(&mut [f32])) {
        let tensor = &mut self.tensors[weight];
        let mut values: Vec<f32> =
            tensor.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        change(&mut values);
        tensor.data = Bytes::from_owner(bytes(&values));
    }

    /// Puts other values of another shape in the place of a weight.
    fn replace(&mut self, weight: usize, shape: [usize; 3], values: &[f32]) {
        let name = self.tensors[weight].name.clone();
        let tensor = Tensor::new(&name, DType::F32, shape, Bytes::from_owner(bytes(values)));
        self.tensors[weight] = tensor.expect("a case's shapes fit");
        self.program.weights = self.tensors.iter().map(WeightSpec::of).collect();
    }

    /// Whether its rows are a prompt's.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        self.program.class == Class::Prefill
    }

    /// Runs the program and reads the output, indices as numbers.
    ///
    /// # Errors
    ///
    /// What the device says.
    ///
    /// # Panics
    ///
    /// If the case expects nothing.
    #[expect(clippy::cast_precision_loss, reason = "tokens and experts of a case are below 2^24")]
    pub fn run<B: Backend>(&self, backend: &B) -> Result<Vec<f32>, Failure> {
        let fail = Failure::device::<B>;
        let weights = self.tensors.iter().map(|tensor| backend.upload(tensor)).collect::<Result<Vec<_>, _>>();
        let states =
            self.program.states.iter().map(|spec| backend.state(spec)).collect::<Result<Vec<_>, _>>();
        let (weights, states) = (weights.map_err(fail)?, states.map_err(fail)?);
        for ((state, spec), pages) in states.iter().zip(&*self.program.states).zip(&self.pages) {
            for (page, bytes) in pages.chunks_exact(spec.page_bytes()).enumerate() {
                backend.write_page(state, narrow(page), bytes).map_err(fail)?;
            }
        }
        let mut plan = backend.compile(&self.program, &weights, &states).map_err(fail)?;
        let draws: Vec<Draw<'_>> = self
            .settings
            .iter()
            .zip(&self.picked)
            .map(|(settings, &row)| Draw {
                sampling: &settings.sampling,
                position: self.rows[row as usize].position + 1,
                edits: &settings.edits,
                allowed: settings.allowed.as_deref(),
            })
            .collect();
        // Rows of other slots share the pages: only rings tell slots apart.
        let slots = self.rows.iter().map(|row| row.slot + 1).max().unwrap_or(1);
        let tables = vec![PageTable { global: &self.global, local: &self.local }; slots.max(2) as usize];
        let step = Step { rows: &self.rows, picked: &self.picked, tables: &tables, draws: &draws };
        let ticket = backend.run(&mut plan, &step).map_err(fail)?;
        let out = self.out.expect("a case expects something");
        let spec = self.program.spec(out);
        let rows = if spec.rows == Rows::Step { self.rows.len() } else { self.picked.len() };
        match spec.elem {
            Elem::F32 => {
                let mut values = vec![0.0f32; rows * spec.cols];
                backend.read(&plan, ticket, out, &mut values).map_err(fail)?;
                Ok(values)
            }
            Elem::U32 => {
                let mut values = vec![0u32; rows * spec.cols];
                backend.read(&plan, ticket, out, &mut values).map_err(fail)?;
                Ok(values.into_iter().map(|value| value as f32).collect())
            }
        }
    }

    /// Makes the program ready without running it.
    ///
    /// # Errors
    ///
    /// What the device says.
    pub fn compile<B: Backend>(&self, backend: &B) -> Result<(), Failure> {
        let fail = Failure::device::<B>;
        let weights = self.tensors.iter().map(|tensor| backend.upload(tensor)).collect::<Result<Vec<_>, _>>();
        let states =
            self.program.states.iter().map(|spec| backend.state(spec)).collect::<Result<Vec<_>, _>>();
        let (weights, states) = (weights.map_err(fail)?, states.map_err(fail)?);
        backend.compile(&self.program, &weights, &states).map_err(fail)?;
        Ok(())
    }

    /// Compares the output with what must come out.
    ///
    /// # Errors
    ///
    /// The first element outside its bound.
    pub fn compare(&self, got: &[f32]) -> Result<Agreement, Mismatch> {
        compare_within(&self.want, got, &self.allowed)
    }

    /// Root mean square difference from what must come out, over the root mean square of that.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "expected values are of the size of f32's")]
    pub fn relative_error(&self, got: &[f32]) -> f64 {
        let want: Vec<f32> = self.want.iter().map(|&want| want as f32).collect();
        relative_error(&want, got)
    }

    /// Names of its mutants.
    pub fn mutants(&self) -> impl Iterator<Item = &'static str> {
        self.mutants.iter().map(|mutant| mutant.name)
    }

    /// Checks the case, and which of its mutants it rejects, of those that `tries` is true for.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the output is wrong or cannot be computed.
    pub fn check<B: Backend>(
        mut self,
        backend: &B,
        tries: impl Fn(&str) -> bool,
    ) -> Result<Checked, Failure> {
        let got = self.run(backend)?;
        let agreement = self.compare(&got).map_err(Failure::differs(self.name.clone()))?;
        let mut mutants = Vec::new();
        let mut tried = std::mem::take(&mut self.mutants);
        tried.retain(|mutant| tries(mutant.name));
        for Mutant { name, change } in tried {
            let mut mutant = Self {
                name: self.name.clone(),
                program: self.program.clone(),
                tensors: self.tensors.clone(),
                pages: self.pages.clone(),
                global: self.global.clone(),
                local: self.local.clone(),
                rows: self.rows.clone(),
                picked: self.picked.clone(),
                settings: self.settings.clone(),
                shared: self.shared,
                out: self.out,
                want: self.want.clone(),
                allowed: self.allowed.clone(),
                mutants: Vec::new(),
            };
            change(&mut mutant);
            mutants.push((name, self.compare(&mutant.run(backend)?).is_err()));
        }
        Ok(Checked { name: self.name, agreement, mutants })
    }
}

/// Changes the only op of a kind in a case's program.
macro_rules! op {
    ($case:expr, $variant:ident) => {
        $case
            .program
            .ops
            .iter_mut()
            .find_map(|op| match op {
                gemma4_core::ops::Op::$variant(op) => Some(op),
                _ => None,
            })
            .expect("the case records this op")
    };
}
use op;

/// Numbers of a normal distribution's shape; with more than one row the second is all zero, and one number in 97 is
/// 40 times as large.
fn inputs(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
    let mut values = plain(rows * cols, seed);
    values.iter_mut().step_by(97).for_each(|value| *value *= 40.0);
    if rows > 1 {
        values[cols..2 * cols].fill(0.0);
    }
    values
}

/// Numbers of a normal distribution's shape.
#[expect(clippy::cast_possible_truncation, reason = "random numbers have any low bits")]
fn plain(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    // The sum of 12 uniform numbers has variance 1.
    (0..len).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32).collect()
}

/// Numbers around 1, as norm weights are.
fn around_one(len: usize, seed: u64) -> Vec<f32> {
    plain(len, seed).into_iter().map(|value| 1.0 + 0.3 * value).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// `1 / sqrt(mean(x²) + eps)`.
pub(crate) fn inverse_rms(x: &[f64], eps: f64) -> f64 {
    1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt()
}

/// gelu by its tanh approximation.
pub(crate) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh())
}

/// Pages that `positions` tokens fill.
fn pages(positions: usize) -> usize {
    positions.div_ceil(PAGE)
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("a case is small")
}
