//! GGUF files: the container, its metadata by every getter, its tensors.

use std::hint::black_box;
use std::path::Path;

use gemma4_core::error::ModelError;
use gemma4_core::gguf::value::{Kind, Value};
use gemma4_core::gguf::write::Writer;
use gemma4_core::gguf::{Gguf, Metadata};
use gemma4_core::model::config::Config;
use gemma4_core::model::generation::GenerationDefaults;
use gemma4_core::tensor::{Bytes, DType};
use gemma4_core::tokenizer::Tokenizer;

use super::tokenizer::{CONTROL, MERGES, exercise, tokens};
use crate::fuzz::{BadKey, Syntax, Target};

const LABEL: &str = "fuzzed.gguf";

/// The container itself, whatever model is in it.
#[derive(Debug)]
pub(super) struct Container;

impl Target for Container {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Bytes
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let mut whole = everything();
        let mut data = Vec::new();
        for (index, (dtype, dims)) in tensors().into_iter().enumerate() {
            whole.tensor(&format!("blk.{index}.w"), dtype, &dims).expect("the dimensions fit the type");
            let rows: usize = dims[1..].iter().product();
            data.push(vec![0x55; rows * dtype.row_bytes(dims[0]).expect("whole blocks")]);
        }
        let mut aligned = Writer::new();
        aligned.set("general.alignment", 8_u32);
        aligned.tensor("a", DType::F32, &[1]).expect("a vector of one");
        aligned.tensor("b", DType::F16, &[3, 5]).expect("a matrix");
        [
            Writer::new().to_vec([[0; 0]; 0]),
            everything().to_vec([[0; 0]; 0]),
            whole.to_vec(data),
            aligned.to_vec([vec![0; 4], vec![0; 30]]),
        ]
        .map(|file| file.expect("what is declared is what is written"))
        .to_vec()
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let keys = ["general.alignment", "split.count", "split.no", "split.tensors.count"];
        let mut words: Vec<Vec<u8>> = Vec::new();
        for key in keys {
            // A key that is whole, with its length; a value of each kind can follow.
            words.push([&(key.len() as u64).to_le_bytes()[..], key.as_bytes()].concat());
        }
        words.extend(Kind::ALL.map(|kind| kind.id().to_le_bytes().to_vec()));
        words.extend(DType::ALL.map(|dtype| dtype.ggml().to_le_bytes().to_vec()));
        words.push(b"GGUF\x03\0\0\0".to_vec());
        words
    }

    fn label(&self) -> &'static str {
        LABEL
    }

    fn inputs(&self) -> u64 {
        20_000
    }

    fn one_bad_key(&self) -> Vec<BadKey> {
        let bad = |key: &str, value: Value| {
            let input = everything().set(key, value).to_vec([[0; 0]; 0]);
            input.ok().map(|input| BadKey { names: vec![key.to_owned()], input })
        };
        ["general.alignment", "split.count"]
            .into_iter()
            .flat_map(|key| {
                [
                    bad(key, Value::Bool(true)),
                    bad(key, Value::String("x".to_owned())),
                    bad(key, Value::I64(-1)),
                ]
            })
            .flatten()
            .collect()
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let gguf = Gguf::from_bytes(Path::new(LABEL), &Bytes::from_owner(input.to_vec()))
            .map_err(|error| error.to_string())?;
        metadata(gguf.metadata(), input);
        assert_eq!(gguf.tensors().len(), gguf.tensor_names().len());
        for name in gguf.tensor_names() {
            let info = gguf.tensor(name).expect("it was just named");
            black_box((info.type_name(), info.bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>()));
            match gguf.load(name) {
                Ok(tensor) => {
                    let tensor = tensor.expect("it was just named");
                    assert_eq!(tensor.data.len(), tensor.experts * tensor.rows * tensor.row_bytes());
                    black_box(tensor.row(tensor.experts - 1, tensor.rows - 1).len());
                }
                Err(error) => named(&error, name),
            }
        }
        Ok(())
    }
}

/// Reads every key as every type it is not, too; an error must name the file and the key.
fn metadata(metadata: &Metadata, input: &[u8]) {
    for (key, value) in metadata.iter() {
        black_box(value.to_string());
        if let Value::Array(array) = value {
            black_box(array.scalars().count());
            black_box(array.strings().map(Iterator::count));
        }
        let results = [
            metadata.u32(key).map(drop),
            metadata.opt_u32(key).map(drop),
            metadata.f32(key).map(drop),
            metadata.bool(key).map(drop),
            metadata.str(key).map(drop),
            metadata.u32_or_array(key, 3).map(drop),
            metadata.u32_or_array(key, usize::MAX).map(drop),
            metadata.i32s(key).map(drop),
            metadata.f32s(key).map(drop),
            metadata.bools(key).map(drop),
            metadata.strings(key).map(|strings| assert!(strings.count() <= input.len())),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            named(&error, key);
        }
    }
    let absent = metadata.u32("no.such.key").expect_err("no sample has this key");
    named(&absent, "no.such.key");
}

/// Panics, which the engine reports, if `error` does not name the file and what it is about. Names with control
/// characters or of great length are shortened or escaped in messages, so only plain ones are looked for.
fn named(error: &ModelError, name: &str) {
    let text = error.to_string();
    let plain = name.len() < 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    assert!(text.contains(LABEL), "the error does not name `{LABEL}`: {text}");
    assert!(!plain || text.contains(name), "the error does not name `{name}`: {text}");
}

/// A file with a key of every kind.
fn everything() -> Writer {
    let mut writer = Writer::new();
    writer
        .set("general.architecture", "gemma4")
        .set("a.u8", Value::U8(1))
        .set("a.i8", Value::I8(-1))
        .set("a.u16", Value::U16(1))
        .set("a.i16", Value::I16(-1))
        .set("a.u32", Value::U32(1))
        .set("a.i32", Value::I32(-1))
        .set("a.f32", Value::F32(0.5))
        .set("a.bool", Value::Bool(true))
        .set("a.u64", Value::U64(1))
        .set("a.i64", Value::I64(-1))
        .set("a.f64", Value::F64(0.5))
        .set("a.strings", Value::strings(&["a", "", "é"]));
    writer
}

fn tensors() -> Vec<(DType, Vec<usize>)> {
    let mut tensors: Vec<(DType, Vec<usize>)> =
        DType::ALL.into_iter().map(|dtype| (dtype, vec![dtype.block_len(), 2])).collect();
    tensors.push((DType::F32, vec![3]));
    tensors.push((DType::Q8_0, vec![32, 2, 3]));
    tensors
}

/// What a Gemma 4 model keeps in the metadata: hyper-parameters, defaults of generation, the tokenizer.
#[derive(Debug)]
pub(super) struct Model;

impl Target for Model {
    fn name(&self) -> &'static str {
        "gguf-model"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Bytes
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        vec![model(None)]
    }

    fn words(&self) -> Vec<Vec<u8>> {
        Container.words()
    }

    fn label(&self) -> &'static str {
        LABEL
    }

    fn inputs(&self) -> u64 {
        1_000
    }

    fn one_bad_key(&self) -> Vec<BadKey> {
        let values = [
            Value::strings(&["x"]),
            Value::String("x".to_owned()),
            Value::I64(-1),
            Value::U64(u64::MAX),
            Value::F32(f32::NAN),
            Value::from(&[0_u32; 4][..]),
        ];
        let keys: Vec<String> = hyper_parameters().into_iter().map(|(key, _)| key.to_owned()).collect();
        let bad = |key: &String| {
            let spoil = |value: &Value| BadKey { names: vec![key.clone()], input: model(Some((key, value))) };
            values.iter().map(spoil).collect::<Vec<_>>()
        };
        keys.iter().flat_map(bad).collect()
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let text = |error: ModelError| error.to_string();
        let gguf = Gguf::from_bytes(Path::new(LABEL), &Bytes::from_owner(input.to_vec())).map_err(text)?;
        let config = Config::from_gguf(&gguf).map_err(text)?;
        assert!(!config.layers.is_empty() && config.heads > 0);
        GenerationDefaults::from_gguf(&gguf).map_err(text)?;
        let tokenizer = Tokenizer::from_gguf(&gguf).map_err(text)?;
        exercise(&tokenizer);
        Ok(())
    }
}

fn hyper_parameters() -> Vec<(&'static str, Value)> {
    let u32 = Value::U32;
    vec![
        ("general.architecture", Value::from("gemma4")),
        ("gemma4.block_count", u32(3)),
        ("gemma4.context_length", u32(4096)),
        ("gemma4.embedding_length", u32(32)),
        ("gemma4.feed_forward_length", u32(64)),
        ("gemma4.attention.head_count", u32(4)),
        ("gemma4.attention.head_count_kv", Value::from(&[2_u32, 2, 1][..])),
        ("gemma4.attention.key_length", u32(512)),
        ("gemma4.attention.value_length", u32(512)),
        ("gemma4.attention.key_length_swa", u32(256)),
        ("gemma4.attention.value_length_swa", u32(256)),
        ("gemma4.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("gemma4.attention.sliding_window", u32(256)),
        ("gemma4.attention.sliding_window_pattern", Value::from(&[true, true, false][..])),
        ("gemma4.attention.shared_kv_layers", u32(0)),
        ("gemma4.rope.freq_base", Value::F32(1e6)),
        ("gemma4.rope.freq_base_swa", Value::F32(1e4)),
        ("gemma4.rope.dimension_count", u32(512)),
        ("gemma4.final_logit_softcapping", Value::F32(30.0)),
        ("tokenizer.ggml.bos_token_id", u32(271)),
        ("tokenizer.ggml.eos_token_id", u32(270)),
        ("tokenizer.ggml.padding_token_id", u32(269)),
    ]
}

/// A model without its layers' weights, perhaps with one key set otherwise.
fn model(bad: Option<(&str, &Value)>) -> Vec<u8> {
    let tokens = tokens();
    let control = i32::try_from(tokens.len() - CONTROL.len()).expect("a small vocabulary");
    let kind = |id: i32| match id {
        0..256 => 6,
        _ if id < control => 1,
        _ => 3,
    };
    let kinds: Vec<i32> = (0..).take(tokens.len()).map(kind).collect();
    let mut writer = Writer::new();
    for (key, value) in hyper_parameters() {
        writer.set(key, value);
    }
    writer
        .set("tokenizer.ggml.model", "gemma4")
        .set("tokenizer.ggml.tokens", Value::strings(&tokens))
        .set("tokenizer.ggml.token_type", kinds.as_slice())
        .set("tokenizer.ggml.merges", Value::strings(&MERGES.map(|[left, right]| format!("{left} {right}"))));
    if let Some((key, value)) = bad {
        writer.set(key, value.clone());
    }
    writer.tensor("token_embd.weight", DType::Q8_0, &[32, tokens.len()]).expect("whole blocks");
    writer.tensor("rope_freqs.weight", DType::F32, &[256]).expect("a vector");
    let factors = [1_f32; 256].map(f32::to_le_bytes).concat();
    writer.to_vec([vec![0; 34 * tokens.len()], factors]).expect("what is declared is what is written")
}
