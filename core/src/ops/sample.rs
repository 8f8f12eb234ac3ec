//! Op `sample`.

use super::{Cost, Describe, Load, Op, rows};
use crate::program::{Act, Elem, Program, Rows};

/// The next token of each picked row.
///
/// - `logits`: `[picked, vocab]`; `out`: `[picked, 1]` token ids.
///
/// [`crate::sample`] is the specification. Settings, edits and masks come with the step; the token is also
/// kept as the last one of the row's sequence slot, or as a draft of it, so that the next step can be enqueued before it
/// is read ([`Row::SAMPLED`](crate::backend::Row::SAMPLED), [`Row::drafted`](crate::backend::Row::drafted)).
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Capped logits.
    pub logits: Act,
    /// Chosen tokens.
    pub out: Act,
    /// Whether they are drafts.
    pub drafts: bool,
}

impl Program {
    /// Records [`Sample`] and returns its output.
    pub fn sample(&mut self, logits: Act) -> Act {
        self.choose(logits, false)
    }

    /// Records [`Sample`] of drafts and returns its output.
    pub fn draft(&mut self, logits: Act) -> Act {
        self.choose(logits, true)
    }

    fn choose(&mut self, logits: Act, drafts: bool) -> Act {
        let out = self.act(Rows::Picked, 1, Elem::U32);
        self.ops.push(Op::Sample(Sample { logits, out, drafts }));
        out
    }
}

impl Describe for Sample {
    fn reads(&self) -> Vec<Act> {
        vec![self.logits]
    }

    fn writes(&self) -> Vec<Act> {
        vec![self.out]
    }

    fn cost(&self, program: &Program, load: Load) -> Cost {
        Cost { flops: 2 * (rows(program, self.logits, load) * program.cols(self.logits)) as u64, ..Cost::default() }
    }
}
