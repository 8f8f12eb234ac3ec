//! `linear` for prompts: tiles in workgroup memory.
//!
//! Which tile a product gets depends on the most rows that the program may have, which changes no bit: both tiles take
//! each output's sum in one order. Whether the tiles are of f16 depends on the device alone.

use gemma4_core::abi::LinearParams;
use gemma4_core::program::{Act, Weight};

use super::{Bind, Count, Lowering, ONE};
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

/// Columns of a chunk, and of two tiles of half a chunk.
const DEPTH: u32 = 32;

/// Whether tiles take weights of so many columns.
pub(super) fn fits(cols: usize) -> bool {
    cols.is_multiple_of(DEPTH as usize)
}

/// One product: part `part` of a weight.
pub(super) fn launch(
    (x, out): (Act, Act),
    (weight, part): (Weight, usize),
    params: &LinearParams,
    cx: &mut Lowering<'_>,
) {
    let variants = cx.device.variants;
    let element = if variants.f16 { 2 } else { 4 };
    let bytes =
        |tile: &Tile| DEPTH * (tile.rows + tile.outputs) * element + if variants.f16 { 1024 } else { 0 };
    let enough = bytes(&WIDE) <= cx.device.limits.max_compute_workgroup_storage_size;
    let tile = if enough && cx.program.capacity(out) > NARROW.rows as usize { WIDE } else { NARROW };
    let mut parts = shaders::decoder(cx.weight(weight).dtype()).to_vec();
    parts.push(if variants.f16 { shaders::TILE_F16 } else { shaders::TILE_F32 });
    parts.extend([shaders::LINEAR_TILES_COMMON, tile.file]);
    let shader = Shader::new(&parts, tile.entry);
    let shader = if variants.f16 { shader.with_f16() } else { shader };
    let grid = [Count::Fixed(params.outputs.div_ceil(tile.outputs)), cx.rows(out, tile.rows, 1), ONE];
    let binds = vec![Bind::Act(x), Bind::Weight(weight, part), Bind::ActMut(out)];
    cx.launch("linear", shader, binds, params, grid);
}
