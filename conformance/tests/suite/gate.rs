//! Nothing is missing: every op has its files and cases, and a mistake in a shader does not get past them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gemma4_conformance::Failure;
use gemma4_conformance::backends::{self, Device};
use gemma4_conformance::cases::{self, Case, Lossy};
use gemma4_core::ops::Op;
use gemma4_wgpu::{Options, ShaderEdit, Variants, Wgpu};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files of a folder, without their ending.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).expect("the folder is in the repository");
    let names =
        entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

#[test]
fn every_op_has_its_files_its_cases_and_mutants() {
    let mut folders = vec![("core/src/ops", ".rs"), ("shaders", ".wgsl"), ("conformance/src/cases", ".rs")];
    // Kernels are due with the backend that runs them.
    if root().join("backend-cuda").exists() {
        folders.push(("kernels", ".cu"));
    }
    let mut missing = Vec::new();
    for (folder, ending) in folders {
        let files = files(folder, ending);
        for op in Op::ALL {
            // A large op has more, such as attention_prefill; one has its name.
            if !files.iter().any(|file| file == op) {
                missing.push(format!("{folder}/{op}{ending}"));
            }
        }
    }
    for op in Op::ALL {
        let cases = cases::of(op);
        if cases.is_empty() {
            missing.push(format!("a case of {op}"));
        }
        if cases.iter().all(|case| case.mutants().next().is_none()) {
            missing.push(format!("a mutant of {op}"));
        }
    }
    backends::say(format_args!("{}gate: {} ops", backends::LINE, Op::ALL.len()));
    assert!(missing.is_empty(), "missing: {}", missing.join(", "));
}

/// A mistake in a shader: an op, a text of its shader, and what stands there instead.
type Mutant = (&'static str, &'static str, &'static str);

/// Mistakes that only few cases can see, by their text, and a part of the names of those: they come first, for every case in
/// front of them has shaders to compile.
const SEEN_BY: [(&str, &str); 7] = [
    ("load_row(quad, chunk + 2u * LANES, chunks)", "12544 wide, full"),
    ("sum = add(sum, s1.xy, v1, i + COMBINE_STRANDS < count);", "Own at 4300, f16 and f16, Decode"),
    ("min(info.flags >> 8u, params.window - 1u)", "Window(4), Block at 62, f16 and f16, Decode"),
    ("if params.reach == 1u { return info.position - 1u; }", "Before at 130, f16 and f16, Decode"),
    ("rotate_groups(DIM, lane, false);", "tq3_0 and f32, Decode, Prefill"),
    ("if params.plain != 0u {", "head_dim: 64 }, Plain, Values, Input"),
    ("params.value_start == 0u", "head_dim: 128 }, Projected, Values, Projected"),
];

const MUTANTS: &[Mutant] = &[
    ("add", "x[row + c] += y[row + c];", ""),
    (
        "attention",
        "let weight = select(0.0, exp(logit - top), key >= seen.first && key <= seen.last);",
        "let weight = exp(logit - top);",
    ),
    ("attention", "if careful || !any_broken(sums, index) { break; }", "if true { break; }"),
    ("attention", "sum = add(sum, s1.xy, v1, i + COMBINE_STRANDS < count);", ""),
    ("attention", "rotate_groups(DIM, lane, false);", ""),
    ("attention", "rotate_groups(DIM, lane, true);", ""),
    (
        "attn_prepare",
        "put(rope(raw * inverse_rms(raw, lane) * weight, cs), lane);",
        "put(raw * inverse_rms(raw, lane) * weight, lane);",
    ),
    (
        "attn_prepare",
        "let query = rope(raw * inverse_rms(raw, lane) * weight, cs);",
        "let query = raw * inverse_rms(raw, lane) * weight;",
    ),
    ("attn_prepare", "let weight = weight_of_key(lane);", "let weight = head_weight(lane);"),
    ("attn_prepare", "params.value_start == 0u", "false"),
    ("attn_prepare", "if params.plain != 0u {", "if false {"),
    ("attention", "if params.reach == 1u { return info.position - 1u; }", ""),
    ("attention", "min(info.flags >> 8u, params.window - 1u)", "(info.flags >> 8u)"),
    ("centroid_head", "cluster < other_cluster);", "cluster > other_cluster);"),
    ("centroid_head", "let rest = least[0] - 1.0;", "let rest = least[0];"),
    ("centroid_head", "x[source + c], part);", "x[source + c], 0.0);"),
    ("embed", " * params.scale;", ";"),
    ("gather_rows", "let source = picked[group.y] * params.cols;", "let source = group.y * params.cols;"),
    ("glu", "gelu_tanh(gate[gate_row + c]) * up", "gate[gate_row + c] * up"),
    ("glu", "silu(gate[gate_row + c])", "gelu_tanh(gate[gate_row + c])"),
    ("keep_rows", "if info.flags >> 8u >= params.rows { return; }", "if info.flags >> 8u > 0u { return; }"),
    ("keep_rows", "if params.picked != 0u { row = picked[group.y]; }", ""),
    (
        "kv_append",
        "put(rope(raw * inverse_rms(raw, lane) * weight, cs), lane);",
        "put(raw * inverse_rms(raw, lane) * weight, lane);",
    ),
    ("kv_append", "if params.plain != 0u {", "if false {"),
    ("linear", "  narrow_put_w(tile, 3u, n, Tile4(v.d));", "  narrow_put_w(tile, 3u, n, Tile4(v.c));"),
    ("linear", "few_put_terms(term, 1u, n, s.a3, s.b3);", "few_put_terms(term, 1u, n, s.a2, s.b2);"),
    ("linear", "c < params.cols; c += 32u", "c + 1u < params.cols; c += 32u"),
    ("linear", "((eight << 3u) | group) < chunks;", "((eight << 3u) | group) + 1u < chunks;"),
    ("linear", "load_row(quad, chunk + 2u * LANES, chunks)", "load_row(quad, chunk + LANES, chunks)"),
    ("linear", "tiles_columns(sums, 0u, 4u, m, n)", "tiles_columns(sums, 0u, 2u, m, n)"),
    ("linear", "== SEGMENT - 1u || chunk + 1u == chunks", "== SEGMENT - 1u"),
    ("linear", "(first + term) * SEGMENT + piece < chunks", "first + term < terms"),
    ("moe_ffn", "gelu_tanh(gate)", "gate"),
    ("moe_ffn", "gelu_tanh(gate.x)", "gate.x"),
    ("moe_ffn", "sum = fma(weights[pair], parts", "sum = fma(1.0, parts"),
    ("norm_add", ", w[c], residual[row + c]) * params.scale;", ", w[c], residual[row + c]);"),
    ("norm_add", "fma(branch * norm, weight, before) * params.scale;", "fma(branch * norm, weight, before);"),
    ("norm_add", "first_added(a.q0, m, a_w.q0, r.q0)", "r.q0"),
    ("norm_add", "x4[index] = fma(b0 * norm, w0, r0);", "x4[index] = r0;"),
    ("norm_add", ", w[c], residual[row + c])", ", 1.0, residual[row + c])"),
    ("ple_inputs", " * 0.70710678;", ";"),
    ("ple_inputs", "context[start + c] * scale, norm[c], a", "context[start + c] * scale, 1.0, a"),
    ("recall_rows", "(info.position - params.back)", "info.position"),
    ("rms_norm", "x[row + c] * scale * w[c]", "x[row + c] * scale"),
    ("rms_norm", "v.q0 * scale * weight.q0", "v.q0 * scale"),
    ("rms_norm", "load_x(picked[group.x] * quads, lane)", "load_x(group.x * quads, lane)"),
    ("rms_norm", " + params.eps", ""),
    ("route", "((before == vec4(key)) & lower)", "(before == vec4(key))"),
    ("route", "return scale[inside] * weight_at", "return weight_at"),
    ("sample", "select(logit * repetition, logit / repetition, logit > 0.0)", "logit / repetition"),
    ("sample", "if masked {", "if false {"),
    ("sample", "if draw.top_k > 0u {", "if false {"),
    ("sample", "if !not_after(prefix, start) { return start; }", ""),
    ("softcap", "params.cap * tanh_wide(x[row + c] / params.cap)", "x[row + c]"),
    ("softcap", "if CAP_BITS == 0u { return x; }", "if true { return x; }"),
];

/// Mistakes in products of prompts in 8-bit integers, whose bounds are wider.
const IN_BYTES: &[Mutant] = &[
    ("linear", "put(tile, own, 7u, high.w);", "put(tile, own, 7u, high.z);"),
    ("linear", "bitcast<u32>(scale * total(high))", "bitcast<u32>(scale * total(low))"),
    ("linear", "let inverse = select(0.0, 127.0 / largest, largest > 1e-30);", "let inverse = 1.0;"),
    ("linear", "let tile = chunk & 1u;", "let tile = 0u;"),
    (
        "linear",
        "d = add_half(no_dots(), tile, 1u, side, m, n);",
        "d = add_half(no_dots(), tile, 0u, side, m, n);",
    ),
    ("linear", "d = add_half(d, tile, 1u, side, m, n);", ""),
    ("linear", "low += sums_x(tile, 1u, 0u, m);", ""),
    ("linear", "shift_w[tile][part][half][four][one] = select(s.shift.x, s.shift.y, part == 1u);", ""),
];

/// The cases that mistakes in the shaders of an op are shown to.
fn shown(op: &str) -> Vec<Case> {
    // Those of values that are no numbers first: what handles them is in every shader of attention, and no other case sees it.
    let first = if op == "attention" { cases::broken_cases() } else { Vec::new() };
    first.into_iter().chain(cases::of(op)).collect()
}

/// Whether one of the cases of an op sees that its shader is wrong.
///
/// A shader that does not compile shows nothing, and neither does an edit that no shader of the op has the text for.
fn rejected((op, from, to): Mutant, allow: Variants, cases: &[Case]) -> Result<bool, Failure> {
    let edits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&edits);
    let edit = ShaderEdit::new(move |_, source| {
        let edited = source.replace(from, to);
        count.fetch_add(usize::from(edited != source), Ordering::Relaxed);
        edited
    });
    let options = Options { edit: Some(edit), ..backends::options(allow) };
    let backend = Wgpu::new(&options).map_err(Failure::device::<Wgpu>)?;
    let seen_by = SEEN_BY.iter().find(|(text, _)| *text == from);
    let (first, others): (Vec<_>, Vec<_>) =
        cases.iter().partition(|case| seen_by.is_some_and(|(_, name)| case.name.contains(name)));
    for case in first.into_iter().chain(others) {
        // Drivers make machine code of a shader when it is run first, which takes longer than all else: cases do not run
        // before one has a shader that the edit changed.
        case.compile(&backend)?;
        if edits.load(Ordering::Relaxed) == 0 {
            continue;
        }
        if case.compare(&case.run(&backend)?).is_err() {
            return Ok(true);
        }
    }
    if edits.load(Ordering::Relaxed) == 0 {
        return Err(Failure::False(format!("no shader of {op} has `{from}`")));
    }
    Ok(false)
}

#[test]
fn a_mistake_in_a_shader_is_rejected_by_the_cases_of_its_op() {
    let Some(at) = backends::covered().iter().find(|at| matches!(at.device, Device::Wgpu(_))) else { return };
    let turn = at.turn();
    let (mut alive, mut cases) = (Vec::new(), BTreeMap::new());
    let mut judge = |mutant: Mutant, allow, cases: &[Case]| match rejected(mutant, allow, cases) {
        Ok(true) => {}
        Ok(false) => alive.push(format!("{}: `{}` became `{}`", mutant.0, mutant.1, mutant.2)),
        Err(failure) => alive.push(format!("{}: `{}`: {failure}", mutant.0, mutant.1)),
    };
    for &mutant in MUTANTS {
        // What must come out takes time, and is the same for every mistake.
        judge(mutant, Variants::EXACT, cases.entry(mutant.0).or_insert_with(|| shown(mutant.0)));
    }
    let in_bytes = cases::lossy_cases(Lossy::Int8);
    for &mutant in IN_BYTES {
        judge(mutant, Variants { int8: true, ..Variants::EXACT }, &in_bytes);
    }
    drop(turn);
    let without: Vec<_> = Op::ALL.iter().filter(|op| MUTANTS.iter().all(|(of, ..)| of != *op)).collect();
    backends::say(format_args!(
        "{}gate: {} mistakes in shaders rejected",
        backends::LINE,
        MUTANTS.len() + IN_BYTES.len() - alive.len()
    ));
    let unknown = SEEN_BY.iter().find(|(text, _)| MUTANTS.iter().all(|(_, from, _)| from != text));
    assert!(unknown.is_none(), "no mistake is {unknown:?}");
    assert!(alive.is_empty(), "not rejected:\n{}", alive.join("\n"));
    assert!(without.is_empty(), "no mistake was tried in {without:?}");
}
