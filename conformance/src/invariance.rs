//! A row's result depends on nothing but the row: properties of the engine that hold bit for bit on every backend.
//!
//! Each returns how many values were compared, or the first that differs.

use gemma4_core::backend::{Backend, Row};
use gemma4_core::cache::SeqId;
use gemma4_core::engine::{Engine, Options, Part, Pick};
use gemma4_core::model::gemma4::Taps;
use gemma4_core::program::Class;
use gemma4_core::sample::{Draw, Sampling};

use crate::Failure;
use crate::compare::same_bits;
use crate::device::{Stream, unchanged};
use crate::tiny::{Kv, Tiny, tokens};

/// What the properties are about: a model with a cache on a backend.
#[derive(Debug)]
pub struct Subject<F> {
    /// Makes the backend anew.
    pub new: F,
    /// The model.
    pub tiny: Tiny,
    /// Its cache.
    pub kv: Kv,
}

/// One step's share of a sequence: what is in the cache before, and the tokens of the step.
struct Share {
    before: Vec<u32>,
    now: Vec<u32>,
}

impl<B: Backend, F: Fn() -> B> Subject<F> {
    /// An engine for sequences of up to `context` tokens, fed at most `chunk` at a time.
    ///
    /// # Errors
    ///
    /// If the device cannot hold it.
    pub fn engine(&self, context: usize, chunk: usize, sequences: usize) -> Result<Engine<B>, Failure> {
        let (kv_local, kv_global) = (self.kv.local, self.kv.global);
        let options = Options { context, sequences, kv_local, kv_global, chunk, snapshots: 2, pool: None };
        Ok(Engine::new((self.new)(), self.tiny.model(), options, &mut |_, _| ())?)
    }

    fn compare(&self, what: impl FnOnce() -> String, want: &[f32], got: &[f32]) -> Result<usize, Failure> {
        let subject = || format!("{}, {:?}: {}", self.tiny.name, self.kv, what());
        same_bits(want, got).map_err(|source| Failure::Differs { what: subject(), source })
    }

    /// A prompt of `len` tokens has the same logits, all of them, in chunks of each of `sizes` as in one step.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn chunks_change_nothing(&self, len: usize, sizes: &[usize]) -> Result<usize, Failure> {
        let text = tokens(len, 1);
        let mut engine = self.engine(len, len, 1)?;
        let seq = engine.open()?;
        let whole = feed(&mut engine, seq, Class::Prefill, &text, len)?;
        let mut compared = 0;
        for &size in sizes {
            let mut engine = self.engine(len, size, 1)?;
            let seq = engine.open()?;
            let got = feed(&mut engine, seq, Class::Prefill, &text, size)?;
            compared += self.compare(|| format!("chunks of {size}"), &whole, &got)?;
        }
        Ok(compared)
    }

    /// A token has the same logits in the decode class, in steps of each of `sizes`, as one by one.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn verifying_equals_decoding(&self, len: usize, sizes: &[usize]) -> Result<usize, Failure> {
        let text = tokens(len, 2);
        let mut engine = self.engine(len, 1, 1)?;
        let seq = engine.open()?;
        let one_by_one = feed(&mut engine, seq, Class::Decode, &text, 1)?;
        let mut compared = 0;
        for &size in sizes {
            let mut engine = self.engine(len, size, 1)?;
            let seq = engine.open()?;
            let got = feed(&mut engine, seq, Class::Decode, &text, size)?;
            compared += self.compare(|| format!("steps of {size} rows"), &one_by_one, &got)?;
        }
        Ok(compared)
    }

    /// The prefill class has the bits of the decode class. Only where both take their sums in one order, as the
    /// reference does.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn prefill_equals_decoding(&self, len: usize) -> Result<usize, Failure> {
        let text = tokens(len, 3);
        let mut both = Vec::new();
        for (class, size) in [(Class::Prefill, len), (Class::Decode, 1)] {
            let mut engine = self.engine(len, size, 1)?;
            let seq = engine.open()?;
            both.push(feed(&mut engine, seq, class, &text, size)?);
        }
        self.compare(|| "token by token".to_owned(), &both[0], &both[1])
    }

    /// Rows of a step are the same in every order.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn the_order_of_rows_changes_nothing(&self, class: Class) -> Result<usize, Failure> {
        let (before, now) = (tokens(59, 4), tokens(13, 5));
        let mut results = Vec::new();
        let straight: Vec<usize> = (0..now.len()).collect();
        let backwards: Vec<usize> = straight.iter().rev().copied().collect();
        let mixed: Vec<usize> = straight.iter().map(|i| i * 5 % now.len()).collect();
        for order in [straight, backwards, mixed] {
            let mut stream = Stream::new((self.new)(), &self.tiny, self.kv, 3, 512, &unchanged)?;
            stream.feed(Class::Prefill, &before, 256)?;
            results.push(stream.step_in_order(class, &now, &order)?);
        }
        let mut compared = 0;
        for got in &results[1..] {
            compared += self.compare(|| "rows in another order".to_owned(), &results[0], got)?;
        }
        Ok(compared)
    }

    /// Sequences of different lengths have the same logits in one step, in any order, as each alone: those of the
    /// step, and those of later steps.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn company_changes_nothing(&self, class: Class) -> Result<usize, Failure> {
        let shares: Vec<Share> = [(3, 1), (130, 4), (290, 2), (0, 5)]
            .into_iter()
            .zip(10..)
            .map(|((before, now), text)| {
                let mut all = tokens(before + now, text);
                Share { now: all.split_off(before), before: all }
            })
            .collect();
        let context = 320;
        let mut alone = Vec::new();
        for share in &shares {
            let mut engine = self.engine(context, 256, 1)?;
            let seq = engine.open()?;
            feed(&mut engine, seq, Class::Prefill, &share.before, 256)?;
            let mut logits = feed(&mut engine, seq, class, &share.now, share.now.len())?;
            logits.extend(feed(&mut engine, seq, Class::Decode, &[7], 1)?);
            alone.push(logits);
        }
        let mut compared = 0;
        for order in [[3, 1, 0, 2], [2, 3, 1, 0]] {
            let mut engine = self.engine(context, 256, shares.len())?;
            let mut seqs = Vec::new();
            for &at in &order {
                let seq = engine.open()?;
                // In pieces that take turns with the other sequences' pages.
                feed(&mut engine, seq, Class::Prefill, &shares[at].before, 100)?;
                seqs.push(seq);
            }
            let all: Vec<&[u32]> = order.iter().map(|&at| &*shares[at].now).collect();
            let mut logits = together(&mut engine, class, &seqs, &all)?;
            let last = together(&mut engine, Class::Decode, &seqs, &[&[7][..]; 4])?;
            for ((logits, last), &at) in logits.iter_mut().zip(last).zip(&order) {
                logits.extend(last);
                let what = || format!("sequence {at} among {order:?}, {class:?}");
                compared += self.compare(what, &alone[at], logits)?;
            }
        }
        Ok(compared)
    }

    /// A sequence that starts from a shared prefix of each of `lengths` has the logits of one that computed the
    /// prefix itself, and so has the sequence that the prefix was taken from.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn a_shared_prefix_changes_nothing(&self, lengths: &[usize]) -> Result<usize, Failure> {
        let mut compared = 0;
        for &len in lengths {
            let prefix = tokens(len, 20);
            let tails = [tokens(70, 21), tokens(50, 22)];
            let context = len + 70;
            let mut fresh = Vec::new();
            for tail in &tails {
                let mut engine = self.engine(context, 256, 1)?;
                let seq = engine.open()?;
                let all = [&prefix[..], tail].concat();
                let logits = feed(&mut engine, seq, Class::Prefill, &all, 256)?;
                fresh.push(logits[logits.len() / all.len() * len..].to_vec());
            }
            let mut engine = self.engine(context, 256, 2)?;
            let first = engine.open()?;
            feed(&mut engine, first, Class::Prefill, &prefix, 256)?;
            let snapshot = engine.snapshot_at(first, len)?;
            // One that appends to the same page, and one that starts at the border below while the first goes on.
            let mut seqs = vec![first];
            let mut logits = Vec::new();
            for (at, tail) in tails.iter().enumerate() {
                if at > 0 {
                    let (seq, usable) = engine.open_from(&snapshot)?;
                    feed(&mut engine, seq, Class::Prefill, &prefix[usable..], 256)?;
                    seqs.push(seq);
                }
                logits.push(feed(&mut engine, seqs[at], Class::Prefill, &tail[..20], 256)?);
            }
            for (at, tail) in tails.iter().enumerate() {
                let rest = feed(&mut engine, seqs[at], Class::Prefill, &tail[20..], 17)?;
                logits[at].extend(rest);
                let what = || format!("number {at} behind a prefix of {len}");
                compared += self.compare(what, &fresh[at], &logits[at])?;
            }
        }
        Ok(compared)
    }

    /// Tokens that were rejected, or taken back, leave no trace.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn going_back_equals_never_having_gone(&self) -> Result<usize, Failure> {
        let (text, wrong) = (tokens(560, 30), tokens(560, 31));
        let (border, kept) = (530, 250);
        let mut engine = self.engine(600, 256, 1)?;
        let seq = engine.open()?;
        feed(&mut engine, seq, Class::Prefill, &text[..border], 256)?;
        let want = feed(&mut engine, seq, Class::Decode, &text[border..], 1)?;

        let mut engine = self.engine(600, 256, 1)?;
        let seq = engine.open()?;
        feed(&mut engine, seq, Class::Prefill, &text[..kept], 256)?;
        feed(&mut engine, seq, Class::Decode, &wrong[..20], 5)?;
        let reached = engine.rollback(seq, kept)?;
        feed(&mut engine, seq, Class::Prefill, &text[reached..border], 256)?;
        let mut got = Vec::new();
        while got.len() < want.len() {
            let len = engine.cache().len(seq).map_err(|e| Failure::False(e.to_string()))?;
            // Half of the drafts are right.
            let right = (text.len() - len).min(4);
            let drafts = [&text[len..len + right], &wrong[..4]].concat();
            let part = Part { seq, tokens: &drafts, pick: Pick::All };
            let step = engine.step(Class::Decode, &[part], &greedy(drafts.len()), Taps::None)?;
            let logits = engine.logits(&step)?;
            engine.commit(seq, right)?;
            got.extend_from_slice(&logits[..logits.len() / drafts.len() * right]);
        }
        self.compare(|| "after going back and after rejections".to_owned(), &want, &got)
    }

    /// Sampled tokens are the same alone and in company, and with a step enqueued before the last one was read.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub fn sampling_is_the_same_alone_in_company_and_ahead(&self) -> Result<usize, Failure> {
        let samplings = [11, 12, 13].map(|seed| Sampling {
            temperature: 1.5,
            top_k: 60,
            top_p: 0.98,
            min_p: 0.001,
            seed,
            ..Sampling::default()
        });
        let prompts = [tokens(30, 41), tokens(254, 42), tokens(5, 43)];
        let count = 24;
        let mut alone = Vec::new();
        for (prompt, sampling) in prompts.iter().zip(&samplings) {
            let mut engine = self.engine(300, 256, 1)?;
            let seq = engine.open()?;
            let draw = |len: usize| Draw { sampling, position: narrow(len), edits: &[], allowed: None };
            let step = engine.prefill(seq, prompt, &draw(prompt.len()), &mut |_, _| true)?;
            let step = step.ok_or_else(|| Failure::False("the prefill stopped".to_owned()))?;
            let mut sampled = engine.tokens(&step)?;
            while sampled.len() < count {
                let token = [sampled[sampled.len() - 1]];
                let part = Part { seq, tokens: &token, pick: Pick::Last };
                let draw = draw(prompt.len() + sampled.len());
                let step = engine.step(Class::Decode, &[part], &[draw], Taps::None)?;
                engine.commit(seq, 1)?;
                sampled.extend(engine.tokens(&step)?);
            }
            alone.push(sampled);
        }
        let distinct: std::collections::BTreeSet<&u32> = alone.iter().flatten().collect();
        if distinct.len() < count {
            return Err(Failure::False(format!("only {} different tokens were sampled", distinct.len())));
        }

        let mut engine = self.engine(300, 256, prompts.len())?;
        let (mut seqs, mut together) = (Vec::new(), vec![Vec::new(); prompts.len()]);
        for (at, prompt) in prompts.iter().enumerate() {
            let seq = engine.open()?;
            let draw =
                Draw { sampling: &samplings[at], position: narrow(prompt.len()), edits: &[], allowed: None };
            let step = engine.prefill(seq, prompt, &draw, &mut |_, _| true)?;
            let step = step.ok_or_else(|| Failure::False("the prefill stopped".to_owned()))?;
            together[at].extend(engine.tokens(&step)?);
            seqs.push(seq);
        }
        let mut steps = std::collections::VecDeque::new();
        for n in 1..count {
            // The host has not read the tokens of the step before: the device continues with its own.
            let parts: Vec<Part<'_>> =
                seqs.iter().map(|&seq| Part { seq, tokens: &[Row::SAMPLED], pick: Pick::Last }).collect();
            let draws: Vec<Draw<'_>> = prompts
                .iter()
                .zip(&samplings)
                .map(|(prompt, sampling)| Draw {
                    sampling,
                    position: narrow(prompt.len() + n),
                    edits: &[],
                    allowed: None,
                })
                .collect();
            steps.push_back(engine.step(Class::Decode, &parts, &draws, Taps::None)?);
            for &seq in &seqs {
                engine.commit(seq, 1)?;
            }
            if steps.len() == 2 || n + 1 == count {
                for step in steps.drain(..steps.len() - usize::from(n + 1 < count)) {
                    for (tokens, token) in together.iter_mut().zip(engine.tokens(&step)?) {
                        tokens.push(token);
                    }
                }
            }
        }
        if alone != together {
            let what = format!("{}, {:?}: sampled {together:?}, expected {alone:?}", self.tiny.name, self.kv);
            return Err(Failure::False(what));
        }
        Ok(alone.len() * count)
    }
}

/// Settings of `rows` rows whose tokens nobody looks at.
fn greedy(rows: usize) -> Vec<Draw<'static>> {
    static GREEDY: std::sync::LazyLock<Sampling> = std::sync::LazyLock::new(Sampling::default);
    vec![Draw { sampling: &GREEDY, position: 0, edits: &[], allowed: None }; rows]
}

/// Feeds `tokens` in steps of at most `size` and returns the logits of all of them.
///
/// # Errors
///
/// What the engine says.
pub fn feed<B: Backend>(
    engine: &mut Engine<B>,
    seq: SeqId,
    class: Class,
    tokens: &[u32],
    size: usize,
) -> Result<Vec<f32>, Failure> {
    let mut logits = Vec::new();
    for piece in tokens.chunks(size) {
        logits.extend(together(engine, class, &[seq], &[piece])?.remove(0));
    }
    Ok(logits)
}

/// One step over several sequences; the logits of each.
fn together<B: Backend>(
    engine: &mut Engine<B>,
    class: Class,
    seqs: &[SeqId],
    tokens: &[&[u32]],
) -> Result<Vec<Vec<f32>>, Failure> {
    let parts: Vec<Part<'_>> =
        seqs.iter().zip(tokens).map(|(&seq, tokens)| Part { seq, tokens, pick: Pick::All }).collect();
    let rows = tokens.iter().map(|tokens| tokens.len()).sum();
    let step = engine.step(class, &parts, &greedy(rows), Taps::None)?;
    for part in &parts {
        engine.commit(part.seq, part.tokens.len())?;
    }
    let logits = engine.logits(&step)?;
    let vocab = logits.len() / rows;
    let mut rest = &logits[..];
    let mut split = |tokens: &&[u32]| {
        let (part, after) = rest.split_at(tokens.len() * vocab);
        rest = after;
        part.to_vec()
    };
    Ok(tokens.iter().map(&mut split).collect())
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("positions are counted in thousands")
}
