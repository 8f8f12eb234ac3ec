//! Habits of this repository that no other tool watches.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::links;
use crate::{Failure, cargo, root};

/// Notes to self: an open issue says it better, or the limitation stated as a fact. Split so that this file passes.
const NOTES: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("to", "do!("), concat!("unimpl", "emented!(")];

/// Lines a file may have, and lines at which to think of splitting it, by extension.
const LINES: [(&str, usize, usize); 4] =
    [("rs", 700, 500), ("cu", 300, 300), ("cuh", 300, 300), ("wgsl", 300, 300)];

/// Documents whose links must resolve.
const DOCUMENTS: [&str; 2] = ["README.md", "ARCHITECTURE.md"];

pub(crate) fn check() -> Result<(), Failure> {
    let root = root();
    let files = files()?;
    let mut complaints = Vec::new();
    for file in &files {
        let Some(limits) = limits(file) else { continue };
        let text =
            fs::read_to_string(root.join(file)).map_err(|error| format!("cannot read {file}: {error}"))?;
        complaints.extend(notes(file, &text));
        complaints.extend(length(file, text.lines().count(), limits));
    }
    for document in DOCUMENTS {
        // Both are written with the code they describe; a repository without them has nothing to check.
        let Ok(text) = fs::read_to_string(root.join(document)) else {
            continue;
        };
        complaints.extend(links::broken(&root, document, &text));
        if document == "ARCHITECTURE.md" {
            complaints.extend(unmentioned(&files, &text));
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

/// Every file of the repository that is committed or could be, relative to its root.
fn files() -> Result<Vec<String>, Failure> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let list = String::from_utf8(cargo::output(git)?).map_err(|_| "a file name is not UTF-8".to_owned())?;
    let names = list.split('\0').filter(|name| !name.is_empty() && root().join(name).is_file());
    let names: Vec<String> = names.map(str::to_owned).collect();
    if names.is_empty() { Err("git lists no files".to_owned()) } else { Ok(names) }
}

/// Most lines and lines to warn at, for a source file.
fn limits(file: &str) -> Option<(usize, usize)> {
    let extension = Path::new(file).extension()?.to_str()?;
    LINES.iter().find(|(of, ..)| *of == extension).map(|(_, most, warn)| (*most, *warn))
}

fn notes(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for note in NOTES.iter().filter(|note| line.contains(**note)) {
            found.push(format!("{file}:{}: `{note}`: open an issue, or state the limitation", number + 1));
        }
    }
    found
}

/// Complains about a file that is too long; prints a warning for one that soon will be.
fn length(file: &str, lines: usize, (most, warn): (usize, usize)) -> Option<String> {
    if file.split('/').any(|folder| folder == "gen") {
        return None;
    }
    if lines > most {
        return Some(format!("{file}: {lines} lines, at most {most} are allowed: split it"));
    }
    if lines > warn {
        println!("warning: {file}: {lines} lines, more than {warn}: time to split it");
    }
    None
}

/// Folders of the root that the map does not name.
fn unmentioned(files: &[String], map: &str) -> Vec<String> {
    let mut folders: Vec<&str> = files.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    folders.dedup();
    folders.sort_unstable();
    folders.dedup();
    let missing =
        folders.iter().filter(|folder| !folder.starts_with('.') && !map.contains(&format!("{folder}/")));
    missing.map(|folder| format!("ARCHITECTURE.md does not mention the folder {folder}/")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_to_self_are_found_with_their_line() {
        for note in NOTES {
            let found = notes("a.rs", &format!("fn a() {{}}\n// {note} later\n"));
            assert_eq!(found.len(), 1);
            assert!(found[0].starts_with("a.rs:2: "), "{}", found[0]);
        }
        assert!(notes("a.rs", "// toDo, a method, unimplemented\n").is_empty());
    }

    #[test]
    fn long_files_fail_unless_generated() {
        let rust = limits("core/src/a.rs").unwrap();
        assert_eq!(rust, (700, 500));
        assert!(length("core/src/a.rs", 700, rust).is_none());
        assert!(length("core/src/a.rs", 701, rust).is_some());
        assert!(length("kernels/a.cu", 301, limits("kernels/a.cu").unwrap()).is_some());
        assert!(length("kernels/gen/abi.cuh", 5000, limits("kernels/gen/abi.cuh").unwrap()).is_none());
        assert!(limits("README.md").is_none() && limits("Makefile").is_none());
    }

    #[test]
    fn folders_missing_from_the_map_are_named() {
        let files = ["a/x", "b/y", "a/z", ".ci/run", "README.md"].map(str::to_owned);
        let missing = unmentioned(&files, "`a/` holds x and z");
        assert_eq!(missing, ["ARCHITECTURE.md does not mention the folder b/"]);
    }

    #[test]
    fn the_list_of_files_has_this_one() {
        assert!(files().unwrap().iter().any(|file| file == "xtask/src/check/habits.rs"));
    }
}
