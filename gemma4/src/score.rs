//! What the model thinks of given tokens: logits of chosen positions.

use gemma4_core::backend::Backend;
use gemma4_core::engine::{Engine, EngineError, Part, Pick};
use gemma4_core::model::gemma4::Taps;
use gemma4_core::program::Class;
use gemma4_core::sample::{Draw, Sampling};

/// Bytes of logits that one step may return: an output matrix is up to a megabyte a row.
const LOGIT_BYTES: usize = 64 << 20;

/// Runs `windows`, which are all of one length, side by side from an empty cache, and hands the logits of every
/// position from `first` on to `on`, with the number of the window.
///
/// A row's logits depend on its own sequence alone, so they are the same for any number of windows.
pub(crate) fn run<B: Backend>(
    engine: &mut Engine<B>,
    windows: &[&[u32]],
    first: usize,
    on: &mut dyn FnMut(usize, usize, &[f32]),
) -> Result<(), EngineError> {
    let Some(len) = windows.first().map(|window| window.len()) else { return Ok(()) };
    let vocab = engine.model().config.vocab;
    let step = (engine.options().chunk / windows.len()).max(1);
    let picked = (LOGIT_BYTES / (4 * vocab * windows.len())).clamp(1, step);
    let sequences = windows.iter().map(|_| engine.open()).collect::<Result<Vec<_>, _>>()?;
    let greedy = Sampling::default();
    let draw = Draw { sampling: &greedy, position: 0, edits: &[], allowed: None };
    let mut at = 0;
    while at < len {
        let (end, pick) = if at < first {
            ((at + step).min(first).min(len), Pick::None)
        } else {
            ((at + picked).min(len), Pick::All)
        };
        let parts: Vec<Part<'_>> = windows
            .iter()
            .zip(&sequences)
            .map(|(window, &seq)| Part { seq, tokens: &window[at..end], pick })
            .collect();
        let rows = if pick == Pick::All { windows.len() * (end - at) } else { 0 };
        let done = engine.step(Class::Prefill, &parts, &vec![draw; rows], Taps::None)?;
        for &seq in &sequences {
            engine.commit(seq, end - at)?;
        }
        if rows > 0 {
            let logits = engine.logits(&done)?;
            for (row, logits) in logits.chunks_exact(vocab).enumerate() {
                on(row / (end - at), at + row % (end - at), logits);
            }
        }
        at = end;
    }
    sequences.into_iter().try_for_each(|seq| engine.close(seq))
}

/// `ln Σ exp(logit)`: what a logit is reduced by to become the logarithm of a probability.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let top = f64::from(top);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - top).exp()).sum();
    top + sum.ln()
}
