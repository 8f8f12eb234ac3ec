//! The test programs of the workspace, side by side.
//!
//! `cargo test` runs one after another. Some are long and leave cores idle while they wait for a device, for a client or for
//! a clock, so here two run at a time, the longest first; what they write comes line by line, behind their names.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::Value;

use crate::{Failure, cargo, root};

/// Programs at a time. Each runs as many tests at once as there are cores, but for [`WAITS`].
const AT_ONCE: usize = 2;

/// Runs twice as many: most of its tests stand in line for a device, whose driver compiles shaders on one core.
const WAITS: &str = "conformance/suite";

/// The variable by which the test harness is told how many tests to run at once.
const THREADS: &str = "RUST_TEST_THREADS";

/// The variable by which Mesa's software driver is told how many threads to run a dispatch on. Tests keep the cores busy side by
/// side; what small dispatches cost more on several threads is lost.
const DRIVER_THREADS: &str = "LP_NUM_THREADS";

/// Those that take longest, which start first. One that is not here costs time and nothing else.
const LONGEST: [&str; 3] = ["conformance/suite", "gemma4/gemma4", "gemma4/serve_http"];

/// Something that runs tests and says so as Rust's test harness does.
#[derive(Debug)]
pub(crate) struct Program {
    /// Folder of its package and name of its target, such as `conformance/suite`.
    name: String,
    file: PathBuf,
    arguments: &'static [&'static str],
    folder: PathBuf,
}

/// Builds all tests of the workspace.
pub(crate) fn build() -> Result<Vec<Program>, Failure> {
    let mut command = cargo::command(&[
        "test",
        "--workspace",
        "--locked",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    command.stderr(Stdio::inherit());
    let messages = cargo::output(command)?;
    let mut programs: Vec<Program> = messages.split(|&byte| byte == b'\n').filter_map(program).collect();
    if programs.is_empty() {
        return Err("`cargo test --no-run` names no test program".to_owned());
    }
    programs.push(Program {
        name: "examples of documentation".to_owned(),
        file: cargo::command(&[]).get_program().into(),
        arguments: &["test", "--workspace", "--locked", "--quiet", "--doc"],
        folder: root(),
    });
    programs
        .sort_by_key(|program| LONGEST.iter().position(|name| program.name == *name).unwrap_or(usize::MAX));
    Ok(programs)
}

/// The test program that a message of cargo is about.
fn program(message: &[u8]) -> Option<Program> {
    let message: Value = serde_json::from_slice(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = folder.file_name()?.to_string_lossy();
    let name = format!("{package}/{}", message["target"]["name"].as_str()?);
    Some(Program { name, file: message["executable"].as_str()?.into(), arguments: &[], folder })
}

/// Runs all, whatever becomes of each; `hear` is given the name of a program and a line that it wrote.
pub(crate) fn run(programs: &[Program], hear: &(impl Fn(&str, &str) + Sync)) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            let result = program.run(hear);
            let seconds = start.elapsed().as_secs_f64();
            match result {
                Ok(()) => hear(&program.name, &format!("ended after {seconds:.1} s")),
                Err(failure) => {
                    hear(&program.name, &format!("FAILED after {seconds:.1} s: {failure}"));
                    failed.lock().expect("nobody panics").push(program.name.clone());
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("nobody panics");
    if failed.is_empty() { Ok(()) } else { Err(format!("tests failed: {}", failed.join(", "))) }
}

impl Program {
    fn run(&self, hear: &impl Fn(&str, &str)) -> Result<(), Failure> {
        let cannot = |what: &str| {
            let file = self.file.display().to_string();
            let what = what.to_owned();
            move |error: std::io::Error| format!("cannot {what} {file}: {error}")
        };
        // One pipe, so that lines of both streams keep their order.
        let (lines, both) = std::io::pipe().map_err(cannot("make a pipe for"))?;
        let mut command = Command::new(&self.file);
        command.args(self.arguments).current_dir(&self.folder).stdin(Stdio::null());
        if self.name == WAITS && std::env::var_os(THREADS).is_none() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            command.env(THREADS, (2 * cores).to_string());
        }
        if std::env::var_os(DRIVER_THREADS).is_none() {
            command.env(DRIVER_THREADS, "1");
        }
        command.stdout(both.try_clone().map_err(cannot("make a pipe for"))?).stderr(both);
        let mut child = command.spawn().map_err(cannot("start"))?;
        // It holds the writing end of the pipe, which has to close for the lines to end.
        drop(command);
        for line in BufReader::new(lines).split(b'\n') {
            let line = line.map_err(cannot("read what was written by"))?;
            hear(&self.name, &String::from_utf8_lossy(&line));
        }
        let status = child.wait().map_err(cannot("wait for"))?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    fn shell(name: &str, script: &'static str) -> Program {
        let arguments: &'static [&'static str] = Box::leak(Box::new(["-c", script]));
        Program { name: name.to_owned(), file: "sh".into(), arguments, folder: root() }
    }

    #[test]
    fn only_messages_about_test_programs_name_one() {
        let message = |test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "manifest_path": "/repository/conformance/Cargo.toml",
                "target": { "name": "suite", "kind": ["test"] },
                "profile": { "test": test },
                "executable": "/repository/target/debug/deps/suite-01",
            })
            .to_string()
        };
        let found = program(message(true).as_bytes()).expect("it is one");
        assert_eq!(
            (&*found.name, &*found.folder),
            ("conformance/suite", Path::new("/repository/conformance"))
        );
        assert!(program(message(false).as_bytes()).is_none());
        assert!(program(br#"{"reason":"build-finished","success":true}"#).is_none());
        assert!(program(b"").is_none());
    }

    #[cfg(unix)]
    #[test]
    fn every_program_is_run_and_every_failure_named() {
        let heard = Mutex::new(Vec::new());
        let hear = |name: &str, line: &str| heard.lock().unwrap().push(format!("{name}: {line}"));
        let programs = [shell("a", "echo one; echo two >&2"), shell("b", "exit 3"), shell("c", "echo three")];
        let failure = run(&programs, &hear).expect_err("b fails");
        assert_eq!(failure, "tests failed: b");
        let heard = heard.into_inner().unwrap();
        for line in ["a: one", "a: two", "c: three"] {
            assert!(heard.iter().any(|heard| heard == line), "{line}: {heard:?}");
        }
        assert!(heard.iter().any(|line| line.starts_with("b: FAILED") && line.contains('3')), "{heard:?}");
    }
}
