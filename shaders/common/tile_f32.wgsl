// Tiles of f32: the sum of a chunk goes through two tiles.

alias Tile4 = vec4<f32>;

// Which row and which quad of it number `i` of the four quads of activations is that an invocation brings to a tile of
// `count` rows. Four neighbours bring a row: memory is asked for 64 bytes of each of eight rows, not for 16 bytes of 32.
fn tile_row(own: u32, i: u32, count: u32) -> u32 { return own / 4u + i * (count / 4u); }
fn tile_quad(own: u32, i: u32) -> u32 { return own & 3u; }

// Groups of four rows of a quad's columns are exchanged, so that such neighbours store to different banks.
fn tile_turn(quad: u32) -> u32 { return 2u * quad; }

fn tile_scale(largest: f32) -> f32 { return 1.0; }
fn tile_note(row: u32, scale: f32) {}
fn tile_noted(row: u32) -> f32 { return 1.0; }
// Whether sums end with every tile, or with every second one.
const TILE_ENDS = false;
fn tile_total(products: Tile4, sum: vec4<f32>, scale: f32) -> vec4<f32> { return sum + products; }
