use super::{message, parse, refusal, sample, sample_writer};
use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::gguf::value::{Kind, Value};

fn open() -> Gguf {
    parse(sample()).unwrap()
}

fn error<T: std::fmt::Debug>(result: Result<T, ModelError>) -> String {
    message(&result.unwrap_err())
}

#[test]
fn a_number_is_read_from_every_integer_type_that_holds_it() {
    let gguf = open();
    let metadata = gguf.metadata();
    assert_eq!(metadata.u32("u8").unwrap(), 200);
    assert_eq!(metadata.u32("u16").unwrap(), 60_000);
    assert_eq!(metadata.u32("u32").unwrap(), 4_000_000_000);
    assert_eq!(metadata.i32s("u16s").unwrap(), [7, 8, 9]);
    assert_eq!(metadata.i32s("i32s").unwrap(), [7, -8, 9]);
    for (key, value) in
        [("i8", "-3"), ("i16", "-300"), ("i32", "-70000"), ("u64", "1099511627776"), ("f32", "1.5")]
    {
        assert_eq!(
            error(metadata.u32(key)),
            format!("some.gguf: key `{key}` is {value}, expected a whole number from 0 to 4294967295")
        );
    }
}

#[test]
fn signed_types_hold_numbers_too() {
    let mut writer = sample_writer();
    writer.set("i8", 3_i8).set("i16", 300_i16).set("i32", 70_000_i32).set("i64", 5_i64).set("u64", 6_u64);
    let gguf = parse(writer.to_vec::<&[u8]>([]).unwrap()).unwrap();
    let numbers = ["i8", "i16", "i32", "i64", "u64"].map(|key| gguf.metadata().u32(key).unwrap());
    assert_eq!(numbers, [3, 300, 70_000, 5, 6]);
}

#[test]
fn floats_are_read_from_both_types_and_must_be_finite() {
    let gguf = open();
    let metadata = gguf.metadata();
    assert_eq!(metadata.f32("f32").unwrap().to_bits(), 1.5_f32.to_bits());
    assert_eq!(metadata.f32("f64").unwrap().to_bits(), 0.25_f32.to_bits());
    assert_eq!(error(metadata.f32("nan")), "some.gguf: key `nan` is NaN, expected a finite number");
    assert_eq!(metadata.f32s("f32s").unwrap(), [7.5, f32::INFINITY]);
}

#[test]
fn truth_and_text_are_read() {
    let gguf = open();
    let metadata = gguf.metadata();
    assert!(metadata.bool("bool").unwrap());
    assert_eq!(metadata.bools("bools").unwrap(), [true, false]);
    assert_eq!(metadata.str("string").unwrap(), "grüße");
    let strings = metadata.strings("strings").unwrap();
    assert_eq!(strings.len(), 3);
    assert_eq!(strings.collect::<Vec<_>>(), ["a", "", "▁the"]);
    assert_eq!(error(metadata.bool("u8")), "some.gguf: key `u8` is 200, expected true or false");
}

#[test]
fn a_scalar_stands_for_every_layer() {
    let gguf = open();
    let metadata = gguf.metadata();
    assert_eq!(metadata.u32_or_array("u8", 3).unwrap(), [200, 200, 200]);
    assert_eq!(metadata.u32_or_array("u16s", 3).unwrap(), [7, 8, 9]);
    assert_eq!(
        error(metadata.u32_or_array("u16s", 4)),
        "some.gguf: key `u16s` is an array of 3 u16, expected a whole number from 0 to 4294967295, \
         or an array of 4 of them"
    );
    assert_eq!(
        error(metadata.u32_or_array("i32s", 3)),
        "some.gguf: key `i32s` is -8 at index 1, expected a whole number from 0 to 4294967295, \
         or an array of 3 of them"
    );
    assert_eq!(
        error(metadata.u32_or_array("u8", usize::MAX)),
        "some.gguf: key `u8` is for 18446744073709551615 layers, expected at most 65536 layers"
    );
}

#[test]
fn every_getter_names_what_is_missing() {
    let gguf = open();
    let metadata = gguf.metadata();
    let expected = [
        (error(metadata.u32("no")), "a whole number from 0 to 4294967295"),
        (error(metadata.f32("no")), "a finite number"),
        (error(metadata.bool("no")), "true or false"),
        (error(metadata.str("no")), "a string"),
        (
            error(metadata.u32_or_array("no", 2)),
            "a whole number from 0 to 4294967295, or an array of 2 of them",
        ),
        (error(metadata.i32s("no")), "an array of a whole number from -2147483648 to 2147483647"),
        (error(metadata.f32s("no")), "an array of numbers"),
        (error(metadata.bools("no")), "an array of true or false"),
        (error(metadata.strings("no")), "an array of strings"),
        (error::<()>(Err(metadata.unexpected("no", "2 or 3"))), "2 or 3"),
    ];
    for (found, expected) in expected {
        assert_eq!(found, format!("some.gguf: key `no` is missing, expected {expected}"));
    }
}

#[test]
fn optional_getters_forgive_absence_only() {
    let gguf = open();
    let metadata = gguf.metadata();
    assert_eq!(metadata.opt_u32("no").unwrap(), None);
    assert_eq!(metadata.opt_f32("no").unwrap(), None);
    assert_eq!(metadata.opt_bool("no").unwrap(), None);
    assert_eq!(metadata.opt_str("no").unwrap(), None);
    assert_eq!(metadata.opt_u32_or_array("no", 2).unwrap(), None);
    assert_eq!(metadata.opt_i32s("no").unwrap(), None);
    assert_eq!(metadata.opt_f32s("no").unwrap(), None);
    assert_eq!(metadata.opt_bools("no").unwrap(), None);
    assert!(metadata.opt_strings("no").unwrap().is_none());
    for found in [
        error(metadata.opt_u32("string")),
        error(metadata.opt_f32("string")),
        error(metadata.opt_bool("string")),
        error(metadata.opt_u32_or_array("string", 2)),
        error(metadata.opt_i32s("string")),
        error(metadata.opt_f32s("string")),
        error(metadata.opt_bools("string")),
        error(metadata.opt_strings("string")),
    ] {
        assert!(found.starts_with("some.gguf: key `string` is \"grüße\", expected "), "{found}");
    }
    assert_eq!(
        error(metadata.opt_str("strings")),
        "some.gguf: key `strings` is an array of 3 string, expected a string"
    );
    assert_eq!(
        error(metadata.i32s("strings")),
        "some.gguf: key `strings` is an array of 3 string, expected an array of \
         a whole number from -2147483648 to 2147483647"
    );
}

#[test]
fn a_limit_of_the_caller_names_the_value() {
    let gguf = open();
    let found = message(&gguf.metadata().unexpected("u8", "at most 100"));
    assert_eq!(found, "some.gguf: key `u8` is 200, expected at most 100");
}

#[test]
fn arrays_longer_than_any_vocabulary_are_not_copied() {
    let mut writer = sample_writer();
    writer.set("long", vec![0_u8; (1 << 22) + 1].as_slice());
    let gguf = parse(writer.to_vec::<&[u8]>([]).unwrap()).unwrap();
    assert_eq!(
        error(gguf.metadata().i32s("long")),
        "some.gguf: key `long` is an array of 4194305 u8, more than the 4194304 that are read, \
         expected an array of a whole number from -2147483648 to 2147483647"
    );
}

#[test]
fn long_and_multi_line_values_are_shortened_in_messages() {
    let mut writer = sample_writer();
    writer.set("template", format!("{{\n\u{1b}[31m{}", "x".repeat(10_000)).as_str());
    let gguf = parse(writer.to_vec::<&[u8]>([]).unwrap()).unwrap();
    let found = error(gguf.metadata().u32("template"));
    assert!(found.len() < 200, "{found}");
    assert!(found.starts_with(r#"some.gguf: key `template` is "{\n\u{1b}[31mxxx"#), "{found}");
}

#[test]
fn numbers_of_kinds_are_their_positions() {
    for (i, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(Kind::from_id(kind.id()), Some(kind));
        assert_eq!(kind.id() as usize, i);
    }
    assert_eq!(Kind::from_id(13), None);
    assert_eq!(Kind::from_id(u32::MAX), None);
}

#[test]
fn keys_keep_the_order_of_the_file() {
    let gguf = open();
    let keys: Vec<&str> = gguf.metadata().iter().map(|(key, _)| key).collect();
    assert_eq!(keys[..3], ["u8", "i8", "u16"]);
    assert_eq!(keys[keys.len() - 1], "strings");
    assert_eq!(gguf.metadata().get("i64"), Some(&Value::I64(-1 << 40)));
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    use crate::gguf::write::Writer;
    use crate::tensor::DType;
    let mut writer = Writer::new();
    for dims in [&[][..], &[0], &[32, 0], &[31], &[32, 1, 1, 1, 1], &[32, usize::MAX]] {
        assert!(writer.tensor("x", DType::Q8_0, dims).is_err(), "{dims:?}");
    }
    assert!(writer.tensor(&"x".repeat(256), DType::F32, &[1]).is_err());
    writer.tensor("x", DType::F32, &[2]).unwrap();
    assert!(writer.tensor("x", DType::F32, &[2]).is_err());
    assert!(writer.to_vec([[0; 7]]).is_err());
    assert!(writer.to_vec([[0; 9]]).is_err());
    assert!(writer.to_vec([[0; 8], [0; 8]]).is_err());
    let pieces = writer.to_vec([&[0; 3][..], &[0; 5]]).unwrap();
    assert_eq!(pieces, writer.to_vec([[0; 8]]).unwrap());
    writer.set("general.alignment", 48_u32);
    assert!(writer.to_vec([[0; 8]]).is_err());
    assert!(refusal(b"GGU".to_vec()).contains("cut short"));
}
