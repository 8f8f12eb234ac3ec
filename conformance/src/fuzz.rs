//! Fuzzing of everything that reads untrusted input: mutated samples must not panic, must not allocate beyond
//! [`memory::limit`], must not take seconds, and an error must name the input it is about.
//!
//! The same engine runs briefly with a fixed seed in the tests and for long in the `fuzz` program. It is a
//! mutation engine without coverage feedback, so that it needs nothing but stable Rust; what makes up for that
//! are samples that use every feature, mutations that know the syntax, and a pool that keeps what was accepted.

use std::fmt;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

mod json;
pub mod memory;
mod mutate;
mod random;
pub mod targets;

pub use json::{keys, spoil};
pub use random::Random;

/// A parser to feed.
pub trait Target {
    /// Name on the command line.
    fn name(&self) -> &'static str;
    /// How to mutate a sample.
    fn syntax(&self) -> Syntax;
    /// Inputs that [`run`](Target::run) accepts.
    fn samples(&self) -> Vec<Vec<u8>>;
    /// Words that mean something in this syntax; mutations insert them.
    fn words(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
    /// What the text of every error must contain: how the input calls itself, such as its file name; nothing if
    /// [`run`](Target::run) checks errors itself.
    fn label(&self) -> &'static str;
    /// Well-formed inputs of which one key has a value it must not have. Each is accepted or refused with an error
    /// that contains the key's name.
    fn one_bad_key(&self) -> Vec<BadKey> {
        Vec::new()
    }
    /// Inputs of a short run, about half a second of them.
    fn inputs(&self) -> u64 {
        1_000
    }
    /// Whether this parser makes something of any input, so that it has no errors.
    fn never_refuses(&self) -> bool {
        false
    }
    /// Parses `input` and uses everything it then offers.
    ///
    /// # Errors
    ///
    /// The text of the parser's error as its user would see it.
    fn run(&self, input: &[u8]) -> Result<(), String>;
}

/// How to mutate a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// As bytes.
    Bytes,
    /// As a JSON value first, then as bytes.
    Json,
    /// As JSON behind its length in 8 bytes and before data, which is how safetensors files begin.
    Framed,
}

/// An input of which one key is wrong.
#[derive(Clone, Debug)]
pub struct BadKey {
    /// Names of the key, of which the error must contain one.
    pub names: Vec<String>,
    /// The input.
    pub input: Vec<u8>,
}

/// How long to run.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// So many mutated inputs.
    Inputs(u64),
    /// So much time.
    Time(Duration),
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Inputs that the parser took.
    pub accepted: u64,
    /// Inputs that it refused with a proper error.
    pub refused: u64,
    /// Most bytes allocated at once while running one input.
    pub peak: usize,
}

/// What is wrong with how a parser took an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// It panicked; the message and where.
    Panic(String),
    /// It had more memory allocated at once than allowed, in bytes.
    Memory {
        /// Most at once.
        peak: usize,
        /// Allowed for an input of this size.
        limit: usize,
    },
    /// It took longer than [`SLOW`].
    Slow(Duration),
    /// Its error does not say what it must.
    Unnamed {
        /// The error.
        error: String,
        /// What is absent from it.
        missing: String,
    },
    /// It refused one of the samples, which are meant to be valid.
    Sample(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Panic(message) => write!(f, "panic: {message}"),
            Finding::Memory { peak, limit } => write!(f, "{peak} bytes allocated at once, {limit} allowed"),
            Finding::Slow(time) => write!(f, "took {:.1} s", time.as_secs_f64()),
            Finding::Unnamed { error, missing } => write!(f, "the error does not name `{missing}`: {error}"),
            Finding::Sample(error) => write!(f, "a valid sample was refused: {error}"),
        }
    }
}

/// A finding and the input that shows it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What is wrong.
    pub finding: Finding,
    /// The input, made smaller where that was possible.
    pub input: Vec<u8>,
}

/// No input is large enough to need this long, not even on a busy machine.
pub const SLOW: Duration = Duration::from_secs(20);

/// Mutated inputs are cut to this many bytes, so that a run sees many of them.
const LONGEST: usize = 1 << 16;

/// Inputs kept beside the samples because the parser accepted them.
const POOL: usize = 64;

/// Where a panic leaves its message for [`try_input`].
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the samples, the inputs with one bad key, then mutations for as long as `budget` says.
///
/// Each input is in the file `running` while it is run: an abort, such as a stack overflow, leaves it there.
///
/// # Errors
///
/// The first finding.
///
/// # Panics
///
/// If the program does not declare [`memory::Counter`] as its global allocator, as nothing would be checked then.
pub fn fuzz(target: &dyn Target, seed: u64, budget: Budget, running: &Path) -> Result<Counts, Failure> {
    assert!(memory::is_counted(), "declare `memory::Counter` as the global allocator");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|info| {
        // `info` displays as `panicked at file:line:column:` and the message.
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let result = run(target, seed, budget, &mut Running(File::create(running).ok()));
    std::panic::set_hook(hook);
    // Best effort: what is left says only that nothing is running.
    let _ = fs::remove_file(running);
    result
}

fn run(target: &dyn Target, seed: u64, budget: Budget, running: &mut Running) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    let samples = target.samples();
    for sample in &samples {
        running.hold(sample);
        match try_input(target, sample, &mut counts) {
            Ok(None) => {}
            Ok(Some(error)) => return Err(failure(Finding::Sample(error), sample)),
            Err(finding) => return Err(failure(finding, sample)),
        }
    }
    for BadKey { names, input } in target.one_bad_key() {
        running.hold(&input);
        match try_input(target, &input, &mut counts) {
            Ok(Some(error)) if !names.iter().any(|name| error.contains(name)) => {
                let missing = names.join("` or `");
                return Err(failure(Finding::Unnamed { error, missing }, &input));
            }
            Ok(_) => {}
            Err(finding) => return Err(failure(finding, &input)),
        }
    }

    let words = target.words();
    let mut random = Random::new(seed);
    let mut pool = samples.clone();
    let start = Instant::now();
    let mut inputs = 0;
    while match budget {
        Budget::Inputs(most) => inputs < most,
        Budget::Time(most) => start.elapsed() < most,
    } {
        inputs += 1;
        let parent = if random.once_in(2) { random.pick(&samples) } else { random.pick(&pool) };
        let other = random.pick(&pool);
        let input = mutated(&mut random, target.syntax(), parent, other, &words);
        running.hold(&input);
        match try_input(target, &input, &mut counts) {
            Ok(Some(_)) => {}
            // Accepted inputs are bred from: nothing else tells this engine that a mutation led somewhere.
            Ok(None) if pool.len() < samples.len() + POOL => pool.push(input),
            Ok(None) => pool[samples.len() + random.below(POOL)] = input,
            Err(finding) => {
                return Err(failure(finding.clone(), &smaller(target, &finding, input, running)));
            }
        }
    }
    Ok(counts)
}

/// `parent` with some changes; pieces come from `other` and from `words`.
pub fn mutated(
    random: &mut Random,
    syntax: Syntax,
    parent: &[u8],
    other: &[u8],
    words: &[Vec<u8>],
) -> Vec<u8> {
    let mut input = match syntax {
        Syntax::Bytes => mutate::bytes(random, parent, other, words),
        Syntax::Json => json::mutate(random, parent, other, words),
        Syntax::Framed => json::mutate_framed(random, parent, other, words),
    };
    input.truncate(LONGEST);
    input
}

/// Runs one input: the text of the parser's error, if it had one, or what is wrong.
fn try_input(target: &dyn Target, input: &[u8], counts: &mut Counts) -> Result<Option<String>, Finding> {
    let start = Instant::now();
    let memory = memory::Meter::start();
    let result = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    let (peak, limit, time) = (memory.peak(), memory::limit(input.len()), start.elapsed());
    counts.peak = counts.peak.max(peak);
    let result = result.map_err(|_| {
        Finding::Panic(LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).replace('\n', " "))
    })?;
    if peak > limit {
        return Err(Finding::Memory { peak, limit });
    }
    if time > SLOW {
        return Err(Finding::Slow(time));
    }
    match result {
        Ok(()) => counts.accepted += 1,
        Err(error) if error.contains(target.label()) => {
            counts.refused += 1;
            return Ok(Some(error));
        }
        Err(error) => {
            return Err(Finding::Unnamed { error, missing: target.label().to_owned() });
        }
    }
    Ok(None)
}

fn failure(finding: Finding, input: &[u8]) -> Failure {
    Failure { finding, input: input.to_vec() }
}

/// The file that holds the input being run. Best effort: a disk that cannot be written to costs the input of an
/// abort, nothing else. It stays open, as opening it takes longer than most inputs.
struct Running(Option<File>);

impl Running {
    fn hold(&mut self, input: &[u8]) {
        if let Some(file) = &mut self.0 {
            let _ = file.set_len(input.len() as u64);
            let _ = file.rewind().and_then(|()| file.write_all(input));
        }
    }
}

/// Cuts pieces out of `input` for as long as the same kind of finding remains.
fn smaller(target: &dyn Target, finding: &Finding, mut input: Vec<u8>, running: &mut Running) -> Vec<u8> {
    let kind = std::mem::discriminant(finding);
    let start = Instant::now();
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut from = 0;
        while from < input.len() {
            if start.elapsed() > Duration::from_secs(5) {
                return input;
            }
            let to = (from + piece).min(input.len());
            let shorter = [&input[..from], &input[to..]].concat();
            running.hold(&shorter);
            match try_input(target, &shorter, &mut Counts::default()) {
                Err(again) if std::mem::discriminant(&again) == kind => input = shorter,
                _ => from = to,
            }
        }
        piece /= 2;
    }
    input
}

/// Runs one input that an earlier run saved, without catching its panic.
///
/// # Errors
///
/// What is wrong.
pub fn replay(target: &dyn Target, input: &[u8]) -> Result<Option<String>, Finding> {
    let memory = memory::Meter::start();
    let error = target.run(input).err();
    let (peak, limit) = (memory.peak(), memory::limit(input.len()));
    match error {
        _ if peak > limit => Err(Finding::Memory { peak, limit }),
        Some(error) if !error.contains(target.label()) => {
            Err(Finding::Unnamed { error, missing: target.label().to_owned() })
        }
        error => Ok(error),
    }
}
