//! Against the model inside the program.
#![cfg(feature = "pocket")]

use std::collections::VecDeque;
use std::io::Write;

use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::KvTypes;
use gemma4_core::reference::Reference;
use gemma4_core::sample::Sampling;

use super::*;
use crate::cli::{CacheArgs, Global};
use crate::load;
use crate::run::screen::Controls;
use crate::run::screen::tests::Shared;

const LINSPACE: &str = "Return evenly spaced numbers over a specified interval.\n";
const ARGUMENTS: &str = "```python\nlinspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, \
                         axis=0, *, device=None)\n```\n";

/// Lines that somebody wrote before.
#[derive(Default)]
struct Script {
    inputs: VecDeque<Input>,
    prompts: Vec<String>,
    remembered: Vec<String>,
}

impl Script {
    fn new(lines: &[&str]) -> Self {
        let inputs = lines.iter().map(|line| match *line {
            "^C" => Input::Interrupted,
            line => Input::Line(line.to_owned()),
        });
        Self { inputs: inputs.collect(), ..Self::default() }
    }
}

impl Lines for Script {
    fn read(&mut self, prompt: &str) -> io::Result<Input> {
        self.prompts.push(prompt.to_owned());
        Ok(self.inputs.pop_front().unwrap_or(Input::End))
    }

    fn remember(&mut self, entry: &str) {
        self.remembered.push(entry.to_owned());
    }

    fn hide_typing(&mut self) {}

    fn show_typing(&mut self) {}
}

/// Presses Ctrl-C once a text has been written.
struct Impatient {
    out: Shared,
    when: &'static str,
    stop: &'static Interrupt,
}

impl Write for Impatient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        if self.out.text().ends_with(self.when) {
            self.stop.raise();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Speaker and engine of the built-in model.
fn pocket(context: usize, kv: KvType) -> (Speaker, Engine<Reference>) {
    let global = Global::on_the_processor();
    let checkpoint = load::checkpoint(&global).unwrap();
    let model = checkpoint.model().unwrap();
    let cache = CacheArgs { ctx: Some(context), kv: KvTypes { k: kv, v: kv }, kv_local: None };
    let options = load::options(&model, &cache).unwrap();
    let engine = load::engine(Reference::new(None).unwrap(), model, options).unwrap();
    (Speaker::new(&checkpoint).unwrap(), engine)
}

fn greedy() -> Settings {
    Settings { sampling: Sampling::default(), seeded: true, max_tokens: usize::MAX, draft: None }
}

fn never() -> &'static Interrupt {
    Box::leak(Box::default())
}

/// A chat and what it writes.
fn chat<'a>(
    speaker: &'a Speaker,
    engine: &'a mut Engine<Reference>,
) -> (Chat<'a, Reference>, Shared, Shared) {
    let (out, err) = (Shared::default(), Shared::default());
    let screen = Screen::new(Box::new(out.clone()), Box::new(err.clone()), Controls::Kept);
    let dialogue = Dialogue::new(Vec::new());
    (Chat::new(engine, speaker, greedy(), dialogue, screen, never()), out, err)
}

#[test]
fn a_second_turn_knows_the_first_and_reuses_its_cache() {
    let (speaker, mut engine) = pocket(1024, KvType::F16);
    let (mut chat, out, err) = chat(&speaker, &mut engine);
    let mut lines =
        Script::new(&["What does numpy.linspace do?", "", "Which arguments does numpy.linspace take?"]);
    chat.run(&mut lines).unwrap();
    assert_eq!(out.take(), format!("{LINSPACE}{ARGUMENTS}"));
    assert_eq!(lines.remembered.len(), 2, "an empty line is nothing");
    assert!(chat.last.as_ref().unwrap().reused > 0);

    err.take();
    chat.run(&mut Script::new(&["/stats"])).unwrap();
    let stats = err.take();
    for part in ["reused", "of 1024 tokens", "global cache 1 of", "local cache  1 of", "most likely token"] {
        assert!(stats.contains(part), "{part}: {stats}");
    }
}

#[test]
fn a_saved_chat_goes_on_after_it_was_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a chat");
    let (save, load) = (format!("/save {}", path.display()), format!("/load {}", path.display()));
    let (speaker, mut engine) = pocket(1024, KvType::F16);
    {
        let (mut chat, out, err) = chat(&speaker, &mut engine);
        chat.run(&mut Script::new(&["/think on", "/think off", "What does numpy.linspace do?", &save]))
            .unwrap();
        let messages = chat.dialogue.messages.clone();
        chat.run(&mut Script::new(&["/reset", "/think on", "/stats"])).unwrap();
        assert_eq!(chat.dialogue.messages, []);
        assert!(err.take().contains("context      0 of"), "the cache is empty");

        out.take();
        chat.run(&mut Script::new(&[&load])).unwrap();
        assert_eq!(chat.dialogue.messages, messages);
        assert!(!chat.dialogue.enable_thinking);
        chat.run(&mut Script::new(&["Which arguments does numpy.linspace take?"])).unwrap();
        assert_eq!(out.take(), ARGUMENTS);
        assert!(chat.last.as_ref().unwrap().reused > 0, "the file's cache is used");
    }
    // With another kind of cache the messages are all that can be used.
    let (speaker, mut engine) = pocket(512, KvType::F32);
    let (mut chat, out, err) = chat(&speaker, &mut engine);
    chat.run(&mut Script::new(&[&load])).unwrap();
    assert!(err.take().contains("the cache is computed anew"));
    chat.run(&mut Script::new(&["Which arguments does numpy.linspace take?"])).unwrap();
    assert_eq!(out.take(), ARGUMENTS);
    assert_eq!(chat.last.as_ref().unwrap().reused, 0);
}

#[test]
fn a_file_that_cannot_be_loaded_or_written_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no chat at all").unwrap();
    let (speaker, mut engine) = pocket(1024, KvType::F16);
    let (mut chat, out, err) = chat(&speaker, &mut engine);
    chat.run(&mut Script::new(&["What does numpy.linspace do?"])).unwrap();
    let messages = chat.dialogue.messages.clone();
    for (command, part) in [
        ("/load /nowhere/x".to_owned(), "cannot access /nowhere/x: No such file"),
        (format!("/load {}", text.display()), "is not a saved conversation"),
        (format!("/load {}", folder.path().display()), "cannot access"),
        ("/save /nowhere/x".to_owned(), "cannot access /nowhere/x: No such file"),
    ] {
        err.take();
        chat.run(&mut Script::new(&[&command])).unwrap();
        let told = err.take();
        assert!(told.contains(part), "{command}: {told}");
        assert_eq!(chat.dialogue.messages, messages);
    }
    out.take();
    chat.run(&mut Script::new(&["Which arguments does numpy.linspace take?"])).unwrap();
    assert_eq!(out.take(), ARGUMENTS);
}

#[test]
fn ctrl_c_stops_the_answer_and_keeps_what_was_said() {
    let (speaker, mut engine) = pocket(1024, KvType::F16);
    let stop = never();
    let (out, err) = (Shared::default(), Shared::default());
    let impatient = Impatient { out: out.clone(), when: "evenly", stop };
    let screen = Screen::new(Box::new(impatient), Box::new(err.clone()), Controls::Kept);
    let mut chat = Chat::new(&mut engine, &speaker, greedy(), Dialogue::new(Vec::new()), screen, stop);
    chat.run(&mut Script::new(&["What does numpy.linspace do?"])).unwrap();
    assert_eq!(out.take(), "Return evenly\n");
    assert!(err.take().contains("Stopped."));
    assert_eq!(chat.dialogue.messages[1].text(), "Return evenly");

    chat.run(&mut Script::new(&["What is 3 plus 4?"])).unwrap();
    assert_eq!(out.take(), "3 plus 4 is 7.\n");
    assert_eq!(chat.dialogue.messages.len(), 4);
}

#[test]
fn an_answer_stopped_before_it_began_takes_the_message_back() {
    let (speaker, mut engine) = pocket(1024, KvType::F16);
    let stop = never();
    let (out, err) = (Shared::default(), Shared::default());
    let impatient = Impatient { out: err.clone(), when: "thinking: \x1b[22m", stop };
    let screen = Screen::new(Box::new(out.clone()), Box::new(impatient), Controls::Kept);
    let dialogue = Dialogue { enable_thinking: true, ..Dialogue::new(Vec::new()) };
    let mut chat = Chat::new(&mut engine, &speaker, greedy(), dialogue, screen, stop);
    chat.run(&mut Script::new(&["What is scipy.linalg.solve?"])).unwrap();
    assert!(err.take().contains("the message is taken back"));
    assert_eq!((out.take().as_str(), chat.dialogue.messages.len()), ("", 0));
}

#[test]
fn ctrl_c_twice_leaves_and_once_does_not() {
    let (speaker, mut engine) = pocket(256, KvType::F16);
    let (mut chat, _, err) = chat(&speaker, &mut engine);
    let mut lines = Script::new(&["^C", "/think on", "^C", "^C", "/think off"]);
    chat.run(&mut lines).unwrap();
    assert_eq!(lines.inputs, [Input::Line("/think off".into())]);
    assert_eq!(err.take().matches("Ctrl-C again").count(), 2);
}

#[test]
fn a_chat_that_outgrows_its_context_says_what_to_do_and_goes_on() {
    let (speaker, mut engine) = pocket(48, KvType::F16);
    let (mut chat, out, err) = chat(&speaker, &mut engine);
    let long = "numpy ".repeat(100);
    chat.run(&mut Script::new(&["Hello!", &long])).unwrap();
    let told = err.take();
    assert!(told.contains("the context 48") && told.contains("/reset"), "{told}");
    assert_eq!(chat.dialogue.messages.len(), 2, "the long message is taken back");

    out.take();
    chat.run(&mut Script::new(&["/reset", "What is the signature of numpy.linspace?"])).unwrap();
    let told = err.take();
    assert!(told.contains("The context of 48 tokens is full.") && told.contains("/reset"), "{told}");
    let cut = out.take();
    assert!(ARGUMENTS.starts_with(cut.trim_end()) && cut.len() < ARGUMENTS.len(), "{cut}");
}

#[test]
fn a_tool_is_called_and_its_result_is_answered() {
    let (speaker, mut engine) = pocket(1024, KvType::F16);
    let (mut chat, out, _) = chat(&speaker, &mut engine);
    let city = serde_json::json!({ "type": "string", "description": "Name of the city." });
    let parameters =
        serde_json::json!({ "type": "object", "properties": { "city": city }, "required": ["city"] });
    let function = serde_json::json!({
        "name": "get_weather", "description": "Current weather of a city.", "parameters": parameters,
    });
    chat.dialogue.tools = vec![serde_json::json!({ "type": "function", "function": function })];
    let mut lines = Script::new(&["What is the weather in Paris?", "23 degrees"]);
    chat.run(&mut lines).unwrap();
    assert_eq!(lines.prompts, [">>> ", "result of get_weather> ", ">>> "]);
    assert_eq!(out.take(), "get_weather({\"city\":\"Paris\"})\nIt is 23 degrees in Paris.\n");
}

#[test]
fn the_system_prompt_stays_when_the_chat_starts_over() {
    let (speaker, mut engine) = pocket(256, KvType::F16);
    let (mut chat, _, err) = chat(&speaker, &mut engine);
    chat.run(&mut Script::new(&["/system Be brief.", "/system Be very brief.", "/reset", "/system"]))
        .unwrap();
    assert!(err.take().ends_with("Be very brief.\n"));
    assert_eq!(chat.dialogue.messages, [Message::new(Role::System, "Be very brief.")]);
    chat.run(&mut Script::new(&["/system \"\"", "/system"])).unwrap();
    assert_eq!(chat.dialogue.messages, []);
}

#[test]
fn a_new_seed_is_drawn_for_a_new_chat_unless_the_user_chose_one() {
    let (speaker, mut engine) = pocket(256, KvType::F16);
    let (mut chat, ..) = chat(&speaker, &mut engine);
    chat.settings.sampling.seed = 1 << 40;
    chat.run(&mut Script::new(&["/reset"])).unwrap();
    assert_eq!(chat.settings.sampling.seed, 1 << 40);
    chat.settings.seeded = false;
    chat.run(&mut Script::new(&["/reset"])).unwrap();
    assert_ne!(chat.settings.sampling.seed, 1 << 40);
}

#[test]
fn lines_are_joined_by_a_backslash_and_between_quotes() {
    let read = |lines: &[&str]| {
        let mut script = Script::new(lines);
        let entry = entry(&mut script, "> ").unwrap();
        (entry, script.inputs.len())
    };
    let line = |text: &str| Input::Line(text.to_owned());
    assert_eq!(read(&["one", "two"]), (line("one"), 1));
    assert_eq!(read(&["one\\", "two\\", "three", "four"]), (line("one\ntwo\nthree"), 1));
    assert_eq!(read(&["\"\"\"", "one", "", "two", "\"\"\"", "more"]), (line("one\n\ntwo"), 1));
    assert_eq!(read(&["\"\"\"one", "two\"\"\""]), (line("one\ntwo"), 0));
    assert_eq!(read(&["\"\"\"one\"\"\"", "two"]), (line("one"), 1));
    assert_eq!(read(&["\"\"\"pasted\nat once\"\"\""]), (line("pasted\nat once"), 0));
    assert_eq!(read(&["one\\", "^C", "two"]), (line(""), 1), "Ctrl-C gives up the entry alone");
    assert_eq!(read(&["\"\"\"", "^C", "two"]), (line(""), 1));
    assert_eq!(read(&["\"\"\"", "one"]), (Input::End, 0));
    assert_eq!(read(&["^C"]), (Input::Interrupted, 0));
}
