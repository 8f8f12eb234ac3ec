//! Greedy answers of the model, with those of the reference.

use gemma4_core::backend::Backend;
use gemma4_core::chat::{Dialogue, Message, Role};
use gemma4_core::checkpoint::Checkpoint;
use gemma4_core::dialogue::Speaker;
use gemma4_core::engine::{CHUNK, Engine, EngineError, Options, Part, Pick};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::{KvTypes, Taps};
use gemma4_core::program::Class;
use gemma4_core::reference::Reference;
use gemma4_core::sample::{Draw, Sampling};

use super::Progress;
use super::report::{Answer, Parted, Report};
use crate::cli::Global;
use crate::device::Device;
use crate::failure::Failure;
use crate::load;

/// Questions that the built-in model answers with a wide margin.
const QUESTIONS: [&str; 3] =
    ["What does numpy.linspace do?", "What is the signature of numpy.linspace?", "What is 17 plus 15?"];

/// Most tokens of an answer.
const TOKENS: usize = 32;
const TOKENS_QUICK: usize = 12;

/// Models above this size take the reference minutes: they get one question and few tokens.
const LARGE: u64 = 1 << 30;

/// Two logits this close may change places: caches of 16 bits round keys that differ in the last bit of 32 apart,
/// which moves logits by thousandths.
const TIE: f32 = 1e-2;

/// Prompts for a model; arbitrary tokens for one that has no tokenizer.
pub(super) fn prompts(
    speaker: Option<&Speaker>,
    checkpoint: &Checkpoint,
    quick: bool,
) -> Result<Vec<Vec<u32>>, Failure> {
    let count = if quick || bytes(checkpoint)? > LARGE { 1 } else { QUESTIONS.len() };
    let Some(speaker) = speaker else {
        let vocab = u32::try_from(checkpoint.config()?.vocab).unwrap_or(u32::MAX);
        let prompt =
            |seed: u32| (1..=20).map(move |i: u32| i.wrapping_mul(2_654_435_761).wrapping_add(seed) % vocab);
        return Ok((0u32..).take(count).map(|seed| prompt(seed).collect()).collect());
    };
    let prompt = |question: &&str| {
        let dialogue = Dialogue::new(vec![Message::new(Role::User, *question)]);
        Ok(speaker.prompt(&dialogue)?.tokens)
    };
    QUESTIONS.iter().take(count).map(prompt).collect()
}

fn bytes(checkpoint: &Checkpoint) -> Result<u64, Failure> {
    Ok(checkpoint.model()?.tensors.iter().map(|tensor| tensor.data.len() as u64).sum())
}

pub(super) fn check<D: Device>(
    report: &mut Report,
    progress: &Progress,
    global: &Global,
    checkpoint: &Checkpoint,
    device: &D,
    speaker: Option<&Speaker>,
    prompts: &[Vec<u32>],
) -> Result<(), Failure> {
    progress.begin("greedy answers");
    let few = report.quick || bytes(checkpoint)? > LARGE;
    let most = if few { TOKENS_QUICK } else { TOKENS };
    let kv = KvTypes { k: KvType::F16, v: KvType::F16 };
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let options = Options {
        context: longest + most,
        sequences: 1,
        kv_local: kv,
        kv_global: kv,
        chunk: CHUNK,
        snapshots: 0,
        pool: None,
    };
    let reference = Reference::new(global.threads.map(usize::from))?;
    let mut want = load::engine(reference, checkpoint.model()?, options)?;
    let mut got = match load::engine(device.another()?, checkpoint.model()?, options) {
        Ok(engine) => engine,
        Err(error) => {
            report.failures.push(format!("greedy answers: {error}"));
            return Ok(());
        }
    };
    let end: &[u32] = speaker.map_or(&[], |speaker| &speaker.end);
    for prompt in prompts {
        let both = answer(&mut want, prompt, most, end)
            .and_then(|want| Ok((want, answer(&mut got, prompt, most, end)?)));
        match both {
            Ok((want, got)) => {
                let answer = compare(&want, &got);
                let number = report.greedy.len() + 1;
                report.failures.extend(answer.parted.as_ref().filter(|parted| !parted.tie).map(|parted| {
                    let Parted { at, want, got, margin, .. } = parted;
                    format!(
                        "greedy answer {number}: token {at} is {got}, expected {want}, whose logit is {margin:.4} larger"
                    )
                }));
                let values = answer.logits > 0 && answer.logit_difference.is_finite();
                if !values {
                    report.failures.push(format!("greedy answer {number}: logits are not finite"));
                }
                report.greedy.push(answer);
            }
            Err(error) => report.failures.push(format!("greedy answers: {}", super::explain(&error))),
        }
        progress.end();
    }
    Ok(())
}

/// Tokens, and the logits that each was chosen from.
struct Said {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn answer<B: Backend>(
    engine: &mut Engine<B>,
    prompt: &[u32],
    most: usize,
    end: &[u32],
) -> Result<Said, EngineError> {
    let sampling = Sampling::default();
    let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
    let seq = engine.open()?;
    let mut said = Said { tokens: Vec::new(), logits: Vec::new() };
    let mut step = engine
        .prefill(seq, prompt, &draw, &mut |_, _| true)?
        .expect("a prefill that nobody stops comes to its end");
    loop {
        let token = engine.tokens(&step)?[0];
        said.tokens.push(token);
        said.logits.push(engine.logits(&step)?);
        if said.tokens.len() == most || end.contains(&token) {
            break;
        }
        let part = Part { seq, tokens: &[token], pick: Pick::Last };
        step = engine.step(Class::Decode, &[part], &[draw], Taps::None)?;
        engine.commit(seq, 1)?;
    }
    engine.close(seq)?;
    Ok(said)
}

/// Compares tokens up to the first that differs, and the logits of everything before and there: the same came before.
fn compare(want: &Said, got: &Said) -> Answer {
    let equal = want.tokens.iter().zip(&got.tokens).take_while(|(want, got)| want == got).count();
    let parted = (equal < want.tokens.len().max(got.tokens.len())).then(|| {
        let (w, g) = (want.tokens[equal], got.tokens[equal]);
        let margin = want.logits[equal][w as usize] - want.logits[equal][g as usize];
        Parted { at: equal, want: w, got: g, margin, tie: margin.abs() < TIE }
    });
    let (mut logits, mut difference) = (0, 0.0f32);
    for (want, got) in want.logits.iter().zip(&got.logits).take(equal + 1) {
        logits += want.len();
        for (want, got) in want.iter().zip(got) {
            let apart = (want - got).abs();
            // A NaN stays one.
            difference = if apart.is_nan() || difference.is_nan() { f32::NAN } else { difference.max(apart) };
        }
    }
    Answer { tokens: want.tokens.len(), equal, logits, logit_difference: difference, parted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(tokens: &[u32], logits: &[[f32; 3]]) -> Said {
        Said { tokens: tokens.to_vec(), logits: logits.iter().map(|row| row.to_vec()).collect() }
    }

    #[test]
    fn the_first_difference_shows_both_tokens_and_how_close_they_were() {
        let want = said(&[0, 1, 2], &[[3.0, 1.0, 0.0], [0.0, 2.0, 1.5], [0.0, 0.0, 1.0]]);
        let same = compare(&want, &said(&[0, 1, 2], &[[3.0, 1.25, 0.0], [0.0, 2.0, 1.5], [0.0, 0.0, 1.0]]));
        assert_eq!((same.equal, same.tokens, same.logits, same.logit_difference), (3, 3, 9, 0.25));
        assert!(same.parted.is_none());

        let other = compare(&want, &said(&[0, 2, 0], &[[3.0, 1.0, 0.0], [0.0, 1.0, 1.5], [9.0, 0.0, 0.0]]));
        assert_eq!(
            (other.equal, other.logits, other.logit_difference),
            (1, 6, 1.0),
            "the third row has other company"
        );
        let parted = other.parted.unwrap();
        assert_eq!((parted.at, parted.want, parted.got, parted.margin, parted.tie), (1, 1, 2, 0.5, false));
    }

    #[test]
    fn a_tie_is_told_from_a_mistake_and_nan_from_agreement() {
        let want = said(&[0], &[[1.0, 0.995, 0.0]]);
        assert!(compare(&want, &said(&[1], &[[0.99, 1.0, 0.0]])).parted.unwrap().tie);
        assert!(!compare(&want, &said(&[2], &[[0.0, 0.0, 1.0]])).parted.unwrap().tie);
        assert!(compare(&want, &said(&[0], &[[1.0, f32::NAN, 0.0]])).logit_difference.is_nan());
        assert!(!compare(&said(&[0], &[[f32::NAN; 3]]), &said(&[1], &[[1.0; 3]])).parted.unwrap().tie);
    }
}
