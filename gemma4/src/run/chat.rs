//! A chat: lines from the user, answers from the model, and commands about both.

mod command;
mod editor;
mod saved;
#[cfg(test)]
mod tests;
mod typing;

use std::io;
use std::path::Path;

use gemma4_core::backend::Backend;
use gemma4_core::chat::{Dialogue, Message, Role, ToolCall};
use gemma4_core::dialogue::{DialogueError, ReplyOptions, Speaker};
use gemma4_core::engine::{Engine, EngineError};
use gemma4_core::session::{Ended, FileError, Generated, Session, SessionError};
use gemma4_core::speculate::Speculator;

use super::interrupt::Interrupt;
use super::screen::Screen;
use super::turn::{self, Watch};
use super::{RunError, Settings, options};
use crate::draft;
use crate::failure::Failure;
use command::{Command, HELP};
pub(super) use editor::Editor;
use saved::Saved;

/// What a user does at a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Entered a line, without its end.
    Line(String),
    /// Pressed Ctrl-C where there was nothing to be deleted.
    Interrupted,
    /// Pressed Ctrl-D.
    End,
}

/// Where lines come from.
pub(super) trait Lines {
    /// Shows `prompt` and reads a line.
    fn read(&mut self, prompt: &str) -> io::Result<Input>;

    /// Keeps what was entered for later.
    fn remember(&mut self, entry: &str);

    /// Until [`Lines::show_typing`], nothing that is typed appears amid the answer; it is read as the next lines.
    fn hide_typing(&mut self);

    /// The answer is complete.
    fn show_typing(&mut self);
}

/// A chat with one model.
pub(super) struct Chat<'a, B: Backend> {
    engine: &'a mut Engine<B>,
    speaker: &'a Speaker,
    settings: Settings,
    dialogue: Dialogue,
    screen: Screen,
    stop: &'a Interrupt,
    /// What the cache holds; opened when it is needed first.
    session: Option<Session>,
    /// What drafts, while there is no session: it has measured this machine, and goes on with the next one.
    speculator: Option<Speculator>,
    last: Option<Generated>,
}

/// What comes after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Line,
    Leave,
}

impl<'a, B: Backend> Chat<'a, B> {
    pub(super) fn new(
        engine: &'a mut Engine<B>,
        speaker: &'a Speaker,
        settings: Settings,
        dialogue: Dialogue,
        screen: Screen,
        stop: &'a Interrupt,
    ) -> Self {
        Self {
            engine,
            speaker,
            settings,
            dialogue,
            screen,
            stop,
            session: None,
            speculator: None,
            last: None,
        }
    }

    /// Says who is there.
    pub(super) fn welcome(&mut self, model: &str) {
        self.screen.note(&format!("This is {model}. /help lists commands, Ctrl-D leaves."));
    }

    /// Answers until the user leaves.
    pub(super) fn run(&mut self, lines: &mut dyn Lines) -> Result<(), Failure> {
        let mut warned = false;
        loop {
            let call = waiting(&self.dialogue.messages).cloned();
            let prompt = match &call {
                Some(call) => format!("result of {}> ", call.function.name),
                None => ">>> ".to_owned(),
            };
            let text = match entry(lines, &prompt).map_err(RunError::Terminal)? {
                Input::Line(text) => text,
                Input::End => return Ok(()),
                Input::Interrupted if warned => return Ok(()),
                Input::Interrupted => {
                    warned = true;
                    self.screen
                        .note("Ctrl-C again or Ctrl-D leaves; while the model answers, Ctrl-C stops it.");
                    continue;
                }
            };
            warned = false;
            if text.trim().is_empty() {
                continue;
            }
            lines.remember(&text);
            if let Some(command) = Command::parse(&text) {
                if self.obey(command)? == Next::Leave {
                    return Ok(());
                }
                continue;
            }
            self.dialogue.messages.push(match call {
                Some(call) => Message {
                    tool_call_id: call.id,
                    name: Some(call.function.name),
                    ..Message::new(Role::Tool, text)
                },
                None => Message::new(Role::User, text),
            });
            if waiting(&self.dialogue.messages).is_none() {
                lines.hide_typing();
                let answered = self.answer();
                lines.show_typing();
                answered?;
            }
        }
    }

    /// Lets the model speak. What goes wrong with the dialogue is said, and the chat goes on.
    fn answer(&mut self) -> Result<(), Failure> {
        self.stop.clear();
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::new(self.engine)?,
        };
        if session.speculator().is_none() {
            let settings = self.settings.draft.clone();
            let fresh = || settings.and_then(|settings| Speculator::new(settings, self.engine));
            session.speculate(self.speculator.take().or_else(fresh));
        }
        let options =
            ReplyOptions { sampling: &self.settings.sampling, max_tokens: self.settings.max_tokens };
        let mut watch = Watch::new(Some(&mut self.screen), self.stop);
        let result = self
            .speaker
            .reply(self.engine, &mut session, &self.dialogue, &options, &mut |update| watch.update(&update));
        self.session = Some(session);
        watch.finish().map_err(RunError::Output)?;
        let context = self.engine.options().context;
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => {
                self.take_back();
                self.screen.tell(&explain(&error));
                return Ok(());
            }
        };
        let ended = answer.generated.ended;
        let silent = answer.reply.content.is_empty() && answer.reply.tool_calls.is_empty();
        if ended == Ended::Stopped && silent {
            self.take_back();
            self.screen.note("Stopped before the answer began: the message is taken back.");
        } else {
            let before: usize = self.dialogue.messages.iter().map(|message| message.tool_calls.len()).sum();
            self.dialogue
                .messages
                .push(answer.reply.into_message(|index| format!("call_{}", before + index)));
            if let Some(cut) = turn::cut(ended, context) {
                self.screen.note(&cut);
            }
        }
        self.screen.note(&turn::summary(&answer.generated));
        if ended == Ended::ContextFull {
            self.screen.tell(FULL);
        }
        self.last = Some(answer.generated);
        Ok(())
    }

    /// Removes what the model has not answered.
    fn take_back(&mut self) {
        let messages = &mut self.dialogue.messages;
        while messages.last().is_some_and(|message| matches!(message.role, Role::User | Role::Tool)) {
            messages.pop();
        }
    }

    fn obey(&mut self, command: Command) -> Result<Next, Failure> {
        match command {
            Command::Help => self.screen.tell(HELP),
            Command::Exit => return Ok(Next::Leave),
            Command::Reset => {
                self.dialogue.messages.retain(|message| message.role == Role::System);
                self.forget()?;
                if !self.settings.seeded {
                    self.settings.sampling.seed = options::random_seed();
                }
                self.screen.note("The chat starts over.");
            }
            Command::System(text) => self.system(text),
            Command::Think(on) => {
                self.dialogue.enable_thinking = on.unwrap_or(self.dialogue.enable_thinking);
                let on = self.dialogue.enable_thinking;
                self.screen.note(if on { "The model thinks first." } else { "The model answers at once." });
            }
            Command::Stats => {
                let stats = self.stats();
                self.screen.tell(&stats);
            }
            Command::Save(path) => self.save(&path)?,
            Command::Load(path) => self.load(&path)?,
            Command::Wrong(text) => self.screen.tell(&text),
        }
        Ok(Next::Line)
    }

    fn system(&mut self, text: Option<String>) {
        let messages = &mut self.dialogue.messages;
        let old = messages.iter().position(|message| message.role == Role::System);
        let Some(text) = text else {
            let now = old.map_or_else(|| "There is no system prompt.".to_owned(), |at| messages[at].text());
            self.screen.tell(&now);
            return;
        };
        if let Some(at) = old {
            messages.remove(at);
        }
        if text.is_empty() {
            self.screen.note("The system prompt is removed.");
        } else {
            messages.insert(0, Message::new(Role::System, text));
            self.screen.note("The system prompt is set; it holds from the next message on.");
        }
    }

    fn stats(&mut self) -> String {
        let context = self.engine.options().context;
        let used = self.session.as_ref().map_or(0, |session| session.tokens().len());
        let stats = self.engine.cache_stats();
        let mut lines = Vec::new();
        match &self.last {
            Some(last) => lines.push(format!("last answer  {}", turn::summary(last))),
            None => lines.push("last answer  none yet".to_owned()),
        }
        lines.push(format!("context      {used} of {context} tokens"));
        for (name, group) in [("global", stats.global), ("local", stats.local)] {
            let total = group.used + group.free;
            if total > 0 {
                lines.push(format!("{:<12} {} of {total} pages used", format!("{name} cache"), group.used));
            }
        }
        let s = &self.settings.sampling;
        let drafting = self.session.as_ref().and_then(Session::speculator).or(self.speculator.as_ref());
        lines.extend(drafting.map(draft::lines).unwrap_or_default());
        lines.push(if s.temperature > 0.0 {
            let (t, k, p) = (s.temperature, s.top_k, s.top_p);
            format!("sampling     temperature {t}, top-k {k}, top-p {p}, min-p {}, seed {}", s.min_p, s.seed)
        } else {
            "sampling     always the most likely token".to_owned()
        });
        lines.join("\n")
    }

    /// Empties the cache.
    fn forget(&mut self) -> Result<(), EngineError> {
        self.last = None;
        let Some(mut session) = self.session.take() else { return Ok(()) };
        self.speculator = session.take_speculator().or(self.speculator.take());
        session.close(self.engine)
    }

    fn save(&mut self, path: &Path) -> Result<(), Failure> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::new(self.engine)?,
        };
        let saved = session.save(self.engine, path, &Saved::of(&self.dialogue).to_json()?);
        self.session = Some(session);
        match saved {
            Ok(()) => self.screen.note(&format!("Saved to {}.", path.display())),
            Err(error) => self.screen.tell(&explain(&error)),
        }
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<(), Failure> {
        // There is one sequence, so the old one has to go first: not for a file that is not there.
        if let Err(source) = std::fs::File::open(path) {
            self.screen.tell(&explain(&FileError::Io { path: path.to_owned(), source }));
            return Ok(());
        }
        let last = self.last.take();
        self.forget()?;
        let (session, extra, note) = match Session::load(self.engine, path) {
            Ok(restored) => (Some(restored.session), restored.extra, None),
            Err(error @ FileError::Other { .. }) => {
                let note = format!("{error}: the messages are kept and the cache is computed anew.");
                let FileError::Other { extra, .. } = error else { unreachable!("matched above") };
                (None, *extra, Some(note))
            }
            Err(error) => {
                self.last = last;
                self.screen.tell(&explain(&error));
                return Ok(());
            }
        };
        self.session = session;
        match Saved::from_json(extra) {
            Ok(saved) => {
                saved.into(&mut self.dialogue);
                let turns =
                    self.dialogue.messages.iter().filter(|message| message.role == Role::User).count();
                let s = if turns == 1 { "" } else { "s" };
                self.screen.note(&format!("Loaded {} with {turns} message{s} of yours.", path.display()));
                if let Some(note) = note {
                    self.screen.tell(&note);
                }
            }
            Err(error) => {
                self.forget()?;
                self.screen.tell(&format!("error: {} holds no chat: {error}", path.display()));
            }
        }
        Ok(())
    }
}

const FULL: &str = "\
/reset starts over. To go on with this chat, /save it, start again with a larger --ctx and /load it.";

/// The call whose result is wanted next, if the model waits for one.
fn waiting(messages: &[Message]) -> Option<&ToolCall> {
    let results = messages.iter().rev().take_while(|message| message.role == Role::Tool).count();
    messages.iter().rev().nth(results)?.tool_calls.get(results)
}

/// Reads lines until they make a whole: a backslash at the end goes on, and so does `"""` until it comes again.
fn entry(lines: &mut dyn Lines, prompt: &str) -> io::Result<Input> {
    let mut text = match lines.read(prompt)? {
        Input::Line(text) => text,
        other => return Ok(other),
    };
    if let Some(block) = text.trim_start().strip_prefix(QUOTES) {
        let mut block = block.to_owned();
        loop {
            if let Some(whole) = block.trim_end().strip_suffix(QUOTES) {
                let whole = whole.strip_prefix('\n').unwrap_or(whole);
                return Ok(Input::Line(whole.strip_suffix('\n').unwrap_or(whole).to_owned()));
            }
            match lines.read(MORE)? {
                Input::Line(line) => block = format!("{block}\n{line}"),
                // Ctrl-C gives up the block and not the chat.
                Input::Interrupted => return Ok(Input::Line(String::new())),
                Input::End => return Ok(Input::End),
            }
        }
    }
    while let Some(begun) = text.strip_suffix('\\') {
        match lines.read(MORE)? {
            Input::Line(line) => text = format!("{begun}\n{line}"),
            Input::Interrupted => return Ok(Input::Line(String::new())),
            Input::End => return Ok(Input::End),
        }
    }
    Ok(Input::Line(text))
}

const QUOTES: &str = "\"\"\"";
const MORE: &str = "... ";

/// An error and its causes as one line; a prompt that does not fit is no failure of the program, so it says more.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(DialogueError::Session(SessionError::PromptTooLong { prompt, context })) =
        error.downcast_ref()
    {
        return format!(
            "error: with this message the chat has {prompt} tokens, and the context {context}: the message is taken \
             back. {FULL}"
        );
    }
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
