//! Drafters by themselves: what they compute, and what they know of a sequence.

use std::path::Path;

use gemma4_conformance::drafts::drafter;
use gemma4_conformance::faulty::{Faulty, Mistake};
use gemma4_conformance::golden::{Drafter, Golden};
use gemma4_conformance::invariance::Subject;
use gemma4_conformance::tiny::{Kv, Tiny, tokens};
use gemma4_conformance::{backends, on_every_backend};
use gemma4_core::backend::Backend;
use gemma4_core::cache::SeqId;
use gemma4_core::engine::{Ask, DraftKind, DraftOptions, Engine, Part, Pick, Watched};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::{LayerConfig, Span};
use gemma4_core::model::gemma4::{KvTypes, Taps};
use gemma4_core::model::mtp::donor;
use gemma4_core::ops::Op;
use gemma4_core::ops::attention::{Mask, Reach};
use gemma4_core::ops::attn_prepare::Values;
use gemma4_core::ops::glu::Activation;
use gemma4_core::program::{Class, Program};
use gemma4_core::reference::Reference;
use gemma4_core::sample::{Draw, Sampling};

fn golden(name: &str) -> Box<Drafter> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    match Golden::open(&dir) {
        Ok(Golden::Drafter(drafter)) => drafter,
        other => panic!("{}: {other:?}", dir.display()),
    }
}

#[test]
fn the_golden_drafters_draft_what_was_recorded() {
    on_every_backend!(|at, new| {
        let all =
            ["dense-assistant", "ple-assistant", "dense-dflash", "moe-dflash", "moe-assistant", "ple-dflash"];
        for (n, name) in at.pick(&all[..], &all[1..3]).iter().enumerate() {
            if !at.takes(n) {
                continue;
            }
            let drafter = golden(name);
            let Some(run) = at.judge(name, drafter.exact(new())) else { continue };
            at.report_with(name, run.comparisons(), &run.summary());
        }
    });
}

/// A mistake in a drafter's programs; those of the target have none of these ops.
type Wrong = (&'static str, &'static str, fn(&Program, &mut Op));

/// Whether a program is a drafter's chain or block.
fn is_draft(program: &Program) -> bool {
    program.ops.iter().any(|op| matches!(op, Op::RecallRows(_))) || is_block(program)
}

pub(crate) fn is_block(program: &Program) -> bool {
    program
        .ops
        .iter()
        .any(|op| matches!(op, Op::AttnPrepare(p) if p.own.is_some_and(|own| own.values == Values::Plain)))
}

const WRONG: [Wrong; 10] = [
    ("dense-assistant", "F7, X8: the hidden state of another row", |_, op| {
        if let Op::RecallRows(op) = op {
            op.back = 1 - op.back;
        }
    }),
    ("dense-assistant", "the anchor's place is seen", |_, op| {
        if let Op::Attention(op) = op {
            op.reach = Reach::Own;
        }
    }),
    ("dense-assistant", "S17: a window one key too long", |program, op| {
        if let (Op::Attention(op), true) = (op, is_draft(program))
            && let Mask::Window(n) = op.mask
        {
            op.mask = Mask::Window(n + 1);
        }
    }),
    ("dense-assistant", "F7: queries that are hardly normed", |program, op| {
        if let (Op::AttnPrepare(op), true) = (op, is_draft(program)) {
            op.eps = 1.0;
        }
    }),
    ("ple-assistant", "a cluster too few", |_, op| {
        if let Op::CentroidHead(op) = op {
            op.top_k -= 1;
        }
    }),
    ("dense-dflash", "S3: a feature of another layer", |_, op| {
        if let Op::KeepRows(op) = op {
            op.column = if op.column == 0 { 256 } else { op.column };
        }
    }),
    ("dense-dflash", "values are normed", |_, op| {
        if let Op::AttnPrepare(op) = op
            && let Some(own) = &mut op.own
            && own.values == Values::Plain
        {
            own.values = Values::Projected;
        }
    }),
    ("dense-dflash", "the rows of a block look back only", |_, op| {
        if let Op::Attention(op) = op {
            op.reach = Reach::Own;
        }
    }),
    ("dense-dflash", "gelu for silu", |_, op| {
        if let Op::Glu(op) = op {
            op.activation = Activation::GeluTanh;
        }
    }),
    ("dense-dflash", "the embedding is not scaled", |program, op| {
        if let (Op::Embed(op), true) = (op, is_block(program)) {
            op.scale = 1.0;
        }
    }),
];

#[test]
fn f7_x7_x8_mistakes_in_drafters_are_rejected_by_what_was_recorded() {
    for (name, mistake, change) in WRONG {
        let wrong = Faulty { backend: backends::reference(), mistake: Mistake::Op(change) };
        let error = golden(name).exact(wrong).expect_err(mistake);
        println!("{name}, {mistake}: {error}");
    }
}

#[test]
fn f17_s13_donors_are_the_last_layers_of_their_kind_that_own_a_cache() {
    let model = |count: usize, every: usize, sharing: usize| -> Vec<LayerConfig> {
        (0..count)
            .map(|l| LayerConfig {
                span: if (l + 1) % every == 0 { Span::Global } else { Span::Local },
                head_dim: if (l + 1) % every == 0 { 512 } else { 256 },
                kv_heads: 1,
                ffn: 1,
                donor: (l >= count - sharing).then_some(0),
                k_eq_v: false,
            })
            .collect()
    };
    for (count, every, sharing, local, global) in
        [(35, 5, 20, 13, 14), (42, 6, 18, 22, 23), (48, 6, 0, 46, 47), (30, 6, 0, 28, 29), (60, 6, 0, 58, 59)]
    {
        let layers = model(count, every, sharing);
        assert_eq!(donor(&layers, Span::Local), Some(local));
        assert_eq!(donor(&layers, Span::Global), Some(global));
    }
}

fn engine<B: Backend>(new: impl Fn() -> B, tiny: &Tiny, context: usize, chunk: usize) -> Engine<B> {
    let subject = Subject { new, tiny: tiny.clone(), kv: Kv::all(KvType::F32) };
    subject.engine(context, chunk, 2).unwrap_or_else(|failure| panic!("{failure}"))
}

const F32: DraftOptions = DraftOptions { kv: KvTypes { k: KvType::F32, v: KvType::F32 }, causal: None };

fn with_dflash(tiny: &Tiny, context: usize, chunk: usize) -> Engine<Reference> {
    let mut engine = engine(backends::reference, tiny, context, chunk);
    engine.attach(drafter(DraftKind::DFlash, tiny), F32, &mut |_, _| ()).expect("it fits");
    engine
}

/// Commits `text` in steps of `size` tokens, with `wrong` rejected rows behind each.
fn feed<B: Backend>(engine: &mut Engine<B>, seq: SeqId, text: &[u32], size: usize, wrong: usize) {
    let sampling = Sampling::default();
    let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
    let class = if size > 20 { Class::Prefill } else { Class::Decode };
    for piece in text.chunks(size) {
        let mut rows = piece.to_vec();
        rows.extend(tokens(wrong, 99));
        let part = Part { seq, tokens: &rows, pick: Pick::All };
        engine.step(class, &[part], &vec![draw; rows.len()], Taps::None).expect("it fits");
        engine.commit(seq, piece.len()).expect("reserved");
    }
}

fn watch<B: Backend>(
    engine: &mut Engine<B>,
    kind: DraftKind,
    seq: SeqId,
    anchor: u32,
    count: usize,
) -> (Vec<u32>, Watched) {
    let sampling = Sampling::default();
    let ask = Ask { seq, anchor, count, sampling: &sampling, edits: &[] };
    engine.propose_watched(kind, &ask).expect("the device works")
}

#[test]
fn s4_every_token_of_the_context_matters_and_the_drafter_stands_where_the_target_does() {
    let tiny = Tiny::dense();
    let mut engine = with_dflash(&tiny, 300, 256);
    let text = tokens(40, 1);
    let seq = engine.open().expect("a sequence is free");
    feed(&mut engine, seq, &text, 40, 0);
    assert_eq!(engine.drafted_context(seq), Some((0, true)), "the drafter follows when it is asked");
    let (_, one) = watch(&mut engine, DraftKind::DFlash, seq, 7, 5);
    assert_eq!(engine.drafted_context(seq), Some((40, true)));
    for changed in [0, 20, 39] {
        let mut other = text.clone();
        other[changed] = (other[changed] + 1) % 160;
        let seq = engine.open().expect("a sequence is free");
        feed(&mut engine, seq, &other, 40, 0);
        let (_, two) = watch(&mut engine, DraftKind::DFlash, seq, 7, 5);
        assert_ne!(one.logits, two.logits, "token {changed}");
        engine.close(seq).expect("it is open");
    }
}

#[test]
fn x6_rows_of_a_block_look_back_on_sliding_layers_unless_the_switch_says_otherwise() {
    let tiny = Tiny::dense();
    let logits = |causal| {
        let mut engine = engine(backends::reference, &tiny, 300, 256);
        let options = DraftOptions { causal, ..F32 };
        engine.attach(drafter(DraftKind::DFlash, &tiny), options, &mut |_, _| ()).expect("it fits");
        let seq = engine.open().expect("a sequence is free");
        feed(&mut engine, seq, &tokens(40, 1), 40, 0);
        watch(&mut engine, DraftKind::DFlash, seq, 7, 5).1.logits
    };
    // One layer slides and one does not: by itself, only the first looks back.
    let [own, back, both] = [None, Some(true), Some(false)].map(logits);
    assert_ne!(own, both, "sliding layers look ahead too");
    assert_ne!(own, back, "the full layer looks back only");
    assert_ne!(back, both);
}

#[test]
fn s5_s6_x9_a_block_is_the_same_however_the_context_came_and_whatever_was_rejected() {
    let tiny = Tiny::dense();
    let text = tokens(900, 2);
    let block = |chunk: usize, feeds: &[(usize, usize, usize)], asked: bool| {
        let mut engine = with_dflash(&tiny, 1000, chunk);
        let seq = engine.open().expect("a sequence is free");
        let mut at = 0;
        for &(n, size, wrong) in feeds {
            feed(&mut engine, seq, &text[at..at + n], size, wrong);
            at += n;
            if asked {
                watch(&mut engine, DraftKind::DFlash, seq, 3, 15);
            }
        }
        assert_eq!(at, text.len());
        let (drafts, watched) = watch(&mut engine, DraftKind::DFlash, seq, 7, 15);
        assert_eq!(drafts.len(), 15);
        assert_eq!(engine.drafted_context(seq), Some((900, true)));
        watched
    };
    // A prompt far longer than the window, the ring of features and the ring of the drafter's cache.
    let want = block(256, &[(900, 256, 0)], false);
    assert_eq!(want, block(256, &[(256, 256, 0), (44, 44, 0), (600, 200, 0)], true));
    // Long without being asked: the drafter catches up before features are lost.
    assert_eq!(want, block(256, &[(200, 200, 0), (400, 1, 0), (300, 5, 3)], false));
    assert_eq!(want, block(256, &[(640, 160, 0), (260, 4, 12)], true));
}

#[test]
fn x9_going_back_and_shared_prefixes_leave_no_gap() {
    let tiny = Tiny::dense();
    let text = tokens(420, 3);
    let want = {
        let mut engine = with_dflash(&tiny, 600, 256);
        let seq = engine.open().expect("a sequence is free");
        feed(&mut engine, seq, &text, 210, 0);
        watch(&mut engine, DraftKind::DFlash, seq, 7, 6)
    };
    let mut engine = with_dflash(&tiny, 600, 256);
    let seq = engine.open().expect("a sequence is free");
    feed(&mut engine, seq, &text[..300], 150, 0);
    feed(&mut engine, seq, &tokens(60, 4), 60, 0);
    watch(&mut engine, DraftKind::DFlash, seq, 1, 3);
    let reached = engine.rollback(seq, 300).expect("within a page");
    feed(&mut engine, seq, &text[reached..400], 50, 2);
    let snapshot = engine.snapshot_at(seq, 400).expect("the window is there");
    feed(&mut engine, seq, &text[400..], 5, 1);
    assert_eq!(want, watch(&mut engine, DraftKind::DFlash, seq, 7, 6), "after going back");

    let (other, usable) = engine.open_from(&snapshot).expect("a sequence is free");
    feed(&mut engine, other, &text[usable..], 20, 0);
    assert_eq!(want, watch(&mut engine, DraftKind::DFlash, other, 7, 6), "behind a shared prefix");

    // Tokens that nobody computed leave the drafter without their features: no drafts, until it starts over.
    engine.close(other).expect("it is open");
    let skipping = engine.open().expect("a sequence is free");
    engine.skip(skipping, 100).expect("it fits");
    feed(&mut engine, skipping, &text[..20], 20, 0);
    assert_eq!(engine.drafted_context(skipping), Some((0, false)));
    assert!(watch(&mut engine, DraftKind::DFlash, skipping, 7, 6).0.is_empty());
    engine.rollback(skipping, 0).expect("to the start");
    feed(&mut engine, skipping, &text, 210, 0);
    assert_eq!(want, watch(&mut engine, DraftKind::DFlash, skipping, 7, 6), "after starting over");
}

#[test]
fn k8_s17_f9_assistants_own_no_cache_and_read_the_rows_of_their_donors_after_any_wrap() {
    // Around the window, the ring and its wrap, a chain is that of a cache that never wraps.
    let tiny = Tiny::dense();
    let text = tokens(1300, 5);
    let chains = |context: usize| {
        let mut engine = engine(backends::reference, &tiny, context, 256);
        let pools = engine.cache().spec().local_pages;
        engine.attach(drafter(DraftKind::Mtp, &tiny), F32, &mut |_, _| ()).expect("it fits");
        assert_eq!(engine.cache().spec().local_pages, pools);
        let seq = engine.open().expect("a sequence is free");
        let mut all = Vec::new();
        let mut at = 0;
        for until in [19, 20, 21, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1023, 1024, 1025, 1299] {
            feed(&mut engine, seq, &text[at..until], 256, 0);
            at = until;
            all.push(watch(&mut engine, DraftKind::Mtp, seq, text[until], 5));
        }
        all
    };
    // The larger context's ring is as large as a window and a step ask for; the smaller one's holds everything.
    let (wrapping, whole) = (chains(4000), {
        let tiny = Tiny::dense().with_window(20);
        let mut engine = engine(backends::reference, &tiny, 1400, 1400);
        engine.attach(drafter(DraftKind::Mtp, &tiny), F32, &mut |_, _| ()).expect("it fits");
        let seq = engine.open().expect("a sequence is free");
        let mut all = Vec::new();
        let mut at = 0;
        for until in [19, 20, 21, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1023, 1024, 1025, 1299] {
            feed(&mut engine, seq, &text[at..until], 256, 0);
            at = until;
            all.push(watch(&mut engine, DraftKind::Mtp, seq, text[until], 5));
        }
        all
    });
    assert_eq!(wrapping, whole);
}

#[test]
fn f16_a_chain_begins_with_the_hidden_state_of_the_last_accepted_row() {
    let tiny = Tiny::ple();
    let text = tokens(60, 6);
    let (prompt, rest) = text.split_at(50);
    for m in 0..4 {
        let chain = |drafted: bool| {
            let mut engine = engine(backends::reference, &tiny, 200, 256);
            engine.attach(drafter(DraftKind::Mtp, &tiny), F32, &mut |_, _| ()).expect("it fits");
            let seq = engine.open().expect("a sequence is free");
            feed(&mut engine, seq, prompt, 50, 0);
            if drafted {
                // One step of the target, of which the first m + 1 rows are kept.
                feed(&mut engine, seq, &rest[..=m], m + 1, 3 - m);
            } else {
                feed(&mut engine, seq, &rest[..=m], 1, 0);
            }
            watch(&mut engine, DraftKind::Mtp, seq, rest[m + 1], 4)
        };
        assert_eq!(chain(true), chain(false), "{m} drafts accepted");
    }
}

#[test]
fn blocks_and_chains_of_several_sequences_are_those_of_each_alone() {
    let tiny = Tiny::moe();
    let texts = [tokens(30, 7), tokens(130, 8)];
    let sampling = Sampling { temperature: 0.8, seed: 3, ..Sampling::default() };
    let fresh = || {
        let mut engine = engine(backends::reference, &tiny, 300, 256);
        for kind in [DraftKind::Mtp, DraftKind::DFlash] {
            engine.attach(drafter(kind, &tiny), F32, &mut |_, _| ()).expect("it fits");
        }
        engine
    };
    for kind in [DraftKind::Mtp, DraftKind::DFlash] {
        let ask = |seq, count| Ask { seq, anchor: 9, count, sampling: &sampling, edits: &[] };
        let alone: Vec<Vec<u32>> = texts
            .iter()
            .zip([3, 6])
            .map(|(text, count)| {
                let mut engine = fresh();
                let seq = engine.open().expect("a sequence is free");
                feed(&mut engine, seq, text, 130, 0);
                engine.propose(kind, &[ask(seq, count)]).expect("the device works").remove(0)
            })
            .collect();
        let mut engine = fresh();
        let seqs = texts.each_ref().map(|text| {
            let seq = engine.open().expect("a sequence is free");
            feed(&mut engine, seq, text, 130, 0);
            seq
        });
        let together = engine.propose(kind, &[ask(seqs[0], 3), ask(seqs[1], 6)]).expect("the device works");
        assert_eq!(alone, together);
    }
}
