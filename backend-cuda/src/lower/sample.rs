//! `sample`, and the `softcap` in front of it: a block for each slice of the vocabulary; the last of a row chooses.

use gemma4_core::abi::{CudaSampleParams, SAMPLE_SEGMENT, SAMPLE_SLICE, SAMPLE_THREADS};
use gemma4_core::ops::sample::Sample;
use gemma4_core::ops::softcap::Softcap;

use super::rows::whole;
use super::{Arg, Count, Launch, Lowering, ONE};
use crate::error::CudaError;
use crate::kernels::Unit;

/// Most tokens: probabilities of more do not add up in 64 bits.
const VOCABULARY: u32 = 1 << 19;

fn unit() -> Unit {
    Unit::new("sample")
}

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    vec![unit()]
}

/// Whether logits are capped where they are sampled.
pub(super) fn caps(softcap: &Softcap, sample: &Sample) -> bool {
    softcap.x == sample.logits && softcap.cap > 0.0
}

/// The op, and the cap of its logits if that is part of it.
pub(super) fn sample(op: &Sample, softcap: Option<&Softcap>, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    whole("sample", &[op.logits], cx)?;
    let vocab = cx.cols(op.logits);
    if vocab > VOCABULARY {
        return Err(cx.unsupported("sample", format!("{vocab} tokens, expected at most {VOCABULARY}")));
    }
    let (slices, segments) = (vocab.div_ceil(SAMPLE_SLICE), vocab.div_ceil(SAMPLE_SEGMENT));
    let params = CudaSampleParams { vocab, segments, cap: softcap.map_or(0.0, |softcap| softcap.cap) };
    let rows = cx.program.capacity(op.logits) as u64;
    let mut words = |words: u32| cx.scratch(rows * u64::from(words) * 4);
    let (edited, tops, bests) = (words(vocab), words(2 * segments), words(2 * slices));
    let arrived = cx.kept(rows * 4, true);
    let args = vec![
        Arg::Act(op.logits),
        Arg::Draws,
        Arg::Scratch(edited),
        Arg::Scratch(tops),
        Arg::Scratch(bests),
        Arg::Scratch(arrived),
        Arg::Act(op.out),
        Arg::Sampled,
        Arg::params(&params),
        Arg::Step,
    ];
    let grid = [Count::Fixed(slices), cx.each_row(op.logits), ONE];
    let block = [SAMPLE_THREADS, 1, 1];
    cx.launch(Launch { op: "sample", unit: unit(), entry: "sample", args, grid, block, shared: 0 });
    Ok(())
}
