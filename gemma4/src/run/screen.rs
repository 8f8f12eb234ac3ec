//! What an answer looks like: content on stdout, everything else on stderr.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use gemma4_core::chat::Delta;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[22m";

/// Where the last piece went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nowhere: stdout and stderr are at the start of a line.
    Start,
    /// To the thoughts, on stderr.
    Thought,
    /// To the answer, on stdout, in the middle of a line.
    Line,
}

/// Stdout and stderr.
pub(super) struct Screen {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    controls: Controls,
    at: At,
}

/// What is done with control characters in the model's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controls {
    /// They are written as they are.
    Kept,
    /// A terminal would obey them: it gets U+FFFD instead, but for line ends and tabs.
    Replaced,
}

impl Screen {
    /// Those of the process.
    pub(super) fn standard() -> Self {
        let controls = if io::stdout().is_terminal() { Controls::Replaced } else { Controls::Kept };
        // anstream takes styles out where nobody sees them: no terminal, `NO_COLOR`, `TERM=dumb`.
        Self::new(Box::new(io::stdout()), Box::new(anstream::stderr()), controls)
    }

    /// A screen that writes to `out` and `err`.
    pub(super) fn new(out: Box<dyn Write>, err: Box<dyn Write>, controls: Controls) -> Self {
        Self { out, err, controls, at: At::Start }
    }

    /// Shows a piece of the answer.
    pub(super) fn delta(&mut self, delta: &Delta) -> io::Result<()> {
        match delta {
            Delta::Reasoning(text) => {
                if self.at != At::Thought {
                    self.end()?;
                    self.dim("thinking: ");
                }
                self.dim(&shown(text, Controls::Replaced));
                self.at = At::Thought;
                Ok(())
            }
            Delta::Content(text) => self.say(text),
            Delta::ToolCallStart { name, .. } => {
                self.end()?;
                self.say(&format!("{name}("))
            }
            Delta::ToolCallArguments { json, .. } => self.say(json),
            Delta::ToolCallEnd { .. } => self.say(")\n"),
            Delta::ToolCallError { raw, why, .. } => {
                self.end()?;
                self.note(&format!("A call of a tool cannot be read: {why}: {raw}"));
                Ok(())
            }
        }
    }

    /// Writes text to stdout.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if self.at == At::Thought {
            self.end()?;
            self.complain("\n");
        }
        self.out.write_all(shown(text, self.controls).as_bytes())?;
        self.at = if text.ends_with('\n') { At::Start } else { At::Line };
        self.out.flush()
    }

    /// Ends a line that was begun.
    pub(super) fn end(&mut self) -> io::Result<()> {
        match self.at {
            At::Start => {}
            At::Thought => self.complain("\n"),
            At::Line => {
                self.out.write_all(b"\n")?;
                self.out.flush()?;
            }
        }
        self.at = At::Start;
        Ok(())
    }

    /// Writes a line about the answer to stderr.
    pub(super) fn note(&mut self, text: &str) {
        self.dim(&shown(text, Controls::Replaced));
        self.complain("\n");
    }

    /// Writes lines that the user asked for to stderr.
    pub(super) fn tell(&mut self, text: &str) {
        self.complain(&format!("{}\n", shown(text, Controls::Replaced)));
    }

    fn dim(&mut self, text: &str) {
        // A style is ended with the line, for what is written next may come from somebody else.
        let mut styled = String::new();
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            let style = if line.is_empty() { ("", "") } else { (DIM, PLAIN) };
            // A string takes everything.
            let _ = write!(styled, "{}{line}{}{end}", style.0, style.1);
        }
        self.complain(&styled);
    }

    /// Whoever closed stderr does not want to know: only stdout's errors end a run.
    fn complain(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }
}

fn shown(text: &str, controls: Controls) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    if controls == Controls::Kept || !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(bad, "\u{fffd}"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Bytes that can be looked at while somebody writes them.
    #[derive(Clone, Default)]
    pub(in crate::run) struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Shared {
        pub(in crate::run) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }

        /// What was written since the last call.
        pub(in crate::run) fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.borrow_mut())).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn show(deltas: &[Delta], controls: Controls) -> (String, String) {
        let (out, err) = (Shared::default(), Shared::default());
        let mut screen = Screen::new(Box::new(out.clone()), Box::new(err.clone()), controls);
        for delta in deltas {
            screen.delta(delta).unwrap();
        }
        screen.end().unwrap();
        (out.text(), err.text())
    }

    #[test]
    fn content_ends_with_one_line_end_and_stands_alone_on_stdout() {
        let thought = Delta::Reasoning("hm\nwell".into());
        for (pieces, expected) in
            [(&["a", "b"][..], "ab\n"), (&["a\n"], "a\n"), (&["a\n", "\n"], "a\n\n"), (&[], "")]
        {
            let mut deltas = vec![thought.clone()];
            deltas.extend(pieces.iter().map(|&piece| Delta::Content(piece.into())));
            let (out, err) = show(&deltas, Controls::Kept);
            assert_eq!(out, expected);
            assert!(
                err.starts_with("\x1b[2mthinking: \x1b[22m\x1b[2mhm\x1b[22m\n\x1b[2mwell\x1b[22m\n"),
                "{err:?}"
            );
        }
    }

    #[test]
    fn calls_are_lines_of_their_own() {
        let call = [
            Delta::Content("Let me see.".into()),
            Delta::ToolCallStart { index: 0, name: "get_weather".into() },
            Delta::ToolCallArguments { index: 0, json: "{\"city\":\"Paris\"}".into() },
            Delta::ToolCallEnd { index: 0 },
        ];
        assert_eq!(show(&call, Controls::Kept).0, "Let me see.\nget_weather({\"city\":\"Paris\"})\n");
    }

    #[test]
    fn a_terminal_gets_no_control_characters_from_the_model() {
        let deltas = [Delta::Content("a\x1b]0;title\x07\tb\r\n".into())];
        assert_eq!(show(&deltas, Controls::Replaced).0, "a\u{fffd}]0;title\u{fffd}\tb\u{fffd}\n");
        assert_eq!(show(&deltas, Controls::Kept).0, "a\x1b]0;title\x07\tb\r\n");
        let (_, err) = show(&[Delta::Reasoning("\x1b[31m".into())], Controls::Kept);
        assert!(!err.contains("\x1b[31m"), "{err:?}");
    }
}
