//! The pocket model says what transformers recorded in float32.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use gemma4_core::chat::{Dialogue, Message};
use gemma4_core::checkpoint::Checkpoint;
use gemma4_core::dialogue::Speaker;
use gemma4_core::engine::{CHUNK, Engine, Options};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::KvTypes;
use gemma4_core::reference::Reference;
use gemma4_core::sample::Sampling;
use gemma4_core::session::{Request, Session};
use gemma4_core::tokenizer::{Markup, Special};
use serde_json::Value;

/// A recorded prompt.
#[derive(serde::Deserialize)]
struct Recorded {
    messages: Option<Vec<Message>>,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    enable_thinking: bool,
    raw: Option<String>,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    text: String,
    /// Of the two largest logits, anywhere on the way.
    smallest_margin: f64,
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pocket")
}

fn recorded() -> Vec<Recorded> {
    let text = std::fs::read_to_string(models().join("continuations.json")).expect("it is in the repository");
    serde_json::from_str(&text).expect("it is JSON of this form")
}

/// Checks that every prompt becomes the recorded tokens, and every continuation whose margins are all at least
/// `least` the recorded text.
fn says_what_was_recorded(path: &Path, least: f64) {
    let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"));
    let speaker = Speaker::new(&checkpoint).unwrap_or_else(|error| panic!("{error}"));
    let model = checkpoint.model().unwrap_or_else(|error| panic!("{error}"));
    let kv = KvTypes { k: KvType::F16, v: KvType::F16 };
    let options =
        Options { context: 256, sequences: 1, kv_local: kv, kv_global: kv, chunk: CHUNK, snapshots: 0 };
    let backend = Reference::new(None).expect("threads can be started");
    let mut engine = Engine::new(backend, model, options, &mut |_, _| ()).expect("a small model fits");
    let sampling = Sampling::default();
    let (mut equal, mut other, mut tokens) = (0, 0, 0);
    for recorded in recorded() {
        let prompt = match (&recorded.messages, &recorded.raw) {
            (Some(messages), _) => {
                let mut dialogue = Dialogue::new(messages.clone());
                (dialogue.tools, dialogue.enable_thinking) = (recorded.tools, recorded.enable_thinking);
                speaker.prompt(&dialogue).unwrap_or_else(|error| panic!("{error}")).tokens
            }
            (None, Some(raw)) => speaker.tokenizer.encode_prompt(raw, Special::Parse).expect("plain text"),
            (None, None) => panic!("a prompt without messages or text"),
        };
        assert_eq!(prompt, recorded.prompt_ids, "tokens of the prompt before {:?}", recorded.text);
        let request = Request {
            prompt: &prompt,
            border: 0,
            sampling: &sampling,
            max_tokens: recorded.greedy_ids.len(),
            end: &speaker.end,
            suppress: &speaker.suppress,
        };
        let mut session = Session::new(&mut engine).expect("a sequence is free");
        let generated = session.generate(&mut engine, &request, &mut |_| ControlFlow::Continue(()));
        let generated = generated.unwrap_or_else(|error| panic!("{error}"));
        session.close(&mut engine).expect("it is open");
        let text = speaker.tokenizer.decode(&generated.tokens, Markup::Show);
        if generated.tokens == recorded.greedy_ids {
            assert_eq!(text, recorded.text);
            equal += 1;
            tokens += generated.tokens.len();
        } else {
            let margin = recorded.smallest_margin;
            println!("margin {margin}: {text:?}, recorded {:?}", recorded.text);
            assert!(margin < least, "{text:?}, recorded {:?} with margins of {margin} and more", recorded.text);
            other += 1;
        }
    }
    println!("{}: {equal} texts of {tokens} tokens equal, {other} with margins below {least} differ", path.display());
    assert!(equal >= 10, "only {equal} texts are equal");
}

#[test]
fn the_embedded_model_says_what_was_recorded() {
    // Rounding weights to 8 bits moves logits by some hundredths.
    says_what_was_recorded(&models().join("pocket-Q8_0.gguf"), 0.1);
}

#[test]
fn its_other_files_say_what_was_recorded() {
    let Some(dir) = std::env::var_os("POCKET_DIR").map(PathBuf::from) else {
        println!("skipped: POCKET_DIR names no folder with pocket-Q4_K_M.gguf, pocket-Q4_0.gguf and target");
        return;
    };
    // The recording is of this folder: only logits that are equal but for rounding may change places.
    says_what_was_recorded(&dir.join("target"), 1e-3);
    // Rounding weights to 4 bits moves logits by some tenths; a margin has to outlast two such errors.
    for file in ["pocket-Q4_K_M.gguf", "pocket-Q4_0.gguf"] {
        says_what_was_recorded(&dir.join(file), 1.5);
    }
}
