//! The pocket model says on every backend what transformers recorded in float32.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use gemma4_conformance::{Failure, backends, on_every_backend};
use gemma4_core::backend::Backend;
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

/// Where prompts come from.
#[derive(Clone, Copy)]
enum Template {
    /// The file's own template.
    Own,
    /// The recording: the folder has no template, and the built-in one treats tools otherwise.
    None,
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pocket")
}

fn recorded() -> Vec<Recorded> {
    let text = std::fs::read_to_string(models().join("continuations.json")).expect("it is in the repository");
    serde_json::from_str(&text).expect("it is JSON of this form")
}

/// A file of the model, ready to speak.
struct Pocket {
    checkpoint: Checkpoint,
    speaker: Speaker,
}

impl Pocket {
    fn open(path: &Path) -> Self {
        let checkpoint = Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"));
        let speaker = Speaker::new(&checkpoint).unwrap_or_else(|error| panic!("{error}"));
        Self { checkpoint, speaker }
    }

    /// Tokens of a recorded prompt.
    fn prompt(&self, recorded: &Recorded, template: Template) -> Vec<u32> {
        let prompt = match (&recorded.messages, &recorded.raw) {
            (Some(_), _) if matches!(template, Template::None) => recorded.prompt_ids.clone(),
            (Some(messages), _) => {
                let mut dialogue = Dialogue::new(messages.clone());
                (dialogue.tools, dialogue.enable_thinking) =
                    (recorded.tools.clone(), recorded.enable_thinking);
                self.speaker.prompt(&dialogue).unwrap_or_else(|error| panic!("{error}")).tokens
            }
            (None, Some(raw)) => {
                self.speaker.tokenizer.encode_prompt(raw, Special::Parse).expect("plain text")
            }
            (None, None) => panic!("a prompt without messages or text"),
        };
        assert_eq!(prompt, recorded.prompt_ids, "tokens of the prompt before {:?}", recorded.text);
        prompt
    }

    /// The greedy continuations of prompts, each of at most so many tokens.
    fn generate<B: Backend>(&self, backend: B, prompts: &[(Vec<u32>, usize)]) -> Vec<Vec<u32>> {
        let model = self.checkpoint.model().unwrap_or_else(|error| panic!("{error}"));
        let kv = KvTypes { k: KvType::F16, v: KvType::F16 };
        let options = Options {
            context: 256,
            sequences: 1,
            kv_local: kv,
            kv_global: kv,
            chunk: CHUNK,
            snapshots: 0,
            pool: None,
        };
        let mut engine = Engine::new(backend, model, options, &mut |_, _| ()).expect("a small model fits");
        let sampling = Sampling::default();
        let mut generate = |(prompt, max_tokens): &(Vec<u32>, usize)| {
            let request = Request {
                prompt,
                border: 0,
                sampling: &sampling,
                max_tokens: *max_tokens,
                end: &self.speaker.end,
                suppress: &self.speaker.suppress,
            };
            let mut session = Session::new(&mut engine).expect("a sequence is free");
            let generated = session.generate(&mut engine, &request, &mut |_| ControlFlow::Continue(()));
            let generated = generated.unwrap_or_else(|error| panic!("{error:?}"));
            session.close(&mut engine).expect("it is open");
            generated.tokens
        };
        prompts.iter().map(&mut generate).collect()
    }
}

/// Checks that every prompt becomes the recorded tokens, and every continuation whose margins are all at least
/// `least` the recorded text.
fn says_what_was_recorded(path: &Path, template: Template, least: f64) {
    let pocket = Pocket::open(path);
    let all = recorded();
    let prompts: Vec<_> = all.iter().map(|r| (pocket.prompt(r, template), r.greedy_ids.len())).collect();
    let backend = Reference::new(None).expect("threads can be started");
    let (mut equal, mut other, mut tokens) = (0, 0, 0);
    for (recorded, generated) in all.iter().zip(pocket.generate(backend, &prompts)) {
        let text = pocket.speaker.tokenizer.decode(&generated, Markup::Show);
        if generated == recorded.greedy_ids {
            assert_eq!(text, recorded.text);
            equal += 1;
            tokens += generated.len();
        } else {
            let margin = recorded.smallest_margin;
            println!("margin {margin}: {text:?}, recorded {:?}", recorded.text);
            assert!(
                margin < least,
                "{text:?}, recorded {:?} with margins of {margin} and more",
                recorded.text
            );
            other += 1;
        }
    }
    println!(
        "{}: {equal} texts of {tokens} tokens equal, {other} with margins below {least} differ",
        path.display()
    );
    assert!(equal >= 10, "only {equal} texts are equal");
}

#[test]
fn k6_the_embedded_model_says_what_was_recorded() {
    // Rounding weights to 8 bits moves logits by some hundredths.
    says_what_was_recorded(&models().join("pocket-Q8_0.gguf"), Template::Own, 0.1);
}

#[test]
fn the_embedded_model_says_the_same_on_every_backend() {
    // Logits of two backends differ by some 1e-5, and by what a cached value loses that falls on the other side of a
    // step of f16.
    const LEAST: f64 = 1e-2;
    let pocket = Pocket::open(&models().join("pocket-Q8_0.gguf"));
    let mut all = recorded();
    all.retain(|recorded| recorded.smallest_margin >= LEAST);
    all.sort_by_key(|recorded| recorded.prompt_ids.len());
    on_every_backend!(|at, new| {
        let (count, most) = at.pick((all.len(), usize::MAX), (3, 12));
        let prompts: Vec<_> = all[..count.min(all.len())]
            .iter()
            .map(|r| (pocket.prompt(r, Template::Own), r.greedy_ids.len().min(most)))
            .collect();
        let want = pocket.generate(backends::reference(), &prompts);
        let got = pocket.generate(new(), &prompts);
        let result = match want.iter().zip(&got).position(|(want, got)| want != got) {
            None => Ok(want.iter().map(Vec::len).sum()),
            Some(at) => Err(Failure::False(format!("prompt {at}: {:?}, expected {:?}", got[at], want[at]))),
        };
        at.holds("pocket, greedy tokens", result);
    });
}

#[test]
fn k6_its_other_files_say_what_was_recorded() {
    let Some(dir) = std::env::var_os("POCKET_DIR").map(PathBuf::from) else {
        println!("skipped: POCKET_DIR names no folder with pocket-Q4_K_M.gguf, pocket-Q4_0.gguf and target");
        return;
    };
    // The recording is of this folder: only logits that the f16 cache moves, by some thousandths, may change places.
    says_what_was_recorded(&dir.join("target"), Template::None, 1e-2);
    // Rounding weights to 4 bits moves logits by some tenths; a margin has to outlast two such errors.
    for file in ["pocket-Q4_K_M.gguf", "pocket-Q4_0.gguf"] {
        says_what_was_recorded(&dir.join(file), Template::Own, 1.5);
    }
}
