use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::{Raw, message, parse, sample};
use crate::gguf::value::Value;
use crate::gguf::write::Writer;
use crate::gguf::{Gguf, map};
use crate::tensor::DType;

/// A value as the file holds it; comparing these also compares NaN.
fn encoded(value: &Value) -> (u32, Vec<u8>) {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    (value.kind().id(), bytes)
}

fn value() -> impl Strategy<Value = Value> {
    let scalars = prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
    ];
    let arrays = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|v| Value::from(v.as_slice())),
        prop::collection::vec(any::<i16>(), 0..9).prop_map(|v| Value::from(v.as_slice())),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(|v| Value::from(v.as_slice())),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(|v| Value::from(v.as_slice())),
        prop::collection::vec(any::<i64>(), 0..9).prop_map(|v| Value::from(v.as_slice())),
        prop::collection::vec(".{0,9}", 0..9).prop_map(|v| Value::strings(&v)),
    ];
    prop_oneof![scalars, arrays]
}

type Tensors = Vec<(DType, Vec<usize>)>;

fn tensors() -> impl Strategy<Value = Tensors> {
    let dims = prop::collection::vec(1_usize..4, 1..5);
    let tensor = (prop::sample::select(&DType::ALL[..]), dims).prop_map(|(dtype, mut dims)| {
        dims[0] *= dtype.block_len();
        (dtype, dims)
    });
    prop::collection::vec(tensor, 0..6)
}

/// Bytes of tensor `i`, different for each.
fn data(i: usize, (dtype, dims): &(DType, Vec<usize>)) -> Vec<u8> {
    let bytes = dtype.row_bytes(dims[0]).unwrap() * dims[1..].iter().product::<usize>();
    (0..bytes).map(|at| (at * 7 + i * 31 + 1).to_le_bytes()[0]).collect()
}

fn written(values: &[(String, Value)], tensors: &Tensors, alignment: u32) -> Vec<u8> {
    let mut writer = Writer::new();
    for (key, value) in values {
        writer.set(key, value.clone());
    }
    writer.set("general.alignment", alignment);
    for (i, (dtype, dims)) in tensors.iter().enumerate() {
        writer.tensor(&format!("t{i}"), *dtype, dims).unwrap();
    }
    writer.to_vec(tensors.iter().enumerate().map(|(i, t)| data(i, t))).unwrap()
}

/// Touches everything a reader can touch.
fn walk(gguf: &Gguf) -> usize {
    let mut seen = 0;
    for (key, value) in gguf.metadata().iter() {
        seen += key.len() + value.to_string().len() + encoded(value).1.len();
        if let Value::Array(array) = value {
            seen += array.scalars().count();
            seen += array.strings().map_or(0, |strings| strings.map(str::len).sum());
        }
        seen += gguf.metadata().i32s(key).map_or(0, |v| v.len());
        seen += gguf.metadata().u32_or_array(key, 3).map_or(0, |v| v.len());
    }
    for name in gguf.tensor_names() {
        let info = gguf.tensor(name).unwrap();
        seen += info.bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>();
        seen += gguf.load(name).map_or(0, |tensor| tensor.unwrap().data.len());
    }
    seen
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        values in prop::collection::vec(("[a-z_.]{1,12}", value()), 0..8),
        tensors in tensors(),
        shift in 0_u32..8,
    ) {
        let alignment = 1_u32 << shift;
        let bytes = written(&values, &tensors, alignment);
        let gguf = parse(bytes.clone()).unwrap();
        for (key, value) in gguf.metadata().iter() {
            let last = values.iter().rev().find(|(k, _)| k == key);
            let expected = last.map_or(Value::U32(alignment), |(_, v)| v.clone());
            prop_assert_eq!(encoded(value), encoded(&expected));
        }
        prop_assert!(values.iter().all(|(key, _)| gguf.metadata().get(key).is_some()));
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            let info = gguf.tensor(&format!("t{i}")).unwrap();
            prop_assert_eq!(info.ggml_type, tensor.0.ggml());
            prop_assert_eq!(&info.dims, &tensor.1);
            prop_assert!(*info.bytes == *data(i, tensor));
            let offset = info.bytes.as_ptr() as usize - gguf.tensor("t0").unwrap().bytes.as_ptr() as usize;
            prop_assert!(offset.is_multiple_of(alignment as usize));
        }

        // Copying by announcing what was read gives the same file.
        let mut copy = Writer::new();
        for (key, value) in gguf.metadata().iter() {
            copy.set(key, value.clone());
        }
        for info in gguf.tensors() {
            copy.copy(info).unwrap();
        }
        prop_assert_eq!(copy.to_vec(gguf.tensors().map(|info| info.bytes.to_vec())).unwrap(), bytes);
    }

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0_usize..2000, any::<u8>()), 1..6), cut in 0_usize..2000) {
        let mut bytes = sample();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(1500));
        match parse(bytes) {
            Ok(gguf) => { walk(&gguf); }
            Err(error) => prop_assert!(message(&error).starts_with("some.gguf")),
        }
    }
}

/// Every value that matters at every place: 0, 1, all bits, the sign bit.
#[test]
fn every_single_byte_may_be_wrong() {
    let good = sample();
    let expected = walk(&parse(good.clone()).unwrap());
    assert!(expected > 1000);
    for at in 0..good.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            if let Ok(gguf) = parse(bytes) {
                walk(&gguf);
            }
        }
    }
}

#[test]
fn shapes_are_experts_rows_cols() {
    let gguf = parse(sample()).unwrap();
    let shape = |name| {
        let tensor = gguf.load(name).unwrap().unwrap();
        (tensor.dtype, [tensor.experts, tensor.rows, tensor.cols])
    };
    assert_eq!(shape("blk.0.norm"), (DType::F32, [1, 1, 5]));
    assert_eq!(shape("blk.0.ffn"), (DType::Q4_0, [1, 3, 64]));
    assert_eq!(shape("blk.0.experts"), (DType::F16, [4, 3, 2]));
    let experts = gguf.load("blk.0.experts").unwrap().unwrap();
    assert_eq!(experts.row(1, 2), [120, 121, 122, 123]);
    assert!(gguf.load("blk.1.norm").unwrap().is_none());
    assert_eq!(gguf.tensor_names().collect::<Vec<_>>(), ["blk.0.norm", "blk.0.ffn", "blk.0.experts"]);
}

#[test]
fn a_type_that_is_not_computed_stops_only_its_own_tensor() {
    let bytes = Raw::new(4, 0)
        .tensor("vision.grid", &[256, 2], 21, 0)
        .tensor("vision.odd", &[7], 99, 224)
        .tensor("vision.conv", &[1, 2, 1, 2], 0, 288)
        .tensor("norm", &[4], 0, 256)
        .data(304);
    let gguf = parse(bytes).unwrap();
    assert_eq!(gguf.load("norm").unwrap().unwrap().cols, 4);
    // Reaches to the next tensor, for nobody knows its size.
    assert_eq!(gguf.tensor("vision.odd").unwrap().bytes.len(), 32);
    let error = |name| message(&gguf.load(name).unwrap_err());
    let known = "one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4";
    assert_eq!(error("vision.grid"), format!("some.gguf: tensor `vision.grid` is IQ3_S, expected {known}"));
    assert_eq!(error("vision.odd"), format!("some.gguf: tensor `vision.odd` is type 99, expected {known}"));
    assert_eq!(
        error("vision.conv"),
        "some.gguf: tensor `vision.conv` is of 4 dimensions, expected 1 to 3 dimensions"
    );
}

#[test]
fn a_vocabulary_needs_no_tensors_and_no_padding() {
    let gguf = parse(Raw::new(0, 1).text("answer").u32(4).u32(42).0).unwrap();
    assert_eq!(gguf.metadata().u32("answer").unwrap(), 42);
    assert_eq!(gguf.tensors().len(), 0);
    assert_eq!(parse(Raw::new(0, 0).0).unwrap().metadata().iter().len(), 0);
}

#[test]
fn a_mapped_file_is_read_like_one_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, sample()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.path(), path);
    assert_eq!(walk(&gguf), walk(&parse(sample()).unwrap()));
}

#[test]
fn only_regular_files_with_something_in_them_are_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let refusal =
        |path: &Path| message(&map::open(path).unwrap_err()).replace(path.to_str().unwrap(), "PATH");
    assert_eq!(refusal(folder.path()), "PATH is not a model: it is a folder");
    let empty = folder.path().join("empty");
    fs::write(&empty, []).unwrap();
    assert_eq!(refusal(&empty), "PATH is not a model: the file is empty");
    let missing = refusal(&folder.path().join("missing"));
    assert!(missing.starts_with("cannot read PATH: "), "{missing}");
    #[cfg(unix)]
    assert_eq!(refusal(Path::new("/dev/zero")), "PATH is not a model: it is not a regular file");
}
