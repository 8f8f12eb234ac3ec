//! One conversation: its tokens in the cache, and the loop that continues them.

mod decode;
mod file;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::cache::{SeqId, Snapshot};
use crate::engine::{Engine, EngineError};
use crate::sample::{BadSampling, Draw, Sampling};
use crate::speculate::Speculator;
use decode::Turn;

pub use file::{FileError, Restored};

/// Turn borders that a session keeps to come back to.
pub const BORDERS: usize = 4;

/// A sequence and what is in it.
///
/// After a turn the next prompt usually differs from what the model produced (thoughts are dropped from history),
/// so a session also keeps the last few turn borders: it goes back to one where the local window is gone.
#[derive(Debug)]
pub struct Session {
    seq: SeqId,
    tokens: Vec<u32>,
    borders: Vec<(usize, Snapshot)>,
    /// Lowest position whose local keys were restored from a file; 0 if the conversation began here.
    oldest: usize,
    /// Chooses how many tokens a step takes; plain steps if `None`.
    speculator: Option<Speculator>,
}

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// All tokens of the prompt, those of earlier turns included.
    pub prompt: &'a [u32],
    /// Leading tokens of the prompt that the next turn's prompt will share, as far as is known.
    pub border: usize,
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens that end the answer.
    pub end: &'a [u32],
    /// Tokens that must not be generated.
    pub suppress: &'a [u32],
}

/// What happens while generating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Prompt tokens are in the cache.
    Prefill {
        /// Tokens done in this turn.
        done: usize,
        /// Tokens to do in this turn.
        total: usize,
    },
    /// A token was chosen; one that ends the answer is reported too.
    Token(u32),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model chose one of [`Request::end`].
    Token(u32),
    /// [`Request::max_tokens`] were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The listener said so.
    Stopped,
}

/// An answer and what it took.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Those of them that were in the cache already.
    pub reused: usize,
    /// Generated tokens, the one that ended the answer included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub ended: Ended,
    /// Time of the prompt, the first token included.
    pub prefill: Duration,
    /// Time of the tokens after the first.
    pub decode: Duration,
}

impl Generated {
    /// Prompt tokens computed a second.
    #[must_use]
    pub fn prefill_rate(&self) -> f64 {
        (self.prompt - self.reused) as f64 / self.prefill.as_secs_f64().max(1e-9)
    }

    /// Tokens generated a second, after the first; 0 if there was none.
    #[must_use]
    pub fn decode_rate(&self) -> f64 {
        let tokens = self.tokens.len().saturating_sub(1);
        if tokens == 0 { 0.0 } else { tokens as f64 / self.decode.as_secs_f64().max(1e-9) }
    }
}

/// A request that cannot be answered. The session is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer: shorten it or open a larger context.
    #[error("the prompt has {prompt} tokens and the context {context}; shorten it or raise --ctx")]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Most tokens of the sequence.
        context: usize,
    },
    /// A token that the vocabulary lacks.
    #[error("token {token} is not in the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Tokens of the vocabulary.
        vocab: usize,
    },
    /// A sampling parameter outside its range.
    #[error(transparent)]
    Sampling(#[from] BadSampling),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Session {
    /// An empty conversation.
    ///
    /// # Errors
    ///
    /// If the engine has no sequence left.
    pub fn new<B: Backend>(engine: &mut Engine<B>) -> Result<Self, EngineError> {
        Ok(Self { seq: engine.open()?, tokens: Vec::new(), borders: Vec::new(), oldest: 0, speculator: None })
    }

    /// Tokens in the cache.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Drafts tokens from now on, as `speculator` says, or no longer. The text stays what it would be.
    pub fn speculate(&mut self, speculator: Option<Speculator>) {
        self.speculator = speculator;
    }

    /// What drafts tokens, and what that has given so far.
    #[must_use]
    pub fn speculator(&self) -> Option<&Speculator> {
        self.speculator.as_ref()
    }

    /// Takes out what drafts tokens, to go on with in another conversation.
    pub fn take_speculator(&mut self) -> Option<Speculator> {
        self.speculator.take()
    }

    /// Gives the conversation up.
    ///
    /// # Errors
    ///
    /// If it belongs to another engine.
    pub fn close<B: Backend>(self, engine: &mut Engine<B>) -> Result<(), EngineError> {
        engine.close(self.seq)
    }

    /// Continues `request.prompt`, computing only what the cache does not hold, and reports every event to `on`,
    /// which may stop it.
    ///
    /// # Errors
    ///
    /// [`SessionError`]; what is wrong with a request is found before anything changes.
    pub fn generate<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        request: &Request<'_>,
        on: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Generated, SessionError> {
        let prompt = request.prompt;
        check(engine, request)?;
        let start = Instant::now();
        let reused = self.go_back(engine, prompt)?;
        let mut generated = Generated {
            prompt: prompt.len(),
            reused,
            tokens: Vec::new(),
            ended: Ended::Stopped,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let edits = request.sampling.edits(prompt, &[], request.suppress);
        let position = narrow(prompt.len());
        let draw = Draw { sampling: request.sampling, position, edits: &edits, allowed: None };
        let result = engine.prefill(self.seq, &prompt[reused..], &draw, &mut |done, total| {
            on(Event::Prefill { done, total }).is_continue()
        });
        self.tokens.truncate(reused);
        let len = engine.cache().len(self.seq).map_err(EngineError::from)?;
        self.tokens.extend_from_slice(&prompt[reused..len]);
        let step = result?;
        generated.prefill = start.elapsed();
        let Some(step) = step else { return Ok(generated) };
        self.keep_border(engine, request.border.min(len));
        let mut turn = Turn { request, generated, on, start, decoding: None };
        let mut speculator = self.speculator.take();
        let result = match &mut speculator {
            None => {
                let ended = self.plain(engine, &mut turn, step, usize::MAX, &mut |_| false);
                ended.map(|ended| ended.unwrap_or(Ended::Stopped))
            }
            Some(speculator) => match self.plain(engine, &mut turn, step, 1, &mut |_| false) {
                Ok(None) => self.rounds(engine, &mut turn, speculator),
                Ok(Some(ended)) => Ok(ended),
                Err(error) => Err(error),
            },
        };
        self.speculator = speculator;
        turn.generated.ended = result?;
        Ok(turn.generated)
    }

    /// Goes back to the longest prefix of `prompt` that the cache can still continue; returns its length.
    ///
    /// At least one token of the prompt is left to compute, for its logits are needed.
    fn go_back<B: Backend>(&mut self, engine: &mut Engine<B>, prompt: &[u32]) -> Result<usize, EngineError> {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let wanted = common.min(prompt.len() - 1);
        self.borders.retain(|&(len, _)| len <= wanted);
        let mut len = self.tokens.len();
        if wanted < len {
            let border = self.borders.last().map_or(0, |&(len, _)| len);
            let restored = self.window_restored(engine, wanted);
            len = match engine.rollback(self.seq, wanted) {
                Ok(reached) if restored && reached >= border => reached,
                _ => self.reopen(engine)?,
            };
        }
        self.tokens.truncate(len);
        Ok(len)
    }

    /// Whether the local keys that a token at `len` sees were computed here or came with the file.
    fn window_restored<B: Backend>(&self, engine: &Engine<B>, len: usize) -> bool {
        len == 0 || (len + 1).saturating_sub(engine.model().config.window) >= self.oldest
    }

    /// Starts over from the last border, or from nothing.
    fn reopen<B: Backend>(&mut self, engine: &mut Engine<B>) -> Result<usize, EngineError> {
        engine.close(self.seq)?;
        let (seq, len) = match self.borders.last() {
            Some((_, snapshot)) => engine.open_from(snapshot)?,
            None => (engine.open()?, 0),
        };
        self.seq = seq;
        if len == 0 {
            self.oldest = 0;
        }
        Ok(len)
    }

    fn keep_border<B: Backend>(&mut self, engine: &mut Engine<B>, len: usize) {
        let most = BORDERS.min(engine.options().snapshots);
        if len == 0 || most == 0 || self.borders.last().is_some_and(|&(last, _)| last >= len) {
            return;
        }
        if !self.window_restored(engine, len) {
            return;
        }
        if self.borders.len() == most {
            self.borders.remove(0);
        }
        // A border that the ring has passed already is of no use; the turn goes on without it.
        if let Ok(snapshot) = engine.snapshot_at(self.seq, len) {
            self.borders.push((len, snapshot));
        }
    }
}

fn check<B: Backend>(engine: &Engine<B>, request: &Request<'_>) -> Result<(), SessionError> {
    request.sampling.check()?;
    let (prompt, context) = (request.prompt.len(), engine.options().context);
    if prompt == 0 {
        return Err(SessionError::EmptyPrompt);
    }
    if prompt > context {
        return Err(SessionError::PromptTooLong { prompt, context });
    }
    let vocab = engine.model().config.vocab;
    match request.prompt.iter().find(|&&token| token as usize >= vocab) {
        Some(&token) => Err(SessionError::UnknownToken { token, vocab }),
        None => Ok(()),
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("positions are counted in 32 bits")
}
