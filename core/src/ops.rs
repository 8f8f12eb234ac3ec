//! The vocabulary of a step: what is computed, never how.
//!
//! Each op is one file: its meaning, its recording method on [`Program`] with the shape checks, what it costs,
//! and a reference function that executes the meaning. A backend may fuse, split or overlap ops; it may not
//! add one.

use crate::program::{Act, Program, Ring, Rows, State, Weight};

/// How much one step asks of an op.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Rows of the step.
    pub rows: usize,
    /// Rows picked for the head.
    pub picked: usize,
    /// Tokens already in the cache.
    pub context: usize,
}

/// What an op moves and computes in one step, at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Weight bytes read, each once.
    pub weight_bytes: u64,
    /// Cache bytes read and written.
    pub kv_bytes: u64,
    /// Activation bytes read and written.
    pub act_bytes: u64,
    /// Floating-point operations; a multiply-add is two.
    pub flops: u64,
}

impl Cost {
    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.act_bytes
    }
}

/// What every op can say of itself.
pub(crate) trait Describe {
    /// Activations it reads; an in-place operand is among them.
    fn reads(&self) -> Vec<Act>;
    /// Activations it writes; an in-place operand is among them.
    fn writes(&self) -> Vec<Act>;
    /// Weights it reads.
    fn weights(&self) -> Vec<Weight> {
        Vec::new()
    }
    /// States it reads or writes.
    fn states(&self) -> Vec<State> {
        Vec::new()
    }
    /// Bytes of weights and cache, and operations; activations are added by [`Op::cost`].
    fn cost(&self, program: &Program, load: Load) -> Cost;
}

/// Declares the ops: one line each gives the variant, the module and the name.
macro_rules! ops {
    ($($(#[$doc:meta])* $variant:ident = $module:ident,)*) => {
        $(pub mod $module;)*

        /// One op of a [`Program`].
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $variant($module::$variant),)*
        }

        impl Op {
            /// Names of all ops, which are also the names of their files in every backend.
            pub const ALL: &'static [&'static str] = &[$(stringify!($module),)*];

            /// Name of this op.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Op::$variant(_) => stringify!($module),)* }
            }

            fn describe(&self) -> &dyn Describe {
                match self { $(Op::$variant(op) => op,)* }
            }
        }
    };
}

ops! {
    /// Rows of the embedding table.
    Embed = embed,
    /// Per-layer inputs of the E models.
    PleInputs = ple_inputs,
    /// Root-mean-square normalisation.
    RmsNorm = rms_norm,
    /// Norm of a branch, added to the residual.
    NormAdd = norm_add,
    /// Sum of two activations.
    Add = add,
    /// Matrix product with one or several stacked weights.
    Linear = linear,
    /// Head norms, RoPE, and the append to the cache.
    AttnPrepare = attn_prepare,
    /// The append to the cache without queries.
    KvAppend = kv_append,
    /// Attention over the cache.
    Attention = attention,
    /// Gated activation.
    Glu = glu,
    /// Choice of experts.
    Route = route,
    /// The chosen experts.
    MoeFfn = moe_ffn,
    /// Rows for the head.
    GatherRows = gather_rows,
    /// Rows kept for a later program.
    KeepRows = keep_rows,
    /// Rows that an earlier program kept.
    RecallRows = recall_rows,
    /// Logits of the best clusters of tokens.
    CentroidHead = centroid_head,
    /// Soft cap of logits.
    Softcap = softcap,
    /// Next tokens.
    Sample = sample,
}

impl Op {
    /// Activations it reads; an in-place operand is among them.
    #[must_use]
    pub fn reads(&self) -> Vec<Act> {
        self.describe().reads()
    }

    /// Activations it writes; an in-place operand is among them.
    #[must_use]
    pub fn writes(&self) -> Vec<Act> {
        self.describe().writes()
    }

    /// Weights it reads.
    #[must_use]
    pub fn weights(&self) -> Vec<Weight> {
        self.describe().weights()
    }

    /// States it reads or writes.
    #[must_use]
    pub fn states(&self) -> Vec<State> {
        self.describe().states()
    }

    /// The rows it keeps or recalls, if it is an op that does.
    #[must_use]
    pub fn ring(&self) -> Option<Ring> {
        match self {
            Op::KeepRows(op) => Some(op.ring),
            Op::RecallRows(op) => Some(op.ring),
            _ => None,
        }
    }

    /// What one step asks of this op, at least.
    #[must_use]
    pub fn cost(&self, program: &Program, load: Load) -> Cost {
        let mut cost = self.describe().cost(program, load);
        for act in self.reads().into_iter().chain(self.writes()) {
            cost.act_bytes += (rows(program, act, load) * program.cols(act)) as u64 * 4;
        }
        cost
    }
}

/// Rows of `act` in a step of this size.
pub(crate) fn rows(program: &Program, act: Act, load: Load) -> usize {
    match program.spec(act).rows {
        Rows::Step => load.rows,
        Rows::Picked => load.picked,
    }
}

/// Bytes of a vector-like weight that every step reads whole.
pub(crate) fn weight_bytes(program: &Program, weights: &[Weight]) -> u64 {
    weights.iter().map(|&w| program.weight(w).bytes()).sum()
}
