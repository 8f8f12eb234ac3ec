//! What a cache refuses.

/// A step, or a place to go to, that the cache cannot have. The cache is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Sizes that cannot work.
    #[error("KV cache: {what} is {found}, expected {expected}")]
    BadSpec {
        /// Which size.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What it may be.
        expected: String,
    },
    /// The sequence was released, or belongs to another cache.
    #[error("KV cache: there is no such sequence")]
    UnknownSequence,
    /// The snapshot belongs to another cache.
    #[error("KV cache: the snapshot belongs to another cache")]
    UnknownSnapshot,
    /// Every page is held: release a sequence or drop a snapshot.
    #[error("KV cache: {needed} more {group} pages needed, {free} free")]
    OutOfPages {
        /// Kind of layers.
        group: &'static str,
        /// Pages that the step takes.
        needed: usize,
        /// Pages that nobody holds.
        free: usize,
    },
    /// The sequence would be longer than the context: shorten the prompt or open a larger context.
    #[error("KV cache: {len} tokens do not fit a context of {max_context}")]
    ContextFull {
        /// Tokens of the sequence after the step.
        len: usize,
        /// Most tokens of a sequence.
        max_context: usize,
    },
    /// The step would overwrite local keys that its own first tokens see: take it in pieces.
    #[error(
        "KV cache: a step of {asked} tokens is longer than {limit}, the most that the local ring takes here"
    )]
    StepTooLong {
        /// Tokens of the step.
        asked: usize,
        /// Most tokens of a step at this length.
        limit: usize,
    },
    /// More tokens kept than were reserved.
    #[error("KV cache: {kept} tokens kept of a step of {reserved}")]
    NotReserved {
        /// Tokens to keep.
        kept: usize,
        /// Tokens of the step in flight.
        reserved: usize,
    },
    /// A step is in flight: commit it first.
    #[error("KV cache: a step of {reserved} tokens is in flight")]
    StepInFlight {
        /// Tokens of the step in flight.
        reserved: usize,
    },
    /// The sequence is shorter.
    #[error("KV cache: position {asked} is beyond the {len} tokens of the sequence")]
    Beyond {
        /// Length asked for.
        asked: usize,
        /// Tokens there are.
        len: usize,
    },
    /// Local keys that the length needs are overwritten: go back less far, or to 0.
    #[error(
        "KV cache: cannot go back to {asked} tokens: local keys are left for {lowest} and more, or for 0"
    )]
    TooFarBack {
        /// Length asked for.
        asked: usize,
        /// Smallest length above 0 for which all local keys are left.
        lowest: usize,
    },
    /// Others rely on the page of that length, and the page border below it is too far back: go back to 0.
    #[error("KV cache: cannot go back to {asked} tokens: the page is shared and {border} is too far back")]
    SharedPage {
        /// Length asked for.
        asked: usize,
        /// The page border below it.
        border: usize,
    },
}
