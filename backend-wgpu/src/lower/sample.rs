//! `sample`: the best of each slice of the vocabulary, then a choice among them.

use gemma4_core::abi::{ROW_THREADS, SAMPLE_CANDIDATES, SAMPLE_CHUNK, SampleParams};
use gemma4_core::ops::sample::Sample;

use super::{Bind, Count, Lowering, ONE};
use crate::shaders::{self, Shader};

pub(super) fn sample(op: &Sample, cx: &mut Lowering<'_>) {
    let vocab = cx.cols(op.logits);
    let slice = slice(vocab);
    let slices = vocab.div_ceil(slice);
    let params = SampleParams { vocab, slice, slices, nothing: f32::NEG_INFINITY.to_bits() };
    let rows = cx.program.capacity(op.logits) as u64;
    let mut words = |words: u32| cx.scratch(rows * u64::from(words) * 4);
    let (edited, bests, candidates) = (words(vocab), words(2 * slices), words(SAMPLE_CANDIDATES));
    let binds = vec![
        Bind::Act(op.logits),
        Bind::Draws,
        Bind::ScratchMut(edited),
        Bind::ScratchMut(bests),
        Bind::ScratchMut(candidates),
        Bind::ActMut(op.out),
        Bind::SampledMut,
    ];
    let parts = [shaders::GUMBEL, shaders::SAMPLE, shaders::SAMPLE_CHOOSE];
    let slices = [Count::Fixed(slices), cx.each_row(op.logits), ONE];
    cx.launch("sample", Shader::new(&parts[..2], "sample__slices"), binds[..4].to_vec(), &params, slices);
    let rows = [cx.each_row(op.logits), ONE, ONE];
    cx.launch("sample", Shader::new(&parts, "sample__choose"), binds, &params, rows);
}

/// Tokens of a slice: one slice at most for each lane of the choice.
fn slice(vocab: u32) -> u32 {
    vocab.div_ceil(ROW_THREADS).next_multiple_of(SAMPLE_CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slices_of_any_vocabulary_fit_the_lanes_of_the_choice() {
        for vocab in [1, 1023, 1024, 1025, 262_143, 262_144, 262_145, u32::MAX >> 8] {
            assert!(vocab.div_ceil(slice(vocab)) <= ROW_THREADS);
        }
    }
}
