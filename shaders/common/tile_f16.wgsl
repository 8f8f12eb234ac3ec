// Tiles of f16: 16 products are summed in f16, and such sums in f32.
//
// Activations of Gemma 4 overflow f16, so half a chunk of each row is divided by a power of two, which is exact, and its
// sums are multiplied by it again.

alias Tile4 = vec4<f16>;

// An invocation brings half a chunk of a row, whose largest magnitude it knows then. See common/tile_f32.wgsl.
fn tile_row(own: u32, i: u32, count: u32, quads: u32) -> u32 { return own % count; }
fn tile_quad(own: u32, i: u32, count: u32, quads: u32) -> u32 { return 4u * (own / count) + i; }
fn tile_turn(quad: u32) -> u32 { return 0u; }

var<workgroup> tile_scales: array<f32, 256>;  // [2 halves of a chunk, rows of a tile]

// The power of two at or below the largest magnitude of what is brought: what is left is below 2.
fn tile_scale(x: Half) -> f32 {
  let quads = max(max(abs(x.a), abs(x.b)), max(abs(x.c), abs(x.d)));
  let largest = max(max(quads.x, quads.y), max(quads.z, quads.w));
  return bitcast<f32>(clamp(bitcast<u32>(largest) & 0x7f800000u, 0x20000000u, 0x5f000000u));
}
fn tile_note(place: u32, scale: f32) { tile_scales[place] = scale; }
fn tile_noted(place: u32) -> f32 { return tile_scales[place]; }
fn tile_scaled(x: vec4<f32>, scale: f32) -> Tile4 { return Tile4(x * (1.0 / scale)); }
// Whether sums end with every half of a chunk, or with the segment.
const TILE_ENDS = true;
fn tile_total(products: Tile4, sum: vec4<f32>, scale: f32) -> vec4<f32> {
  return fma(vec4<f32>(products), vec4<f32>(scale), sum);
}
