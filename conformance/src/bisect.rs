//! Where two backends part: a program run op by op on both, on identical inputs.
//!
//! Errors of a whole step add up in ways that no bound describes tightly. So every op is a program of its own here: its
//! inputs, as the first backend computed them, come from tables through `embed`, which copies; its weights and pools
//! are those of the model. Then its outputs may differ only by what one op errs, which `bounds` derives. What goes
//! to the cache is compared as it is stored, and then replaced by what the first backend stored.
//!
//! An op that a backend fuses with its neighbours in the whole program runs alone here. That fusing changes nothing
//! is what the goldens and the greedy tokens show.

mod bounds;
mod side;

use std::collections::HashMap;

use gemma4_core::backend::{Backend, PageTable, Row, Step};
use gemma4_core::cache::PAGE;
use gemma4_core::model::gemma4::{Gemma4, KvLayout, Taps};
use gemma4_core::ops::Op;
use gemma4_core::ops::embed::Embed;
use gemma4_core::ops::gather_rows::GatherRows;
use gemma4_core::ops::route::Route;
use gemma4_core::program::{Act, Class, Elem, Program, Rows, State, Weight, WeightSpec};
use gemma4_core::sample::{Draw, Sampling};
use gemma4_core::tensor::{Bytes, DType, Tensor};

use crate::Failure;
use crate::compare::{Agreement, Mismatch, compare_within};
use crate::tiny::Kv;
use bounds::Bounds;
use side::{Side, Values};

/// What one op showed.
#[derive(Clone, Debug)]
pub struct OpParity {
    /// The op.
    pub op: &'static str,
    /// Its number in the program, and what it works on.
    pub place: String,
    /// How well its outputs agree.
    pub agreement: Agreement,
}

/// One step of a text: its kernel class and its tokens, which follow those of the step before.
pub type TextStep<'a> = (Class, &'a [u32]);

/// Runs `text` on both backends, op by op.
///
/// # Errors
///
/// [`Failure::Parts`] names the first op at which `got` is further from `want` than arithmetic in `f32` explains.
pub fn program_parity<A: Backend, B: Backend>(
    want: &A,
    got: &B,
    model: &Gemma4,
    kv: Kv,
    text: &[TextStep<'_>],
) -> Result<Vec<OpParity>, Failure> {
    let context: usize = text.iter().map(|(_, tokens)| tokens.len()).sum();
    let pages = context.div_ceil(PAGE).max(1);
    let layout = KvLayout { local: kv.local, global: kv.global, local_pages: pages, global_pages: pages };
    let states = model.states(&layout);
    let mut run = Bisection {
        model,
        want: Side::new(want, model, &states)?,
        got: Side::new(got, model, &states)?,
        // Backwards, so that a page number is not its place.
        table: (0..narrow(pages)).rev().collect(),
        rows: Vec::new(),
        acts: HashMap::new(),
        routed: HashMap::new(),
        parities: Vec::new(),
    };
    let mut position = 0;
    for (class, tokens) in text {
        let rows = tokens.len();
        let recorded = match class {
            Class::Prefill => model.prefill(&states, rows, rows, Taps::Hidden)?,
            Class::Decode => model.verify(&states, rows, Taps::Hidden)?,
        };
        let row = |(i, &token)| Row { token, position: position + i, slot: 0 };
        run.rows = (0..).zip(*tokens).map(row).collect();
        run.acts.clear();
        for (index, op) in recorded.program.ops.iter().enumerate() {
            run.op(&recorded.program, index, op)?;
        }
        position += narrow(rows);
    }
    Ok(run.parities)
}

struct Bisection<'a, A: Backend, B: Backend> {
    model: &'a Gemma4,
    want: Side<'a, A>,
    got: Side<'a, B>,
    table: Vec<u32>,
    rows: Vec<Row>,
    /// What the first backend computed so far.
    acts: HashMap<Act, Values>,
    /// What routers read and what their shares may err by, by the experts they chose: `moe_ffn` cannot be given
    /// indices, so its router runs again before it.
    routed: HashMap<Act, (Route, Vec<f32>, Vec<f64>)>,
    parities: Vec<OpParity>,
}

/// A program of one op, and the tables that its inputs come from.
struct Single {
    program: Program,
    tables: Vec<Tensor>,
}

impl Single {
    fn new(program: &Program) -> Self {
        let mut program = program.clone();
        program.ops.clear();
        program.outputs.clear();
        Self { program, tables: Vec::new() }
    }

    fn table(&mut self, tensor: Tensor) -> Weight {
        self.program.weights =
            self.program.weights.iter().cloned().chain([WeightSpec::of(&tensor)]).collect();
        self.tables.push(tensor);
        Weight::new(self.program.weights.len() - 1)
    }

    /// Fills `act` with these values.
    fn input(&mut self, act: Act, values: &[f32]) {
        let spec = self.program.spec(act);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = [1, values.len() / spec.cols, spec.cols];
        let tensor = Tensor::new("an input", DType::F32, shape, Bytes::from_owner(bytes));
        let table = self.table(tensor.expect("as many values as the activation has"));
        // Every row is picked, in order: gathering is a copy.
        let out = match spec.rows {
            Rows::Step => act,
            Rows::Picked => self.program.act(Rows::Step, spec.cols, Elem::F32),
        };
        self.program.ops.push(Op::Embed(Embed { table, scale: 1.0, out }));
        if out != act {
            self.program.ops.push(Op::GatherRows(GatherRows { x: out, out: act }));
        }
    }
}

impl<A: Backend, B: Backend> Bisection<'_, A, B> {
    fn op(&mut self, program: &Program, index: usize, op: &Op) -> Result<(), Failure> {
        let single = self.single(program, op);
        let writes = op.writes();
        // `embed` alone reads its tokens; everything else finds its inputs by the number of the row.
        let mut rows = self.rows.clone();
        if !matches!(op, Op::Embed(_)) {
            (0..).zip(&mut rows).for_each(|(r, row)| row.token = r);
        }
        let picked: Vec<u32> = (0..narrow(rows.len())).collect();
        let sampling = Sampling::default();
        let draws: Vec<Draw<'_>> = rows
            .iter()
            .map(|row| Draw { sampling: &sampling, position: row.position + 1, edits: &[], allowed: None })
            .collect();
        let tables = [PageTable { global: &self.table, local: &self.table }];
        let step = Step { rows: &rows, picked: &picked, tables: &tables, draws: &draws };
        let want = self.want.run(&single.program, &single.tables, &writes, &step)?;
        let got = self.got.run(&single.program, &single.tables, &writes, &step)?;

        let bounds =
            Bounds { program, model: self.model, acts: &self.acts, rows: &self.rows, routed: &self.routed };
        let keys = |state| self.want.entries(program.state(state), state, &self.table, &self.rows);
        let allowed = bounds.of(op, &want, keys)?;
        let place = format!("op {index}, {}", subject(program, op));
        let mut agreement = Agreement::default();
        for (((act, want), got), allowed) in writes.iter().zip(&want).zip(&got).zip(&allowed) {
            let compared = compare_within(&want.wide(), &got.narrow(), allowed);
            let cols = program.cols(*act);
            agreement = agreement.and(compared.map_err(parts(op, &place, &act.to_string(), cols))?);
        }
        if let Op::AttnPrepare(prepare) = op
            && let Some(own) = prepare.own
        {
            for state in [own.k, own.v] {
                agreement = agreement.and(self.stored(program, op, &place, state)?);
            }
        }
        if let Op::Route(route) = op {
            let x = self.acts[&route.x].narrow();
            self.routed.insert(route.experts, (route.clone(), x, allowed[1].clone()));
        }
        self.acts.extend(writes.into_iter().zip(want));
        self.parities.push(OpParity { op: op.name(), place, agreement });
        Ok(())
    }

    /// Compares what the rows of this step stored in a pool, and gives both the same.
    fn stored(&self, program: &Program, op: &Op, place: &str, state: State) -> Result<Agreement, Failure> {
        let spec = program.state(state);
        let [want, got] = [
            self.want.entries(spec, state, &self.table, &self.rows)?,
            self.got.entries(spec, state, &self.table, &self.rows)?,
        ];
        let cols = spec.kv_heads * spec.head_dim;
        let first = self.rows[0].position as usize * cols;
        let (want, got) = (&want[first..], &got[first..]);
        let allowed = bounds::stored(spec, want);
        let wide: Vec<f64> = want.iter().map(|&want| want.into()).collect();
        let agreement = compare_within(&wide, got, &allowed).map_err(parts(op, place, &spec.name, cols))?;
        for page in 0..narrow(spec.pages) {
            self.got.write(state, page, &self.want.read(spec, state, page)?)?;
        }
        Ok(agreement)
    }

    fn single(&self, program: &Program, op: &Op) -> Single {
        let mut single = Single::new(program);
        let mut op = op.clone();
        let mut inputs: Vec<(Act, Vec<f32>)> = Vec::new();
        if let Op::MoeFfn(moe) = &op {
            let (route, x, _) = &self.routed[&moe.experts];
            single.input(route.x, x);
            single.program.ops.push(Op::Route(route.clone()));
            if moe.x != route.x {
                inputs.push((moe.x, self.acts[&moe.x].narrow()));
            }
        } else {
            let mut reads = op.reads();
            reads.dedup();
            inputs.extend(reads.into_iter().map(|act| (act, self.acts[&act].narrow())));
        }
        for (act, values) in inputs {
            single.input(act, &values);
        }
        if let Op::PleInputs(ple) = &mut op {
            // Its table is read by token too: the rows of this step's tokens, in order.
            let table = &self.model.tensors[ple.table.index()];
            let bytes: Vec<u8> =
                self.rows.iter().flat_map(|row| table.row(0, row.token as usize).to_vec()).collect();
            let shape = [1, self.rows.len(), table.cols];
            let tensor = Tensor::new(&table.name, table.dtype, shape, Bytes::from_owner(bytes));
            ple.table = single.table(tensor.expect("whole rows of the table"));
        }
        single.program.outputs = op.writes();
        single.program.ops.push(op);
        single
    }
}

/// What an op works on: its first weight, or its pool.
fn subject(program: &Program, op: &Op) -> String {
    let weight = op.weights().first().map(|&weight| program.weight(weight).name.clone());
    let state = || op.states().first().map(|&state| program.state(state).name.clone());
    weight.or_else(state).unwrap_or_else(|| op.writes().first().map_or(String::new(), ToString::to_string))
}

fn parts<'a>(
    op: &Op,
    place: &'a str,
    output: &'a str,
    cols: usize,
) -> impl FnOnce(Mismatch) -> Failure + use<'a> {
    let op = op.name();
    move |source| Failure::Parts {
        op,
        place: place.to_owned(),
        output: output.to_owned(),
        row: source.index / cols.max(1),
        column: source.index % cols.max(1),
        source: Box::new(source),
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("texts are counted in thousands")
}
