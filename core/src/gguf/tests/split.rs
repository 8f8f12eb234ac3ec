use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::message;
use crate::gguf::Gguf;
use crate::gguf::write::Writer;
use crate::tensor::DType;

/// Part `number` of `parts`, with one tensor `t<number>` of four values.
fn part(number: u16, parts: u16) -> Writer {
    let mut writer = Writer::new();
    if number == 0 {
        writer.set("general.architecture", "gemma4");
    }
    writer.set("split.no", number).set("split.count", parts).set("split.tensors.count", i32::from(parts));
    writer.tensor(&format!("t{number}"), DType::F32, &[4]).unwrap();
    writer
}

fn path(folder: &TempDir, number: u16) -> PathBuf {
    folder.path().join(format!("model-{number:05}-of-00003.gguf"))
}

/// A folder with a model of three parts.
fn three() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3_u16 {
        let bytes = part(number, 3).to_vec([[number.to_le_bytes()[0]; 16]]).unwrap();
        fs::write(path(&folder, number + 1), bytes).unwrap();
    }
    folder
}

/// What opening `path` says, with the folder cut off.
fn refusal(folder: &TempDir, path: &Path) -> String {
    let prefix = format!("{}/", folder.path().display());
    message(&Gguf::open(path).unwrap_err()).replace(&prefix, "")
}

#[test]
fn any_part_opens_the_whole() {
    let folder = three();
    for number in 1..=3 {
        let gguf = Gguf::open(&path(&folder, number)).unwrap();
        assert_eq!(gguf.path(), path(&folder, 1));
        assert_eq!(gguf.metadata().str("general.architecture").unwrap(), "gemma4");
        assert_eq!(gguf.tensor_names().collect::<Vec<_>>(), ["t0", "t1", "t2"]);
        for (i, info) in gguf.tensors().enumerate() {
            assert_eq!(*info.bytes, [u8::try_from(i).unwrap(); 16]);
        }
        assert_eq!(&*gguf.tensor("t2").unwrap().file, path(&folder, 3));
    }
}

#[test]
fn a_missing_part_is_named() {
    let folder = three();
    fs::remove_file(path(&folder, 2)).unwrap();
    for number in [1, 3] {
        let found = refusal(&folder, &path(&folder, number));
        let expected =
            "cannot read model-00002-of-00003.gguf, part 2 of the 3 parts of this model: No such file";
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn a_renamed_part_says_how_it_must_be_called() {
    let folder = three();
    let renamed = folder.path().join("renamed.gguf");
    fs::copy(path(&folder, 2), &renamed).unwrap();
    assert_eq!(
        refusal(&folder, &renamed),
        "renamed.gguf is not a model: it is part 2 of the 3 parts of a model, \
         which are only found when its name ends in `-00002-of-00003.gguf`"
    );
}

#[test]
fn parts_of_different_models_do_not_mix() {
    let folder = three();
    fs::write(path(&folder, 2), part(1, 4).to_vec([[0; 16]]).unwrap()).unwrap();
    assert_eq!(
        refusal(&folder, &path(&folder, 1)),
        "model-00002-of-00003.gguf: key `split.count` is 4, expected 3 as its name says"
    );
    fs::write(path(&folder, 2), part(2, 3).to_vec([[0; 16]]).unwrap()).unwrap();
    assert_eq!(
        refusal(&folder, &path(&folder, 1)),
        "model-00002-of-00003.gguf: key `split.no` is 2, expected 1 as its name says"
    );
    fs::write(path(&folder, 2), part(0, 3).to_vec([[0; 16]]).unwrap()).unwrap();
    assert_eq!(
        refusal(&folder, &path(&folder, 1)),
        "model-00002-of-00003.gguf: key `split.no` is 0, expected 1 as its name says"
    );
    let mut twice = Writer::new();
    twice.set("split.no", 1_u16).set("split.count", 3_u16);
    twice.tensor("t0", DType::F32, &[4]).unwrap();
    fs::write(path(&folder, 2), twice.to_vec([[0; 16]]).unwrap()).unwrap();
    assert_eq!(
        refusal(&folder, &path(&folder, 1)),
        "model-00002-of-00003.gguf is damaged: tensor \"t0\" occurs twice"
    );
}

#[test]
fn the_parts_have_all_tensors() {
    let folder = three();
    let mut first = part(0, 3);
    first.set("split.tensors.count", 7_i32);
    fs::write(path(&folder, 1), first.to_vec([[0; 16]]).unwrap()).unwrap();
    assert_eq!(
        refusal(&folder, &path(&folder, 3)),
        "model-00001-of-00003.gguf: key `split.tensors.count` is 7, expected 3, the tensors of all parts"
    );
}

#[test]
fn a_damaged_part_is_named() {
    let folder = three();
    let bytes = fs::read(path(&folder, 3)).unwrap();
    fs::write(path(&folder, 3), &bytes[..40]).unwrap();
    let found = refusal(&folder, &path(&folder, 1));
    assert!(found.starts_with("model-00003-of-00003.gguf is damaged: it is cut short"), "{found}");
}

#[test]
fn split_keys_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model-00001-of-00003.gguf");
    let check = |set: &dyn Fn(&mut Writer), expected: &str| {
        let mut writer = Writer::new();
        set(&mut writer);
        fs::write(&file, writer.to_vec::<&[u8]>([]).unwrap()).unwrap();
        assert_eq!(refusal(&folder, &file), expected);
    };
    check(
        &|w| _ = w.set("split.count", -1_i32),
        "model-00001-of-00003.gguf: key `split.count` is -1, expected a whole number from 0 to 65535",
    );
    check(
        &|w| _ = w.set("split.count", 3_u8),
        "model-00001-of-00003.gguf: key `split.no` is missing, expected a whole number from 0 to 2",
    );
    check(
        &|w| _ = w.set("split.count", 3_u8).set("split.no", 3_u8),
        "model-00001-of-00003.gguf: key `split.no` is 3, expected a whole number from 0 to 2",
    );
}

#[test]
fn a_file_that_was_left_whole_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    for (name, count) in [("model-00001-of-00003.gguf", 0_u16), ("any.gguf", 1)] {
        let file = folder.path().join(name);
        let mut writer = Writer::new();
        writer.set("split.count", count);
        fs::write(&file, writer.to_vec::<&[u8]>([]).unwrap()).unwrap();
        assert_eq!(Gguf::open(&file).unwrap().path(), file);
    }
}

#[test]
fn a_part_in_memory_says_that_it_is_one() {
    let bytes = part(1, 3).to_vec([[0; 16]]).unwrap();
    assert_eq!(
        super::refusal(bytes),
        "some.gguf is not a model: it is one of 3 parts of a model, and the others are not at hand"
    );
}
