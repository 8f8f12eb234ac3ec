//! What all interfaces share: from what is asked to pieces of an answer.
//!
//! An interface reads its own requests into an [`Ask`] and writes its own responses from [`Piece`]s. Template, tokens,
//! rules and everything about the model's output is here, once.

mod choice;
mod stops;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gemma4_core::chat::{Dialogue, Marker, Role, Start};
use gemma4_core::dialogue::{DialogueError, Speaker};
use gemma4_core::sample::Sampling;
use gemma4_core::tokenizer::Special;
use serde_json::Value;
use tokio::sync::mpsc;

use super::guide::{BadRule, Guide, Guides, Rules};
use super::job::{CachePolicy, CancelToken, Generation, Job, Refused};
use super::scheduler::Scheduler;

pub(crate) use choice::{Call, Choice, Ended, Finish, Piece, Reuse, TokenLog, Whole, all, merge};

/// Events that wait for a client who reads slowly, before its answer is paused.
const EVENTS: usize = 64;

/// The model as interfaces see it.
#[derive(Debug)]
pub(crate) struct Model {
    /// Tokenizer, template and the makers' settings.
    pub(crate) speaker: Arc<Speaker>,
    /// What it is called.
    pub(crate) name: String,
    /// Most tokens of prompt and answer.
    pub(crate) context: usize,
    /// Tokens of the vocabulary.
    pub(crate) vocab: usize,
    /// Whether requests that do not say are answered with thoughts.
    pub(crate) think: bool,
    guides: Guides,
}

/// What is to be continued.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A dialogue, through the template.
    Dialogue(Dialogue),
    /// A text, as it is.
    Text(String),
    /// Tokens, as they are.
    Tokens(Vec<u32>),
}

/// Which tools may or must be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// None.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// One of these, by name.
    Named(Vec<String>),
}

/// What the answer is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Format {
    /// Any text.
    #[default]
    Text,
    /// JSON of this schema.
    Schema {
        /// The schema.
        schema: Value,
        /// Where the request has it.
        key: String,
    },
}

/// Whether to think, and how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thinking {
    /// Whether to think.
    pub(crate) on: bool,
    /// Most tokens of thoughts; `None` for as many as it takes.
    pub(crate) budget: Option<usize>,
}

impl Thinking {
    /// What a level of effort means. Levels are those of all interfaces; the budgets are ours.
    pub(crate) const EFFORTS: [(&'static str, Thinking); 8] = [
        ("none", Thinking { on: false, budget: None }),
        ("minimal", Thinking { on: false, budget: None }),
        ("low", Thinking { on: true, budget: Some(512) }),
        ("medium", Thinking { on: true, budget: Some(2048) }),
        ("high", Thinking { on: true, budget: Some(8192) }),
        ("xhigh", Thinking { on: true, budget: Some(32768) }),
        ("max", Thinking { on: true, budget: None }),
        ("ultra", Thinking { on: true, budget: None }),
    ];
}

/// A request, whatever interface it came through.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// What is to be continued.
    pub(crate) source: Source,
    /// How tokens are chosen.
    pub(crate) sampling: Sampling,
    /// Most tokens of the answer.
    pub(crate) max_tokens: Option<usize>,
    /// Texts that end the answer and are not part of it.
    pub(crate) stop: Vec<String>,
    /// With how many of the most likely tokens each token is reported.
    pub(crate) logprobs: Option<u8>,
    /// Which tools may be called.
    pub(crate) choice: ToolChoice,
    /// Whether several may be called at once.
    pub(crate) parallel: bool,
    /// What the answer is.
    pub(crate) format: Format,
    /// Whether to think.
    pub(crate) thinking: Thinking,
    /// Whether to report how far the prompt is.
    pub(crate) progress: bool,
    /// What of the cache may be used.
    pub(crate) cache: CachePolicy,
}

impl Ask {
    /// With nothing but a source.
    pub(crate) fn new(source: Source, sampling: Sampling) -> Self {
        Self {
            source,
            sampling,
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            choice: ToolChoice::Auto,
            parallel: true,
            format: Format::Text,
            thinking: Thinking::default(),
            progress: false,
            cache: CachePolicy::default(),
        }
    }
}

/// A request that is not answered, or an answer that is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The engine did not take it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The template refuses the dialogue, or its text cannot become tokens.
    #[error(transparent)]
    Dialogue(#[from] DialogueError),
    /// A tool or a schema is not one.
    #[error("`{key}`: {why}")]
    Rule {
        /// Where.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The model wrote a call that cannot be read.
    #[error("the model wrote a tool call that cannot be read: {why}: {raw}")]
    Call {
        /// What is wrong with it.
        why: String,
        /// How it begins.
        raw: String,
    },
    /// Too late.
    #[error("the answer took longer than the server allows (--request-timeout)")]
    Deadline,
    /// The program is ending.
    #[error("the server is shutting down")]
    Cancelled,
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Engine(String),
}

/// A request that only has to be handed over.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Tokens of the prompt.
    pub(crate) prompt: Vec<u32>,
    borders: Vec<usize>,
    start: Start,
    raw: bool,
    guide: Option<Guide>,
    suppress: Vec<u32>,
    ask: Ask,
}

impl Model {
    /// The model that `speaker` speaks for.
    pub(crate) fn new(
        speaker: Arc<Speaker>,
        name: String,
        context: usize,
        vocab: usize,
        think: bool,
    ) -> Self {
        let guides = Guides::new(speaker.markers().clone(), speaker.end.clone(), vocab);
        Self { speaker, name, context, vocab, think, guides }
    }

    /// Renders a dialogue: the prompt's text, its tokens, and where later prompts are likely to part from it.
    pub(crate) fn prompt(&self, source: &Source) -> Result<(Vec<u32>, Vec<usize>, Start), Failed> {
        let tokenizer = &self.speaker.tokenizer;
        Ok(match source {
            Source::Dialogue(dialogue) => {
                let dialogue = without_billing(dialogue);
                if let Some((text, begun)) = begun(&dialogue) {
                    // The model goes on where its answer was cut, so the template must not close its turn.
                    let text =
                        self.speaker.template.render(&text).map_err(DialogueError::from)? + begun.trim_end();
                    let tokens =
                        tokenizer.encode_prompt(&text, Special::Parse).map_err(DialogueError::from)?;
                    return Ok((tokens, Vec::new(), Start::Answer));
                }
                let prompt = self.speaker.prompt(&dialogue)?;
                (prompt.tokens, vec![prompt.border], prompt.start)
            }
            Source::Text(text) => {
                let tokens = tokenizer.encode_prompt(text, Special::Parse).map_err(DialogueError::from)?;
                (tokens, Vec::new(), Start::Answer)
            }
            Source::Tokens(tokens) => (tokenizer.with_bos(tokens.clone()), Vec::new(), Start::Answer),
        })
    }

    /// Does all that can be done before the engine's turn. Takes a while for long prompts: not for async code.
    pub(crate) fn prepare(&self, ask: Ask) -> Result<Prepared, Failed> {
        let (prompt, borders, start) = self.prompt(&ask.source)?;
        if prompt.len() >= self.context {
            return Err(Refused::TooLong { tokens: prompt.len(), context: self.context }.into());
        }
        let raw = !matches!(ask.source, Source::Dialogue(_));
        let mut suppress = self.speaker.suppress.clone();
        let guide = match &ask.source {
            Source::Dialogue(dialogue) => {
                let tools = chosen(&dialogue.tools, &ask.choice)?;
                if tools.is_empty() && !dialogue.tools.is_empty() {
                    // Tools stay in the prompt, so that the cached beginning stays the same.
                    suppress.extend(self.speaker.markers().id(Marker::Call));
                }
                self.guide(&ask, &tools, start)?
            }
            _ => self.guide(&ask, &[], start)?,
        };
        Ok(Prepared { prompt, borders, start, raw, guide, suppress, ask })
    }

    fn guide(&self, ask: &Ask, tools: &[Value], start: Start) -> Result<Option<Guide>, Failed> {
        let (schema, key) = match &ask.format {
            Format::Text => (None, ""),
            Format::Schema { schema, key } => (Some(schema), key.as_str()),
        };
        let rules = Rules {
            tools,
            must_call: matches!(ask.choice, ToolChoice::Required | ToolChoice::Named(_)),
            one_call: !ask.parallel,
            schema,
            thoughts: ask.thinking.on,
            budget: ask.thinking.budget.filter(|_| ask.thinking.on),
        };
        self.guides.guide(&self.speaker.tokenizer, &rules, start).map_err(|bad| match bad {
            BadRule::Schema(why) => Failed::Rule { key: key.to_owned(), why },
            BadRule::Vocabulary(why) if schema.is_some() => Failed::Rule { key: key.to_owned(), why },
            BadRule::Vocabulary(why) => Failed::Rule { key: "tool_choice".to_owned(), why },
        })
    }

    /// Hands a request over; `nth` tells the choices of one request apart.
    pub(crate) fn submit(
        &self,
        scheduler: &Scheduler,
        prepared: &Prepared,
        nth: u32,
        time: Option<Duration>,
    ) -> Result<Choice, Failed> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let ask = &prepared.ask;
        let cancel = CancelToken::new();
        let (events, receiver) = mpsc::channel(EVENTS);
        let mut sampling = ask.sampling.clone();
        sampling.seed = sampling.seed.wrapping_add(u64::from(nth));
        let choice = Choice::new(receiver, cancel.clone(), prepared, &self.speaker);
        scheduler.submit(Job {
            id: NUMBER.fetch_add(1, Ordering::Relaxed),
            tokens: prepared.prompt.clone(),
            borders: prepared.borders.clone(),
            params: Generation {
                sampling,
                max_tokens: ask.max_tokens.unwrap_or(self.context),
                stop_tokens: self.speaker.end.clone(),
                suppress: prepared.suppress.clone(),
            },
            logprobs: ask.logprobs,
            constraint: prepared.guide.clone().map(|guide| Box::new(guide) as _),
            deadline: time.and_then(|time| Instant::now().checked_add(time)),
            cache: ask.cache,
            progress: ask.progress,
            events,
            cancel,
        })?;
        Ok(choice)
    }
}

/// A dialogue whose last message the model has begun: the dialogue before it without thoughts, and its beginning.
fn begun(dialogue: &Dialogue) -> Option<(Dialogue, String)> {
    let last =
        dialogue.messages.last().filter(|last| last.role == Role::Assistant && last.tool_calls.is_empty())?;
    let text = last.text();
    if text.trim().is_empty() || dialogue.messages.len() < 2 {
        return None;
    }
    let mut before = dialogue.clone();
    before.messages.pop();
    before.enable_thinking = false;
    Some((before, text))
}

/// The tools that may be called.
fn chosen(tools: &[Value], choice: &ToolChoice) -> Result<Vec<Value>, Failed> {
    let name = |tool: &Value| tool["function"]["name"].as_str().unwrap_or_default().to_owned();
    match choice {
        ToolChoice::None => Ok(Vec::new()),
        ToolChoice::Required if tools.is_empty() => Err(Failed::Rule {
            key: "tool_choice".to_owned(),
            why: "a call is required, and there are no tools".to_owned(),
        }),
        ToolChoice::Auto | ToolChoice::Required => Ok(tools.to_vec()),
        ToolChoice::Named(names) => {
            if let Some(missing) =
                names.iter().find(|wanted| !tools.iter().any(|tool| name(tool) == **wanted))
            {
                let shown: String = missing.chars().take(60).collect();
                let why = format!("there is no tool `{shown}` among the {} of this request", tools.len());
                return Err(Failed::Rule { key: "tool_choice".to_owned(), why });
            }
            Ok(tools.iter().filter(|tool| names.contains(&name(tool))).cloned().collect())
        }
    }
}

/// A line that Claude Code puts into its system prompt. It changes with every request, so that no later prompt would
/// begin like an earlier one.
const BILLING: &str = "x-anthropic-billing-header:";

/// The dialogue without lines about billing in its system prompt.
fn without_billing(dialogue: &Dialogue) -> std::borrow::Cow<'_, Dialogue> {
    let is_billing = |line: &str| line.trim_start().starts_with(BILLING);
    let system = |role: Role| matches!(role, Role::System | Role::Developer);
    let has = dialogue.messages.iter().any(|m| system(m.role) && m.text().lines().any(is_billing));
    if !has {
        return std::borrow::Cow::Borrowed(dialogue);
    }
    let mut dialogue = dialogue.clone();
    for message in dialogue.messages.iter_mut().filter(|message| system(message.role)) {
        let text = message.text();
        let lines: Vec<&str> = text.split_inclusive('\n').filter(|line| !is_billing(line)).collect();
        message.content = Some(lines.concat().into());
    }
    std::borrow::Cow::Owned(dialogue)
}

#[cfg(test)]
mod tests;
