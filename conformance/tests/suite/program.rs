//! Programs: what is recorded for each released size, liveness, and errors while recording and stepping.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use gemma4_conformance::compare::same_bits;
use gemma4_conformance::device::{Stream, unchanged};
use gemma4_conformance::tiny::{self, Kv, Tiny, tokens};
use gemma4_core::backend::{PageTable, Row, Step};
use gemma4_core::error::ModelError;
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::{Config, Span};
use gemma4_core::model::gemma4::{Gemma4, KvLayout, KvTypes, Taps};
use gemma4_core::model::weights::{Naming, WeightSource, Weights};
use gemma4_core::ops::Op;
use gemma4_core::ops::attention::Mask;
use gemma4_core::ops::attn_prepare::Heads;
use gemma4_core::ops::glu::Columns;
use gemma4_core::program::{Act, Class, Elem, Program, Rows, Slots, State, StateSpec, Weight, WeightSpec};
use gemma4_core::reference::Reference;
use gemma4_core::tensor::{Bytes, DType, Tensor};
use serde_json::{Value, json};

/// Sizes of a released model.
struct Size {
    name: &'static str,
    hidden: usize,
    layers: usize,
    /// One layer in so many is global.
    period: usize,
    heads: usize,
    kv_heads: usize,
    /// Of global layers, where values are the raw keys.
    global_kv_heads: Option<usize>,
    ffn: usize,
    window: usize,
    ple: usize,
    shared: usize,
    wide: bool,
    experts: bool,
}

const E2B: Size = Size {
    name: "E2B",
    hidden: 1536,
    layers: 35,
    period: 5,
    heads: 8,
    kv_heads: 1,
    global_kv_heads: None,
    ffn: 6144,
    window: 512,
    ple: 256,
    shared: 20,
    wide: true,
    experts: false,
};
const E4B: Size = Size {
    name: "E4B",
    hidden: 2560,
    layers: 42,
    period: 6,
    kv_heads: 2,
    ffn: 10240,
    shared: 18,
    wide: false,
    ..E2B
};
const B12: Size = Size {
    name: "12B",
    hidden: 3840,
    layers: 48,
    heads: 16,
    kv_heads: 8,
    global_kv_heads: Some(1),
    ffn: 15360,
    window: 1024,
    ple: 0,
    shared: 0,
    ..E4B
};
const A4B: Size = Size {
    name: "26B-A4B",
    hidden: 2816,
    layers: 30,
    global_kv_heads: Some(2),
    ffn: 2112,
    experts: true,
    ..B12
};
const B31: Size = Size {
    name: "31B",
    hidden: 5376,
    layers: 60,
    heads: 32,
    kv_heads: 16,
    global_kv_heads: Some(4),
    ffn: 21504,
    ..B12
};

impl Size {
    fn config(&self) -> Config {
        let kinds: String =
            (1..=self.layers).map(|number| if number % self.period == 0 { 'G' } else { 'L' }).collect();
        let experts = |n: usize| if self.experts { Value::from(n) } else { Value::Null };
        let json = json!({
            "architectures": ["Gemma4ForCausalLM"],
            "model_type": "gemma4_text",
            "vocab_size": 512,
            "vocab_size_per_layer_input": 512,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "layer_types": tiny::layers(&kinds),
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "num_global_key_value_heads": self.global_kv_heads,
            "attention_k_eq_v": self.global_kv_heads.is_some(),
            "head_dim": 256,
            "global_head_dim": 512,
            "hidden_activation": "gelu_pytorch_tanh",
            "intermediate_size": self.ffn,
            "use_double_wide_mlp": self.wide,
            "enable_moe_block": self.experts,
            "num_experts": experts(128),
            "top_k_experts": experts(8),
            "moe_intermediate_size": experts(704),
            "sliding_window": self.window,
            "max_position_embeddings": 131_072,
            "hidden_size_per_layer_input": self.ple,
            "num_kv_shared_layers": self.shared,
            "tie_word_embeddings": true,
            "rms_norm_eps": 1e-6,
            "final_logit_softcapping": 30.0,
            "rope_parameters": {
                "sliding_attention": { "rope_type": "default", "rope_theta": 10_000.0 },
                "full_attention": {
                    "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0
                },
            },
        });
        Config::from_json(Path::new("config.json"), &json.to_string()).expect("a released size")
    }

    fn model(&self) -> Gemma4 {
        let config = self.config();
        let weights = Weights::load(&config, &Zeros::new(tiny::shapes(&config)));
        Gemma4::new(config, weights.expect("all shapes follow from the config"))
    }

    fn decode(&self) -> Program {
        let model = self.model();
        let types = KvTypes { k: KvType::Q8_0, v: KvType::Q8_0 };
        let layout = KvLayout { local: types, global: types, local_pages: 8, global_pages: 16 };
        model.decode(&model.states(&layout), 1).expect("shapes fit").program
    }
}

/// Weights of zeros that share one buffer, which no test touches: the system gives it no memory.
struct Zeros {
    shapes: BTreeMap<String, Vec<usize>>,
    bytes: Bytes,
}

impl Zeros {
    fn new(shapes: BTreeMap<String, Vec<usize>>) -> Self {
        let most = shapes.values().map(|shape| shape.iter().product::<usize>() * 2).max().unwrap_or(0);
        Self { shapes, bytes: Bytes::from_owner(vec![0u8; most]) }
    }
}

impl WeightSource for Zeros {
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(shape) = self.shapes.get(name) else { return Ok(None) };
        let mut full = [1; 3];
        full[3 - shape.len()..].copy_from_slice(shape);
        let bytes = self.bytes.slice(0..shape.iter().product::<usize>() * 2).expect("within the largest");
        Ok(Tensor::new(name, DType::BF16, full, bytes))
    }

    fn path(&self) -> &Path {
        Path::new("zeros")
    }

    fn naming(&self) -> Naming {
        Naming::Hf { prefix: "model.".to_owned() }
    }
}

/// The layer in a name such as `model.layers.3.mlp.up_proj.weight` or `blk.3.k`, and the rest without endings.
fn parts(name: &str) -> (Option<usize>, &str) {
    let rest = name.strip_prefix("model.layers.").or_else(|| name.strip_prefix("blk.")).unwrap_or(name);
    let (number, short) = rest.split_once('.').unwrap_or(("", rest));
    match number.parse() {
        Ok(layer) => (Some(layer), short.trim_end_matches(".weight")),
        Err(_) => (None, name.trim_start_matches("model.").trim_end_matches(".weight")),
    }
}

/// One op: its name, widths, weights and pools, without the number of its layer.
fn line(program: &Program, op: &Op) -> String {
    let widths =
        |acts: Vec<Act>| acts.iter().map(|&act| program.cols(act).to_string()).collect::<Vec<_>>().join(", ");
    let mut line = format!("{}: {} -> {}", op.name(), widths(op.reads()), widths(op.writes()));
    for weight in op.weights() {
        let spec = program.weight(weight);
        write!(line, ", {}", parts(&spec.name).1).expect("a string");
    }
    match op {
        Op::AttnPrepare(op) => write!(line, ", {:?}", op.own.map(|own| own.values)),
        Op::Attention(op) => write!(line, ", {:?}, {} of {}", op.mask, op.heads.kv_heads, op.heads.head_dim),
        Op::NormAdd(op) if op.scale.to_bits() == 1f32.to_bits() => Ok(()),
        Op::NormAdd(_) => write!(line, ", layer scalar"),
        _ => Ok(()),
    }
    .expect("a string");
    line
}

/// The ops of a layer, or of what is outside of layers, and the donors that it reads.
struct Block {
    layer: Option<usize>,
    lines: Vec<String>,
    donors: String,
}

/// The program as text, equal layers once.
fn text(size: &Size, program: &Program) -> String {
    let slots = Slots::of(program);
    let mut layer = None;
    let mut blocks: Vec<Block> = Vec::new();
    for op in &program.ops {
        // The first weight of a layer says where it begins; an op without weights belongs to the one before.
        let own = op.weights().iter().find_map(|&w| parts(&program.weight(w).name).0);
        let outside = op.weights().iter().any(|&w| parts(&program.weight(w).name).1.starts_with("norm"))
            || matches!(op, Op::GatherRows(_));
        layer = if outside { None } else { own.or(layer) };
        let donor = match op {
            Op::Attention(op) => parts(&program.state(op.k).name).0.filter(|&at| Some(at) != layer),
            _ => None,
        };
        let donor = donor.map_or(String::new(), |donor| format!(" reading layer {donor}"));
        match blocks.last_mut() {
            Some(block) if block.layer == layer => {
                block.lines.push(line(program, op));
                block.donors.push_str(&donor);
            }
            _ => blocks.push(Block { layer, lines: vec![line(program, op)], donors: donor }),
        }
    }
    let mut text = format!(
        "{}: {} ops, {} activations in {} slots of {} bytes, {} pools\n",
        size.name,
        program.ops.len(),
        program.acts.len(),
        slots.elements.len(),
        slots.bytes(),
        program.states.len()
    );
    let mut groups: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for Block { layer, lines, donors } in blocks {
        let name = layer.map_or("outside".to_owned(), |layer| format!("{layer}{donors}"));
        match groups.iter_mut().find(|(known, _)| *known == lines) {
            Some((_, names)) => names.push(name),
            None => groups.push((lines, vec![name])),
        }
    }
    for (lines, names) in groups {
        let title = if names[0] == "outside" {
            "outside of layers".to_owned()
        } else {
            format!("layers {}", names.join(", "))
        };
        write!(text, "\n{title}\n").expect("a string");
        for line in lines {
            writeln!(text, "  {line}").expect("a string");
        }
    }
    text
}

#[test]
fn decode_programs_of_all_sizes_are_those_that_were_reviewed() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let update = std::env::var_os("UPDATE_PROGRAMS").is_some();
    for size in [E2B, E4B, B12, A4B, B31] {
        let path = dir.join(format!("{}.txt", size.name));
        let got = text(&size, &size.decode());
        if update {
            std::fs::write(&path, &got).expect("the folder can be written");
        }
        let want = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(got == want, "{} differs; UPDATE_PROGRAMS=1 writes it anew:\n{got}", path.display());
    }
}

/// First and last op that touches each activation.
fn lives(program: &Program) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; program.acts.len()];
    for (at, op) in program.ops.iter().enumerate() {
        for act in op.reads().into_iter().chain(op.writes()) {
            let life = &mut lives[act.index()];
            *life = Some((life.map_or(at, |(first, _)| first), at));
        }
    }
    for act in &program.outputs {
        let end = program.ops.len();
        lives[act.index()] = lives[act.index()].map(|(first, _)| (first, end));
    }
    lives
}

#[test]
fn activations_that_live_at_once_have_slots_of_their_own() {
    let mut pairs = 0;
    for size in [E2B, A4B, B31] {
        let program = size.decode();
        let (slots, lives) = (Slots::of(&program), lives(&program));
        for (a, life) in lives.iter().enumerate() {
            let (first, last) = life.expect("every activation is used");
            for (b, other) in lives.iter().enumerate().skip(a + 1) {
                let (start, end) = other.expect("every activation is used");
                if first <= end && start <= last {
                    assert_ne!(slots.of[a], slots.of[b], "{}: a{a} and a{b}", size.name);
                    pairs += 1;
                }
            }
            let act = Act::new(a);
            assert!(slots.elements[slots.of[a]] >= program.capacity(act) * program.cols(act));
        }
        for op in &program.ops {
            for write in op.writes() {
                let inputs = op.reads().into_iter().filter(|&read| read != write);
                for read in inputs {
                    assert_ne!(slots.of[read.index()], slots.of[write.index()], "{op:?}");
                }
            }
        }
        assert!(slots.elements.len() < 16, "{}: {} slots", size.name, slots.elements.len());
    }
    println!("{pairs} pairs of activations");
    assert!(pairs > 0);
}

#[test]
fn sharing_slots_changes_no_bit() {
    let new = || Reference::new(None).expect("threads can be started");
    // An output lives to the end, so that nobody else gets its slot.
    let separate = |program: &mut Program| program.outputs = (0..program.acts.len()).map(Act::new).collect();
    let text = tokens(21, 70);
    let mut compared = 0;
    for tiny in Tiny::all() {
        let mut shared = Stream::new(new(), &tiny, Kv::MIXED, 1, 64, &unchanged).expect("a small model");
        let mut alone = Stream::new(new(), &tiny, Kv::MIXED, 1, 64, &separate).expect("a small model");
        for class in [Class::Prefill, Class::Decode] {
            let want = alone.step(class, &text).unwrap_or_else(|failure| panic!("{failure}"));
            let got = shared.step(class, &text).unwrap_or_else(|failure| panic!("{failure}"));
            compared += same_bits(&want, &got).unwrap_or_else(|mismatch| panic!("{}: {mismatch}", tiny.name));
        }
    }
    println!("{compared} comparisons");
    assert!(compared > 0);
}

#[test]
fn hidden_states_do_not_change_the_logits() {
    let model = Tiny::ple().model();
    let types = KvTypes { k: KvType::F16, v: KvType::F16 };
    let states = model.states(&KvLayout { local: types, global: types, local_pages: 2, global_pages: 2 });
    let plain = model.prefill(&states, 8, 4, Taps::None).expect("shapes fit");
    let tapped = model.prefill(&states, 8, 4, Taps::Hidden).expect("shapes fit");
    assert_eq!(plain.hidden.len(), 0);
    assert_eq!(tapped.hidden.len(), model.config.layers.len() + 1);
    assert_eq!(plain.program.ops.len() + model.config.layers.len(), tapped.program.ops.len());
}

/// A program over three weights and a pool, to record on.
fn blank() -> Program {
    let weight = |name: &str, experts, rows, cols| WeightSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        experts,
        rows,
        cols,
    };
    let weights = [weight("w", 1, 48, 32), weight("v", 1, 1, 32), weight("e", 4, 32, 16)];
    let pool = StateSpec {
        name: "blk.0.k".to_owned(),
        span: Span::Global,
        kv_type: KvType::F16,
        kv_heads: 2,
        head_dim: 32,
        pages: 1,
    };
    Program::new(Class::Prefill, 4, 4, weights.into(), [pool].into())
}

#[test]
fn shapes_that_do_not_fit_are_sentences_while_recording() {
    let [w, v, e] = [0, 1, 2].map(Weight::new);
    let pool = State::new(0);
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 32 };
    let mut p = blank();
    let narrow = p.act(Rows::Step, 16, Elem::F32);
    let wide = p.act(Rows::Step, 32, Elem::F32);
    let queries = p.act(Rows::Step, 128, Elem::F32);
    let before = p.ops.len();
    let errors = [
        (p.linear(narrow, &[w]).map(drop), "linear: inputs of the weight is 32, expected 16"),
        (p.linear(narrow, &[e]).map(drop), "linear: matrices of the weight is 4, expected 1"),
        (p.rms_norm(narrow, v, 1e-6).map(drop), "rms_norm: length of the weight is 32, expected 16"),
        (p.norm_add(wide, narrow, v, 1.0, 1e-6), "norm_add: width of the branch is 16, expected 32"),
        (p.norm_add(wide, wide, v, 1.0, 1e-6), "norm_add: a1 is read and written"),
        (p.add(wide, wide), "add: a1 is read and written"),
        (p.add(wide, narrow), "add: width of the second operand is 16, expected 32"),
        (
            p.attention(wide, heads, (pool, pool), Mask::Causal).map(drop),
            "attention: width of the queries is 32, expected 128",
        ),
        (
            p.attention(queries, Heads { kv_heads: 1, ..heads }, (pool, pool), Mask::Causal).map(drop),
            "attention: heads of the cache is 2, expected 1",
        ),
        (
            p.attn_prepare(queries, heads, (v, v), None, 1e-6).map(drop),
            "attn_prepare: length of the frequencies is 32, expected 16",
        ),
        (
            p.glu(Columns { act: narrow, start: 8 }, Columns { act: wide, start: 0 }, 16).map(drop),
            "glu: end of the gate is 16, expected 24",
        ),
        (
            p.route(wide, [v, w, v], 2, 1e-6).map(drop),
            "route: length of the experts' scale is 32, expected 48",
        ),
        (
            p.ple_inputs(narrow, w, v, 64, 1e-6).map(drop),
            "ple_inputs: width of the context is 16, expected 32",
        ),
    ];
    for (result, sentence) in errors {
        assert_eq!(result.expect_err(sentence).to_string(), sentence);
    }
    assert_eq!(p.ops.len(), before, "an op that does not fit is not recorded");
}

/// Rows, picked rows and tables of a step, and what is said of it.
type Bad<'a> = (&'a [Row], &'a [u32], &'a [PageTable<'a>], &'a str);

#[test]
fn steps_that_do_not_fit_are_sentences_before_they_reach_a_device() {
    let mut p = blank();
    let x = p.embed(Weight::new(0), 1.0);
    let picked = p.gather_rows(x);
    p.sample(picked);
    // Only pools that an op reads or writes need pages.
    let queries = p.act(Rows::Step, 128, Elem::F32);
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 32 };
    p.attention(queries, heads, (State::new(0), State::new(0)), Mask::Causal).expect("it fits");
    let row = |token, position, slot| Row { token, position, slot };
    let tables = [PageTable { global: &[0], local: &[] }];
    let missing = [PageTable { global: &[7], local: &[] }];
    let good = [row(1, 0, 0)];
    let (many, token, slot, far) = ([row(1, 0, 0); 5], [row(48, 0, 0)], [row(1, 0, 1)], [row(1, 256, 0)]);
    let cases: [Bad<'_>; 8] = [
        (&[], &[], &tables, "step: number of rows is 0, expected 1 to 4"),
        (&many, &[], &tables, "step: number of rows is 5, expected 1 to 4"),
        (&good, &[1], &tables, "step: picked row is 1, expected below 1"),
        (&good, &[0], &tables, "step: number of draws is 0, expected 1"),
        (&token, &[], &tables, "step: token is 48, expected below 48"),
        (&slot, &[], &tables, "step: slot is 1, expected below 1"),
        (&far, &[], &tables, "step: global page is 256, expected a table that covers the position"),
        (&good, &[], &missing, "step: global page is 7, expected below 1"),
    ];
    for (rows, picked, tables, sentence) in cases {
        let step = Step { rows, picked, tables, draws: &[] };
        assert_eq!(step.check(&p).expect_err(sentence).to_string(), sentence);
    }
    assert!(Step { rows: &good, picked: &[], tables: &tables, draws: &[] }.check(&p).is_ok());
}
