//! The program as a user calls it.

use std::io::Write;
use std::process::{Command, Stdio};

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Stdout of a call that worked.
    #[allow(dead_code, reason = "drivers of GPUs write to stderr, so tests of devices do without it")]
    #[track_caller]
    pub(crate) fn text(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""));
        String::from_utf8(self.stdout).unwrap()
    }
}

/// What tests say about results holds for the processor, whatever GPU there is; those about GPUs say so.
fn on_the_processor(args: &[&str]) -> &'static [&'static str] {
    let own = [
        "--backend",
        "--device",
        "--devices",
        "--with",
        "--without",
        "--arch-limit",
        "--prompts",
        "--vram-limit",
    ];
    let chosen = args.iter().any(|arg| own.contains(arg));
    if chosen { &[] } else { &["--backend", "cpu"] }
}

/// Calls the program with `stdin`.
pub(crate) fn gemma4(args: &[&str], stdin: &[u8]) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gemma4"))
        .args(args)
        .args(on_the_processor(args))
        // Mesa's drivers complain where it is not set.
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // A program that fails early does not read all of it.
    let writer = std::thread::spawn(move || drop(input.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Checks that a call fails with `code`, and that what it says begins with one line that contains `says`.
#[track_caller]
pub(crate) fn fails(args: &[&str], stdin: &[u8], code: i32, says: &str) {
    let outcome = gemma4(args, stdin);
    assert_eq!(outcome.code, code, "{args:?}: {outcome:?}");
    assert!(outcome.stdout.is_empty(), "{args:?}: {outcome:?}");
    let first = outcome.stderr.lines().next().unwrap_or_default();
    assert!(first.starts_with("error: ") && first.contains(says), "{args:?}: {outcome:?}");
}
