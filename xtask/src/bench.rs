//! `cargo xtask bench`: the table of measured speeds in README.md.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use crate::{Failure, cargo, root};

/// Where measurements are kept: what `gemma4 bench --json` printed, a file each.
const FOLDER: &str = "conformance/records/bench";
/// What stands around the table in README.md.
const BEGIN: &str = "<!-- measured: written by `cargo xtask bench` -->";
const END: &str = "<!-- end of measured -->";

/// Write the table of speeds in README.md from conformance/records/bench/*.json.
///
/// With models, measure them here first, a file each. On a machine without cargo, `gemma4 bench --json > FILE` makes such a
/// file.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cargo xtask bench                                   the table from what is recorded
  cargo xtask bench --backend cuda a.gguf b.gguf      measure, record, and write the table")]
pub(crate) struct Options {
    /// Write nothing; fail if the table is not what the records say.
    #[arg(long)]
    check: bool,
    /// Device that measures, as `gemma4 --backend` takes it.
    #[arg(long, default_value = "auto")]
    backend: String,
    /// Models to measure.
    models: Vec<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    for model in &options.models {
        measure(model, &options.backend)?;
    }
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).map_err(|error| format!("cannot read README.md: {error}"))?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        return Err(format!(
            "README.md has no place for the table: it needs a line `{BEGIN}` and a line `{END}`"
        ));
    };
    let begin = begin + BEGIN.len();
    let written = format!("{}\n\n{}\n{}", &text[..begin], table(&records()?)?, &text[end..]);
    if written == text {
        return Ok(());
    }
    if options.check {
        return Err(format!("the table of README.md is not what {FOLDER} says: run `cargo xtask bench`"));
    }
    fs::write(&path, written).map_err(|error| format!("cannot write README.md: {error}"))
}

/// Fails if the table is out of date.
pub(crate) fn check() -> Result<(), Failure> {
    run(&Options { check: true, backend: String::new(), models: Vec::new() })
}

/// Measures a model and records it.
fn measure(model: &Path, backend: &str) -> Result<(), Failure> {
    let name = model.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = name.ok_or_else(|| format!("{} is no file", model.display()))?;
    let model =
        fs::canonicalize(model).map_err(|error| format!("cannot open {}: {error}", model.display()))?;
    let mut command =
        cargo::command(&["run", "--release", "--locked", "--quiet", "--package", "gemma4", "--"]);
    command.args(["bench", "--json", "--backend", backend, "--model"]).arg(model);
    let json = cargo::output(command)?;
    let folder = root().join(FOLDER);
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join(format!("{name}.json")), json))
        .map_err(|error| format!("cannot write into {FOLDER}: {error}"))
}

/// All records, in the order of their names.
fn records() -> Result<Vec<(String, Value)>, Failure> {
    let Ok(folder) = fs::read_dir(root().join(FOLDER)) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).map_err(|error| format!("cannot read {name}.json: {error}"))?;
        let value = serde_json::from_str(&text).map_err(|error| format!("{FOLDER}/{name}.json: {error}"))?;
        Ok((name, value))
    };
    paths.iter().map(read).collect()
}

/// A row for each record.
fn table(records: &[(String, Value)]) -> Result<String, Failure> {
    let mut out = String::from(
        "| record | device, backend | cache | decode at context, tokens/s | prefill of length, tokens/s | load |\n\
         |---|---|---|---|---|---|\n",
    );
    for (name, record) in records {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let rates = |list: &str, at: &str| -> Option<String> {
            let cells = record[list]
                .as_array()?
                .iter()
                .map(|run| Some(format!("{}: {:.0}", run[at].as_u64()?, run["tokens_per_second"].as_f64()?)));
            Some(cells.collect::<Option<Vec<_>>>()?.join(", "))
        };
        let row = || {
            let device = text(&record["device"]["device"])?;
            let backend = text(&record["device"]["backend"])?;
            let load = &record["load"];
            let rate = load["bytes"].as_f64()? / load["seconds"].as_f64()? * 1e-9;
            let load =
                if load["copied"].as_bool()? { format!("{rate:.1} GB/s") } else { "mapped".to_owned() };
            Some(format!(
                "| [{name}]({FOLDER}/{name}.json) | {device}, {backend} | {} | {} | {} | {load} |",
                text(&record["kv"])?,
                rates("decode", "context")?,
                rates("prefill", "tokens")?,
            ))
        };
        let row =
            row().ok_or_else(|| format!("{FOLDER}/{name}.json is not what `gemma4 bench --json` prints"))?;
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{row}");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_a_row_and_anything_else_a_failure() {
        let record = json!({
            "device": { "device": "A GPU", "backend": "cuda" },
            "kv": "f16",
            "load": { "bytes": 4e9, "seconds": 2.0, "copied": true },
            "decode": [{ "context": 0, "tokens_per_second": 99.6 }, { "context": 4096, "tokens_per_second": 90.0 }],
            "prefill": [{ "tokens": 512, "tokens_per_second": 3000.0 }],
        });
        let table = table(&[("e4b".to_owned(), record)]).expect("a record");
        let row = table.lines().last().unwrap_or_default();
        let want = "| [e4b](conformance/records/bench/e4b.json) | A GPU, cuda | f16 | 0: 100, 4096: 90 | 512: 3000 | \
                    2.0 GB/s |";
        assert_eq!(row, want);
        let error = super::table(&[("x".to_owned(), json!({ "decode": 3 }))]).expect_err("no record");
        assert!(error.contains("x.json is not what"), "{error}");
    }
}
