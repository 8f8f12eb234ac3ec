mod hostile;
mod keys;
mod roundtrip;
mod split;

use std::error::Error;
use std::path::Path;

use super::Gguf;
use super::write::Writer;
use crate::error::ModelError;
use crate::tensor::{Bytes, DType};

const LABEL: &str = "some.gguf";

fn parse(bytes: Vec<u8>) -> Result<Gguf, ModelError> {
    Gguf::from_bytes(Path::new(LABEL), &Bytes::from_owner(bytes))
}

/// The message of the error that reading `bytes` gives, its causes included.
fn refusal(bytes: Vec<u8>) -> String {
    message(&parse(bytes).expect_err("must be refused"))
}

fn message(error: &ModelError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A small file with every kind of metadata and three tensors.
fn sample() -> Vec<u8> {
    let mut writer = sample_writer();
    writer.tensor("blk.0.norm", DType::F32, &[5]).unwrap();
    writer.tensor("blk.0.ffn", DType::Q4_0, &[64, 3]).unwrap();
    writer.tensor("blk.0.experts", DType::F16, &[2, 3, 4]).unwrap();
    writer.to_vec([(0..20).collect::<Vec<u8>>(), (0..108).collect(), (100..148).collect()]).unwrap()
}

fn sample_writer() -> Writer {
    let mut writer = Writer::new();
    writer
        .set("u8", 200_u8)
        .set("i8", -3_i8)
        .set("u16", 60_000_u16)
        .set("i16", -300_i16)
        .set("u32", 4_000_000_000_u32)
        .set("i32", -70_000_i32)
        .set("f32", 1.5_f32)
        .set("bool", true)
        .set("string", "grüße")
        .set("u64", 1_u64 << 40)
        .set("i64", -1_i64 << 40)
        .set("f64", 0.25_f64)
        .set("nan", f32::NAN)
        .set("u16s", [7_u16, 8, 9].as_slice())
        .set("i32s", [7_i32, -8, 9].as_slice())
        .set("f32s", [7.5_f32, f32::INFINITY].as_slice())
        .set("bools", [true, false].as_slice())
        .set("strings", super::value::Value::strings(&["a", "", "▁the"]));
    writer
}

/// Bytes of a file, piece by piece, without any check.
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    fn text(self, text: impl AsRef<[u8]>) -> Self {
        self.u64(text.as_ref().len() as u64).bytes(text.as_ref())
    }

    /// A tensor info.
    fn tensor(self, name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> Self {
        let start = self.text(name).u32(u32::try_from(dims.len()).unwrap());
        let dims = dims.iter().fold(start, |raw, dim| raw.u64(*dim));
        dims.u32(ggml_type).u64(offset)
    }

    /// Padding to 32 bytes and then `data` zero bytes.
    fn data(mut self, data: usize) -> Vec<u8> {
        let end = self.0.len().next_multiple_of(32) + data;
        self.0.resize(end, 0);
        self.0
    }
}
