//! The parsers that are fuzzed.

use super::Target;

mod chat;
mod checkpoint;
mod config;
mod gguf;
mod kept;
mod tokenizer;

/// Every target.
///
/// # Panics
///
/// If there is no place for temporary files.
#[must_use]
pub fn all() -> Vec<Box<dyn Target>> {
    vec![
        Box::new(gguf::Container),
        Box::new(gguf::Model),
        Box::new(checkpoint::Checkpoint::new("safetensors", checkpoint::Part::Weights)),
        Box::new(checkpoint::Checkpoint::new("index", checkpoint::Part::Index)),
        Box::new(config::HyperParameters),
        Box::new(tokenizer::TokenizerJson),
        Box::new(chat::Output),
        Box::new(chat::Template),
        Box::new(chat::Messages),
        Box::new(kept::Kept),
    ]
}
