//! `linear` for prompts: tiles in workgroup memory.
//!
//! Which tile a product gets depends on the most rows that the program may have, which changes no bit: all tiles take
//! each output's sum in one order. Whether the tiles are of f16 depends on the device alone.

use gemma4_core::abi::LinearParams;
use gemma4_core::program::Act;

use super::{Bind, Count, Lowering, ONE};
use gemma4_core::tensor::DType;

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

/// Workgroup memory that such tiles and their scales take.
const INT8_BYTES: u32 = 23 << 10;

/// One product: the rows of `x` with a part of a weight of type `dtype`. `binds` are `x`, the part and the outputs.
pub(super) fn launch(x: Act, dtype: DType, binds: Vec<Bind>, params: &LinearParams, cx: &mut Lowering<'_>) {
    let variants = cx.device.variants;
    let memory = cx.device.limits.max_compute_workgroup_storage_size;
    if variants.int8 && is_whole(dtype) && INT8_BYTES <= memory {
        let shader =
            Shader::new(&[shaders::decoder(dtype), &[shaders::LINEAR_INT8]].concat(), "linear__int8");
        let grid = [Count::Fixed(params.outputs.div_ceil(INT8)), cx.rows(x, INT8, 1), ONE];
        cx.launch("linear", shader, binds, params, grid);
        return;
    }
    let element = if variants.f16 { 2 } else { 4 };
    let wide_bytes = DEPTH * (WIDE.rows + WIDE.outputs) * element + if variants.f16 { 1024 } else { 0 };
    let rows = cx.program.capacity(x);
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
