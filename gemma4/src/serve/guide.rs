//! What restricts an answer, token by token: a budget for thoughts, grammars of tool calls, JSON.
//!
//! Grammars are llguidance's. What is around them is a small machine over the dialogue's own tokens, because most of
//! an answer is free: it costs a grammar nothing until a call or a JSON answer begins.

mod lark;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gemma4_core::chat::{Marker, Markers, Start};
use gemma4_core::tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::job::{Constraint, ConstraintError};

/// Compiled grammars that are kept: clients send the same tools with every request.
const KEPT: usize = 16;

/// White space that JSON answers may have: models like it, and without a bound some never stop writing it.
const WHITE_SPACE: &str = r"( |\n[ \t]{0,40})?";

/// Makes guides for one vocabulary.
pub(crate) struct Guides {
    markers: Markers,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// Tokens of the model.
    vocab: usize,
    /// Made when first needed: that takes a while for large vocabularies, and many servers never need it.
    factory: OnceLock<Result<ParserFactory, String>>,
    kept: Mutex<VecDeque<(String, Matcher)>>,
}

impl std::fmt::Debug for Guides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guides").field("vocab", &self.vocab).finish_non_exhaustive()
    }
}

/// What an answer must be like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules<'a> {
    /// Tools that may be called; empty for none.
    pub(crate) tools: &'a [Value],
    /// At least one call, and nothing else.
    pub(crate) must_call: bool,
    /// At most one call.
    pub(crate) one_call: bool,
    /// A JSON schema of the answer; `None` for any text.
    pub(crate) schema: Option<&'a Value>,
    /// Whether the model may think.
    pub(crate) thoughts: bool,
    /// Most tokens of thoughts.
    pub(crate) budget: Option<usize>,
}

/// A rule that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadRule {
    /// The JSON schema is not one, or too large, or asks for what cannot be enforced.
    Schema(String),
    /// This vocabulary has no tokens for what is asked.
    Vocabulary(String),
}

impl Guides {
    /// For a model of `vocab` tokens.
    pub(crate) fn new(markers: Markers, ends: Vec<u32>, vocab: usize) -> Self {
        Self { markers, ends, vocab, factory: OnceLock::new(), kept: Mutex::default() }
    }

    /// What enforces `rules` behind a prompt that ended as `start` says; `None` if nothing has to be enforced.
    pub(crate) fn guide(
        &self,
        tokenizer: &Tokenizer,
        rules: &Rules<'_>,
        start: Start,
    ) -> Result<Option<Guide>, BadRule> {
        let id = |marker| self.markers.id(marker);
        let marks = match (id(Marker::Call), id(Marker::CallEnd), id(Marker::Quote)) {
            (Some(call), Some(end), Some(quote)) => Some((call, lark::Quotes { quote, end })),
            _ => None,
        };
        let wanted = !rules.tools.is_empty() || rules.schema.is_some() || rules.budget.is_some();
        let (Some(channel), Some(channel_end), true) = (id(Marker::Channel), id(Marker::ChannelEnd), wanted)
        else {
            return if rules.schema.is_some() || rules.must_call {
                Err(BadRule::Vocabulary("this model's vocabulary has no tokens for thoughts".to_owned()))
            } else {
                Ok(None)
            };
        };
        let calls = match marks {
            _ if rules.tools.is_empty() => None,
            Some((_, quotes)) => self.calls(tokenizer, rules.tools, quotes),
            None => None,
        };
        if rules.must_call && calls.is_none() {
            return Err(BadRule::Vocabulary("this model cannot be made to call a tool".to_owned()));
        }
        let answer = match rules.schema {
            None => None,
            Some(schema) => {
                let matcher =
                    self.matcher(tokenizer, "json", &json_grammar(schema)).map_err(BadRule::Schema)?;
                Some(matcher)
            }
        };
        let call = marks.map(|(call, _)| call);
        Ok(Some(Guide {
            shared: Arc::new(Shared {
                channel,
                channel_end,
                call,
                response: id(Marker::Response),
                ends: self.ends.clone(),
                must_call: rules.must_call,
                one_call: rules.one_call,
                thoughts: rules.thoughts,
                budget: rules.budget,
                calls,
            }),
            answer,
            place: if start == Start::Thought { Place::Thought } else { Place::Before },
            thought: 0,
            calls_made: Vec::new(),
            call: Vec::new(),
            repeated: false,
        }))
    }

    /// The grammar of calls: with arguments as declared, or of any kind where declarations are beyond the compiler.
    fn calls(&self, tokenizer: &Tokenizer, tools: &[Value], quotes: lark::Quotes) -> Option<Matcher> {
        [false, true]
            .into_iter()
            .find_map(|loose| self.matcher(tokenizer, "call", &lark::calls(tools, quotes, loose)).ok())
    }

    fn matcher(&self, tokenizer: &Tokenizer, kind: &str, grammar: &str) -> Result<Matcher, String> {
        let key = format!("{kind} {grammar}");
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = kept.iter().position(|(known, _)| *known == key)
                && let Some(entry) = kept.remove(at)
            {
                let matcher = entry.1.deep_clone();
                kept.push_front(entry);
                return Ok(matcher);
            }
        }
        let factory = self.factory.get_or_init(|| self.factory(tokenizer)).as_ref().map_err(Clone::clone)?;
        let grammar = match kind {
            "json" => {
                TopLevelGrammar::from_json_schema(serde_json::from_str(grammar).map_err(|e| e.to_string())?)
            }
            _ => TopLevelGrammar::from_lark(grammar.to_owned()),
        };
        let matcher = Matcher::new(factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            let line = error.lines().find(|line| !line.trim().is_empty()).unwrap_or("it cannot be compiled");
            return Err(line.chars().take(300).collect());
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT - 1);
        let copy = matcher.deep_clone();
        kept.push_front((key, matcher));
        Ok(copy)
    }

    fn factory(&self, tokenizer: &Tokenizer) -> Result<ParserFactory, String> {
        let too_many = |_| "the vocabulary is too large".to_owned();
        let vocab = u32::try_from(self.vocab).map_err(too_many)?;
        let words: Vec<Vec<u8>> = (0..vocab)
            .map(|id| {
                let bytes = tokenizer.token_bytes(id).unwrap_or_default();
                // Marked so that no text matches them.
                if tokenizer.is_special(id) {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes.as_slice()].concat()
                } else {
                    bytes
                }
            })
            .collect();
        let eos = self.ends.first().copied().ok_or("no token ends an answer")?;
        let trie = TokTrie::from(&TokRxInfo::new(vocab, eos), &words);
        let env: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
        factory.quiet();
        // Errors reach clients, and logs hold no prompts.
        factory.limits_mut().verbose_errors = false;
        Ok(factory)
    }
}

/// A JSON schema with this program's white space. A schema that is no object allows anything.
fn json_grammar(schema: &Value) -> String {
    let mut schema = match schema {
        Value::Object(map) => map.clone(),
        _ => serde_json::Map::new(),
    };
    schema.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": WHITE_SPACE }));
    Value::Object(schema).to_string()
}

/// What all choices of a request share.
struct Shared {
    channel: u32,
    channel_end: u32,
    call: Option<u32>,
    response: Option<u32>,
    ends: Vec<u32>,
    must_call: bool,
    one_call: bool,
    thoughts: bool,
    budget: Option<usize>,
    /// The grammar of one call, at its start.
    calls: Option<Matcher>,
}

/// Where in an answer we are.
#[derive(Clone)]
enum Place {
    /// Nothing but thoughts so far.
    Before,
    Thought,
    Answer,
    Call(Box<Matcher>),
    /// Behind a call.
    Called,
}

/// Restricts one answer.
#[derive(Clone)]
pub(crate) struct Guide {
    shared: Arc<Shared>,
    /// The grammar of the answer, as far as it has come.
    answer: Option<Matcher>,
    place: Place,
    /// Tokens of thoughts so far.
    thought: usize,
    calls_made: Vec<Vec<u32>>,
    /// Tokens of the call at hand.
    call: Vec<u32>,
    /// A call came twice: models that begin with that do not stop.
    repeated: bool,
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide")
            .field("thought", &self.thought)
            .field("calls", &self.calls_made.len())
            .finish_non_exhaustive()
    }
}

fn allow(mask: &mut [u32], token: u32) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word |= 1 << (token % 32);
    }
}

fn forbid(mask: &mut [u32], token: u32) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word &= !(1 << (token % 32));
    }
}

fn failed(error: impl std::fmt::Display) -> ConstraintError {
    let text = error.to_string();
    ConstraintError(format!("the grammar cannot go on: {}", text.lines().next().unwrap_or_default()))
}

impl Guide {
    fn may_call(&self) -> bool {
        let most = if self.shared.one_call { 1 } else { usize::MAX };
        self.shared.calls.is_some() && self.calls_made.len() < most && !self.repeated
    }

    /// What the grammar allows; ends of the answer where it is complete.
    fn by_grammar(mask: &mut [u32], matcher: &mut Matcher, ends: &[u32]) -> Result<(), ConstraintError> {
        if matcher.is_stopped() {
            if matcher.is_error() {
                return Err(failed(matcher.get_error().unwrap_or_default()));
            }
            for &end in ends {
                allow(mask, end);
            }
            return Ok(());
        }
        let found = matcher.compute_mask().map_err(failed)?;
        for (word, found) in mask.iter_mut().zip(found.as_slice()) {
            *word |= found;
        }
        let complete = matcher.is_accepting().map_err(failed)?;
        for &end in ends {
            if complete { allow(mask, end) } else { forbid(mask, end) }
        }
        Ok(())
    }
}

impl Constraint for Guide {
    fn allowed(&mut self, mask: &mut [u32]) -> Result<(), ConstraintError> {
        let may_call = self.may_call();
        let shared = Arc::clone(&self.shared);
        match &mut self.place {
            Place::Thought if shared.budget.is_some_and(|budget| self.thought >= budget) => {
                allow(mask, shared.channel_end);
            }
            Place::Thought => {
                mask.fill(u32::MAX);
                // A thought has to be closed before an answer can end.
                shared.ends.iter().for_each(|&end| forbid(mask, end));
                forbid(mask, shared.channel);
                if let Some(call) = shared.call {
                    forbid(mask, call);
                }
            }
            Place::Call(matcher) => Self::by_grammar(mask, matcher, &[])?,
            Place::Called => {
                shared.ends.iter().for_each(|&end| allow(mask, end));
                if let Some(call) = shared.call.filter(|_| may_call) {
                    allow(mask, call);
                }
            }
            Place::Before | Place::Answer => {
                let before = matches!(self.place, Place::Before);
                let spent = shared.budget.is_some_and(|budget| self.thought >= budget);
                if shared.must_call {
                    if let Some(call) = shared.call {
                        allow(mask, call);
                    }
                } else if let Some(answer) = &mut self.answer {
                    Self::by_grammar(mask, answer, &shared.ends)?;
                    if let Some(call) = shared.call.filter(|_| before && may_call) {
                        allow(mask, call);
                    }
                } else {
                    mask.fill(u32::MAX);
                    forbid(mask, shared.channel);
                    // Waiting for a tool that was not called would be an empty answer.
                    if let Some(response) = shared.response.filter(|_| shared.calls.is_some()) {
                        forbid(mask, response);
                    }
                    if let Some(call) = shared.call.filter(|_| !may_call) {
                        forbid(mask, call);
                    }
                }
                // Structure begins behind one thought at most; in free text a model may think again.
                let again = !shared.must_call && self.answer.is_none();
                if shared.thoughts && !spent && (before || again) {
                    allow(mask, shared.channel);
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        let shared = Arc::clone(&self.shared);
        if shared.ends.contains(&token) {
            return Ok(true);
        }
        let starts_call = shared.call == Some(token) && self.may_call();
        match &mut self.place {
            Place::Thought if token == shared.channel_end => self.place = Place::Before,
            Place::Thought => self.thought += 1,
            Place::Call(matcher) => {
                matcher.consume_token(token).map_err(failed)?;
                self.call.push(token);
                if matcher.is_stopped() {
                    let call = std::mem::take(&mut self.call);
                    self.repeated = self.calls_made.contains(&call);
                    self.calls_made.push(call);
                    self.place = Place::Called;
                }
            }
            _ if starts_call => {
                let start = shared.calls.as_ref().map(Matcher::deep_clone);
                self.place = Place::Call(Box::new(start.ok_or_else(|| failed("no call was expected"))?));
            }
            Place::Before | Place::Answer if token == shared.channel => self.place = Place::Thought,
            Place::Before | Place::Answer => {
                if let Some(answer) = &mut self.answer {
                    answer.consume_token(token).map_err(failed)?;
                }
                self.place = Place::Answer;
            }
            Place::Called => return Err(failed("text follows a call")),
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
