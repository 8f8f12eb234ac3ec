//! Which ops are one launch: rows pass through norms, sums and copies in registers, and from a gate to a product in shared
//! memory.

use gemma4_core::ops::Op;
use gemma4_core::ops::attention::Attention;
use gemma4_core::ops::attn_prepare::AttnPrepare;
use gemma4_core::ops::embed::Embed;
use gemma4_core::ops::gather_rows::GatherRows;
use gemma4_core::ops::glu::Glu;
use gemma4_core::ops::linear::Linear;
use gemma4_core::ops::norm_add::NormAdd;
use gemma4_core::ops::rms_norm::RmsNorm;
use gemma4_core::ops::sample::Sample;
use gemma4_core::ops::softcap::Softcap;

use super::norm_add::Branches;
use super::{Lowering, attention, embed, linear, norm_add, rms_norm, sample, single};
use crate::error::CudaError;

/// Neighbours that are lowered together.
#[derive(Debug)]
pub(super) enum Group<'a> {
    /// Two norms, their sum, its `norm_add`, and perhaps a norm.
    Branches(Branches<'a>),
    /// A `norm_add` and norms of its sum.
    NormAdd(&'a NormAdd, Vec<&'a RmsNorm>),
    /// Picked rows and their norm.
    Gather(&'a GatherRows, &'a RmsNorm),
    /// Embeddings and their norm.
    Embed(&'a Embed, &'a RmsNorm),
    /// Heads of a single row, and what they attend to.
    Attention(&'a AttnPrepare, &'a Attention),
    /// A gated unit of a few columns, and the product of it.
    GluLinear(&'a Glu, &'a Linear),
    /// Logits that are capped and sampled.
    Capped(&'a Softcap, &'a Sample),
    /// Any op.
    One(&'a Op),
}

impl<'a> Group<'a> {
    /// The longest group that `ops` begin with, and what comes behind it. `cx` goes on to there.
    ///
    /// # Panics
    ///
    /// If there are no ops.
    pub(super) fn first(ops: &'a [Op], cx: &mut Lowering<'_>) -> (Self, &'a [Op]) {
        for (group, after) in candidates(ops) {
            cx.next = cx.program.ops.len() - after.len();
            if group.fuses(cx) {
                return (group, after);
            }
        }
        let (one, after) = ops.split_first().expect("somebody saw an op");
        cx.next = cx.program.ops.len() - after.len();
        (Self::One(one), after)
    }

    /// Whether it is one launch. What is wanted of its results is already known.
    fn fuses(&self, cx: &Lowering<'_>) -> bool {
        match self {
            Self::Branches(branches) => branches.fuse(cx),
            Self::NormAdd(add, norms) => norm_add::fuses(add, norms, cx),
            Self::Gather(gather, norm) => rms_norm::gathers(gather, norm, cx),
            Self::Embed(op, norm) => embed::fuses(op, norm, cx),
            Self::Attention(prepare, op) => attention::prepares(prepare, op, cx),
            Self::GluLinear(glu, op) => linear::gates(glu, op, cx),
            Self::Capped(softcap, op) => sample::caps(softcap, op),
            Self::One(_) => true,
        }
    }

    /// Its launches.
    pub(super) fn lower(&self, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
        match self {
            Self::Branches(branches) => {
                branches.lower(cx);
                Ok(())
            }
            Self::NormAdd(add, norms) => norm_add::norm_add(add, norms, cx),
            Self::Gather(gather, norm) => rms_norm::gather_rows_rms_norm(gather, norm, cx),
            Self::Embed(op, norm) => embed::embed_rms_norm(op, norm, cx),
            Self::Attention(prepare, op) => attention::attn_prepare_attention(prepare, op, cx),
            Self::GluLinear(glu, op) => {
                linear::glu_linear(glu, op, cx);
                Ok(())
            }
            Self::Capped(softcap, op) => sample::sample(op, Some(softcap), cx),
            Self::One(op) => single(op, cx),
        }
    }
}

/// What `ops` could begin with, longest first, and what comes behind each.
fn candidates(ops: &[Op]) -> Vec<(Group<'_>, &[Op])> {
    let mut all: Vec<_> = [true, false]
        .into_iter()
        .filter_map(|with_next| Branches::of(ops, with_next))
        .map(|(branches, after)| (Group::Branches(branches), after))
        .collect();
    if let [Op::NormAdd(add), Op::RmsNorm(one), Op::RmsNorm(two), after @ ..] = ops {
        all.push((Group::NormAdd(add, vec![one, two]), after));
    }
    match ops {
        [Op::NormAdd(add), Op::RmsNorm(norm), after @ ..] => {
            all.push((Group::NormAdd(add, vec![norm]), after));
        }
        [Op::GatherRows(gather), Op::RmsNorm(norm), after @ ..] => {
            all.push((Group::Gather(gather, norm), after));
        }
        [Op::Embed(embed), Op::RmsNorm(norm), after @ ..] => all.push((Group::Embed(embed, norm), after)),
        [Op::AttnPrepare(prepare), Op::Attention(op), after @ ..] => {
            all.push((Group::Attention(prepare, op), after));
        }
        [Op::Glu(glu), Op::Linear(op), after @ ..] => all.push((Group::GluLinear(glu, op), after)),
        [Op::Softcap(softcap), Op::Sample(sample), after @ ..] => {
            all.push((Group::Capped(softcap, sample), after));
        }
        _ => {}
    }
    all
}
