//! Other people's client libraries, and Chromium on the page.
//!
//! They come from `PyPI` into a folder of their own, in the versions of `tests/clients/requirements.txt`. Where there is
//! no Python, or no network for the first time, these tests are skipped and say so; `REQUIRE_CLIENTS=1` makes that a
//! failure. Without Chromium the test of the page is skipped, always.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::server::Server;

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Something that must be there if that is asked for.
fn missing(what: &str) {
    assert!(std::env::var("REQUIRE_CLIENTS").is_err(), "REQUIRE_CLIENTS is set, and {what}");
    skip(what);
}

/// Something that is not there.
fn skip(what: &str) {
    // Not `println!`, whose output tests that pass do not show.
    let _ = writeln!(std::io::stdout(), "conformance: skipped: clients of the server: {what}");
}

/// The Python that has the clients.
fn python() -> Result<&'static Path, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(install).as_deref().map_err(Clone::clone)
}

fn install() -> Result<PathBuf, String> {
    let list = scripts().join("requirements.txt");
    let mut hasher = DefaultHasher::new();
    fs::read(&list).unwrap().hash(&mut hasher);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clients-{:016x}", hasher.finish()));
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    let run = |command: &mut Command, what: &str| {
        let output = command.output().map_err(|error| format!("{what}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        if output.status.success() { Ok(()) } else { Err(format!("{what} failed: {text}")) }
    };
    // A run that was broken off may have left half of it.
    let _ = fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder), "python3 -m venv")?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(&python).args(pip).arg(&list), "pip install")?;
    fs::write(complete, "").map_err(|error| error.to_string())?;
    Ok(python)
}

/// Runs a script against a server of its own; what it printed.
fn run(script: &str, server: &Server, more: &[(&str, &str)]) -> Option<String> {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            missing(&why);
            return None;
        }
    };
    let mut command = Command::new(python);
    command
        .arg("-B")
        .arg(scripts().join(script))
        .env("GEMMA4_URL", &server.address)
        .envs(more.iter().copied());
    // A proxy has nothing to say about this machine.
    command.env("NO_PROXY", "*").env("no_proxy", "*");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{script}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}

fn passes(script: &str, at_least: usize) {
    let server = Server::start(&[]);
    if let Some(text) = run(script, &server, &[]) {
        let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
        assert!(passed >= at_least, "{script}: {passed} tests\n{text}");
    }
}

#[test]
fn openai_python() {
    passes("openai_client.py", 20);
}

#[test]
fn anthropic_sdk() {
    passes("anthropic_client.py", 8);
}

#[test]
fn langchain() {
    passes("langchain_client.py", 5);
}

#[test]
fn chromium_drives_the_page() {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let given = std::env::var("CHROMIUM").ok();
    let found = given.or_else(|| {
        let works =
            |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
        names.iter().find(|name| works(name)).map(|name| (*name).to_owned())
    });
    let Some(chromium) = found else { return skip("there is no chromium") };
    let server = Server::start(&[]);
    if let Some(text) = run("page_client.py", &server, &[("CHROMIUM", &chromium)]) {
        assert!(text.contains("8 of 8 passed"), "{text}");
    }
}

/// `GEMMA4_SECONDS=60` makes it a long one.
#[test]
fn many_clients_at_once() {
    let server = Server::start(&["--parallel", "4", "--queue", "24"]);
    if let Some(text) = run("load.py", &server, &[]) {
        for line in text.lines().filter(|line| line.starts_with("load: ")) {
            let _ = writeln!(std::io::stdout(), "{line}");
        }
        assert!(text.contains("load: ok"), "{text}");
    }
}
