//! The seam between whoever takes requests and the engine that answers them: what is asked, and what is heard back.
//!
//! A request is tokens in and tokens out. Text, templates, tools and stop strings are the asker's business; batching,
//! caching and pages are the engine's. Neither side logs what is in a prompt.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use gemma4_core::sample::Sampling;
use tokio::sync::mpsc;

/// A request to the engine.
pub(crate) struct Job {
    /// Number of the request, for logs; the asker makes it unique.
    pub(crate) id: u64,
    /// The rendered prompt, at least one token.
    pub(crate) tokens: Vec<u32>,
    /// Lengths of the prompt at which a later prompt is likely to part from this one, beside those that the engine
    /// finds itself: behind every `<turn|>`, at the end of the prompt and at the end of the answer. May be empty.
    pub(crate) borders: Vec<usize>,
    /// What to generate.
    pub(crate) params: Generation,
    /// With how many of the most likely tokens each token is reported, none included; `None` without logarithms.
    pub(crate) logprobs: Option<u8>,
    /// What restricts tokens, if anything does.
    pub(crate) constraint: Option<Box<dyn Constraint>>,
    /// When the answer is of no more use.
    pub(crate) deadline: Option<Instant>,
    /// What of the cache may be used.
    pub(crate) cache: CachePolicy,
    /// Whether to send [`Event::Prefill`].
    pub(crate) progress: bool,
    /// Where events go. The engine never waits for room: a request whose channel is full is paused, others go on.
    pub(crate) events: mpsc::Sender<Event>,
    /// Whether somebody still wants the answer.
    pub(crate) cancel: CancelToken,
}

impl fmt::Debug for Job {
    /// Without the prompt, which belongs in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

/// What to generate.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    /// How tokens are chosen; the seed is the request's, so the same request has the same answer.
    pub(crate) sampling: Sampling,
    /// Most tokens of the answer, at least 1. The context ends it too, with [`Finish::Length`].
    pub(crate) max_tokens: usize,
    /// Tokens that end the answer; the one that did is sent as the last [`Event::Token`].
    pub(crate) stop_tokens: Vec<u32>,
    /// Tokens that must not be generated.
    pub(crate) suppress: Vec<u32>,
}

/// Restricts what may be generated, token by token.
pub(crate) trait Constraint: Send {
    /// Fills in which tokens may come next: bit `t % 32` of word `t / 32` allows token `t`.
    ///
    /// `mask` has one bit for every token of the vocabulary, all of them 0.
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError>;

    /// Takes note of the token that was chosen; says whether the answer is complete.
    fn accept(&mut self, token: u32) -> Result<bool, ConstraintError>;
}

/// A constraint that cannot go on. Ends the request with [`Finish::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConstraintError(pub(crate) String);

/// What of the cache a request may use. Whatever it may use, it computes what it must not use anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CachePolicy {
    /// Everything, also what was generated: those pages have the bits of the decode class, so on a device whose
    /// classes differ a text may differ from one whose whole prompt was computed anew. The default, and what makes a
    /// turn cost its new tokens only.
    #[default]
    Reuse,
    /// Only tokens that were computed as a prompt: the text is the same, bit for bit, as without a cache.
    Exact,
    /// Nothing, and nothing is kept for others.
    None,
}

/// Whether somebody still wants an answer. Clones are the same token; [`CancelToken::guard`] cancels when dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct CancelToken(Arc<AtomicU8>);

/// Why an answer is not wanted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// It is complete for the asker, who found a stop string: ends with [`Finish::Stop`].
    Stop,
    /// The asker left: ends with [`Finish::Cancelled`].
    Left,
}

impl CancelToken {
    /// Nobody has cancelled yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Ends the request between two steps. The first reason counts.
    pub(crate) fn cancel(&self, why: Cancel) {
        let code = match why {
            Cancel::Stop => 1,
            Cancel::Left => 2,
        };
        // Whoever was first has the say, so a failed exchange is as good.
        let _ = self.0.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether and why the request was cancelled.
    pub(crate) fn cancelled(&self) -> Option<Cancel> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Cancel::Stop),
            _ => Some(Cancel::Left),
        }
    }

    /// Cancels with [`Cancel::Left`] when dropped. A request that has ended does not mind.
    pub(crate) fn guard(&self) -> CancelGuard {
        CancelGuard(self.clone())
    }
}

/// See [`CancelToken::guard`].
#[derive(Debug)]
pub(crate) struct CancelGuard(CancelToken);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.cancel(Cancel::Left);
    }
}

/// What happens to a request: `Started`, any number of `Prefill` and `Token`, `Finished`. A request that is refused
/// later than [`submit`](super::scheduler::Scheduler::submit) has `Finished` alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The request has left the queue.
    Started {
        /// Leading tokens of the prompt that were in the cache.
        reused: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Why no more of them.
        why: ReuseEnd,
    },
    /// Prompt tokens are in the cache, those that were there before included.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was chosen.
    Token {
        /// Its id.
        id: u32,
        /// Natural logarithm of its probability before temperature, penalties and masks; if asked for.
        logprob: Option<f32>,
        /// The most likely tokens and theirs, best first; as many as asked for.
        top: Vec<(u32, f32)>,
    },
    /// Nothing follows.
    Finished {
        /// Why it ended.
        reason: Finish,
        /// What it took.
        usage: Usage,
    },
}

/// Why no more of a prompt came from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReuseEnd {
    /// All of it did, but the last token, whose logits are needed.
    Whole,
    /// The cache holds nothing that begins like this prompt beyond the reused tokens, which end where a kept
    /// conversation does.
    NewTokens,
    /// No kept conversation begins like this one.
    NewConversation,
    /// The prompt differs from a kept conversation from this token on.
    EditedAt(usize),
    /// A kept conversation shares this many tokens, but local layers have given up the window before that place, so
    /// it goes on from the border below.
    WindowGone {
        /// Tokens in common.
        common: usize,
    },
    /// Pages of this many common tokens had to make room for others.
    Evicted {
        /// Tokens in common.
        common: usize,
    },
    /// This many tokens are there, but generated ones among them, and the request wants prompts only.
    Generated {
        /// Tokens in common.
        common: usize,
    },
    /// The request wanted no cache.
    Off,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// A stop token, or the asker found a stop string.
    Stop,
    /// [`Generation::max_tokens`], or the context is full.
    Length,
    /// The constraint says the answer is complete.
    Constraint,
    /// The asker left, or the program is ending.
    Cancelled,
    /// [`Job::deadline`] passed.
    Deadline,
    /// Something failed; in one sentence, without the prompt.
    Failed(String),
}

/// What a request took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Those of them that came from the cache.
    pub(crate) reused: usize,
    /// Tokens sent.
    pub(crate) generated: usize,
    /// Tokens that a drafter proposed, and those of them that were kept; 0 without one.
    pub(crate) drafted: usize,
    /// See above.
    pub(crate) accepted: usize,
    /// Time in the queue.
    pub(crate) queue_time: Duration,
    /// From leaving the queue to the first token.
    pub(crate) prefill_time: Duration,
    /// From the first token to the last.
    pub(crate) decode_time: Duration,
}

/// A request that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The queue is full: try again later.
    #[error("the queue is full; try again in {} s", retry_after.as_secs().max(1))]
    Busy {
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {tokens} tokens and the context {context}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Most tokens of prompt and answer.
        context: usize,
    },
    /// The program is ending.
    #[error("the server is shutting down")]
    Draining,
    /// The model could not be loaded, or its device failed.
    #[error("the model is not available: {0}")]
    Broken(String),
    /// A value that no request may have: an empty prompt, a token outside the vocabulary, a sampling parameter out of
    /// its range, no token to generate.
    #[error("{0}")]
    Invalid(String),
}

/// A request that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Requests that were waiting before it.
    pub(crate) ahead: usize,
}
