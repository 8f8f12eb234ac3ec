//! Lines from a terminal, with editing and a history that outlives the chat.

use std::fs;
use std::io;
use std::path::PathBuf;

use etcetera::BaseStrategy;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Behavior, Cmd, CompletionType, ConditionalEventHandler, Config, Context, Event, EventContext,
    EventHandler, Helper, KeyEvent, Movement, RepeatCount,
};

use super::command::NAMES;
use super::typing::Hidden;
use super::{Input, Lines};

/// Entries that are kept.
const HISTORY: usize = 1000;

/// A line editor.
pub(in crate::run) struct Editor {
    inner: rustyline::Editor<Tab, FileHistory>,
    history: Option<PathBuf>,
    hidden: Option<Hidden>,
}

impl Editor {
    /// An editor on the terminal, which is used even when stdout is a file.
    pub(in crate::run) fn new() -> io::Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY)
            .map_err(into_io)?
            .behavior(Behavior::PreferTerm)
            .completion_type(CompletionType::List)
            .build();
        let mut inner = rustyline::Editor::with_config(config).map_err(into_io)?;
        inner.set_helper(Some(Tab(FilenameCompleter::new())));
        inner.bind_sequence(KeyEvent::ctrl('c'), EventHandler::Conditional(Box::new(ClearLine)));
        // Whatever is wrong with the history, the chat can do without.
        let history = history_path();
        if let Some(path) = &history {
            let _ = inner.load_history(path);
        }
        Ok(Self { inner, history, hidden: None })
    }
}

impl Lines for Editor {
    fn read(&mut self, prompt: &str) -> io::Result<Input> {
        match self.inner.readline(prompt) {
            Ok(line) => Ok(Input::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupted),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(into_io(error)),
        }
    }

    fn remember(&mut self, entry: &str) {
        // At once, so that a chat that is killed loses nothing; failing to write it hurts nobody.
        let _ = self.inner.add_history_entry(entry);
        if let Some(path) = &self.history {
            let _ = self.inner.append_history(path);
        }
    }

    fn hide_typing(&mut self) {
        self.hidden = Hidden::new();
    }

    fn show_typing(&mut self) {
        self.hidden = None;
    }
}

/// The history's file, in a folder that exists; `None` where there is no place for it.
fn history_path() -> Option<PathBuf> {
    let places = etcetera::choose_base_strategy().ok()?;
    let folder = places.state_dir().unwrap_or_else(|| places.data_dir()).join("gemma4");
    fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

fn into_io(error: ReadlineError) -> io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// Ctrl-C deletes what is on the line, and interrupts where there is nothing.
struct ClearLine;

impl ConditionalEventHandler for ClearLine {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeBuffer))
    }
}

/// What Tab completes: commands, and paths behind those that take one.
struct Tab(FilenameCompleter);

impl Completer for Tab {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        if typed.starts_with("/save ") || typed.starts_with("/load ") {
            return self.0.complete_path(line, pos);
        }
        let fitting = NAMES.iter().filter(|name| typed.starts_with('/') && name.starts_with(typed));
        let pair = |name: &&str| Pair { display: (*name).to_owned(), replacement: (*name).to_owned() };
        Ok((0, fitting.map(pair).collect()))
    }
}

impl Hinter for Tab {
    type Hint = String;
}

impl Highlighter for Tab {}
impl Validator for Tab {}
impl Helper for Tab {}
