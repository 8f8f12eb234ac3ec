//! Dialogues: from messages to a prompt, and from what the model writes back to messages.
//!
//! [`Dialogue`] holds what every endpoint and the command line agree on, [`ChatTemplate`] turns it into the
//! prompt's text, and [`Parser`] splits the model's output into reasoning, content and tool calls while it streams.

pub mod markers;
pub mod message;
mod outdated;
pub mod parser;
pub mod template;
mod value;

pub use markers::{Marker, Markers};
pub use message::{Content, Dialogue, FunctionCall, Message, Part, Role, ToolCall};
pub use parser::{CallError, Delta, Finish, Limits, Parser, Place, Reasoning, Reply, Start};
pub use template::ChatTemplate;

/// A dialogue that cannot become a prompt.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template is not valid Jinja, fails on this dialogue, or refuses it by `raise_exception`:
    /// mend the template, or the dialogue if the reason speaks of one.
    #[error("chat template{}: {reason}", at(*.line))]
    Template {
        /// Line of the template, from 1; `None` if the engine does not know it.
        line: Option<usize>,
        /// What is wrong there.
        reason: String,
    },
    /// The template writes without end.
    #[error("chat template: the prompt is longer than {limit} bytes")]
    TooLong {
        /// Bytes allowed for this dialogue.
        limit: usize,
    },
    /// A message makes no sense where it stands.
    #[error("message {index}: {reason}")]
    Message {
        /// Index into the messages, from 0.
        index: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// A tool's declaration is not one.
    #[error("tool {index}: {reason}")]
    Tool {
        /// Index into the tools, from 0.
        index: usize,
        /// What was found and what was expected.
        reason: String,
    },
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}
