//! Commands of a chat.

use std::path::PathBuf;

/// Every command, for completion.
pub(super) const NAMES: [&str; 9] =
    ["/exit", "/help", "/load ", "/quit", "/reset", "/save ", "/stats", "/system ", "/think "];

/// What `/help` says.
pub(super) const HELP: &str = r#"/system TEXT      sets the system prompt; /system alone shows it, /system "" removes it
/think on|off     lets the model think before it answers, or not
/stats            tokens, speed, cache and sampling
/save PATH        writes the chat and its cache to a file
/load PATH        goes on with a saved chat
/reset            starts over, with the same system prompt
/exit             leaves, and so does Ctrl-D

Several lines: end a line with \ to go on with the next, or put """ before the first and after the last.
Ctrl-C stops an answer; what was said of it stays. A space before a / makes it a message.
Up and down go through what you entered, Ctrl-R searches it, Tab completes commands and paths."#;

/// What the user wants other than an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Exit,
    Reset,
    /// Shows it, or sets it; an empty text removes it.
    System(Option<String>),
    /// Shows or sets it.
    Think(Option<bool>),
    Stats,
    Save(PathBuf),
    Load(PathBuf),
    /// Not a command, for this reason.
    Wrong(String),
}

impl Command {
    /// Reads an entry; `None` for a message. A message may begin with a path, such as `/etc/passwd`.
    pub(super) fn parse(entry: &str) -> Option<Self> {
        let rest = entry.strip_prefix('/')?;
        let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if name.contains(|c: char| !c.is_ascii_alphabetic() && c != '?') {
            return None;
        }
        let rest = rest.trim();
        let alone = |command: Self| match rest {
            "" => command,
            rest => Self::Wrong(format!("/{name} stands alone; `{rest}` is too much")),
        };
        let path = |make: fn(PathBuf) -> Self| match rest {
            "" => Self::Wrong(format!("/{name} needs the path of a file")),
            rest => make(expand(rest)),
        };
        Some(match name {
            "help" | "?" => alone(Self::Help),
            "exit" | "quit" | "bye" => alone(Self::Exit),
            "reset" => alone(Self::Reset),
            "stats" => alone(Self::Stats),
            "save" => path(Self::Save),
            "load" => path(Self::Load),
            "system" => Self::System(match rest {
                "" => None,
                "\"\"" | "''" => Some(String::new()),
                text => Some(text.to_owned()),
            }),
            "think" => match rest {
                "" => Self::Think(None),
                "on" => Self::Think(Some(true)),
                "off" => Self::Think(Some(false)),
                other => Self::Wrong(format!("/think is `{other}`, expected on or off")),
            },
            name => Self::Wrong(format!(
                "There is no /{name}; /help lists the commands. A message that begins with / needs a space before it."
            )),
        })
    }
}

/// A path as a shell reads it: `~/` is the user's folder, and `\ ` is a space, which completion writes.
fn expand(text: &str) -> PathBuf {
    let text = if cfg!(windows) { text.to_owned() } else { text.replace("\\ ", " ") };
    match (text.strip_prefix("~/"), etcetera::home_dir()) {
        (Some(rest), Ok(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        for (entry, command) in [
            ("/help", Command::Help),
            ("/?", Command::Help),
            ("/exit ", Command::Exit),
            ("/reset", Command::Reset),
            ("/system Be brief.\nVery.", Command::System(Some("Be brief.\nVery.".into()))),
            ("/system", Command::System(None)),
            ("/system \"\"", Command::System(Some(String::new()))),
            ("/think on", Command::Think(Some(true))),
            ("/think  off", Command::Think(Some(false))),
            ("/save a\\ b.chat", Command::Save("a b.chat".into())),
            ("/load /tmp/x", Command::Load("/tmp/x".into())),
        ] {
            assert_eq!(Command::parse(entry), Some(command), "{entry}");
        }
        for message in ["hello", " /help", "/etc/passwd is what?", "1 / 2"] {
            assert_eq!(Command::parse(message), None, "{message}");
        }
    }

    #[test]
    fn a_wrong_command_says_what_is_wrong() {
        for (entry, part) in [
            ("/frobnicate", "no /frobnicate"),
            ("/save", "/save needs the path"),
            ("/think maybe", "expected on or off"),
            ("/reset now", "`now`"),
            ("/", "no /"),
        ] {
            match Command::parse(entry) {
                Some(Command::Wrong(text)) => assert!(text.contains(part), "{entry}: {text}"),
                other => panic!("{entry}: {other:?}"),
            }
        }
    }

    #[test]
    fn help_names_every_command() {
        for name in NAMES.iter().map(|name| name.trim()).filter(|&name| name != "/quit" && name != "/help") {
            assert!(HELP.contains(name), "{name}");
        }
        for name in NAMES {
            assert!(
                !matches!(Command::parse(name), Some(Command::Wrong(text)) if text.contains("no /")),
                "{name}"
            );
        }
    }
}
