//! Which device computes: `--backend`, `--device` and `inspect --devices`, whatever GPUs this machine has.
#![cfg(feature = "pocket")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "binary/call.rs"]
mod call;

use call::fails;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use call::gemma4;

#[test]
fn what_does_not_go_together_is_said() {
    let rows: [(&[&str], &str); 12] = [
        (
            &["bench", "--backend", "cpu", "--vram-limit", "1GiB"],
            "--vram-limit is about GPUs, and --backend cpu",
        ),
        (
            &["bench", "--backend", "wgpu", "--arch-limit", "sm_86"],
            "--arch-limit, --vram-limit and --prompts are about CUDA",
        ),
        (&["bench", "--backend", "wgpu", "--prompts", "tiles"], "--prompts are about CUDA"),
        (
            &["bench", "--backend", "cpu", "--prompts", "cublaslt"],
            "--prompts is about GPUs, and --backend cpu",
        ),
        (&["bench", "--prompts", "cublas"], "invalid value 'cublas'"),
        (&["bench", "--vram-limit", "24 apples"], "invalid value '24 apples'"),
        (
            &["logits", "--text", "a", "--backend", "cpu", "--device", "0"],
            "--device is about GPUs, and --backend cpu",
        ),
        (&["bench", "--backend", "cpu", "--without", "f16"], "--without is about GPUs, and --backend cpu"),
        (&["bench", "--backend", "cpu", "--with", "f16"], "--with is about GPUs, and --backend cpu"),
        (&["bench", "--with", "subgroups"], "invalid value 'subgroups'"),
        (&["logits", "--text", "a", "--without", "f64"], "invalid value 'f64'"),
        (&["logits", "--text", "a", "--backend", "vulkan"], "invalid value 'vulkan'"),
    ];
    for (args, says) in rows {
        fails(args, b"", 2, says);
    }
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
#[test]
fn a_build_without_gpus_says_so() {
    for args in [&["bench", "--backend", "wgpu"][..], &["bench", "--device", "0"], &["inspect", "--devices"]]
    {
        fails(args, b"", 2, "this build has no wgpu backend");
    }
    fails(&["bench", "--backend", "cuda"], b"", 2, "this build has no cuda backend");
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_without_a_device_ends_in_one_sentence() {
    let none = ["logits", "--text", "a", "--backend", "cuda", "--device", "Voodoo 2"];
    let outcome = gemma4(&none, b"");
    // What CUDA does not have it does without.
    assert_eq!(gemma4(&[&none[..], &["--without", "int8"]].concat(), b"").stderr, outcome.stderr);
    let first = outcome.stderr.lines().next().unwrap_or_default();
    // Which one depends on what the machine has; none is a panic, and each says what to do or what there is.
    let known = ["there is no NVIDIA driver", "no CUDA GPU", "is too old", "is not found"];
    assert!([1, 2].contains(&outcome.code), "{outcome:?}");
    assert!(first.starts_with("error: ") && known.iter().any(|text| first.contains(text)), "{outcome:?}");
    fails(
        &["logits", "--text", "a", "--backend", "cuda", "--without", "subgroups"],
        b"",
        2,
        "--without subgroups is about wgpu",
    );
    fails(
        &["logits", "--text", "a", "--backend", "cuda", "--arch-limit", "sm_70"],
        b"",
        2,
        "--arch-limit: `sm_70`",
    );
    fails(
        &["logits", "--text", "a", "--backend", "cuda", "--prompts", "cublaslt", "--without", "f16"],
        b"",
        2,
        "--without f16 has none",
    );
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use serde_json::Value;

    use super::{fails, gemma4};

    fn devices() -> Value {
        serde_json::from_slice(&gemma4(&["inspect", "--devices", "--json"], b"").stdout).unwrap()
    }

    #[test]
    fn devices_are_listed_and_the_best_real_one_is_marked() {
        let found = devices();
        let list = found["devices"].as_array().unwrap();
        for (number, device) in list.iter().enumerate() {
            assert_eq!(device["number"], number);
            if device["backend"] == "cuda" {
                assert!(device["memory"].as_u64().unwrap() >= 1 << 30, "{device}");
                continue;
            }
            assert!(device["max_binding"].as_u64().unwrap() >= 1 << 27, "{device}");
            assert!(device["workgroup_invocations"].as_u64().unwrap() >= 256, "{device}");
        }
        let real = |device: &Value| device["kind"] != "software" && device["usable"] != false;
        let real = list.iter().any(|device| device["backend"] == "wgpu" && real(device))
            || list.iter().any(real) && found["cuda_obstacle"].is_null();
        assert_eq!(found["auto"].is_u64(), real, "{found}");
        let text = String::from_utf8(gemma4(&["inspect", "--devices"], b"").stdout).unwrap();
        match (list.is_empty(), found["auto"].as_u64()) {
            (true, _) => assert!(text.contains("install"), "{text}"),
            (false, None) => assert!(text.contains("--backend auto takes the processor"), "{text}"),
            (false, Some(number)) => {
                assert!(text.contains(&format!("--backend auto takes number {number}.")), "{text}");
            }
        }
    }

    #[test]
    fn features_that_are_done_without_are_not_listed() {
        let args = ["inspect", "--devices", "--json", "--without", "f16,subgroups,int8"];
        let found: Value = serde_json::from_slice(&gemma4(&args, b"").stdout).unwrap();
        for device in found["devices"].as_array().unwrap().iter().filter(|device| device["backend"] == "wgpu")
        {
            assert_eq!((&device["f16"], &device["int8"]), (&false.into(), &false.into()));
            assert!(device["subgroup"].is_null());
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_told_from_those_that_are() {
        let there = devices()["devices"].as_array().unwrap().first().map(|device| device["name"].clone());
        let there = there.map_or("none".to_owned(), |name| name.as_str().unwrap().to_owned());
        for (device, says) in [("77", "no GPU number 77"), ("Voodoo 2", "no GPU named `Voodoo 2`")] {
            let args = ["logits", "--text", "a", "--device", device];
            fails(&args, b"", 2, says);
            fails(&args, b"", 2, &there);
        }
    }

    #[test]
    fn files_are_no_part_of_a_list_of_devices() {
        fails(&["inspect", "--devices", "--tensors"], b"", 2, "cannot be used with");
        fails(&["inspect", "--devices", "-m", "model.gguf"], b"", 2, "cannot be used with");
    }

    #[test]
    fn every_device_gives_the_next_token_of_the_processor() {
        let best = |args: &[&str]| {
            let args = [&["logits", "--text", "import numpy as", "--top", "1", "--json"], args].concat();
            let outcome = gemma4(&args, b"");
            assert_eq!(outcome.code, 0, "{outcome:?}");
            serde_json::from_slice::<Value>(&outcome.stdout).unwrap()["top"][0].clone()
        };
        let want = best(&["--backend", "cpu"]);
        // A GPU may take fewer bits for prompts than f32, unless it is told not to.
        let mut ways = vec![(vec!["--backend", "auto"], 0.2)];
        let found = devices();
        let list = found["devices"].as_array().unwrap().iter();
        let numbers: Vec<(String, bool)> =
            list.map(|device| (device["number"].to_string(), device["backend"] == "wgpu")).collect();
        for (number, wgpu) in &numbers {
            if *wgpu || found["cuda_obstacle"].is_null() {
                ways.push((vec!["--device", number], 0.2));
            }
            if *wgpu {
                for without in ["int8", "f16,subgroups,int8"] {
                    ways.push((vec!["--backend", "wgpu", "--device", number, "--without", without], 0.02));
                }
            }
        }
        for (way, most) in ways {
            let got = best(&way);
            assert_eq!(got["id"], want["id"], "{way:?}");
            let apart = (got["logit"].as_f64().unwrap() - want["logit"].as_f64().unwrap()).abs();
            assert!(apart <= most, "{way:?}: {got}, {want}");
        }
    }
}
