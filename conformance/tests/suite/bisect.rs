//! A program op by op: every backend agrees with the reference on each, and a mistake is found at the op that makes it.

use std::collections::BTreeMap;

use gemma4_conformance::bisect::{OpParity, program_parity};
use gemma4_conformance::compare::Agreement;
use gemma4_conformance::faulty::{Faulty, Mistake};
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{Failure, backends, on_every_backend};
use gemma4_core::kv_type::KvType;
use gemma4_core::ops::Op;
use gemma4_core::program::{Class, Program};

/// Agreement by op.
fn by_op(parities: &[OpParity]) -> BTreeMap<&'static str, Agreement> {
    let mut ops = BTreeMap::new();
    for OpParity { op, agreement, .. } in parities {
        let all: &mut Agreement = ops.entry(*op).or_default();
        *all = all.and(*agreement);
    }
    ops
}

#[test]
fn every_op_of_a_program_agrees_with_the_reference_on_its_own_inputs() {
    let text = tokens(40, 80);
    // A window of 8 and one of 20 are left behind; two rows are verified at once.
    let steps = [(Class::Prefill, &text[..37]), (Class::Decode, &text[37..38]), (Class::Decode, &text[38..])];
    on_every_backend!(|at, new| {
        for (m, tiny) in Tiny::all().into_iter().enumerate() {
            for (n, kv) in [Kv::all(KvType::F32), Kv::MIXED].into_iter().enumerate() {
                // Backends that share these runs have every model and both caches each.
                if !at.takes(m + n) {
                    continue;
                }
                let result = program_parity(&backends::reference(), &new(), &tiny.model(), kv, &steps);
                let what = format!(
                    "{} op by op, {}",
                    tiny.name,
                    if kv == Kv::MIXED { "mixed cache" } else { "f32" }
                );
                let Some(parities) = at.judge(&what, result) else { continue };
                let ops = by_op(&parities);
                let worst = ops.iter().max_by(|a, b| a.1.share.total_cmp(&b.1.share)).expect("some ops");
                let share = format!("worst is {} with {:.1} % of its bound", worst.0, 100.0 * worst.1.share);
                at.report_with(what, ops.values().map(|agreement| agreement.count).sum(), &share);
            }
        }
    });
}

/// Whether this is the op that reads the weight of this name.
fn reads(program: &Program, op: &Op, name: &str) -> bool {
    op.weights().iter().any(|&weight| program.weight(weight).name == name)
}

/// A mistake, the model that makes it, and the op that must be named: its kind and its subject.
type Case = (fn() -> Tiny, Mistake, &'static str, &'static str);

const CASES: [Case; 9] = [
    (
        Tiny::dense,
        Mistake::Weight("model.layers.1.mlp.down_proj.weight", |w| w[70] += 0.05),
        "linear",
        "model.layers.1.mlp.down_proj.weight",
    ),
    (
        Tiny::dense,
        Mistake::Weight("model.layers.2.self_attn.k_norm.weight", |w| w[3] *= 1.001),
        "attn_prepare",
        "model.layers.2.self_attn.q_norm.weight",
    ),
    (
        Tiny::moe,
        Mistake::Weight("model.layers.1.experts.down_proj", |w| w.iter_mut().for_each(|w| *w *= 1.001)),
        "moe_ffn",
        "model.layers.1.experts.gate_up_proj",
    ),
    (
        Tiny::moe,
        Mistake::Weight("model.layers.0.router.per_expert_scale", |w| w.rotate_left(1)),
        "route",
        "model.layers.0.router.scale",
    ),
    (
        Tiny::ple,
        Mistake::Weight("model.per_layer_projection_norm.weight", |w| w[31] = 0.0),
        "ple_inputs",
        "model.embed_tokens_per_layer.weight",
    ),
    (
        Tiny::dense,
        Mistake::Op(|program, op| match op {
            Op::RmsNorm(norm) if program.weight(norm.weight).name.contains("layers.1.pre_feed") => {
                norm.eps = 1e-3;
            }
            _ => {}
        }),
        "rms_norm",
        "model.layers.1.pre_feedforward_layernorm.weight",
    ),
    (
        Tiny::ple,
        Mistake::Op(|program, op| {
            let here = reads(program, op, "model.layers.2.post_feedforward_layernorm.weight");
            if let (true, Op::NormAdd(norm)) = (here, op) {
                norm.scale *= 1.0001;
            }
        }),
        "norm_add",
        "model.layers.2.post_feedforward_layernorm.weight",
    ),
    (
        Tiny::dense,
        Mistake::Op(|program, op| match op {
            Op::Attention(attention) if program.state(attention.k).name == "blk.1.k" => {
                attention.mask = gemma4_core::ops::attention::Mask::Window(19);
            }
            _ => {}
        }),
        "attention",
        "blk.1.k",
    ),
    (
        Tiny::dense,
        Mistake::Op(|_, op| {
            if let Op::Softcap(softcap) = op {
                softcap.cap = 30.1;
            }
        }),
        "softcap",
        "a",
    ),
];

#[test]
fn the_op_that_makes_a_mistake_is_named_and_no_other() {
    let text = tokens(30, 81);
    for class in [Class::Prefill, Class::Decode] {
        for (tiny, mistake, op, subject) in CASES {
            let faulty = Faulty { backend: backends::reference(), mistake };
            let steps = [(class, &text[..])];
            let result = program_parity(
                &backends::reference(),
                &faulty,
                &tiny().model(),
                Kv::all(KvType::F32),
                &steps,
            );
            let Err(failure @ Failure::Parts { .. }) = result else {
                panic!("{mistake:?} in {op}: {result:?}");
            };
            println!("{failure}");
            let Failure::Parts { op: named, ref place, .. } = failure else { unreachable!("matched above") };
            assert_eq!(named, op, "{failure}");
            assert!(place.contains(&format!(", {subject}")), "{failure}");
        }
    }
}
