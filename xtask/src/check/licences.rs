//! Licences of third-party packages.

use serde_json::Value;

use super::spdx::Expression;
use crate::{Failure, cargo};

/// Licences that a package may have, and why they suit a program under `MIT OR Apache-2.0`.
const ALLOWED: &[(&str, &str)] = &[
    ("MIT", "ours"),
    ("Apache-2.0", "ours"),
    ("Apache-2.0 WITH LLVM-exception", "asks less than Apache-2.0"),
    ("BSD-2-Clause", "asks what MIT asks"),
    ("BSD-3-Clause", "asks what MIT asks, and not to advertise with the authors' names"),
    ("BSL-1.0", "asks for the notice with source only"),
    ("ISC", "asks what MIT asks"),
    ("Unicode-3.0", "tables of the Unicode standard; asks for the notice"),
    ("Zlib", "asks not to misrepresent the origin"),
];

pub(crate) fn check() -> Result<(), Failure> {
    let refused = refused(&metadata()?)?;
    if refused.is_empty() {
        return Ok(());
    }
    Err(format!(
        "licences that are not in the table of xtask/src/check/licences.rs:\n  {}",
        refused.join("\n  ")
    ))
}

/// Everything in Cargo.lock, for all platforms.
pub(crate) fn metadata() -> Result<Value, Failure> {
    let json = cargo::output(cargo::command(&["metadata", "--format-version", "1", "--locked"]))?;
    serde_json::from_slice(&json).map_err(|error| format!("`cargo metadata` wrote no JSON: {error}"))
}

/// The packages of `metadata`; at least one, or the checks would pass by looking at nothing.
pub(crate) fn packages(metadata: &Value) -> Result<&Vec<Value>, Failure> {
    let packages = metadata["packages"].as_array().filter(|packages| !packages.is_empty());
    packages.ok_or_else(|| "`cargo metadata` lists no packages".to_owned())
}

/// What is wrong with the licence of each third-party package that has one we do not accept.
fn refused(metadata: &Value) -> Result<Vec<String>, Failure> {
    let mut refused = Vec::new();
    // A package without a source is a member of the workspace.
    for package in packages(metadata)?.iter().filter(|package| !package["source"].is_null()) {
        let name = format!("{} {}", text(package, "name"), text(package, "version"));
        let allowed = |licence: &str| ALLOWED.iter().any(|(id, _)| *id == licence);
        match package["license"].as_str().map(|licence| (licence, Expression::parse(licence))) {
            None => refused.push(format!("{name}: no licence expression")),
            Some((licence, Err(reason))) => refused.push(format!("{name}: `{licence}`: {reason}")),
            Some((licence, Ok(expression))) => {
                if !expression.satisfied_by(&allowed) {
                    refused.push(format!("{name}: `{licence}`"));
                }
            }
        }
    }
    Ok(refused)
}

/// The string `key` of a package.
pub(crate) fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(licence: &Value, source: &Value) -> Value {
        json!({"packages": [{"name": "it", "version": "1.2.3", "license": licence, "source": source}]})
    }

    #[test]
    fn licences_outside_the_table_are_refused_with_the_package_name() {
        let registry = json!("registry");
        assert!(refused(&package(&json!("MIT OR GPL-3.0"), &registry)).unwrap().is_empty());
        for licence in [json!("GPL-3.0"), json!("MIT AND GPL-3.0"), json!("MIT AND"), json!(null)] {
            let refused = refused(&package(&licence, &registry)).unwrap();
            assert_eq!(refused.len(), 1, "{licence}");
            assert!(refused[0].starts_with("it 1.2.3: "), "{}", refused[0]);
        }
    }

    #[test]
    fn members_of_the_workspace_are_not_third_party() {
        assert!(refused(&package(&json!("GPL-3.0"), &json!(null))).unwrap().is_empty());
    }

    #[test]
    fn an_empty_list_of_packages_is_a_failure() {
        assert!(refused(&json!({"packages": []})).is_err());
        assert!(refused(&json!({})).is_err());
    }
}
