use super::{Raw, parse, refusal, sample};

/// A file with one key `k` whose value, its type included, is `value`.
fn key(value: impl Fn(Raw) -> Raw) -> Vec<u8> {
    value(Raw::new(0, 1).text("k")).0
}

#[test]
fn says_what_another_file_looks_like() {
    let safetensors = [&40_u64.to_le_bytes()[..], b"{\"a\":{\"dtype\":\"F32\"}}"].concat();
    let cases: [(&[u8], &str); 12] = [
        (b"", "the file is empty"),
        (b"# Notes\nThis is text.\n", "it looks like text, starting with \"# Notes\\nThis is text.\\n\""),
        (b" {\"vocab\": 3}", "it looks like JSON, starting with \"{\\\"vocab\\\": 3}\""),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it looks like a PNG image"),
        (&safetensors, "it looks like a safetensors file; pass the folder that holds it and its config.json"),
        (
            b"\x80\x02}q\0.",
            "it looks like a Python pickle or an old PyTorch checkpoint; \
             pass a GGUF file or a folder with safetensors",
        ),
        (
            b"PK\x03\x04archive/data.pkl",
            "it looks like a ZIP archive or a PyTorch checkpoint; \
             pass a GGUF file or a folder with safetensors",
        ),
        (b"tjgg\x01\0\0\0", "it looks like a GGML file, the format before GGUF"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
            "it looks like a Git LFS pointer that stands for the real file; run `git lfs pull`",
        ),
        (b"<!DOCTYPE html><title>404", "it looks like a web page; the download went wrong"),
        (b"FUGG\0\0\0\x03", "it looks like a big-endian GGUF file, and only little-endian ones can be read"),
        (b"\x07\xff\0\xfe\x01", "it starts with the bytes 07 ff 00 fe and not with `GGUF`"),
    ];
    for (bytes, expected) in cases {
        assert_eq!(refusal(bytes.to_vec()), format!("some.gguf is not a model: {expected}"));
    }
}

#[test]
fn only_version_three_is_read() {
    for version in [0_u32, 1, 2, 4, 0xffff_ffff] {
        let bytes = Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0).0;
        assert_eq!(
            refusal(bytes),
            format!(
                "some.gguf is not a model: it is a GGUF file of version {version}, and only version 3 can be read"
            )
        );
    }
    let big = Raw(b"GGUF".to_vec()).u32(3_u32.swap_bytes()).u64(0).u64(0).0;
    assert_eq!(
        refusal(big),
        "some.gguf is not a model: it is a big-endian GGUF file of version 3, \
         and only little-endian ones can be read"
    );
}

#[test]
fn a_file_cut_anywhere_is_called_cut_short() {
    let whole = sample();
    // The last tensor has no padding that could be spared: 48 bytes, and 16 of padding.
    let needed = whole.len() - 16;
    assert!(parse(whole[..needed].to_vec()).is_ok());
    for end in 1..needed {
        let found = refusal(whole[..end].to_vec());
        assert!(found.starts_with("some.gguf is damaged: it is cut short: "), "{end}: {found}");
    }
}

#[test]
fn says_where_a_file_ends() {
    assert_eq!(
        refusal(key(|raw| raw.u32(8).u64(10).bytes(b"short"))),
        "some.gguf is damaged: it is cut short: its 50 bytes end within key \"k\""
    );
    assert_eq!(
        refusal(Raw::new(1, 0).tensor("t", &[64], 0, 0).data(200)),
        "some.gguf is damaged: it is cut short: tensor \"t\" ends at byte 256 of the tensor data, \
         which has 200 bytes"
    );
}

#[test]
fn counts_are_not_believed() {
    for count in [(1 << 15) + 1, 1 << 32, 1 << 63, u64::MAX] {
        assert_eq!(
            refusal(Raw::new(count, 0).data(64)),
            format!(
                "some.gguf is damaged: it claims to have {count} tensors, and no model has more than 32768"
            )
        );
        assert_eq!(
            refusal(Raw::new(0, count).data(64)),
            format!("some.gguf is damaged: it claims to have {count} keys, and no model has more than 32768")
        );
    }
    for count in [100, 1 << 32, 1 << 61, 1 << 63, u64::MAX] {
        // A string, the name of a key, and arrays of every kind.
        let mut files = vec![
            key(|raw| raw.u32(8).u64(count).bytes(&[0; 50])),
            Raw::new(0, 1).u64(count).data(32),
            Raw::new(1, 0).u64(count).data(32),
        ];
        files.extend((0..=12).map(|kind| key(|raw| raw.u32(9).u32(kind).u64(count).bytes(&[0; 50]))));
        for file in files {
            let found = refusal(file);
            assert!(found.starts_with("some.gguf is damaged: it is cut short: "), "{count}: {found}");
        }
    }
}

#[test]
fn dimensions_are_not_believed() {
    let tensor = |dims: &[u64], ggml_type| refusal(Raw::new(1, 0).tensor("t", dims, ggml_type, 0).data(64));
    assert_eq!(tensor(&[], 0), "some.gguf is damaged: tensor \"t\" has 0 dimensions, and GGUF allows 1 to 4");
    assert_eq!(
        tensor(&[1; 5], 0),
        "some.gguf is damaged: tensor \"t\" has 5 dimensions, and GGUF allows 1 to 4"
    );
    let huge = Raw::new(1, 0).text("t").u32(u32::MAX).data(64);
    assert_eq!(
        refusal(huge),
        "some.gguf is damaged: tensor \"t\" has 4294967295 dimensions, and GGUF allows 1 to 4"
    );
    assert_eq!(tensor(&[4, 0], 0), "some.gguf is damaged: tensor \"t\" has a dimension of 0");
    for dims in
        [&[1_u64 << 63][..], &[1 << 62, 1], &[1 << 32, 1 << 32], &[1 << 21, 1 << 21, 1 << 21, 1 << 21]]
    {
        assert_eq!(tensor(dims, 0), format!("some.gguf is damaged: tensor \"t\" claims dimensions {dims:?}"));
    }
    assert_eq!(
        tensor(&[100, 2], 12),
        "some.gguf is damaged: tensor \"t\" has rows of 100 values, \
         which is not a multiple of the 256 of a Q4_K block"
    );
    assert_eq!(
        tensor(&[1 << 60], 0),
        "some.gguf is damaged: it is cut short: tensor \"t\" ends at byte 4611686018427387904 \
         of the tensor data, which has 64 bytes"
    );
}

#[test]
fn offsets_are_not_believed() {
    let tensor = |offset| refusal(Raw::new(1, 0).tensor("t", &[8], 0, offset).data(64));
    assert_eq!(
        tensor(64),
        "some.gguf is damaged: it is cut short: tensor \"t\" ends at byte 96 of the tensor data, \
         which has 64 bytes"
    );
    assert!(tensor(1 << 63).contains("cut short"));
    assert!(tensor(u64::MAX - 31).contains("cut short"));
    for offset in [1, 4, 31, 33, u64::MAX] {
        assert_eq!(
            tensor(offset),
            format!(
                "some.gguf is damaged: tensor \"t\" starts at offset {offset}, \
                 which is not a multiple of the alignment 32"
            )
        );
    }
    // Also of a type whose size nobody knows.
    let unknown = Raw::new(1, 0).tensor("t", &[8], 99, 96).data(64);
    assert!(refusal(unknown).contains("cut short"));
}

#[test]
fn tensors_may_not_overlap() {
    let two = |a: (u64, u64), b: (u64, u64)| {
        Raw::new(2, 0).tensor("a", &[a.0], 0, a.1).tensor("b", &[b.0], 0, b.1).data(256)
    };
    assert!(parse(two((8, 0), (8, 32))).is_ok());
    assert!(parse(two((8, 32), (8, 0))).is_ok());
    assert!(parse(two((8, 128), (8, 0))).is_ok(), "gaps and any order are allowed");
    for (a, b) in [((9, 0), (8, 32)), ((8, 0), (8, 0)), ((64, 0), (1, 96)), ((1, 224), (64, 0))] {
        let found = refusal(two(a, b));
        let (first, second) = if b.1 < a.1 { ("b", "a") } else { ("a", "b") };
        assert_eq!(found, format!("some.gguf is damaged: tensors \"{first}\" and \"{second}\" overlap"));
    }
    // Of a type whose size nobody knows, the start is still known.
    for start in [0, 64] {
        let odd = |first: Raw| first.tensor("odd", &[8], 99, start).data(256);
        assert_eq!(
            refusal(odd(Raw::new(2, 0).tensor("a", &[64], 0, 0))),
            "some.gguf is damaged: tensors \"a\" and \"odd\" overlap"
        );
    }
    let first = Raw::new(2, 0).tensor("odd", &[8], 99, 32);
    assert_eq!(
        refusal(first.tensor("a", &[8], 0, 32).data(256)),
        "some.gguf is damaged: tensors \"odd\" and \"a\" overlap"
    );
}

#[test]
fn names_may_not_repeat() {
    let keys = Raw::new(0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1).0;
    assert_eq!(refusal(keys), "some.gguf is damaged: key \"k\" occurs twice");
    let tensors = Raw::new(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(64);
    assert_eq!(refusal(tensors), "some.gguf is damaged: tensor \"t\" occurs twice");
}

#[test]
fn alignment_is_a_power_of_two() {
    let aligned = |alignment| Raw::new(0, 1).text("general.alignment").u32(4).u32(alignment).data(64);
    for alignment in [0, 3, 48, u32::MAX] {
        assert_eq!(
            refusal(aligned(alignment)),
            format!("some.gguf: key `general.alignment` is {alignment}, expected a power of two")
        );
    }
    assert!(parse(aligned(1)).is_ok());
    let text = Raw::new(0, 1).text("general.alignment").u32(8).text("32").0;
    assert_eq!(refusal(text), "some.gguf: key `general.alignment` is \"32\", expected a power of two");
    let huge = Raw::new(1, 1).text("general.alignment").u32(10).u64(1 << 63);
    assert_eq!(
        refusal(huge.tensor("t", &[8], 0, 0).data(64)),
        "some.gguf is damaged: it is cut short: its 160 bytes end within the padding before the tensor data"
    );
}

#[test]
fn arrays_nest_a_little_and_are_stepped_over() {
    let nested = |depth: usize| {
        key(|raw| {
            let open = (1..depth).fold(raw.u32(9), |raw, _| raw.u32(9).u64(1));
            open.u32(4).u64(2).u32(7).u32(8)
        })
    };
    for depth in 1..=4 {
        assert!(parse(nested(depth)).is_ok(), "{depth}");
    }
    for depth in [5, 6, 100_000] {
        assert_eq!(
            refusal(nested(depth)),
            "some.gguf is damaged: key \"k\" has arrays that nest more than 4 deep"
        );
    }
    let mixed = key(|raw| {
        let first = raw.u32(9).u32(9).u64(3).u32(8).u64(2).text("a").text("b");
        first.u32(7).u64(0).u32(7).u64(2).bytes(&[0, 1])
    });
    let gguf = parse(mixed).unwrap();
    assert_eq!(gguf.metadata().get("k").unwrap().to_string(), "an array of 3 array");
    assert!(gguf.metadata().i32s("k").is_err());
}

#[test]
fn text_is_utf8() {
    let bad = b"\xc3\x28";
    assert_eq!(
        refusal(Raw::new(0, 1).text(bad).u32(4).u32(1).0),
        "some.gguf is damaged: the name of key 1 of 1 is not UTF-8"
    );
    let expected = "some.gguf is damaged: key \"k\" is not UTF-8";
    assert_eq!(refusal(key(|raw| raw.u32(8).text(bad))), expected);
    assert_eq!(refusal(key(|raw| raw.u32(9).u32(8).u64(2).text("a").text(bad))), expected);
    assert_eq!(
        refusal(Raw::new(1, 0).text(bad).data(64)),
        "some.gguf is damaged: the name of tensor 1 of 1 is not UTF-8"
    );
}

#[test]
fn truth_values_are_zero_or_one() {
    let expected = "some.gguf is damaged: key \"k\" holds a truth value that is neither 0 nor 1";
    assert_eq!(refusal(key(|raw| raw.u32(7).bytes(&[2]))), expected);
    assert_eq!(refusal(key(|raw| raw.u32(9).u32(7).u64(3).bytes(&[0, 1, 255]))), expected);
}

#[test]
fn value_types_are_known() {
    for kind in [13, 255, u32::MAX] {
        let expected =
            format!("some.gguf is damaged: key \"k\" has value type {kind}, which GGUF does not have");
        assert_eq!(refusal(key(|raw| raw.u32(kind).u64(0))), expected);
        assert_eq!(refusal(key(|raw| raw.u32(9).u32(kind).u64(0))), expected);
        assert_eq!(refusal(key(|raw| raw.u32(9).u32(9).u64(1).u32(kind).u64(0))), expected);
    }
}

#[test]
fn names_are_short_and_harmless_in_messages() {
    let long = "k".repeat(70_000);
    assert_eq!(
        refusal(Raw::new(0, 1).text(&long).u32(4).u32(1).0),
        "some.gguf is damaged: the name of key 1 of 1 has 70000 bytes"
    );
    assert_eq!(
        refusal(Raw::new(1, 0).tensor(&long, &[8], 0, 0).data(64)),
        "some.gguf is damaged: the name of tensor 1 of 1 has 70000 bytes"
    );
    let terminal = Raw::new(1, 0).tensor("\u{1b}[2J\n", &[0], 0, 0).data(64);
    assert_eq!(refusal(terminal), "some.gguf is damaged: tensor \"\\u{1b}[2J\\n\" has a dimension of 0");
}
