//! The model's output, split into reasoning, content and tool calls while it streams.
//!
//! One state machine serves every endpoint. It eats tokens and emits [`Delta`]s, and the deltas put together are the
//! final [`Reply`], however the text was cut into pieces. A call is emitted whole, when it has been read without
//! error: what a client has been told cannot be taken back.

use serde_json::Value;

use super::markers::{Scanner, Symbol};
use super::message::{Content, FunctionCall, Message, Role, ToolCall};
use super::value::Body;
use super::{Marker, Markers};

/// What the prompt ended with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Outside a thought: in front of the answer, be it behind an empty thought or not.
    #[default]
    Answer,
    /// Inside an open thought.
    Thought,
}

impl Start {
    /// Where a rendered prompt leaves the model.
    #[must_use]
    pub fn of(prompt: &str) -> Self {
        if prompt.ends_with("<|channel>thought\n") { Self::Thought } else { Self::Answer }
    }
}

/// Where thoughts go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reasoning {
    /// Into [`Reply::reasoning`].
    #[default]
    Apart,
    /// Into the content, markers and all, as the model wrote them.
    InContent,
}

/// How much of a call is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Objects and arrays inside one another, the arguments themselves included.
    pub depth: usize,
    /// Bytes between the markers of a call.
    pub call_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 64, call_bytes: 4 << 20 }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// The model waits for the results of its calls.
    ToolCalls,
    /// The limit of tokens or of the context was reached.
    Length,
    /// Somebody stopped it.
    Cancelled,
}

/// A call that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// What stood between the call's markers, up to [`Limits::call_bytes`].
    pub raw: String,
    /// What is wrong with it.
    pub why: String,
}

/// Something new in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// More of the thoughts.
    Reasoning(String),
    /// More of the answer.
    Content(String),
    /// A call begins.
    ToolCallStart {
        /// Index into [`Reply::tool_calls`].
        index: usize,
        /// Name of the function.
        name: String,
    },
    /// The call's arguments.
    ToolCallArguments {
        /// Index into [`Reply::tool_calls`].
        index: usize,
        /// A JSON object; pieces with the same index make one text.
        json: String,
    },
    /// The call is complete.
    ToolCallEnd {
        /// Index into [`Reply::tool_calls`].
        index: usize,
    },
    /// A call that could not be read. It takes no index among the calls.
    ToolCallError {
        /// Index into [`Reply::errors`].
        index: usize,
        /// See [`CallError::raw`].
        raw: String,
        /// See [`CallError::why`].
        why: String,
    },
}

/// All of the output.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The thoughts, joined by line breaks.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// Calls in order.
    pub tool_calls: Vec<FunctionCall>,
    /// Why generation ended.
    pub finish: Finish,
    /// Calls that could not be read, in order.
    pub errors: Vec<CallError>,
}

impl Reply {
    /// The message that continues the dialogue; `id` names the call at an index.
    #[must_use]
    pub fn into_message(self, mut id: impl FnMut(usize) -> String) -> Message {
        let calls = self.tool_calls.into_iter().enumerate();
        Message {
            content: (!self.content.is_empty()).then_some(Content::Text(self.content)),
            reasoning_content: (!self.reasoning.is_empty()).then_some(self.reasoning),
            tool_calls: calls.map(|(at, function)| ToolCall { id: Some(id(at)), function }).collect(),
            role: Role::Assistant,
            tool_call_id: None,
            name: None,
        }
    }
}

/// Where in the output a parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the answer, or between its parts.
    Answer,
    /// In a thought.
    Thought,
    /// In a call.
    Call,
    /// Behind the end of the turn.
    Done,
}

/// Where in the output we are.
#[derive(Clone, Debug)]
enum State {
    /// In the answer. `blank` is white space that has so far nothing behind it; `None` once there is text.
    Answer { blank: Option<String> },
    /// Behind `<|turn>`, with what may become `model` and a line break.
    Turn(String),
    /// Behind `<|channel>`, with what may become `thought`.
    Channel(String),
    /// Behind `<|channel>thought`, skipping white space.
    ThoughtStart,
    /// In a thought. `line_break` is one that belongs to the closing marker if that comes next.
    Thought { line_break: bool },
    /// Behind `<|tool_call>`.
    Call(Body),
    /// Behind the end of the turn: nothing counts any more.
    Done,
}

impl State {
    fn answer() -> Self {
        Self::Answer { blank: Some(String::new()) }
    }
}

/// Reads one output of the model.
#[derive(Clone, Debug)]
pub struct Parser {
    markers: Markers,
    scanner: Scanner,
    machine: Machine,
}

#[derive(Clone, Debug)]
struct Machine {
    mode: Reasoning,
    limits: Limits,
    state: State,
    reply: Reply,
    out: Vec<Delta>,
}

impl Parser {
    /// A parser for the output behind a prompt that ended as `start` says.
    #[must_use]
    pub fn new(markers: Markers, start: Start) -> Self {
        let reply = Reply {
            reasoning: String::new(),
            content: String::new(),
            tool_calls: Vec::new(),
            finish: Finish::Stop,
            errors: Vec::new(),
        };
        let state = match start {
            Start::Answer => State::answer(),
            Start::Thought => State::ThoughtStart,
        };
        let scanner = Scanner::new(&markers);
        let (mode, limits) = (Reasoning::default(), Limits::default());
        Self { markers, scanner, machine: Machine { mode, limits, state, reply, out: Vec::new() } }
    }

    /// Chooses where thoughts go.
    #[must_use]
    pub fn reasoning(mut self, mode: Reasoning) -> Self {
        self.machine.mode = mode;
        if mode == Reasoning::InContent {
            self.machine.state = State::answer();
        }
        self
    }

    /// Sets how much of a call is kept.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.machine.limits = limits;
        self
    }

    /// Takes a token: its id and the text that it adds, which may be empty while a character is incomplete.
    /// The text of a marker's token is not looked at.
    pub fn push(&mut self, id: u32, text: &str) -> Vec<Delta> {
        if let Some(marker) = self.markers.marker(id) {
            let held = self.scanner.take_held();
            self.machine.text(&held);
            self.machine.marker(marker);
        } else {
            self.push_text_symbols(text);
        }
        std::mem::take(&mut self.machine.out)
    }

    /// Takes text that belongs to no token, such as what a decoder still held.
    pub fn push_text(&mut self, text: &str) -> Vec<Delta> {
        self.push_text_symbols(text);
        std::mem::take(&mut self.machine.out)
    }

    fn push_text_symbols(&mut self, text: &str) {
        let machine = &mut self.machine;
        self.scanner.push(text, |symbol| match symbol {
            Symbol::Text(text) => machine.text(text),
            Symbol::Marker(marker) => machine.marker(marker),
        });
    }

    /// Whether the model has ended its turn or waits for a tool: what follows is ignored, so generation may stop.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.machine.state, State::Done)
    }

    /// Where the output read so far ends.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.machine.state {
            State::Answer { .. } | State::Turn(_) => Place::Answer,
            State::Channel(_) | State::ThoughtStart | State::Thought { .. } => Place::Thought,
            State::Call(_) => Place::Call,
            State::Done => Place::Done,
        }
    }

    /// Ends the output: the last deltas and all of it. `finish` says why generation ended; [`Finish::Stop`] becomes
    /// [`Finish::ToolCalls`] if there are calls.
    #[must_use]
    pub fn finish(mut self, finish: Finish) -> (Vec<Delta>, Reply) {
        let held = self.scanner.take_held();
        let cut = matches!(finish, Finish::Length | Finish::Cancelled);
        // Half a marker that was cut off is nothing to show; a lone `<` is more likely one.
        if !cut || held.len() == 1 || matches!(self.machine.state, State::Call(_)) {
            self.machine.text(&held);
        }
        let mut machine = self.machine;
        match std::mem::replace(&mut machine.state, State::Done) {
            State::Call(body) => machine.end_call(&body, true),
            State::Turn(text) if !cut => machine.say(&text),
            _ => {}
        }
        machine.reply.finish = match finish {
            Finish::Length | Finish::Cancelled => finish,
            Finish::Stop | Finish::ToolCalls if machine.reply.tool_calls.is_empty() => Finish::Stop,
            Finish::Stop | Finish::ToolCalls => Finish::ToolCalls,
        };
        (machine.out, machine.reply)
    }
}

impl Machine {
    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match &mut self.state {
            State::Answer { blank } => match blank {
                Some(before) if text.trim_start().is_empty() => before.push_str(text),
                Some(before) => {
                    before.push_str(text);
                    let text = std::mem::take(before);
                    *blank = None;
                    self.say(&text);
                }
                None => self.say(text),
            },
            State::Turn(header) => {
                header.push_str(text);
                if let Some(rest) = header.strip_prefix("model\n") {
                    let rest = rest.to_owned();
                    self.state = State::answer();
                    self.text(&rest);
                } else if !"model\n".starts_with(header.as_str()) {
                    let text = std::mem::take(header);
                    self.state = State::answer();
                    self.text(&text);
                }
            }
            State::Channel(name) => {
                name.push_str(text);
                // A channel of another name is still not the answer.
                if let Some(rest) = name.strip_prefix("thought") {
                    let rest = rest.to_owned();
                    self.state = State::ThoughtStart;
                    self.text(&rest);
                } else if !"thought".starts_with(name.as_str()) {
                    let text = std::mem::take(name);
                    self.state = State::ThoughtStart;
                    self.text(&text);
                }
            }
            State::ThoughtStart => {
                let text = text.trim_start();
                if !text.is_empty() {
                    let line_break = !self.reply.reasoning.is_empty();
                    self.state = State::Thought { line_break };
                    self.text(text);
                }
            }
            State::Thought { line_break } => {
                let before = if *line_break { "\n" } else { "" };
                let kept = text.strip_suffix('\n').unwrap_or(text);
                *line_break = kept.len() < text.len();
                self.think(before);
                self.think(kept);
            }
            State::Call(body) => body.push(text, self.limits),
            State::Done => {}
        }
    }

    fn marker(&mut self, marker: Marker) {
        match &mut self.state {
            State::Done => return,
            State::Call(body) if !body.ends_at(marker) => {
                body.push_marker(marker, self.limits);
                return;
            }
            State::Call(body) => {
                let body = std::mem::take(body);
                self.state = State::answer();
                self.end_call(&body, false);
                if marker == Marker::CallEnd {
                    return;
                }
            }
            State::Channel(name) if !name.is_empty() => {
                let name = std::mem::take(name);
                self.state = State::ThoughtStart;
                self.text(&name);
            }
            State::Turn(header) if !header.is_empty() => {
                let header = std::mem::take(header);
                self.state = State::answer();
                self.text(&header);
            }
            _ => {}
        }
        match marker {
            Marker::Channel | Marker::ChannelEnd if self.mode == Reasoning::InContent => {
                self.text(marker.text());
            }
            Marker::Channel => self.state = State::Channel(String::new()),
            Marker::ChannelEnd => self.state = State::answer(),
            Marker::Call => self.state = State::Call(Body::default()),
            // Strays.
            Marker::CallEnd | Marker::ResponseEnd => {}
            Marker::Quote => self.text("\""),
            Marker::Turn if self.reply.content.is_empty() && self.reply.tool_calls.is_empty() => {
                self.state = State::Turn(String::new());
            }
            Marker::Response | Marker::Turn | Marker::TurnEnd => self.state = State::Done,
        }
    }

    fn say(&mut self, text: &str) {
        self.reply.content.push_str(text);
        match self.out.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::Content(last)) => last.push_str(text),
            _ => self.out.push(Delta::Content(text.to_owned())),
        }
    }

    fn think(&mut self, text: &str) {
        self.reply.reasoning.push_str(text);
        match self.out.last_mut() {
            _ if text.is_empty() => {}
            Some(Delta::Reasoning(last)) => last.push_str(text),
            _ => self.out.push(Delta::Reasoning(text.to_owned())),
        }
    }

    /// `cut`: generation ended before the call did.
    fn end_call(&mut self, body: &Body, cut: bool) {
        match body.parse(self.limits) {
            Ok(call) => {
                let index = self.reply.tool_calls.len();
                let json = Value::Object(call.arguments.clone()).to_string();
                self.out.push(Delta::ToolCallStart { index, name: call.name.clone() });
                self.out.push(Delta::ToolCallArguments { index, json });
                self.out.push(Delta::ToolCallEnd { index });
                self.reply.tool_calls.push(call);
            }
            Err(why) => {
                let why = if cut { format!("generation ended inside the call: {why}") } else { why };
                let index = self.reply.errors.len();
                let raw = body.text.clone();
                self.out.push(Delta::ToolCallError { index, raw: raw.clone(), why: why.clone() });
                self.reply.errors.push(CallError { raw, why });
            }
        }
    }
}

#[cfg(test)]
mod tests;
