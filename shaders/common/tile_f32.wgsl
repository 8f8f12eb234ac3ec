// Tiles of f32: the sum of a chunk goes through two tiles.

alias Tile4 = vec4<f32>;

fn tile_scale(largest: f32) -> f32 { return 1.0; }
fn tile_note(row: u32, scale: f32) {}
fn tile_noted(row: u32) -> f32 { return 1.0; }
// Whether sums end with every tile, or with every second one.
const TILE_ENDS = false;
fn tile_total(products: Tile4, sum: vec4<f32>, scale: f32) -> vec4<f32> { return sum + products; }
