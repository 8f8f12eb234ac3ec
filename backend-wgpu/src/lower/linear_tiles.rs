//! `linear` for prompts: tiles in workgroup memory.
//!
//! Which tile a product gets depends on the most rows that the program may have, which changes no bit: all tiles of f32 take
//! each output's sum in one order. Tiles of f16 and of 8-bit integers have one shape, and whether there are such depends on the
//! device and the type of the weight alone.

use gemma4_core::abi::{INT8_TILE, LinearParams};
use gemma4_core::program::{Act, Class, Weight};
use gemma4_core::tensor::DType;

use super::linear::of_weight;
use super::{Bind, Count, Lowering, ONE, Scratch};
use crate::shaders::{self, Shader};

/// A size of tiles.
struct Tile {
    rows: u32,
    outputs: u32,
    file: shaders::Part,
    entry: &'static str,
}

const WIDE: Tile = Tile { rows: 128, outputs: 128, file: shaders::LINEAR_TILES, entry: "linear__tiles" };
const NARROW: Tile =
    Tile { rows: 64, outputs: 64, file: shaders::LINEAR_TILES_NARROW, entry: "linear__narrow" };
const FEW: Tile = Tile { rows: 16, outputs: 64, file: shaders::LINEAR_TILES_FEW, entry: "linear__few" };

/// Columns of a chunk, and of two tiles of half a chunk.
const DEPTH: u32 = 32;

/// Whether tiles take weights of so many columns.
pub(super) fn fits(cols: usize) -> bool {
    cols.is_multiple_of(DEPTH as usize)
}

/// Whether products of a type can be made of 8-bit integers: its values are whole numbers by a scale.
fn is_whole(dtype: DType) -> bool {
    use DType::{Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    matches!(dtype, Q2_K | Q3_K | Q4_0 | Q4_1 | Q4_K | Q5_0 | Q5_1 | Q5_K | Q6_K | Q8_0)
}

/// Rows and outputs of a tile of 8-bit integers.
const INT8: u32 = 128;

/// Rows and chunks of a workgroup that makes such rows.
const INT8_ROWS: [u32; 2] = [4, 64];

/// Workgroup memory that such tiles and their scales take.
const INT8_BYTES: u32 = 23 << 10;

/// Whether products with a weight of a type are of 8-bit integers.
fn is_int8(dtype: DType, cols: usize, cx: &Lowering<'_>) -> bool {
    let memory = cx.device.limits.max_compute_workgroup_storage_size;
    cx.device.variants.int8 && is_whole(dtype) && fits(cols) && INT8_BYTES <= memory
}

/// Activations of prompts as products with these weights need them beside what they are: in 8-bit integers, if any is of those.
/// Types that such products are made of agree about the order of columns.
pub(super) fn rounded(x: Act, weights: &[Weight], cx: &mut Lowering<'_>) -> Option<Scratch> {
    let any = |&weight: &Weight| is_int8(cx.weight(weight).dtype(), cx.weight(weight).cols(), cx);
    let weight = weights.iter().copied().find(any).filter(|_| cx.program.class == Class::Prefill)?;
    let (rows, chunks) = (cx.program.capacity(x).next_multiple_of(INT8 as usize), cx.cols(x) / DEPTH);
    let tiles = cx.scratch((rows as u64 / u64::from(INT8)) * u64::from(chunks) * u64::from(16 * INT8_TILE));
    let shader = Shader::new(&[shaders::QUADS, shaders::LINEAR_INT8_ROWS], "linear__int8_rows");
    let params = of_weight(&cx.weight(weight).clone(), x, cx);
    let [rows, chunks_each] = INT8_ROWS;
    let grid = [Count::Fixed(chunks.div_ceil(chunks_each)), cx.rows(x, rows, 1), ONE];
    cx.launch("linear", shader, vec![Bind::Act(x), Bind::ScratchMut(tiles)], &params, grid);
    Some(tiles)
}

/// One product: the rows of `x` with a part of a weight of type `dtype`. `binds` are `x`, the part and the outputs; `rounded`
/// is what [`rounded`] made of `x`.
pub(super) fn launch(
    x: Act,
    rounded: Option<Scratch>,
    dtype: DType,
    mut binds: Vec<Bind>,
    params: &LinearParams,
    cx: &mut Lowering<'_>,
) {
    let variants = cx.device.variants;
    let memory = cx.device.limits.max_compute_workgroup_storage_size;
    if let Some(rounded) = rounded.filter(|_| is_int8(dtype, params.cols as usize, cx)) {
        let shader =
            Shader::new(&[shaders::decoder(dtype), &[shaders::LINEAR_INT8]].concat(), "linear__int8");
        let grid = [Count::Fixed(params.outputs.div_ceil(INT8)), cx.rows(x, INT8, 1), ONE];
        binds[0] = Bind::Scratch(rounded);
        cx.launch("linear", shader, binds, params, grid);
        return;
    }
    let element = if variants.f16 { 2 } else { 4 };
    let wide_bytes = DEPTH * (WIDE.rows + WIDE.outputs) * element + if variants.f16 { 1024 } else { 0 };
    // Compilers round sums of f16 as they like, so tiles of two shapes need not agree: a device has one.
    let rows = if variants.f16 { usize::MAX } else { cx.program.capacity(x) };
    let tile = if rows <= FEW.rows as usize {
        FEW
    } else if rows <= NARROW.rows as usize || wide_bytes > memory {
        NARROW
    } else {
        WIDE
    };
    let mut parts = shaders::decoder(dtype).to_vec();
    parts.push(if variants.f16 { shaders::TILE_F16 } else { shaders::TILE_F32 });
    parts.extend([shaders::LINEAR_TILES_COMMON, tile.file]);
    let shader = Shader::new(&parts, tile.entry);
    let shader = if variants.f16 { shader.with_f16() } else { shader };
    let grid = [Count::Fixed(params.outputs.div_ceil(tile.outputs)), cx.rows(x, tile.rows, 1), ONE];
    cx.launch("linear", shader, binds, params, grid);
}
