//! One of the two backends: the model's weights and pools on it.

use std::sync::Arc;

use gemma4_core::backend::{Backend, Row, Step};
use gemma4_core::cache::PAGE;
use gemma4_core::model::gemma4::Gemma4;
use gemma4_core::program::{Act, Elem, Program, Rows, State, StateSpec};
use gemma4_core::tensor::Tensor;

use super::narrow;
use crate::Failure;

/// Contents of an activation.
#[derive(Clone, Debug)]
pub(super) enum Values {
    F32(Vec<f32>),
    U32(Vec<u32>),
}

impl Values {
    pub(super) fn narrow(&self) -> Vec<f32> {
        match self {
            Self::F32(values) => values.clone(),
            #[expect(clippy::cast_precision_loss, reason = "tokens and experts are below 2^24")]
            Self::U32(values) => values.iter().map(|&value| value as f32).collect(),
        }
    }

    pub(super) fn wide(&self) -> Vec<f64> {
        self.narrow().into_iter().map(f64::from).collect()
    }
}

pub(super) struct Side<'a, B: Backend> {
    backend: &'a B,
    weights: Vec<B::Weight>,
    states: Vec<B::State>,
}

impl<'a, B: Backend> Side<'a, B> {
    pub(super) fn new(backend: &'a B, model: &Gemma4, states: &Arc<[StateSpec]>) -> Result<Self, Failure> {
        let fail = Failure::device::<B>;
        let weights = model.tensors.iter().map(|tensor| backend.upload(tensor)).collect::<Result<_, _>>();
        let states = states.iter().map(|spec| backend.state(spec)).collect::<Result<_, _>>();
        Ok(Self { backend, weights: weights.map_err(fail)?, states: states.map_err(fail)? })
    }

    /// Runs a program that has `tables` after the model's weights, and reads `outputs`.
    pub(super) fn run(
        &self,
        program: &Program,
        tables: &[Tensor],
        outputs: &[Act],
        step: &Step<'_>,
    ) -> Result<Vec<Values>, Failure> {
        let fail = Failure::device::<B>;
        let mut weights = self.weights.clone();
        for table in tables {
            weights.push(self.backend.upload(table).map_err(fail)?);
        }
        let mut plan = self.backend.compile(program, &weights, &self.states).map_err(fail)?;
        let ticket = self.backend.run(&mut plan, step).map_err(fail)?;
        let read = |&act: &Act| {
            let spec = program.spec(act);
            let rows = if spec.rows == Rows::Step { step.rows.len() } else { step.picked.len() };
            let len = rows * spec.cols;
            let values = match spec.elem {
                Elem::F32 => {
                    let mut values = vec![0.0f32; len];
                    self.backend.read(&plan, ticket, act, &mut values).map_err(fail)?;
                    Values::F32(values)
                }
                Elem::U32 => {
                    let mut values = vec![0u32; len];
                    self.backend.read(&plan, ticket, act, &mut values).map_err(fail)?;
                    Values::U32(values)
                }
            };
            Ok(values)
        };
        outputs.iter().map(read).collect()
    }

    pub(super) fn read(&self, spec: &StateSpec, state: State, page: u32) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; spec.page_bytes()];
        let state = &self.states[state.index()];
        self.backend.read_page(state, page, &mut bytes).map_err(Failure::device::<B>)?;
        Ok(bytes)
    }

    pub(super) fn write(&self, state: State, page: u32, bytes: &[u8]) -> Result<(), Failure> {
        let state = &self.states[state.index()];
        self.backend.write_page(state, page, bytes).map_err(Failure::device::<B>)
    }

    /// Entries of a pool from position 0 to that of the last row, `[positions, kv_heads, head_dim]`, decoded, in the
    /// domain they are stored in.
    pub(super) fn entries(
        &self,
        spec: &StateSpec,
        state: State,
        table: &[u32],
        rows: &[Row],
    ) -> Result<Vec<f32>, Failure> {
        let len = rows.iter().map(|row| row.position as usize + 1).max().unwrap_or(0);
        let mut out = vec![0.0; len * spec.kv_heads * spec.head_dim];
        let pages = (0..narrow(spec.pages)).map(|page| self.read(spec, state, page));
        let pages = pages.collect::<Result<Vec<_>, _>>()?;
        for (i, out) in out.chunks_exact_mut(spec.head_dim).enumerate() {
            let (position, head) = (i / spec.kv_heads, i % spec.kv_heads);
            let page = &pages[table[position / PAGE] as usize];
            let at = (head * PAGE + position % PAGE) * spec.row_bytes();
            spec.kv_type.decode(&page[at..at + spec.row_bytes()], out);
        }
        Ok(out)
    }
}
