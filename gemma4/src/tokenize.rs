//! `gemma4 tokenize`: text to token ids and back.

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;

use clap::Args;
use gemma4_core::tokenizer::{Special, Tokenizer};
use serde::Serialize;

use crate::cli::Global;
use crate::failure::Failure;
use crate::{load, text};

const EXAMPLES: &str = "\
Text from stdin is taken byte for byte, its last line end included, and --decode writes exactly
what the ids stand for; only on a terminal it ends the line. So these give a file back as it was,
unless it holds U+2581 (which vocabularies write for a space):
  gemma4 tokenize - < file | gemma4 tokenize --decode -
  gemma4 tokenize --no-bos --special - < file | gemma4 tokenize --decode --special -

Examples:
  gemma4 tokenize \"Hello there\"                ids, <bos> in front
  gemma4 tokenize --pieces \"Hello there\"       one token a line, as the vocabulary spells it
  gemma4 tokenize --special \"<|turn>user\"      the marker as one token, as in a rendered chat template
  gemma4 tokenize --decode 2 105 2364
  gemma4 tokenize - --json < prompt.txt        a JSON array";

/// Turn text into token ids, or ids into text
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct TokenizeArgs {
    /// Text, or with --decode ids; several are joined by spaces, and - is stdin
    #[arg(value_name = "TEXT|IDS")]
    input: Vec<String>,
    /// Turn ids into text; control tokens such as `<bos>` are left out
    #[arg(long, short)]
    decode: bool,
    /// Do not put `<bos>` in front
    #[arg(long, conflicts_with = "decode")]
    no_bos: bool,
    /// Take the text of control tokens, such as <|turn>, as those tokens; with --decode, show them
    #[arg(long)]
    special: bool,
    /// Print one token a line: its id and how the vocabulary spells it, as a JSON string
    #[arg(long)]
    pieces: bool,
    /// Print one JSON document: an array of ids, a string, or with --pieces an array of objects
    #[arg(long)]
    json: bool,
}

/// A token, as `--pieces --json` prints it.
#[derive(Debug, Serialize)]
struct Piece<'a> {
    id: u32,
    piece: Option<&'a str>,
}

pub(crate) fn run(args: &TokenizeArgs, global: &Global) -> Result<ExitCode, Failure> {
    let tokenizer = load::checkpoint(global)?.tokenizer()?;
    let what = if args.decode { "token ids" } else { "text" };
    let input = text::arguments(&args.input, what)?;
    let ids = if args.decode {
        text::ids(&input, tokenizer.vocab_size())?
    } else {
        encode(args, &tokenizer, &input)?
    };

    if args.pieces {
        print_pieces(args, &tokenizer, &ids)?;
    } else if args.decode {
        print_text(args, &tokenizer, &ids)?;
    } else if args.json {
        text::print_json(&ids)?;
    } else {
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        text::print(words.join(" ") + "\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn encode(args: &TokenizeArgs, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Failure> {
    let special = if args.special { Special::Parse } else { Special::Literal };
    let ids = tokenizer.encode(text, special)?;
    Ok(if args.no_bos { ids } else { tokenizer.with_bos(ids) })
}

fn print_pieces(args: &TokenizeArgs, tokenizer: &Tokenizer, ids: &[u32]) -> Result<(), Failure> {
    let pieces: Vec<Piece<'_>> = ids.iter().map(|&id| Piece { id, piece: tokenizer.piece(id) }).collect();
    if args.json {
        return text::print_json(&pieces);
    }
    let mut lines = Vec::new();
    for Piece { id, piece } in pieces {
        writeln!(lines, "{id:>7}  {}", serde_json::to_string(&piece)?)?;
    }
    text::print(lines)
}

fn print_text(args: &TokenizeArgs, tokenizer: &Tokenizer, ids: &[u32]) -> Result<(), Failure> {
    let shown = ids.iter().filter(|&&id| args.special || !tokenizer.is_special(id));
    // Bytes, not text: a list of ids may end in the middle of a character.
    let mut bytes: Vec<u8> = shown.filter_map(|&id| tokenizer.token_bytes(id)).flatten().collect();
    if args.json {
        return text::print_json(&String::from_utf8_lossy(&bytes));
    }
    if std::io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    text::print(bytes)
}
