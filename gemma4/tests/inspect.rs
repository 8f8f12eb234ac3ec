//! `gemma4 inspect` with the model inside the program.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use call::{fails, gemma4};
use serde_json::{Value, json};

fn inspect(args: &[&str]) -> Value {
    serde_json::from_str(&gemma4(&[&["inspect", "--json"], args].concat(), b"").text()).unwrap()
}

#[test]
fn sizes_types_and_cache_are_those_of_the_pocket_model() {
    let found = inspect(&[]);
    let model = &found["model"];
    assert_eq!(
        (&model["hidden"], &model["vocab"], &model["window"]),
        (&json!(512), &json!(8192), &json!(256))
    );
    assert_eq!(
        model["layers"][2],
        json!({ "span": "global", "head_dim": 512, "kv_heads": 1, "ffn": 1024, "donor": null, "k_eq_v": true })
    );
    assert_eq!(found["types"][0]["type"], "Q8_0");
    let values: u64 =
        found["types"].as_array().unwrap().iter().map(|row| row["values"].as_u64().unwrap()).sum();
    assert_eq!(values, 24_658_694);
    // 4 local layers of 2 heads of 256, 2 global ones of one head of 512; keys and values of 2 bytes.
    let f16 = &found["cache"][1];
    assert_eq!(
        (&f16["type"], &f16["local_token"], &f16["global_token"]),
        (&json!("f16"), &json!(8192), &json!(4096))
    );
    assert_eq!(f16["totals"].as_array().unwrap().len(), 1);
    assert_eq!(f16["totals"][0], json!({ "context": 4096, "local": 8192 * 1024, "global": 4096 * 4096 }));
}

#[test]
fn memory_follows_context_and_types() {
    let memory = |args: &[&str]| inspect(args)["memory"].clone();
    let bytes = |memory: &Value, what: &str| memory[what].as_u64().unwrap();
    let (large, small) =
        (memory(&["--ctx", "4096"]), memory(&["--ctx", "2048", "--kv", "q8_0", "--kv-local", "f16"]));
    // A page for each place to come back to stays.
    assert_eq!(bytes(&large, "kv_global_bytes"), 4096 * (4096 + 4 * 256));
    assert_eq!(bytes(&small, "kv_global_bytes"), 2176 * (2048 + 4 * 256));
    assert_eq!(bytes(&large, "kv_local_bytes"), bytes(&small, "kv_local_bytes"));
    let parts = ["kv_global_bytes", "kv_local_bytes", "scratch_bytes", "decoded_bytes"];
    assert_eq!(bytes(&large, "needed_bytes"), parts.iter().map(|what| bytes(&large, what)).sum::<u64>());
}

#[test]
fn every_tensor_is_listed_with_shape_type_and_bytes() {
    let tensors = inspect(&["--tensors"])["tensors"].clone();
    let tensors = tensors.as_array().unwrap();
    assert_eq!(tensors.len(), 85);
    let embedding =
        json!({ "name": "token_embd.weight", "shape": [8192, 512], "type": "Q8_0", "bytes": 4_456_448 });
    assert!(tensors.contains(&embedding));
    let text = gemma4(&["inspect", "--tensors"], b"").text();
    assert_eq!(text.lines().count(), 86);
    assert!(
        text.lines().any(|line| line.starts_with("token_embd.weight") && line.ends_with("[8192, 512]")),
        "{text}"
    );
}

#[test]
fn a_program_lists_every_op_and_its_costs_add_up() {
    for (name, rows, picked) in [("prefill", 512, 1), ("decode", 1, 1), ("verify", 8, 8)] {
        let program = inspect(&["--program", name, "--context", "1000"]);
        assert_eq!((&program["rows"], &program["picked"]), (&json!(rows), &json!(picked)), "{name}");
        let ops = program["ops"].as_array().unwrap();
        assert_eq!((&ops[0]["op"], &ops[ops.len() - 1]["op"]), (&json!("embed"), &json!("sample")));
        for what in ["weight_bytes", "kv_bytes", "act_bytes", "flops"] {
            let sum: u64 = ops.iter().map(|op| op["cost"][what].as_u64().unwrap()).sum();
            assert_eq!(program["total"][what], sum, "{name}: {what}");
        }
        let text = gemma4(&["inspect", "--program", name, "--context", "1000"], b"").text();
        assert!(text.contains(&format!("{} ops move", ops.len())), "{text}");
    }
    // An output row is two operations for each of its inputs.
    let linear = |program: &Value| program["ops"][2]["cost"]["flops"].as_u64().unwrap();
    let one = inspect(&["--program", "decode"]);
    assert_eq!(
        one["ops"][2]["weights"][0],
        json!({ "name": "blk.0.attn_q.weight", "type": "Q8_0", "shape": [1, 1024, 512] })
    );
    assert_eq!(linear(&one), 2 * 512 * 2048);
    assert_eq!(linear(&inspect(&["--program", "decode", "--rows", "3"])), 3 * 2 * 512 * 2048);
    let kv = |context: &str| {
        inspect(&["--program", "decode", "--context", context])["total"]["kv_bytes"].as_u64().unwrap()
    };
    // Local layers have their window already: global ones read 100 more tokens.
    assert_eq!(kv("1100") - kv("1000"), 100 * 4096);
}

#[test]
fn text_names_the_limit_of_the_context() {
    let text = gemma4(&["inspect"], b"").text();
    for part in
        ["(built-in pocket model)", "4096 tokens, the model's own context", "mapped: they stay in the file"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn bad_input_is_one_sentence() {
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "not a model, but long enough to hold a header of one").unwrap();
    let path = text.path().to_str().unwrap();
    let rows: [(&[&str], i32, &str); 7] = [
        (&["-m", "/nowhere/model.gguf"], 1, "cannot read /nowhere/model.gguf"),
        (&["-m", path], 1, "is not a model"),
        (&["--ctx", "0"], 2, "--ctx is 0, expected 1 to 4096"),
        (&["--program", "encode"], 2, "invalid value 'encode'"),
        (
            &["--program", "decode", "--context", "4096"],
            2,
            "--context is 4096 and the step adds 1, expected at most 4096",
        ),
        (&["--program", "decode", "--rows", "0"], 2, "0 is not in 1..=8192"),
        (&["--rows", "4"], 2, "the following required arguments were not provided"),
    ];
    for (args, code, says) in rows {
        fails(&[&["inspect"], args].concat(), b"", code, says);
    }
}
