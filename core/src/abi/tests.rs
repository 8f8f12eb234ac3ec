use std::path::Path;

use super::text::{cuda_text, wgsl_text};
use super::*;
use crate::cache;

fn example() -> [Constant; 5] {
    let constant = |name, value| Constant { name, doc: " Twelve words.\n Second line.\n", value };
    [
        constant("COUNT", 0xffff_ffff_u32.into()),
        constant("LEAST", i32::MIN.into()),
        constant("EPS", 1e-7_f32.into()),
        constant("CODES", [-0.190_685_f32, -0.0, 3.0, 16_777_216.0].into()),
        constant("SIGNED", [-127, -104, -83, -65, -49, -35, -22, -10, 1].into()),
    ]
}

#[test]
fn committed_headers_are_what_the_tables_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (path, text) in [("kernels/gen/abi.cuh", cuda()), ("shaders/gen/abi.wgsl", wgsl())] {
        let committed =
            std::fs::read_to_string(root.join(path)).expect("the generated headers are committed");
        assert!(committed == text, "{path} is out of date: run `cargo xtask abi`");
    }
}

#[test]
fn structs_have_four_bytes_a_field() {
    assert_eq!(size_of::<RowInfo>(), 16);
    for layout in LAYOUTS.iter().chain(CUDA_LAYOUTS) {
        assert!(cuda().contains(&format!("sizeof({}) == {}", layout.name, 4 * layout.fields.len())));
    }
}

#[test]
fn row_info_is_laid_out_in_the_order_of_its_table() {
    let row = RowInfo { token: 1, position: 2, slot: 3, flags: 4 };
    assert_eq!(bytemuck::cast::<RowInfo, [u32; 4]>(row), [1, 2, 3, 4]);
    let names: Vec<&str> = LAYOUTS[0].fields.iter().map(|field| field.name).collect();
    assert_eq!(names, ["token", "position", "slot", "flags"]);
}

#[test]
fn the_cache_and_the_kernels_mean_the_same_pages() {
    assert_eq!(usize::try_from(PAGE), Ok(cache::PAGE));
    assert_eq!(NO_PAGE, cache::NO_PAGE);
}

#[test]
fn tables_keep_their_values_when_widened() {
    assert_eq!(IQ4_VALUES.map(i64::from), quant::IQ4_VALUES.map(i64::from));
    assert_eq!(MXFP4_VALUES[9..12], [-1, -2, -3]);
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> =
        constants().iter().chain(&cuda_constants()).map(|constant| constant.name).collect();
    names.extend(LAYOUTS.iter().chain(CUDA_LAYOUTS).map(|layout| layout.name));
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn what_only_cuda_has_is_in_its_header_alone() {
    for name in cuda_constants().iter().map(|c| c.name).chain(CUDA_LAYOUTS.iter().map(|l| l.name)) {
        assert!(cuda().contains(name), "{name}");
        assert!(!wgsl().contains(name), "{name}");
    }
}

#[test]
fn cuda_spells_every_kind_of_constant() {
    let text = cuda_text(&example(), &[]);
    for line in [
        "// Twelve words.\n// Second line.\nconstexpr unsigned int COUNT = 0xffffffffu;",
        "constexpr int LEAST = -2147483648;",
        "constexpr float EPS = 1e-7f;",
        "static __device__ constexpr float CODES[4] = {\n    -0.190685f, -0.0f, 3.0f, 16777216.0f,\n};",
        "static __device__ constexpr int SIGNED[9] = {\n    -127, -104, -83, -65, -49, -35, -22, -10,\n    1,\n};",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
}

#[test]
fn wgsl_spells_every_kind_of_constant() {
    let text = wgsl_text(&example(), &[]);
    for line in [
        "// Twelve words.\n// Second line.\nconst COUNT: u32 = 0xffffffffu;",
        "const LEAST: i32 = -2147483648;",
        "const EPS: f32 = 1e-7f;",
        "const CODES = array<f32, 4>(\n    -0.190685f, -0.0f, 3.0f, 16777216.0f,\n);",
        "const SIGNED = array<i32, 9>(\n    -127, -104, -83, -65, -49, -35, -22, -10,\n    1,\n);",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
}

#[test]
#[should_panic(expected = "neither language has a literal")]
fn an_infinite_constant_is_refused() {
    wgsl_text(&[Constant { name: "BAD", doc: "", value: f32::INFINITY.into() }], &[]);
}
