//! What single cases cannot show of `attn_prepare` and `attention` on wgpu: rows of several sequences in one step, plans
//! of several sizes, and the bytes of the cache.

use gemma4_conformance::backends::{self, Covered, Device};
use gemma4_conformance::cases;
use gemma4_core::backend::{Backend, PageTable, Row, Step};
use gemma4_core::cache::PAGE;
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::ops::attention::Mask;
use gemma4_core::ops::attn_prepare::{Heads, OwnKeys, Values};
use gemma4_core::program::{Act, Class, Program, State, StateSpec, Weight, WeightSpec};
use gemma4_core::reference::Reference;
use gemma4_core::tensor::{Bytes, DType, Tensor};
use gemma4_wgpu::Wgpu;

/// Numbers between -1 and 1.
#[expect(clippy::cast_precision_loss, reason = "24 bits")]
fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn tensor(name: &str, rows: usize, values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = [1, rows, values.len() / rows];
    Tensor::new(name, DType::F32, shape, Bytes::from_owner(bytes)).expect("shapes fit")
}

/// A GPU with and without shader variants, as far as this run covers one.
fn devices() -> Vec<(&'static Covered, &'static Wgpu)> {
    let wgpu = |at: &'static Covered| match &at.device {
        Device::Wgpu(wgpu) => Some((at, wgpu)),
        Device::Cpu | Device::Cuda(_) => None,
    };
    backends::covered().iter().filter_map(wgpu).collect()
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("small")
}

/// Attention over filled pools.
struct Subject<'a, B: Backend> {
    backend: &'a B,
    heads: Heads,
    mask: Mask,
    specs: Vec<StateSpec>,
    states: Vec<B::State>,
    table: Tensor,
}

impl<'a, B: Backend> Subject<'a, B> {
    /// Pools of `pages` pages, and `queries` different queries.
    fn new(
        backend: &'a B,
        heads: Heads,
        mask: Mask,
        types: [KvType; 2],
        pages: usize,
        queries: usize,
    ) -> Self {
        let span = if mask == Mask::Causal { Span::Global } else { Span::Local };
        let (kv_heads, head_dim) = (heads.kv_heads, heads.head_dim);
        let spec =
            |kv_type: KvType| StateSpec { name: "pool".into(), span, kv_type, kv_heads, head_dim, pages };
        let specs: Vec<StateSpec> = types.into_iter().map(spec).collect();
        let fill = |(spec, seed): (&StateSpec, u64)| {
            let state = backend.state(spec).expect("it fits");
            for page in 0..pages {
                let values = random(kv_heads * PAGE * head_dim, seed + page as u64);
                let mut bytes = vec![0; spec.page_bytes()];
                spec.kv_type.encode(&values, &mut bytes).expect("finite");
                backend.write_page(&state, narrow(page), &bytes).expect("it runs");
            }
            state
        };
        let states = specs.iter().zip([1000, 2000]).map(fill).collect();
        let table = tensor("q", queries, &random(queries * heads.heads * head_dim, 3));
        Self { backend, heads, mask, specs, states, table }
    }

    /// The outputs of `rows` in a plan of `capacity` rows, row by row.
    fn run(&self, class: Class, capacity: usize, rows: &[Row], tables: &[PageTable<'_>]) -> Vec<Vec<f32>> {
        let weights = vec![WeightSpec::of(&self.table)];
        let mut program = Program::new(class, capacity, 1, weights.into(), self.specs.clone().into());
        let q = program.embed(Weight::new(0), 1.0);
        let pools = (State::new(0), State::new(1));
        let out: Act = program.attention(q, self.heads, pools, self.mask).expect("widths agree");
        program.output(out);
        let weight = self.backend.upload(&self.table).expect("it fits");
        let mut plan = self.backend.compile(&program, &[weight], &self.states).expect("it compiles");
        let step = Step { rows, picked: &[], tables, draws: &[] };
        let ticket = self.backend.run(&mut plan, &step).expect("it runs");
        let cols = self.heads.heads * self.heads.head_dim;
        let mut values = vec![0.0f32; rows.len() * cols];
        self.backend.read(&plan, ticket, out, &mut values).expect("it runs");
        values.chunks(cols).map(<[f32]>::to_vec).collect()
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() && a.is_finite())
}

/// Rows of four sequences in three orders have the bits that each has alone, in both classes.
#[test]
fn company_changes_nothing() {
    let global: [&[u32]; 4] = [&[3, 1, 4], &[0], &[5, 2], &[6, 7, 8]];
    let tables: Vec<PageTable<'_>> =
        global.iter().map(|pages| PageTable { global: pages, local: pages }).collect();
    let spans = [(0u32, 600u32, 9u32), (1, 0, 5), (2, 250, 14), (3, 511, 2)];
    let mut rows: Vec<Row> = Vec::new();
    for (slot, start, len) in spans {
        rows.extend((start..start + len).map(|position| Row { token: 0, position, slot }));
    }
    (0..).zip(&mut rows).for_each(|(i, row)| row.token = i);
    let backwards: Vec<Row> = rows.iter().rev().copied().collect();
    let mixed: Vec<Row> = (0..rows.len()).map(|i| rows[i * 7 % rows.len()]).collect();
    assert_ne!(rows.len() % 7, 0, "a shuffle that loses no row");
    for (at, backend) in devices() {
        let _turn = at.turn();
        let mut compared = 0;
        for (heads, mask) in [
            (Heads { heads: 6, kv_heads: 2, head_dim: 128 }, Mask::Causal),
            (Heads { heads: 16, kv_heads: 1, head_dim: 512 }, Mask::Causal),
            (Heads { heads: 4, kv_heads: 2, head_dim: 256 }, Mask::Window(100)),
        ] {
            let types = [KvType::Q8_0, KvType::F16];
            let subject = Subject::new(backend, heads, mask, types, 9, rows.len());
            for class in [Class::Prefill, Class::Decode] {
                let alone: Vec<Vec<f32>> =
                    rows.iter().map(|row| subject.run(class, 1, &[*row], &tables).remove(0)).collect();
                for order in [&rows, &backwards, &mixed] {
                    let together = subject.run(class, 40, order, &tables);
                    for (row, got) in order.iter().zip(&together) {
                        assert!(
                            same_bits(&alone[row.token as usize], got),
                            "{}: {heads:?} {mask:?} {class:?} {row:?}",
                            at.name
                        );
                        compared += got.len();
                    }
                }
            }
        }
        at.report("attention in company", compared);
    }
}

/// A plan whose partial results do not fit at once has the bits of one where they do.
#[test]
fn rounds_of_splits_change_nothing() {
    for (at, backend) in devices() {
        let _turn = at.turn();
        let heads = Heads { heads: 8, kv_heads: 1, head_dim: 512 };
        let subject = Subject::new(backend, heads, Mask::Causal, [KvType::Q4_0; 2], 40, 2);
        let pages: Vec<u32> = (0..40).collect();
        let tables = [PageTable { global: &pages, local: &[] }];
        let row = |position, token| Row { token, position, slot: 0 };
        let mut compared = 0;
        for rows in [[row(9999, 0), row(10_000, 1)], [row(7000, 0), row(9000, 1)]] {
            let small = subject.run(Class::Decode, 2, &rows, &tables);
            let large = subject.run(Class::Decode, 200, &rows, &tables);
            for (a, b) in small.iter().zip(&large) {
                assert!(same_bits(a, b), "{}: {rows:?}", at.name);
                compared += a.len();
            }
        }
        at.report("attention in rounds of splits", compared);
    }
}

/// The pages after a step of `attn_prepare` on one backend.
fn stored<B: Backend>(
    backend: &B,
    heads: Heads,
    kv_type: KvType,
    rows: &[Row],
    values: &[f32],
) -> Vec<Vec<u8>> {
    let dim = heads.head_dim;
    let spec = |name: &str| StateSpec {
        name: name.into(),
        span: Span::Local,
        kv_type,
        kv_heads: heads.kv_heads,
        head_dim: dim,
        pages: 2,
    };
    let specs = [spec("k"), spec("v")];
    let tensors = [
        tensor("x", rows.len(), values),
        tensor("norm", 1, &random(dim, 5).iter().map(|x| 1.0 + 0.2 * x).collect::<Vec<_>>()),
        tensor(
            "frequency",
            1,
            &(0..dim / 2).map(|i| 0.9f32.powi(i32::try_from(i).expect("small"))).collect::<Vec<_>>(),
        ),
    ];
    let weights: Vec<WeightSpec> = tensors.iter().map(WeightSpec::of).collect();
    let mut program = Program::new(Class::Prefill, rows.len(), 1, weights.into(), specs.to_vec().into());
    let x = program.embed(Weight::new(0), 1.0);
    let own =
        OwnKeys { k_norm: Weight::new(1), values: Values::Projected, k: State::new(0), v: State::new(1) };
    let norms = (Weight::new(1), Weight::new(2));
    let out = program.attn_prepare(x, heads, norms, Some(own), 1e-6).expect("widths agree");
    program.output(out);
    let weights: Vec<B::Weight> = tensors.iter().map(|t| backend.upload(t).expect("it fits")).collect();
    let states: Vec<B::State> = specs.iter().map(|s| backend.state(s).expect("it fits")).collect();
    let mut plan = backend.compile(&program, &weights, &states).expect("it compiles");
    let tables = [PageTable { global: &[], local: &[1, 0] }];
    backend.run(&mut plan, &Step { rows, picked: &[], tables: &tables, draws: &[] }).expect("it runs");
    let page = |(state, page): (&B::State, u32)| {
        let mut bytes = vec![0; specs[0].page_bytes()];
        backend.read_page(state, page, &mut bytes).expect("it runs");
        bytes
    };
    states.iter().flat_map(|state| [(state, 0), (state, 1)]).map(page).collect()
}

/// The cache holds the reference's bytes, but for values that the last bit of an `f32` moves to another code.
#[test]
fn stored_bytes_are_those_of_the_reference() {
    let reference = Reference::new(None).expect("threads");
    for (at, backend) in devices() {
        let _turn = at.turn();
        let mut compared = 0;
        for kv_type in KvType::ALL {
            for heads in [
                Heads { heads: 2, kv_heads: 2, head_dim: 128 },
                Heads { heads: 1, kv_heads: 1, head_dim: 512 },
            ] {
                let rows: Vec<Row> = (0..40)
                    .map(|i| Row { token: i, position: 100_000 * 256 / 256 + i + 70, slot: 0 })
                    .collect();
                let columns = (heads.heads + 2 * heads.kv_heads) * heads.head_dim;
                let mut x = random(rows.len() * columns, 17);
                x[columns..2 * columns].fill(0.0);
                x.iter_mut().step_by(53).for_each(|x| *x *= 300.0);
                let want = stored(&reference, heads, kv_type, &rows, &x);
                let got = stored(backend, heads, kv_type, &rows, &x);
                let all: usize = want.iter().map(Vec::len).sum();
                let differ: usize =
                    want.iter().zip(&got).map(|(a, b)| a.iter().zip(b).filter(|(a, b)| a != b).count()).sum();
                println!("{kv_type} {heads:?}: {differ} of {all} bytes");
                // An f32 itself differs in its last bits; codes only where those cross a border.
                let most = if kv_type == KvType::F32 { all / 4 } else { all / 2000 };
                assert!(differ <= most, "{}: {kv_type} {heads:?}: {differ} of {all} bytes", at.name);
                compared += all;
            }
        }
        at.report("stored bytes", compared);
    }
}

/// What is written is what is read.
#[test]
fn pages_come_back_as_they_went() {
    for (at, backend) in devices() {
        let _turn = at.turn();
        let mut compared = 0;
        for kv_type in KvType::ALL {
            for (head_dim, kv_heads) in [(128, 3), (256, 1)] {
                let name = "pool".into();
                let spec = StateSpec { name, span: Span::Global, kv_type, kv_heads, head_dim, pages: 2 };
                let state = backend.state(&spec).expect("it fits");
                let page = |n: usize| {
                    let byte = |i: usize| (i * 7 + i / 251 + n).to_le_bytes()[0];
                    (0..spec.page_bytes()).map(byte).collect::<Vec<u8>>()
                };
                for n in 0..2 {
                    backend.write_page(&state, narrow(n), &page(n)).expect("it runs");
                }
                for n in 0..2 {
                    let mut bytes = vec![0; spec.page_bytes()];
                    backend.read_page(&state, narrow(n), &mut bytes).expect("it runs");
                    assert_eq!(bytes, page(n), "{}: {kv_type}, {head_dim}", at.name);
                    compared += bytes.len();
                }
            }
        }
        at.report("pages there and back", compared);
    }
}

#[test]
fn values_that_are_no_numbers_stay_with_the_rows_that_see_them() {
    for (at, wgpu) in devices() {
        let turn = at.turn();
        let mut compared = 0;
        for case in cases::broken_cases() {
            let got = case.run(wgpu).unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
            let agreement = case.compare(&got).unwrap_or_else(|wrong| panic!("{}: {wrong}", case.name));
            compared += agreement.count;
        }
        drop(turn);
        at.report("values that are no numbers", compared);
    }
}
