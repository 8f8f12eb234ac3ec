//! Where the prompt comes from.

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use super::RunError;
use super::delayed::Delayed;
use crate::failure::Failure;

/// Most bytes of a prompt from stdin.
const MOST: u64 = 64 << 20;

/// Who waits longer for stdin is told what for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the user wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// One answer to this text.
    Text(String),
    /// A chat.
    Chat,
}

/// What the command line and stdin ask.
pub(super) fn asked(prompt: Option<&str>) -> Result<Asked, Failure> {
    let terminal = io::stdin().is_terminal();
    let piped = match prompt {
        None | Some(_) if !terminal => Some(read(io::stdin().lock())?),
        Some("-") => Some(read(io::stdin().lock())?),
        _ => None,
    };
    combine(prompt, piped.as_deref())
}

/// The prompt and what stdin holds behind it.
fn combine(prompt: Option<&str>, piped: Option<&str>) -> Result<Asked, Failure> {
    let piped = piped.map(without_line_end);
    let text = match (prompt, piped) {
        (None, None) => return Ok(Asked::Chat),
        (None | Some("-"), piped) => piped.unwrap_or_default().to_owned(),
        (Some(prompt), None | Some("")) => prompt.to_owned(),
        (Some(prompt), Some(piped)) => format!("{prompt}\n\n{piped}"),
    };
    if text.trim().is_empty() {
        let from = if matches!(prompt, None | Some("-")) { ": stdin holds no text" } else { "" };
        return Err(Failure::usage(format!("the prompt is empty{from}")));
    }
    Ok(Asked::Text(text))
}

/// Without the one line end that a shell puts behind every text.
fn without_line_end(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or(text);
    line.strip_suffix('\r').unwrap_or(line)
}

fn read(input: impl Read) -> Result<String, RunError> {
    let _waiting = Delayed::new(PATIENCE, || {
        let hint = "waiting for the rest of the prompt from stdin (Ctrl-D ends it, </dev/null leaves it out)";
        // Whoever closed stderr does not want to know.
        let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{hint}\n"));
    });
    let mut bytes = Vec::new();
    input.take(MOST + 1).read_to_end(&mut bytes).map_err(RunError::Stdin)?;
    if bytes.len() as u64 > MOST {
        return Err(RunError::StdinTooLong(MOST));
    }
    String::from_utf8(bytes).map_err(|error| RunError::StdinNotText(error.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(prompt: Option<&str>, piped: Option<&str>) -> String {
        match combine(prompt, piped).unwrap() {
            Asked::Text(text) => text,
            Asked::Chat => panic!("a chat"),
        }
    }

    #[test]
    fn stdin_is_the_prompt_or_follows_it() {
        assert_eq!(text(Some("why?"), None), "why?");
        assert_eq!(text(Some("why?"), Some("")), "why?");
        assert_eq!(text(Some("why?"), Some("\n")), "why?");
        assert_eq!(text(Some("why?"), Some("log\n")), "why?\n\nlog");
        assert_eq!(text(None, Some("from a file\r\n")), "from a file");
        assert_eq!(text(Some("-"), Some("two line ends\n\n")), "two line ends\n");
        assert_eq!(combine(None, None).unwrap(), Asked::Chat);
    }

    #[test]
    fn an_empty_prompt_is_refused() {
        for (prompt, piped) in
            [(Some(""), None), (Some(" \n"), Some("")), (None, Some("\n")), (Some("-"), Some(""))]
        {
            let error = combine(prompt, piped).unwrap_err();
            assert!(matches!(&error, Failure::Usage(text) if text.contains("prompt is empty")), "{error}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let error = read(&b"caf\xe9"[..]).unwrap_err();
        assert!(error.to_string().contains("byte 3"), "{error}");
        let error = read(io::repeat(b'a')).unwrap_err();
        assert!(error.to_string().contains("67108864"), "{error}");
    }
}
