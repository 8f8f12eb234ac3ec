//! From a dialogue to a reply: template, tokens, session and output parser together.

use std::ops::ControlFlow;

use crate::backend::Backend;
use crate::chat::{ChatError, ChatTemplate, Delta, Dialogue, Finish, Markers, Parser, Reply, Start};
use crate::checkpoint::Checkpoint;
use crate::engine::Engine;
use crate::error::ModelError;
use crate::sample::Sampling;
use crate::session::{Ended, Event, Generated, Request, Session, SessionError};
use crate::tokenizer::{EncodeError, Markup, Special, Stream, Tokenizer};

/// What turns dialogues into tokens and tokens into replies, for one model.
#[derive(Debug)]
pub struct Speaker {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template.
    pub template: ChatTemplate,
    /// Tokens that end an answer.
    pub end: Vec<u32>,
    /// Tokens that must not be generated.
    pub suppress: Vec<u32>,
    /// The makers' sampling settings, with seed 0.
    pub sampling: Sampling,
    markers: Markers,
}

/// A prompt as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The text that the template gave.
    pub text: String,
    /// Its tokens, `<bos>` once in front.
    pub tokens: Vec<u32>,
    /// Leading tokens that the next turn's prompt shares.
    pub border: usize,
    /// Where the prompt leaves the model.
    pub start: Start,
}

/// What happens while a reply is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// Prompt tokens are in the cache.
    Prefill {
        /// Tokens done in this turn.
        done: usize,
        /// Tokens to do in this turn.
        total: usize,
    },
    /// A token was chosen; what it completes of the reply follows.
    Token(u32),
    /// A piece of the reply.
    Delta(Delta),
}

/// How a reply is to be made.
#[derive(Clone, Copy, Debug)]
pub struct ReplyOptions<'a> {
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// Most tokens to generate.
    pub max_tokens: usize,
}

/// A reply and what it took.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// Tokens and times.
    pub generated: Generated,
}

/// A dialogue that cannot be answered. The session is as it was.
#[derive(Debug, thiserror::Error)]
pub enum DialogueError {
    /// The dialogue cannot become a prompt.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The prompt cannot become tokens.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The session cannot continue.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// A model whose tokenizer or template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    /// The tokenizer or the generation settings.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The chat template.
    #[error(transparent)]
    Chat(#[from] ChatError),
}

impl Speaker {
    /// Reads tokenizer, template and generation settings of a model.
    ///
    /// # Errors
    ///
    /// [`SpeakerError`] naming what is wrong in the file.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self, SpeakerError> {
        let tokenizer = checkpoint.tokenizer()?;
        let template = checkpoint.chat_template(&tokenizer)?;
        let defaults = checkpoint.generation()?;
        let neutral = Sampling::default();
        let top_k = defaults.top_k.map(|k| u32::try_from(k).unwrap_or(0));
        Ok(Self {
            markers: Markers::find(|token| tokenizer.id(token)),
            end: tokenizer.end_ids(&defaults.eos).into_iter().collect(),
            suppress: defaults.suppress_tokens,
            sampling: Sampling {
                // A file that says nothing is sampled as Google's generation_config.json says.
                temperature: defaults.temperature.unwrap_or(1.0),
                top_k: top_k.unwrap_or(64),
                top_p: defaults.top_p.unwrap_or(0.95),
                min_p: defaults.min_p.unwrap_or(neutral.min_p),
                repetition_penalty: defaults.repetition_penalty.unwrap_or(neutral.repetition_penalty),
                ..neutral
            },
            template,
            tokenizer,
        })
    }

    /// Renders and tokenises a dialogue.
    ///
    /// # Errors
    ///
    /// If the template refuses it.
    pub fn prompt(&self, dialogue: &Dialogue) -> Result<Prompt, DialogueError> {
        let text = self.template.render(dialogue)?;
        let tokens = self.tokenizer.encode_prompt(&text, Special::Parse)?;
        // What the template writes without asking for an answer is history, and stays as it is in the next turn.
        let history = Dialogue { add_generation_prompt: false, ..dialogue.clone() };
        let history = self.tokenizer.encode_prompt(&self.template.render(&history)?, Special::Parse)?;
        let border = tokens.iter().zip(&history).take_while(|(a, b)| a == b).count();
        let start = Start::of(&text);
        Ok(Prompt { text, tokens, border, start })
    }

    /// Which tokens structure the model's output.
    #[must_use]
    pub fn markers(&self) -> &Markers {
        &self.markers
    }

    /// A parser for what the model writes behind a prompt.
    #[must_use]
    pub fn parser(&self, start: Start) -> Parser {
        Parser::new(self.markers.clone(), start)
    }

    /// Answers a dialogue, reporting every piece to `on`, which may stop it.
    ///
    /// # Errors
    ///
    /// [`DialogueError`]; what is wrong with the dialogue is found before anything changes.
    pub fn reply<B: Backend>(
        &self,
        engine: &mut Engine<B>,
        session: &mut Session,
        dialogue: &Dialogue,
        options: &ReplyOptions<'_>,
        on: &mut dyn FnMut(Update) -> ControlFlow<()>,
    ) -> Result<Answer, DialogueError> {
        let prompt = self.prompt(dialogue)?;
        let mut parser = self.parser(prompt.start);
        let mut stream = Stream::new(Markup::Show);
        let request = Request {
            prompt: &prompt.tokens,
            border: prompt.border,
            sampling: options.sampling,
            max_tokens: options.max_tokens,
            end: &self.end,
            suppress: &self.suppress,
        };
        let generated = session.generate(engine, &request, &mut |event| match event {
            Event::Prefill { done, total } => on(Update::Prefill { done, total }),
            Event::Token(token) => {
                // Of its own, for a call is no delta before it ends, and must be stoppable before.
                let flow = on(Update::Token(token));
                // An end token that is no marker of the dialogue, such as `<eos>`, is no text either.
                if self.end.contains(&token) && self.markers.marker(token).is_none() {
                    return flow;
                }
                // What was chosen is in the reply, so it is reported even when the listener wants no more.
                let deltas = parser.push(token, &stream.push(&self.tokenizer, token));
                deltas.into_iter().fold(flow, |flow, delta| match (flow, on(Update::Delta(delta))) {
                    (ControlFlow::Continue(()), ControlFlow::Continue(())) => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                })
            }
        })?;
        let mut last = parser.push_text(stream.finish());
        let (deltas, reply) = parser.finish(match generated.ended {
            Ended::Token(_) => Finish::Stop,
            Ended::MaxTokens | Ended::ContextFull => Finish::Length,
            Ended::Stopped => Finish::Cancelled,
        });
        last.extend(deltas);
        for delta in last {
            // Nothing is left to be stopped.
            let _ = on(Update::Delta(delta));
        }
        Ok(Answer { reply, generated })
    }
}
