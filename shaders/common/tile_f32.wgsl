// Tiles of f32: sums are those of segments.

alias Tile4 = vec4<f32>;

// Which row and which quad of it number `i` of the four quads of activations is that an invocation brings to a tile of
// `count` rows, `quads` quads deep. Neighbours bring a row: memory is asked for all of a few rows, not for 16 bytes of 32.
fn tile_row(own: u32, i: u32, count: u32, quads: u32) -> u32 { return own / quads + i * (count / 4u); }
fn tile_quad(own: u32, i: u32, count: u32, quads: u32) -> u32 { return own % quads; }

// Groups of four rows of a quad's columns are exchanged, so that such neighbours store to different banks.
fn tile_turn(quad: u32) -> u32 { return 2u * quad; }

fn tile_scale(x: Half) -> f32 { return 1.0; }
fn tile_note(place: u32, scale: f32) {}
fn tile_noted(place: u32) -> f32 { return 1.0; }
fn tile_scaled(x: vec4<f32>, scale: f32) -> Tile4 { return x; }
// Whether sums end with every half of a chunk, or with the segment.
const TILE_ENDS = false;
fn tile_total(products: Tile4, sum: vec4<f32>, scale: f32) -> vec4<f32> { return sum + products; }
