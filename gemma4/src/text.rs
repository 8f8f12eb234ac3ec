//! Text and token ids from the command line, files and stdin; results to stdout.

use std::io::{self, ErrorKind, IsTerminal, Read, Write};

use crate::failure::Failure;

/// An input that cannot be used.
#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error("cannot read {name}")]
    Io { name: String, source: io::Error },
    #[error("{name} is not UTF-8 text: byte {at} begins no character")]
    NotUtf8 { name: String, at: usize },
}

/// All of the file `name`, or of stdin if it is `-`, byte for byte.
pub(crate) fn read(name: &str) -> Result<String, Failure> {
    let label = || if name == "-" { "stdin".to_owned() } else { name.to_owned() };
    let mut bytes = Vec::new();
    let read = if name == "-" {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(name).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|source| InputError::Io { name: label(), source })?;
    let text = String::from_utf8(bytes)
        .map_err(|error| InputError::NotUtf8 { name: label(), at: error.utf8_error().valid_up_to() })?;
    Ok(text)
}

/// What the arguments of a command say: joined by spaces, or all of stdin for `-` or nothing where stdin is piped.
pub(crate) fn arguments(arguments: &[String], what: &str) -> Result<String, Failure> {
    match arguments {
        [] if io::stdin().is_terminal() => {
            Err(Failure::usage(format!("no {what}; give it as arguments, or - for stdin")))
        }
        [] => read("-"),
        [one] if one == "-" => read("-"),
        many => Ok(many.join(" ")),
    }
}

/// Token ids separated by spaces, commas or line ends; brackets around them are as good as none.
///
/// Ids that are not below `vocab` are errors.
pub(crate) fn ids(text: &str, vocab: usize) -> Result<Vec<u32>, Failure> {
    let words =
        text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']')).filter(|w| !w.is_empty());
    let id = |word: &str| {
        let id = word.parse::<u32>().ok().filter(|&id| (id as usize) < vocab);
        id.ok_or_else(|| {
            let shown: String = word.chars().take(40).collect();
            let last = vocab.saturating_sub(1);
            Failure::usage(format!("`{shown}` is no token of this model, expected a number from 0 to {last}"))
        })
    };
    words.map(id).collect()
}

/// Writes a result to stdout. A reader that has seen enough, such as `head`, is no error.
pub(crate) fn print(bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a result to stdout as one JSON document and a line end.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(serde_json::to_string(value)? + "\n")
}
