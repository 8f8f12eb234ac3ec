//! Packages that Cargo.lock has in several incompatible versions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::licences::{metadata, packages, text};
use crate::{Failure, root};

const LIST: &str = "xtask/duplicates.txt";

pub(crate) fn check() -> Result<(), Failure> {
    let list =
        fs::read_to_string(root().join(LIST)).map_err(|error| format!("cannot read {LIST}: {error}"))?;
    let metadata = metadata()?;
    let versions =
        packages(&metadata)?.iter().map(|package| (text(package, "name"), text(package, "version")));
    let complaints = compare(&duplicates(versions), &allowed(&list)?);
    if complaints.is_empty() { Ok(()) } else { Err(format!("duplicates:\n  {}", complaints.join("\n  "))) }
}

/// A package and the incompatible versions of it, such as `hashbrown` with `0.16` and `0.17`.
type Duplicates = BTreeMap<String, BTreeSet<String>>;

/// The part of a version that an incompatible release changes: `1`, `0.4`, `0.0.7`.
fn epoch(version: &str) -> String {
    let mut parts: Vec<&str> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    let leading = parts.iter().position(|part| *part != "0").unwrap_or(parts.len());
    parts.truncate(leading + 1);
    parts.join(".")
}

fn duplicates<'a>(versions: impl Iterator<Item = (&'a str, &'a str)>) -> Duplicates {
    let mut epochs = Duplicates::new();
    for (name, version) in versions {
        epochs.entry(name.to_owned()).or_default().insert(epoch(version));
    }
    epochs.retain(|_, epochs| epochs.len() > 1);
    epochs
}

/// Reads lines of the form `name version version ...: reason`; `#` starts a comment.
fn allowed(list: &str) -> Result<Duplicates, Failure> {
    let mut allowed = Duplicates::new();
    for (number, line) in list.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || format!("{LIST}:{}: `{line}` is not `name version version: reason`", number + 1);
        let (what, reason) = line.split_once(':').ok_or_else(wrong)?;
        let mut words = what.split_whitespace().map(str::to_owned);
        let name = words.next().ok_or_else(wrong)?;
        let epochs: BTreeSet<String> = words.collect();
        if epochs.len() < 2 || reason.trim().is_empty() || allowed.insert(name, epochs).is_some() {
            return Err(wrong());
        }
    }
    Ok(allowed)
}

fn compare(found: &Duplicates, allowed: &Duplicates) -> Vec<String> {
    let shown = |epochs: &BTreeSet<String>| epochs.iter().cloned().collect::<Vec<_>>().join(" ");
    let mut complaints = Vec::new();
    for (name, epochs) in found {
        let line = format!("{name} {}", shown(epochs));
        match allowed.get(name) {
            Some(listed) if listed == epochs => {}
            Some(listed) => {
                complaints.push(format!("Cargo.lock has {line}, but {LIST} lists {}", shown(listed)));
            }
            None => complaints
                .push(format!("Cargo.lock has {line}: drop one, or list it in {LIST} with a reason")),
        }
    }
    for name in allowed.keys().filter(|name| !found.contains_key(*name)) {
        complaints.push(format!("{name} is in {LIST} but no longer duplicated: remove its line"));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_duplicates_when_an_incompatible_release_is_between_them() {
        for (version, expected) in
            [("1.2.3", "1"), ("0.4.1", "0.4"), ("0.0.7", "0.0.7"), ("11.0.0-rc.1+meta", "11")]
        {
            assert_eq!(epoch(version), expected);
        }
        let found = duplicates([("a", "1.0.0"), ("a", "1.9.0"), ("b", "0.4.0"), ("b", "0.5.0")].into_iter());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn only_listed_duplicates_pass_and_only_while_they_exist() {
        let found = duplicates([("b", "0.4.0"), ("b", "0.5.0")].into_iter());
        let list = |text| allowed(text).unwrap();
        assert_eq!(compare(&found, &list("# why\n\nb 0.4 0.5: two users\n")), [""; 0]);
        assert_eq!(compare(&found, &list("")).len(), 1);
        assert_eq!(compare(&found, &list("b 0.3 0.4: other versions")).len(), 1);
        assert_eq!(compare(&Duplicates::new(), &list("b 0.4 0.5: two users")).len(), 1);
    }

    #[test]
    fn a_line_without_versions_or_reason_is_refused() {
        for line in ["b", "b 0.4 0.5", "b 0.4 0.5: ", "b 0.4: one", ": none", "b 1 2: x\nb 1 2: twice"] {
            let error = allowed(line).unwrap_err();
            assert!(error.starts_with("xtask/duplicates.txt:"), "{error}");
        }
    }
}
