// Tiles of f16: 16 products are summed in f16, and such sums in f32.
//
// Activations of Gemma 4 overflow f16, so each row of a tile is divided by a power of two, which is exact, and its
// sums are multiplied by it again.

alias Tile4 = vec4<f16>;

// An invocation brings the four quads of a row, whose largest magnitude it knows then. See common/tile_f32.wgsl.
fn tile_row(own: u32, i: u32, count: u32) -> u32 { return own; }
fn tile_quad(own: u32, i: u32) -> u32 { return i; }
fn tile_turn(quad: u32) -> u32 { return 0u; }

var<workgroup> tile_scales: array<f32, 256>;  // [2, rows of a tile]

// The power of two at or below the largest magnitude of a row: what is left is below 2.
fn tile_scale(largest: f32) -> f32 {
  return bitcast<f32>(clamp(bitcast<u32>(largest) & 0x7f800000u, 0x20000000u, 0x5f000000u));
}
fn tile_note(row: u32, scale: f32) { tile_scales[row] = scale; }
fn tile_noted(row: u32) -> f32 { return tile_scales[row]; }
// Whether sums end with every tile, or with every second one.
const TILE_ENDS = true;
fn tile_total(products: Tile4, sum: vec4<f32>, scale: f32) -> vec4<f32> {
  return fma(vec4<f32>(products), vec4<f32>(scale), sum);
}
