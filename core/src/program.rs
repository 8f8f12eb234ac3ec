//! A step of the model as data: a list of ops over typed handles.
//!
//! The model records a [`Program`] once; a [backend](crate::backend::Backend) compiles it once and runs it
//! every step. Shapes are checked here, while recording, so backends receive ops whose shapes are right.
//!
//! Activations are `f32`, row-major, contiguous `[rows, cols]`. Rows come in two sets ([`Rows`]): those of the
//! step, and those that were picked for the head.

mod order;
mod slots;

use std::fmt;
use std::sync::Arc;

use crate::kv_type::KvType;
use crate::model::config::Span;
use crate::ops::Op;
use crate::tensor::{DType, Tensor};

pub use slots::Slots;

/// An activation: scratch that lives within one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Act(u16);

/// A weight: `Weight(3)` is `weights[3]` of the program and of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u16);

/// A tensor that outlives a step: `State(3)` is `states[3]` of the program and of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State(u16);

macro_rules! handle {
    ($($name:ident),*) => {$(
        impl $name {
            /// The handle of entry `index`.
            ///
            /// # Panics
            ///
            /// If a program had more than 65,536 entries of a kind; the largest model has under 1,000.
            #[must_use]
            pub fn new(index: usize) -> Self {
                Self(u16::try_from(index).expect("a program has fewer than 65,536 handles of a kind"))
            }

            /// Position in its table.
            #[must_use]
            pub fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )*};
}
handle!(Act, Weight, State);

/// Which rows an activation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One for each row of the step.
    Step,
    /// One for each row picked by `gather_rows`.
    Picked,
}

/// What the elements of an activation are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// 32-bit floats.
    F32,
    /// 32-bit indices.
    U32,
}

/// Shape of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActSpec {
    /// Its rows.
    pub rows: Rows,
    /// Elements of a row.
    pub cols: usize,
    /// Element type.
    pub elem: Elem,
}

/// Shape and type of a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightSpec {
    /// Name in the model file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Matrices; 1 unless it holds experts.
    pub experts: usize,
    /// Rows of a matrix.
    pub rows: usize,
    /// Values of a row.
    pub cols: usize,
}

impl WeightSpec {
    /// The shape of `tensor`.
    #[must_use]
    pub fn of(tensor: &Tensor) -> Self {
        let &Tensor { dtype, experts, rows, cols, .. } = tensor;
        Self { name: tensor.name.clone(), dtype, experts, rows, cols }
    }

    /// Bytes as stored in the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let row = self.dtype.row_bytes(self.cols).unwrap_or(0);
        row as u64 * self.rows as u64 * self.experts as u64
    }
}

/// One half of a layer's KV cache: a pool of pages of [`PAGE`](crate::cache::PAGE) tokens.
///
/// A page read or written through [`Backend::read_page`](crate::backend::Backend::read_page) is
/// `[kv_heads, PAGE, kv_type.row_bytes(head_dim)]` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSpec {
    /// `blk.N.k` or `blk.N.v`.
    pub name: String,
    /// Which page table its pages are found by.
    pub span: Span,
    /// Stored element type.
    pub kv_type: KvType,
    /// Heads of a token.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Pages of the pool.
    pub pages: usize,
}

impl StateSpec {
    /// Bytes of one stored head.
    ///
    /// # Panics
    ///
    /// Never for a spec that was recorded: `kv_type` was checked to fit `head_dim`.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.kv_type.row_bytes(self.head_dim).expect("checked when the cache was laid out")
    }

    /// Bytes of one page.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.kv_heads * crate::cache::PAGE * self.row_bytes()
    }

    /// Bytes of the pool.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.page_bytes() as u64 * self.pages as u64
    }
}

/// Rows that outlive a step, so many for each sequence slot, by position: see [`KeepRows`](crate::ops::keep_rows::KeepRows).
///
/// Its state is a pool of [`KvType::F32`] with one head, whose pages follow one another: row `slot · rows + position mod
/// rows` of all of them. No page table leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The pool; `head_dim` is the width of a row.
    pub state: State,
    /// Rows of a slot.
    pub rows: usize,
}

impl Ring {
    /// What holds `rows` rows of `cols` values for each of `slots` slots.
    #[must_use]
    pub fn spec(name: &str, cols: usize, rows: usize, slots: usize) -> StateSpec {
        StateSpec {
            name: name.to_owned(),
            span: Span::Global,
            kv_type: KvType::F32,
            kv_heads: 1,
            head_dim: cols,
            pages: (rows * slots).div_ceil(crate::cache::PAGE),
        }
    }

    /// Row of the pool that a position of a slot has.
    #[must_use]
    pub fn row(&self, slot: u32, position: u32) -> usize {
        slot as usize * self.rows + position as usize % self.rows
    }
}

/// The order of a row's sums, chosen by the row's role and never by how many rows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Rows of a prompt.
    Prefill,
    /// Generated and drafted rows.
    Decode,
}

/// What a step of the model is: ops in order, over handles.
#[derive(Clone, Debug)]
pub struct Program {
    /// Kernel class of its rows.
    pub class: Class,
    /// Most rows a step may have.
    pub rows: usize,
    /// Most rows that may be picked for the head.
    pub picked: usize,
    /// Shapes of the model's weights.
    pub weights: Arc<[WeightSpec]>,
    /// Shapes of the model's states.
    pub states: Arc<[StateSpec]>,
    /// Shapes of the activations.
    pub acts: Vec<ActSpec>,
    /// What is computed.
    pub ops: Vec<Op>,
    /// Activations that may be read after a step.
    pub outputs: Vec<Act>,
}

impl Program {
    /// A program without ops.
    #[must_use]
    pub fn new(
        class: Class,
        rows: usize,
        picked: usize,
        weights: Arc<[WeightSpec]>,
        states: Arc<[StateSpec]>,
    ) -> Self {
        Self { class, rows, picked, weights, states, acts: Vec::new(), ops: Vec::new(), outputs: Vec::new() }
    }

    /// A new activation.
    pub fn act(&mut self, rows: Rows, cols: usize, elem: Elem) -> Act {
        self.acts.push(ActSpec { rows, cols, elem });
        Act::new(self.acts.len() - 1)
    }

    /// A new `f32` activation with as many rows as `like`.
    pub(crate) fn act_like(&mut self, like: Act, cols: usize) -> Act {
        let rows = self.spec(like).rows;
        self.act(rows, cols, Elem::F32)
    }

    /// Keeps `act` until the end of the step, to be read by the host.
    pub fn output(&mut self, act: Act) {
        self.outputs.push(act);
    }

    /// Shape of `act`.
    #[must_use]
    pub fn spec(&self, act: Act) -> ActSpec {
        self.acts[act.index()]
    }

    /// Elements of a row of `act`.
    #[must_use]
    pub fn cols(&self, act: Act) -> usize {
        self.spec(act).cols
    }

    /// Shape of `weight`.
    #[must_use]
    pub fn weight(&self, weight: Weight) -> &WeightSpec {
        &self.weights[weight.index()]
    }

    /// Shape of `state`.
    #[must_use]
    pub fn state(&self, state: State) -> &StateSpec {
        &self.states[state.index()]
    }

    /// Most rows `act` can have.
    #[must_use]
    pub fn capacity(&self, act: Act) -> usize {
        match self.spec(act).rows {
            Rows::Step => self.rows,
            Rows::Picked => self.picked,
        }
    }

    /// Whether exactly one op reads `act` and the host does not: a lowering may keep it in registers.
    #[must_use]
    pub fn read_once(&self, act: Act) -> bool {
        let reads = self.ops.iter().flat_map(Op::reads).filter(|&read| read == act).count();
        reads == 1 && !self.outputs.contains(&act)
    }
}

/// A recording that makes no sense: a bug in the model, or a weight that the loader let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Two sizes differ.
    #[error("{op}: {what} is {got}, expected {want}")]
    Mismatch {
        /// Name of the op.
        op: &'static str,
        /// Operand and property.
        what: &'static str,
        /// Size that fits.
        want: usize,
        /// Size found.
        got: usize,
    },
    /// One activation is both read and written.
    #[error("{op}: {act} is read and written")]
    Aliased {
        /// Name of the op.
        op: &'static str,
        /// The activation.
        act: Act,
    },
}

/// Checks that two sizes of `op` agree.
pub(crate) fn expect(
    op: &'static str,
    what: &'static str,
    want: usize,
    got: usize,
) -> Result<(), ShapeError> {
    if want == got { Ok(()) } else { Err(ShapeError::Mismatch { op, what, want, got }) }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a{}", self.0)
    }
}
