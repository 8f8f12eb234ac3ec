//! One answer, from the engine's events to pieces that an interface can write down.

use std::collections::{HashSet, VecDeque};

use futures_util::future::join_all;
use futures_util::stream;
use gemma4_core::chat::{Delta, Finish as Ending, Parser, Place};
use gemma4_core::dialogue::Speaker;
use gemma4_core::tokenizer::{Markup, Stream, Tokenizer};
use tokio::sync::mpsc::Receiver;

use super::stops::Stops;
use super::{Failed, Prepared};
use crate::serve::http::ids;
use crate::serve::job::{self, Cancel, CancelGuard, CancelToken, Event, ReuseEnd, Usage};

/// Characters of a broken call that an error repeats.
const SHOWN: usize = 300;

/// What came from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reuse {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Those of them that were in the cache.
    pub(crate) reused: usize,
    /// Why no more.
    pub(crate) why: ReuseEnd,
}

impl Reuse {
    /// Why no more was reused, in words.
    pub(crate) fn reason(&self) -> String {
        match self.why {
            ReuseEnd::Whole => "all of the prompt was cached".to_owned(),
            ReuseEnd::NewTokens => "the rest is new".to_owned(),
            ReuseEnd::NewConversation => "no cached conversation begins like this one".to_owned(),
            ReuseEnd::EditedAt(at) => format!("differs from the cached conversation from token {at} on"),
            ReuseEnd::WindowGone { common } => {
                format!(
                    "{common} tokens are known, but local layers have given up the window before that place"
                )
            }
            ReuseEnd::Evicted { common } => {
                format!("pages of {common} known tokens had to make room for others")
            }
            ReuseEnd::Generated { common } => {
                format!(
                    "{common} tokens are known, generated ones among them, and the request wants prompts only"
                )
            }
            ReuseEnd::Off => "the request wanted no cache".to_owned(),
        }
    }
}

/// A token of the answer and the likelihoods at its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenLog {
    /// The token.
    pub(crate) id: u32,
    /// Natural logarithm of its probability.
    pub(crate) logprob: f32,
    /// The most likely ones, best first.
    pub(crate) top: Vec<(u32, f32)>,
    /// Where it begins in the answer, bytes.
    pub(crate) offset: usize,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Place among the calls, from 0.
    pub(crate) index: usize,
    /// Name of this call, the same wherever it is mentioned.
    pub(crate) id: String,
    /// The function.
    pub(crate) name: String,
    /// A JSON object.
    pub(crate) arguments: String,
}

/// A piece of an answer.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The engine begins.
    Started(Reuse),
    /// So much of the prompt is computed.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// More of the thoughts.
    Reasoning(String),
    /// More of the answer, and its tokens if they were asked for.
    Content(String, Vec<TokenLog>),
    /// A call, complete.
    Call(Call),
    /// Nothing follows.
    Finished(Result<Ended, Failed>),
}

/// Why an answer is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model ended it.
    Stop,
    /// This stop string came.
    StopString(String),
    /// Tokens ran out.
    Length,
    /// The model waits for its calls.
    ToolCalls,
}

impl Finish {
    /// OpenAI's word for it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Stop | Self::StopString(_) => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// Why.
    pub(crate) finish: Finish,
    /// What it took.
    pub(crate) usage: Usage,
    /// Tokens of thoughts among those generated.
    pub(crate) reasoning: usize,
    /// What came from the cache.
    pub(crate) reuse: Option<Reuse>,
}

/// An answer in one piece.
#[derive(Debug)]
pub(crate) struct Whole {
    /// The thoughts.
    pub(crate) reasoning: String,
    /// The answer.
    pub(crate) content: String,
    /// Its tokens, if they were asked for.
    pub(crate) logs: Vec<TokenLog>,
    /// Calls in order.
    pub(crate) calls: Vec<Call>,
    /// How it ended.
    pub(crate) ended: Ended,
}

/// Pieces of all choices of a request as they come, with the choice's number.
pub(crate) fn merge(
    choices: Vec<Choice>,
    tokenizer: &Tokenizer,
) -> impl stream::Stream<Item = (usize, Piece)> + Unpin {
    stream::select_all(choices.into_iter().enumerate().map(|(index, choice)| {
        Box::pin(stream::unfold(choice, move |mut choice| async move {
            let piece = choice.next(tokenizer).await?;
            Some(((index, piece), choice))
        }))
    }))
}

/// All choices of a request, complete. They are read at once, for one that nobody reads is paused.
pub(crate) async fn all(
    choices: Vec<Choice>,
    tokenizer: &Tokenizer,
    first: impl Fn(),
) -> Vec<Result<Whole, Failed>> {
    let first = &first;
    join_all(choices.into_iter().map(|choice| choice.whole(tokenizer, first))).await
}

/// One answer while it is made. Dropping it cancels the request.
#[derive(Debug)]
pub(crate) struct Choice {
    events: Receiver<Event>,
    cancel: CancelToken,
    _guard: CancelGuard,
    reader: Reader,
    ready: VecDeque<Piece>,
    done: bool,
}

/// What makes pieces of tokens. Apart from the channel, so that it can be tried without an engine.
#[derive(Debug)]
struct Reader {
    /// `None` for text without a structure, and behind the end.
    parser: Option<Parser>,
    stream: Option<Stream>,
    stops: Stops,
    stopped: Option<String>,
    end: Vec<u32>,
    raw: bool,
    logs: Vec<TokenLog>,
    reuse: Option<Reuse>,
    reasoning: usize,
    said: bool,
    calls: usize,
    /// The call that is coming in.
    open: Option<(String, String)>,
    known: HashSet<(String, String)>,
    broken: Option<(String, String)>,
}

impl Choice {
    pub(super) fn new(
        events: Receiver<Event>,
        cancel: CancelToken,
        prepared: &Prepared,
        speaker: &Speaker,
    ) -> Self {
        let guard = cancel.guard();
        Self {
            events,
            cancel,
            _guard: guard,
            reader: Reader::new(prepared, speaker),
            ready: VecDeque::new(),
            done: false,
        }
    }

    /// The next piece; `None` behind the last. May be dropped and called again.
    pub(crate) async fn next(&mut self, tokenizer: &Tokenizer) -> Option<Piece> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.done {
                return None;
            }
            let lost = || Event::Finished {
                reason: job::Finish::Failed("it has ended".to_owned()),
                usage: Usage::default(),
            };
            let event = self.events.recv().await.unwrap_or_else(lost);
            self.done = matches!(event, Event::Finished { .. });
            if self.reader.take(tokenizer, event, &mut self.ready) {
                self.cancel.cancel(Cancel::Stop);
            }
        }
    }

    /// All of it; `first` is called when the first token is there.
    pub(crate) async fn whole(mut self, tokenizer: &Tokenizer, first: impl Fn()) -> Result<Whole, Failed> {
        let (mut reasoning, mut content, mut logs, mut calls) =
            (String::new(), String::new(), Vec::new(), Vec::new());
        while let Some(piece) = self.next(tokenizer).await {
            match piece {
                Piece::Started(_) | Piece::Prefill { .. } => continue,
                Piece::Reasoning(text) => reasoning += &text,
                Piece::Content(text, more) => {
                    content += &text;
                    logs.extend(more);
                }
                Piece::Call(call) => calls.push(call),
                Piece::Finished(ended) => {
                    return ended.map(|ended| Whole { reasoning, content, logs, calls, ended });
                }
            }
            first();
        }
        Err(Failed::Engine("it has ended".to_owned()))
    }
}

impl Reader {
    fn new(prepared: &Prepared, speaker: &Speaker) -> Self {
        Self {
            parser: (!prepared.raw).then(|| speaker.parser(prepared.start)),
            stream: Some(Stream::new(Markup::Show)),
            stops: Stops::new(prepared.ask.stop.clone()),
            stopped: None,
            end: speaker.end.clone(),
            raw: prepared.raw,
            logs: Vec::new(),
            reuse: None,
            reasoning: 0,
            said: false,
            calls: 0,
            open: None,
            known: HashSet::new(),
            broken: None,
        }
    }

    /// Takes an event; true if nothing more is wanted.
    fn take(&mut self, tokenizer: &Tokenizer, event: Event, out: &mut VecDeque<Piece>) -> bool {
        match event {
            Event::Started { reused, prompt, why } => {
                let reuse = Reuse { prompt, reused, why };
                self.reuse = Some(reuse);
                out.push_back(Piece::Started(reuse));
            }
            Event::Prefill { done, total } => out.push_back(Piece::Prefill { done, total }),
            Event::Token { id, logprob, top } => self.token(tokenizer, id, logprob, top, out),
            Event::Finished { reason, usage } => self.finish(reason, usage, out),
        }
        self.stopped.is_some() || self.broken.is_some()
    }

    fn token(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
        logprob: Option<f32>,
        top: Vec<(u32, f32)>,
        out: &mut VecDeque<Piece>,
    ) {
        // Tokens may come between the stop string and the engine's noticing.
        if self.stopped.is_some() || self.broken.is_some() {
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        let end = self.end.contains(&id);
        let Some(parser) = &mut self.parser else {
            if !end {
                self.log(id, logprob, top);
                let text = self.stream.as_mut().map(|stream| stream.push(tokenizer, id)).unwrap_or_default();
                self.say(&text, out);
            }
            return;
        };
        let before = parser.place();
        let marker = tokenizer.is_special(id);
        // An end that is no marker, such as `<eos>`, is no text either.
        let deltas = if end && !marker_of(tokenizer, id) {
            Vec::new()
        } else {
            let text = stream.push(tokenizer, id);
            parser.push(id, &text)
        };
        let after = parser.place();
        if before == Place::Thought || after == Place::Thought {
            self.reasoning += 1;
        } else if before == Place::Answer && after == Place::Answer && !marker {
            self.log(id, logprob, top);
        }
        self.deltas(deltas, out);
    }

    fn log(&mut self, id: u32, logprob: Option<f32>, top: Vec<(u32, f32)>) {
        if let Some(logprob) = logprob {
            self.logs.push(TokenLog { id, logprob, top, offset: self.stops.seen() });
        }
    }

    fn deltas(&mut self, deltas: Vec<Delta>, out: &mut VecDeque<Piece>) {
        for delta in deltas {
            match delta {
                Delta::Reasoning(text) => out.push_back(Piece::Reasoning(text)),
                Delta::Content(text) => self.say(&text, out),
                Delta::ToolCallStart { name, .. } => self.open = Some((name, String::new())),
                Delta::ToolCallArguments { json, .. } => {
                    if let Some((_, arguments)) = &mut self.open {
                        arguments.push_str(&json);
                    }
                }
                Delta::ToolCallEnd { .. } => {
                    let Some((name, arguments)) = self.open.take() else { continue };
                    // The same call again in one turn is a model that does not find the end.
                    if self.known.insert((name.clone(), arguments.clone())) {
                        let (index, id) = (self.calls, ids::fresh("call_"));
                        self.calls += 1;
                        out.push_back(Piece::Call(Call { index, id, name, arguments }));
                    }
                }
                Delta::ToolCallError { raw, why, .. } => self.broken = Some((why, raw)),
            }
        }
    }

    fn say(&mut self, text: &str, out: &mut VecDeque<Piece>) {
        if self.stopped.is_some() {
            return;
        }
        let passed = self.stops.push(text);
        self.stopped = passed.stop;
        self.pass(passed.text, out);
    }

    fn pass(&mut self, text: String, out: &mut VecDeque<Piece>) {
        let to = self.stops.passed();
        // Tokens of text that is held back wait with it; those of a stop string are dropped.
        let count = self.logs.iter().take_while(|log| log.offset < to).count();
        let logs: Vec<TokenLog> = self.logs.drain(..count).collect();
        if self.stopped.is_some() {
            self.logs.clear();
        }
        if !text.is_empty() || !logs.is_empty() {
            self.said = true;
            out.push_back(Piece::Content(text, logs));
        }
    }

    fn finish(&mut self, reason: job::Finish, usage: Usage, out: &mut VecDeque<Piece>) {
        let cut = reason == job::Finish::Length;
        if self.stopped.is_none() && self.broken.is_none() {
            let rest = self.stream.take().map(Stream::finish).unwrap_or_default();
            if let Some(mut parser) = self.parser.take() {
                let deltas = parser.push_text(rest);
                self.deltas(deltas, out);
                let (deltas, _) = parser.finish(match reason {
                    job::Finish::Length => Ending::Length,
                    job::Finish::Stop | job::Finish::Constraint => Ending::Stop,
                    _ => Ending::Cancelled,
                });
                self.deltas(deltas, out);
            } else if self.raw {
                self.say(rest, out);
            }
            let text = self.stops.finish();
            self.pass(text, out);
        }
        let ended = |finish| Ended { finish, usage, reasoning: self.reasoning, reuse: self.reuse };
        out.push_back(Piece::Finished(match reason {
            _ if self.stopped.is_some() => {
                Ok(ended(Finish::StopString(self.stopped.clone().unwrap_or_default())))
            }
            // A call that was cut off is no call, and `length` says so; unless there would be nothing else to see.
            _ if self.broken.is_some() && !(cut && (self.said || self.calls > 0)) => {
                let (why, raw) = self.broken.clone().unwrap_or_default();
                Err(Failed::Call { why, raw: raw.chars().take(SHOWN).collect() })
            }
            job::Finish::Length => Ok(ended(Finish::Length)),
            job::Finish::Stop | job::Finish::Constraint if self.calls > 0 => Ok(ended(Finish::ToolCalls)),
            job::Finish::Stop | job::Finish::Constraint => Ok(ended(Finish::Stop)),
            job::Finish::Deadline => Err(Failed::Deadline),
            job::Finish::Cancelled => Err(Failed::Cancelled),
            job::Finish::Failed(why) => Err(Failed::Engine(why)),
        }));
    }
}

/// Whether a token shapes dialogues, so that the parser knows what it means.
fn marker_of(tokenizer: &Tokenizer, id: u32) -> bool {
    let marks = tokenizer.marks();
    [marks.turn_end, marks.tool_response, marks.turn].contains(&Some(id))
}

#[cfg(test)]
mod tests;
