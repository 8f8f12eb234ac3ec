//! Cases of `linear`.

use gemma4_core::ops::glu::{Activation, Columns};
use gemma4_core::program::{Class, Weight};
use gemma4_core::tensor::DType;

use super::lossy::{Losses, no_losses};
use super::{Case, Make, Settings, U, gelu, inputs, later, op, plain, sum_error, together, wide};

/// Where products lose what `losses` says; see [`exact`].
pub(super) fn cases(losses: Losses) -> Vec<Case> {
    // Rows around the sizes of tiles, widths with and without a rest, one and several stacked weights.
    let shapes = [
        (1, 32, vec![1]),
        (1, 2816, vec![64, 16, 16]),
        (7, 257, vec![33]),
        (9, 96, vec![17, 5]),
        // As many rows as a tile of few has, one less and one more; likewise a narrow one, and one more than a wide one.
        (15, 160, vec![66]),
        (16, 256, vec![64, 3]),
        (17, 64, vec![8]),
        (64, 96, vec![65]),
        (65, 64, vec![130]),
        (129, 64, vec![130]),
        (1, 4128, vec![5]),
        (4, 256, vec![65, 63]),
    ];
    let plain = shapes.into_iter().flat_map(|(rows, cols, outputs)| {
        CLASSES.map(|class| {
            let outputs = outputs.clone();
            later(move || case(rows, cols, &outputs, class, losses))
        })
    });
    let typed = CLASSES.into_iter().flat_map(|class| {
        let types = [1, 2, 5, 9]
            .into_iter()
            .flat_map(move |rows| [0, 1].map(|half| later(move || quantised(rows, class, half, losses))));
        let alone = [0, 1].map(|half| later(move || quantised(1, class, half, losses).full()));
        let long = types.chain(alone).chain(long_rows(class, losses));
        long.chain(narrow_rows(1, class, losses)).chain(narrow_rows(3, class, losses))
    });
    let fused = [DType::F16, DType::Q8_0, DType::Q4_K, DType::Q6_K].into_iter().flat_map(move |dtype| {
        // The last of one row is long enough that blocks of a launch may share its columns out.
        [(1, 768, 33), (1, 12544, 5), (1, 15872, 37), (5, 768, 33)]
            .map(|(rows, cols, outputs)| later(move || gated(rows, cols, outputs, dtype, losses).full()))
    });
    let several = CLASSES.map(|class| later(move || stacked(9, class, losses)));
    let stack = later(move || stacked(1, Class::Decode, losses).full());
    together(
        plain
            .chain(typed)
            .chain(several)
            .chain([stack])
            .chain([1, 3].map(|rows| later(move || opened(rows, losses).full())))
            .chain(fused)
            .chain(projections(losses))
            .chain([large(losses)]),
    )
}

const CLASSES: [Class; 2] = [Class::Prefill, Class::Decode];

/// Within the bounds of `f32`.
pub(super) fn exact() -> Vec<Case> {
    cases(no_losses)
}

fn case(rows: usize, cols: usize, outputs: &[usize], class: Class, losses: Losses) -> Case {
    let mut case = Case::new("linear", rows, format!("{cols} to {outputs:?}, {class:?}"));
    case.program.class = class;
    let x = inputs(rows, cols, 12);
    let input = case.input(&x);
    let all = plain(outputs.iter().sum::<usize>() * cols, 13);
    let (mut weights, mut rest) = (Vec::new(), &all[..]);
    for &outputs in outputs {
        let (part, after) = rest.split_at(outputs * cols);
        weights.push(case.weight([1, outputs, cols], part));
        rest = after;
    }
    let out = case.program.linear(input, &weights).expect("the widths agree");
    let lost = |x: &[f64], w: &[f64]| losses(class, x, w, DType::F32);
    let (want, allowed) = product(&wide(&x), &wide(&all), cols, |_, x, w| lost(x, w));
    case.expect(out, want, allowed)
        .mutant("weights stacked in another order", |case| op!(case, Linear).weights.reverse())
        .mutant("a column too few", move |case| {
            case.change(0, |x| x.chunks_mut(cols).for_each(|x| x[cols - 1] = 0.0));
        })
        .mutant("input shifted by one", |case| case.change(0, |x| x.rotate_right(1)))
}

/// `x · weightᵀ` and its bound: that of `f32`, and what the product of output number `o` with a row loses.
fn product(
    x: &[f64],
    weight: &[f64],
    cols: usize,
    lost: impl Fn(usize, &[f64], &[f64]) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for x in x.chunks(cols) {
        for (o, w) in weight.chunks(cols).enumerate() {
            let terms = || x.iter().zip(w).map(|(x, w)| x * w);
            want.push(terms().sum());
            allowed.push(sum_error(cols) * terms().map(f64::abs).sum::<f64>() + lost(o, x, w));
        }
    }
    (want, allowed)
}

/// Every second type that files hold: what `quant::decode` says, in a product.
fn quantised(rows: usize, class: Class, half: usize, losses: Losses) -> Case {
    let cols = 768;
    let weights: Vec<_> = DType::ALL.into_iter().skip(half).step_by(2).map(|dtype| (dtype, 3)).collect();
    let what = ["one half of all types", "the other half of all types"][half];
    typed(rows, cols, class, what, &weights, losses)
        .shared(half)
        .mutant("types in another order", |case| op!(case, Linear).weights.reverse())
}

/// One row of activations where an output is shared by many invocations: of 40 chunks of columns, and of 176.
fn long_rows(class: Class, losses: Losses) -> [Make; 2] {
    [1280, 5632].map(|cols| {
        later(move || {
            let weights = [(DType::Q4_K, 37), (DType::Q6_K, 5), (DType::Q8_0, 18), (DType::F16, 2)];
            typed(1, cols, class, "long rows", &weights, losses)
                .full()
                .mutant("types in another order", |case| op!(case, Linear).weights.reverse())
        })
    })
}

/// So many outputs of long rows that a backend may have them in larger groups.
fn large(losses: Losses) -> Make {
    later(move || typed(1, 5376, Class::Decode, "a large matrix", &[(DType::Q4_K, 4097)], losses).full())
}

/// Types of short blocks where columns do not fill groups of eight blocks, nor quads, nor words.
fn narrow_rows(rows: usize, class: Class, losses: Losses) -> Vec<Make> {
    const SHORT: [DType; 7] =
        [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::IQ4_NL, DType::MXFP4];
    const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
    let with = |types: &[DType], outputs| types.iter().map(|&dtype| (dtype, outputs)).collect::<Vec<_>>();
    let blocks = with(&[&SHORT[..], &FLOATS].concat(), 6);
    let floats = with(&FLOATS, 9);
    let blocks = [0, 1].map(|half| blocks.iter().copied().skip(half).step_by(2).collect::<Vec<_>>());
    let make = |cols, what, weights: &[(DType, usize)], half: Option<usize>| {
        let weights = weights.to_vec();
        later(move || Case { shared: half, ..typed(rows, cols, class, what, &weights, losses) })
    };
    let mut cases: Vec<_> = [32, 96, 352]
        .into_iter()
        .flat_map(|cols| {
            [("short blocks", 0), ("other short blocks", 1)]
                .map(|(what, half)| make(cols, what, &blocks[half], Some(half)))
        })
        .collect();
    cases.extend([1, 31, 33, 257].map(|cols| make(cols, "odd widths", &floats, None)));
    cases
}

/// Neighbours of one type, which a backend may take at once: two, more than three, and one alone.
fn stacked(rows: usize, class: Class, losses: Losses) -> Case {
    let weights =
        [(DType::Q6_K, 33), (DType::Q6_K, 2), (DType::Q4_K, 65), (DType::Q4_K, 1), (DType::Q4_K, 34)];
    let weights = [&weights[..], &[(DType::Q4_K, 3), (DType::Q8_0, 4)]].concat();
    typed(rows, 512, class, "neighbours of one type", &weights, losses)
        .mutant("weights stacked in another order", |case| op!(case, Linear).weights.reverse())
}

/// A gate, and what it opens in another activation.
fn opened(rows: usize, losses: Losses) -> Case {
    let (cols, outputs, start, dtype) = (512, 33, 5, DType::Q4_K);
    let mut case = Case::new("linear", rows, format!("{outputs} gates of another activation"));
    case.program.class = Class::Decode;
    case.settings = vec![Settings::default(); rows];
    let x: Vec<f32> = plain(rows * cols, 16).into_iter().map(|x| x / 128.0).collect();
    let input = case.input(&x);
    let other_cols = outputs + start + 2;
    let other = plain(rows * other_cols, 17);
    let up = case.input(&other);
    let data = blocks(dtype, outputs, cols);
    let mut decoded = vec![0.0f32; outputs * cols];
    gemma4_core::quant::decode(dtype, &data, &mut decoded);
    let weight = case.raw_weight(dtype, [1, outputs, cols], data);
    let gate = case.program.linear(input, &[weight]).expect("the widths agree");
    let (gate, up) = (Columns { act: gate, start: 0 }, Columns { act: up, start });
    let out = case.program.glu(gate, up, outputs).expect("the columns fit");
    let lost = |_, x: &[f64], w: &[f64]| losses(Class::Decode, x, w, dtype);
    let (gates, errors) = product(&wide(&x), &wide(&decoded), cols, lost);
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (i, (gate, error)) in gates.into_iter().zip(errors).enumerate() {
        let up = f64::from(other[i / outputs * other_cols + start + i % outputs]);
        want.push(gelu(gate) * up);
        // The slope of gelu is below 1.13; the rest as in the cases of glu.
        allowed.push(1.13 * error * up.abs() + 16.0 * U * (gate * up).abs());
    }
    case.expect(out, want, allowed).mutant("columns of a neighbour", |case| op!(case, Glu).up.start += 1)
}

/// A product with weights of several types and so many outputs each.
fn typed(
    rows: usize,
    cols: usize,
    class: Class,
    what: &str,
    weights: &[(DType, usize)],
    losses: Losses,
) -> Case {
    let mut case = Case::new("linear", rows, format!("{what}, {cols} wide, {class:?}"));
    case.program.class = class;
    case.settings = vec![Settings::default(); rows];
    let x = plain(rows * cols, 14);
    let input = case.input(&x);
    let (handles, all) = stack(&mut case, cols, weights);
    let out = case.program.linear(input, &handles).expect("the widths agree");
    let types: Vec<DType> = weights.iter().flat_map(|&(dtype, outputs)| vec![dtype; outputs]).collect();
    let lost = |o: usize, x: &[f64], w: &[f64]| losses(class, x, w, types[o]);
    let (want, allowed) = product(&wide(&x), &all, cols, lost);
    case.expect(out, want, allowed)
}

/// Weights of these types and numbers of outputs, and their values, one after the other.
fn stack(case: &mut Case, cols: usize, weights: &[(DType, usize)]) -> (Vec<Weight>, Vec<f64>) {
    let mut all = Vec::new();
    let add = |&(dtype, outputs): &(DType, usize)| {
        let data = blocks(dtype, outputs, cols);
        let mut decoded = vec![0.0f32; outputs * cols];
        let row_bytes = data.len() / outputs;
        for (data, decoded) in data.chunks_exact(row_bytes).zip(decoded.chunks_exact_mut(cols)) {
            gemma4_core::quant::decode(dtype, data, decoded);
        }
        all.extend(wide(&decoded));
        case.raw_weight(dtype, [1, outputs, cols], data)
    };
    (weights.iter().map(add).collect(), all)
}

/// Prompts and weights of whole groups of 64 outputs and columns, a case for each type that halves hold: what a library
/// multiplies. Neighbours of other types are among them, and F16, whose values need no factor.
pub(super) fn whole_groups(rows: usize, losses: Losses) -> Vec<Case> {
    let types = DType::ALL.into_iter().filter(|dtype| !matches!(dtype, DType::F32 | DType::BF16));
    let weights = |dtype| [(dtype, 128), (DType::F16, 64), (DType::Q8_0, 64), (dtype, 64)];
    together(types.map(|dtype| {
        later(move || {
            let what = format!("groups of {dtype}");
            typed(rows, 512, Class::Prefill, &what, &weights(dtype), losses)
                .mutant("weights stacked in another order", |case| op!(case, Linear).weights.reverse())
        })
    }))
}

/// A gate and what it multiplies, which a backend may take at once: outputs of two weights of one type, and `glu`.
fn gated(rows: usize, cols: usize, outputs: usize, dtype: DType, losses: Losses) -> Case {
    let mut case = Case::new("linear", rows, format!("{outputs} gates of {dtype}, {cols} wide"));
    case.program.class = Class::Decode;
    case.settings = vec![Settings::default(); rows];
    // Small enough that gates are neither open nor shut.
    let x: Vec<f32> = plain(rows * cols, 15).into_iter().map(|x| x / 128.0).collect();
    let input = case.input(&x);
    let data = blocks(dtype, 2 * outputs, cols);
    let mut decoded = vec![0.0f32; 2 * outputs * cols];
    gemma4_core::quant::decode(dtype, &data, &mut decoded);
    let weights = [0, 1].map(|half| {
        let half = data.chunks_exact(data.len() / 2).nth(half).map(<[u8]>::to_vec);
        case.raw_weight(dtype, [1, outputs, cols], half.expect("two halves"))
    });
    let both = case.program.linear(input, &weights).expect("the widths agree");
    let columns = |start| Columns { act: both, start };
    let out = case.program.glu(columns(0), columns(outputs), outputs).expect("the halves fit");
    let lost = |_, x: &[f64], w: &[f64]| losses(Class::Decode, x, w, dtype);
    let (products, errors) = product(&wide(&x), &wide(&decoded), cols, lost);
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (products, errors) in products.chunks(2 * outputs).zip(errors.chunks(2 * outputs)) {
        let (gates, ups) = products.split_at(outputs);
        let (gate_errors, up_errors) = errors.split_at(outputs);
        for (((&gate, &up), gate_error), up_error) in gates.iter().zip(ups).zip(gate_errors).zip(up_errors) {
            want.push(gelu(gate) * up);
            // The slope of gelu is below 1.13; the rest as in the cases of glu.
            let slope = 1.13 * gate_error;
            let error = slope * (up.abs() + up_error) + gelu(gate).abs() * up_error;
            allowed.push(error + 16.0 * U * (gate * up).abs());
        }
    }
    case.expect(out, want, allowed)
        .mutant("gate and second operand swapped", |case| op!(case, Linear).weights.reverse())
        .mutant("the gate times itself", |case| {
            let linear = op!(case, Linear);
            linear.weights[1] = linear.weights[0];
        })
}

/// Gated units of up to 256 columns and products of them, which a backend may take at once: numbers of rows around those of its
/// kernels, widths that are quads and that are not, and operands that do not start at one.
fn projections(losses: Losses) -> Vec<Make> {
    use Activation::{GeluTanh, Silu};
    use DType::{BF16, F16, F32, MXFP4, Q2_K, Q4_K, Q5_1, Q6_K, Q8_0};
    [
        (1, 256, 0, [Q4_K, Q4_K].as_slice(), GeluTanh),
        (1, 256, 4, &[F16], GeluTanh),
        (1, 96, 0, &[Q8_0, Q8_0, Q8_0], Silu),
        (1, 31, 3, &[F32], Silu),
        (3, 256, 5, &[Q6_K], Silu),
        (3, 250, 0, &[BF16, BF16], GeluTanh),
        (3, 256, 0, &[Q4_K, Q6_K], GeluTanh),
        (5, 32, 8, &[MXFP4], GeluTanh),
        (8, 252, 0, &[F32], GeluTanh),
        (9, 256, 0, &[Q2_K], GeluTanh),
        (9, 160, 1, &[Q5_1], Silu),
        (16, 256, 0, &[F16], Silu),
        (17, 256, 12, &[Q4_K], GeluTanh),
        (33, 256, 0, &[F32], GeluTanh),
    ]
    .map(|(rows, cols, start, types, activation)| {
        later(move || projected((rows, cols, start), types, activation, losses).full())
    })
    .into()
}

/// These, within the bounds of `f32`.
#[must_use]
pub fn projection_cases() -> Vec<Case> {
    together(projections(no_losses))
}

/// The product of a gated unit of so many rows and columns, whose second operand starts at a column of another activation.
fn projected(
    (rows, cols, start): (usize, usize, usize),
    types: &[DType],
    activation: Activation,
    losses: Losses,
) -> Case {
    const OUTPUTS: usize = 67;
    let what = format!("of a unit of {cols} columns, {types:?}, {activation:?}");
    let mut case = Case::new("linear", rows, what);
    case.program.class = Class::Decode;
    case.settings = vec![Settings::default(); rows];
    let (gates, ups) = (plain(rows * cols, 18), plain(rows * (start + cols), 19));
    let [gate, up] = [&gates, &ups].map(|values| case.input(values));
    let weights: Vec<(DType, usize)> = types.iter().map(|&dtype| (dtype, OUTPUTS)).collect();
    let (handles, all) = stack(&mut case, cols, &weights);
    let (gate, up) = (Columns { act: gate, start: 0 }, Columns { act: up, start });
    let unit = case.program.glu_by(activation, gate, up, cols).expect("the columns fit");
    let out = case.program.linear(unit, &handles).expect("the widths agree");
    let f = |x: f64| if activation == Activation::Silu { x / (1.0 + (-x).exp()) } else { gelu(x) };
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (gates, ups) in gates.chunks(cols).zip(ups.chunks(start + cols)) {
        let pairs = || gates.iter().zip(&ups[start..]).map(|(&gate, &up)| (f64::from(gate), f64::from(up)));
        let unit: Vec<f64> = pairs().map(|(gate, up)| f(gate) * up).collect();
        let lost = |o: usize, x: &[f64], w: &[f64]| losses(Class::Decode, x, w, types[o / OUTPUTS]);
        let (products, errors) = product(&unit, &all, cols, lost);
        // The unit errs as in the cases of glu.
        let carried = all
            .chunks(cols)
            .map(|w| pairs().zip(w).map(|((gate, up), w)| 16.0 * U * (gate * up * w).abs()).sum::<f64>());
        want.extend(products);
        allowed.extend(errors.iter().zip(carried).map(|(error, carried)| error + carried));
    }
    case.expect(out, want, allowed)
        .mutant("the other activation", |case| {
            let op = op!(case, Glu);
            op.activation = match op.activation {
                Activation::GeluTanh => Activation::Silu,
                Activation::Silu => Activation::GeluTanh,
            };
        })
        .mutant("the gate times itself", |case| {
            let op = op!(case, Glu);
            op.up = op.gate;
        })
}

/// Products whose columns a device with one multiprocessor shares out among fewer blocks than there are groups of 64 outputs:
/// blocks go from one group to the next, and the last group is not full.
#[must_use]
pub fn long_cases() -> Vec<Case> {
    long(no_losses)
}

pub(super) fn long(losses: Losses) -> Vec<Case> {
    let types = [DType::F16, DType::Q8_0, DType::Q4_K, DType::Q6_K];
    types
        .into_iter()
        .flat_map(|dtype| [1, 9].map(|rows| gated(rows, 4096, 133, dtype, losses).full()))
        .collect()
}

/// Products of nine rows with every type of weight, with and without `glu` behind and in front of them, in both classes; and of
/// prompts of so many rows that a backend may take other tiles than for one.
#[must_use]
pub fn company_cases() -> Vec<Case> {
    let types = CLASSES.into_iter().flat_map(|class| [0, 1].map(|half| quantised(9, class, half, no_losses)));
    let odd = CLASSES.map(|class| typed(9, 33, class, "an odd width", &[(DType::F16, 9)], no_losses));
    let fused =
        CLASSES.map(|class| stacked(9, class, no_losses)).into_iter().chain([opened(9, no_losses)]).chain(
            [(768, 33), (15872, 37)].map(|(cols, outputs)| gated(9, cols, outputs, DType::Q4_K, no_losses)),
        );
    let tall = [17, 65].map(|rows| {
        let weights = [(DType::Q4_K, 3), (DType::Q6_K, 2), (DType::F16, 4)];
        typed(rows, 1280, Class::Prefill, "tall", &weights, no_losses)
    });
    let projected = [DType::F16, DType::Q4_K]
        .map(|dtype| projected((9, 256, 5), &[dtype], Activation::GeluTanh, no_losses));
    types.chain(odd).chain(fused).chain(projected).chain(tall).collect()
}

/// Rows of a type with all kinds of codes, and scales of ordinary size.
///
/// # Panics
///
/// If the columns are no whole blocks.
#[must_use]
pub fn blocks(dtype: DType, outputs: usize, cols: usize) -> Vec<u8> {
    let row_bytes = dtype.row_bytes(cols).expect("whole blocks");
    let mut data: Vec<u8> = (0..outputs * row_bytes).map(|i| (i * 89 % 251).to_le_bytes()[0]).collect();
    // Scales of ordinary size, and floats that are numbers.
    for block in data.chunks_exact_mut(dtype.block_bytes()) {
        match dtype {
            DType::F32 => block.copy_from_slice(&(f32::from(block[0]) / 100.0 - 1.0).to_le_bytes()),
            DType::F16 => block[1] = 0x38 | (block[1] & 0x83),
            DType::BF16 => block[1] = 0x3F | (block[1] & 0x80),
            DType::MXFP4 => block[0] = 120 + block[0] % 8,
            DType::Q2_K => block[80..84].copy_from_slice(&[0x10, 0x2C, 0x08, 0x28]),
            DType::Q3_K => block[108..110].copy_from_slice(&[0x10, 0x2C]),
            DType::Q6_K => block[208..210].copy_from_slice(&[0x10, 0x2C]),
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => {
                block[..4].copy_from_slice(&[0x10, 0x2C, 0x08, 0x28]);
            }
            _ => block[..2].copy_from_slice(&[0x10, 0x2C]),
        }
        // A step that differs from block to block.
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::MXFP4) {
            let at = match dtype {
                DType::Q2_K => 80,
                DType::Q3_K => 108,
                DType::Q6_K => 208,
                _ => 0,
            };
            block[at] = block[dtype.block_bytes() / 2];
        }
    }
    data
}
