//! `gemma4 verify` with the model inside the program.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use call::{fails, gemma4};
use serde_json::Value;

#[test]
fn the_reference_agrees_with_itself_and_with_the_definitions() {
    let found: Value = serde_json::from_str(&gemma4(&["verify", "--quick", "--json"], b"").text()).unwrap();
    assert_eq!(found["failures"], Value::Array(Vec::new()));
    assert_eq!(found["agrees"], true);
    assert_eq!(found["device"]["backend"], "cpu");
    let count = |value: &Value| value.as_u64().unwrap();
    let ops = found["ops"].as_array().unwrap();
    assert_eq!(ops.len(), 18);
    for op in ops {
        assert!(count(&op["cases"]) > 0 && count(&op["comparisons"]) > 0, "{op}");
        assert!((0.0..=1.0).contains(&op["share"].as_f64().unwrap()), "{op}");
    }
    assert!(ops.iter().map(|op| count(&op["model_ops"])).sum::<u64>() > 100);
    assert!(
        found["invariance"].as_array().unwrap().iter().all(|property| count(&property["comparisons"]) > 0)
    );
    let greedy = found["greedy"].as_array().unwrap();
    assert_eq!(greedy.len(), 1);
    assert_eq!((&greedy[0]["equal"], &greedy[0]["parted"]), (&greedy[0]["tokens"], &Value::Null));
}

#[test]
fn bad_input_is_one_sentence() {
    fails(&["verify", "-m", "/nowhere/model.gguf"], b"", 1, "cannot read /nowhere/model.gguf");
    // Where there are CUDA GPUs, none has this name.
    fails(&["verify", "--backend", "cuda", "--device", "Voodoo 2"], b"", 1, "--backend wgpu");
}
