// linear, prefill class, tiles of 128 rows: shaders/common/linear_tiles.wgsl says what and how.
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 128); y: ceil(rows / 128)

// 128 rows or outputs of a column, in two halves of 64.
alias TilesColumn = array<array<Tile4, 16>, 2>;
alias Tiles = array<array<TilesColumn, 8>, 4>;  // 32 columns, in eights
var<workgroup> tiles_x: Tiles;
var<workgroup> tiles_w: Tiles;

// `quad` counts from 0 to 7.
fn tiles_put_x(quad: u32, m: u32, values: Tile4) {
  let at = ((m / 4u) % 16u) ^ tile_turn(quad & 3u);
  tiles_x[quad / 2u][4u * (quad % 2u)][m / 64u][at][m % 4u] = values.x;
  tiles_x[quad / 2u][4u * (quad % 2u) + 1u][m / 64u][at][m % 4u] = values.y;
  tiles_x[quad / 2u][4u * (quad % 2u) + 2u][m / 64u][at][m % 4u] = values.z;
  tiles_x[quad / 2u][4u * (quad % 2u) + 3u][m / 64u][at][m % 4u] = values.w;
}

fn tiles_put_w(quad: u32, n: u32, values: Tile4) {
  tiles_w[quad / 2u][4u * (quad % 2u)][n / 64u][(n / 4u) % 16u][n % 4u] = values.x;
  tiles_w[quad / 2u][4u * (quad % 2u) + 1u][n / 64u][(n / 4u) % 16u][n % 4u] = values.y;
  tiles_w[quad / 2u][4u * (quad % 2u) + 2u][n / 64u][(n / 4u) % 16u][n % 4u] = values.z;
  tiles_w[quad / 2u][4u * (quad % 2u) + 3u][n / 64u][(n / 4u) % 16u][n % 4u] = values.w;
}

// What invocation `own` brought.
fn tiles_store_x(own: u32, v: Half) {
  let scale = tile_scale(v);
  tile_note(own, scale);
  tiles_put_x(tile_quad(own, 0u, 128u, 8u), tile_row(own, 0u, 128u, 8u), tile_scaled(v.a, scale));
  tiles_put_x(tile_quad(own, 1u, 128u, 8u), tile_row(own, 1u, 128u, 8u), tile_scaled(v.b, scale));
  tiles_put_x(tile_quad(own, 2u, 128u, 8u), tile_row(own, 2u, 128u, 8u), tile_scaled(v.c, scale));
  tiles_put_x(tile_quad(own, 3u, 128u, 8u), tile_row(own, 3u, 128u, 8u), tile_scaled(v.d, scale));
}

fn tiles_store_w(half: u32, n: u32, v: Half) {
  tiles_put_w(4u * half, n, Tile4(v.a));
  tiles_put_w(4u * half + 1u, n, Tile4(v.b));
  tiles_put_w(4u * half + 2u, n, Tile4(v.c));
  tiles_put_w(4u * half + 3u, n, Tile4(v.d));
}

// Sums of 8 rows with 8 outputs, four of each in the second half of the tile: those of some columns, and all.
struct TilesSums {
  r0a: Tile4, r0b: Tile4,  r1a: Tile4, r1b: Tile4,
  r2a: Tile4, r2b: Tile4,  r3a: Tile4, r3b: Tile4,
  r4a: Tile4, r4b: Tile4,  r5a: Tile4, r5b: Tile4,
  r6a: Tile4, r6b: Tile4,  r7a: Tile4, r7b: Tile4,
}
struct TilesTotals {
  r0a: vec4<f32>, r0b: vec4<f32>,  r1a: vec4<f32>, r1b: vec4<f32>,
  r2a: vec4<f32>, r2b: vec4<f32>,  r3a: vec4<f32>, r3b: vec4<f32>,
  r4a: vec4<f32>, r4b: vec4<f32>,  r5a: vec4<f32>, r5b: vec4<f32>,
  r6a: vec4<f32>, r6b: vec4<f32>,  r7a: vec4<f32>, r7b: vec4<f32>,
}

// Adds the products of a column: rows `a` and `b`, outputs `c` and `d`.
fn tiles_column(s: TilesSums, a: Tile4, b: Tile4, c: Tile4, d: Tile4) -> TilesSums {
  return TilesSums(
    fma(Tile4(a.x), c, s.r0a), fma(Tile4(a.x), d, s.r0b),
    fma(Tile4(a.y), c, s.r1a), fma(Tile4(a.y), d, s.r1b),
    fma(Tile4(a.z), c, s.r2a), fma(Tile4(a.z), d, s.r2b),
    fma(Tile4(a.w), c, s.r3a), fma(Tile4(a.w), d, s.r3b),
    fma(Tile4(b.x), c, s.r4a), fma(Tile4(b.x), d, s.r4b),
    fma(Tile4(b.y), c, s.r5a), fma(Tile4(b.y), d, s.r5b),
    fma(Tile4(b.z), c, s.r6a), fma(Tile4(b.z), d, s.r6b),
    fma(Tile4(b.w), c, s.r7a), fma(Tile4(b.w), d, s.r7b),
  );
}

// Adds eight columns; `even` and `odd` are where the rows are in their quads.
fn tiles_eight(sums: TilesSums, eight: u32, even: u32, odd: u32, n: u32) -> TilesSums {
  var s = sums;
  s = tiles_column(s, tiles_x[eight][0][0][even], tiles_x[eight][0][1][even],
    tiles_w[eight][0][0][n], tiles_w[eight][0][1][n]);
  s = tiles_column(s, tiles_x[eight][1][0][even], tiles_x[eight][1][1][even],
    tiles_w[eight][1][0][n], tiles_w[eight][1][1][n]);
  s = tiles_column(s, tiles_x[eight][2][0][even], tiles_x[eight][2][1][even],
    tiles_w[eight][2][0][n], tiles_w[eight][2][1][n]);
  s = tiles_column(s, tiles_x[eight][3][0][even], tiles_x[eight][3][1][even],
    tiles_w[eight][3][0][n], tiles_w[eight][3][1][n]);
  s = tiles_column(s, tiles_x[eight][4][0][odd], tiles_x[eight][4][1][odd],
    tiles_w[eight][4][0][n], tiles_w[eight][4][1][n]);
  s = tiles_column(s, tiles_x[eight][5][0][odd], tiles_x[eight][5][1][odd],
    tiles_w[eight][5][0][n], tiles_w[eight][5][1][n]);
  s = tiles_column(s, tiles_x[eight][6][0][odd], tiles_x[eight][6][1][odd],
    tiles_w[eight][6][0][n], tiles_w[eight][6][1][n]);
  s = tiles_column(s, tiles_x[eight][7][0][odd], tiles_x[eight][7][1][odd],
    tiles_w[eight][7][0][n], tiles_w[eight][7][1][n]);
  return s;
}

// Adds the columns of so many eights from an even one on, an even number: wgpu counts iterations, so bodies are large.
fn tiles_columns(sums: TilesSums, first: u32, count: u32, m: u32, n: u32) -> TilesSums {
  var s = sums;
  for (var i = 0u; i < count; i += 2u) {
    let eight = first + i;
    s = tiles_eight(s, eight, m ^ tile_turn(0u), m ^ tile_turn(1u), n);
    s = tiles_eight(s, eight + 1u, m ^ tile_turn(2u), m ^ tile_turn(3u), n);
  }
  return s;
}

// Adds the sums of half `half` of a chunk, or of a segment.
fn tiles_add(t: TilesTotals, s: TilesSums, half: u32, m: u32) -> TilesTotals {
  let n0 = tile_noted(half * 128u + 4u * m + 0u);
  let n1 = tile_noted(half * 128u + 4u * m + 1u);
  let n2 = tile_noted(half * 128u + 4u * m + 2u);
  let n3 = tile_noted(half * 128u + 4u * m + 3u);
  let n4 = tile_noted(half * 128u + 64u + 4u * m + 0u);
  let n5 = tile_noted(half * 128u + 64u + 4u * m + 1u);
  let n6 = tile_noted(half * 128u + 64u + 4u * m + 2u);
  let n7 = tile_noted(half * 128u + 64u + 4u * m + 3u);
  return TilesTotals(
    tile_total(s.r0a, t.r0a, n0), tile_total(s.r0b, t.r0b, n0),
    tile_total(s.r1a, t.r1a, n1), tile_total(s.r1b, t.r1b, n1),
    tile_total(s.r2a, t.r2a, n2), tile_total(s.r2b, t.r2b, n2),
    tile_total(s.r3a, t.r3a, n3), tile_total(s.r3b, t.r3b, n3),
    tile_total(s.r4a, t.r4a, n4), tile_total(s.r4b, t.r4b, n4),
    tile_total(s.r5a, t.r5a, n5), tile_total(s.r5b, t.r5b, n5),
    tile_total(s.r6a, t.r6a, n6), tile_total(s.r6b, t.r6b, n6),
    tile_total(s.r7a, t.r7a, n7), tile_total(s.r7b, t.r7b, n7),
  );
}

// 128 rows by 128 outputs; 8 by 8 for an invocation.
@compute @workgroup_size(256)
fn linear__tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 128u;
  let first_out = group.x * 128u;
  let place = tile_place(lane);
  let m = place.x + 4u * ((lane >> 5u) & 3u);
  let n = place.y + 8u * (lane >> 7u);
  let chunks = params.cols / 32u;
  // An invocation brings four quads of activations and half a chunk of weights.
  let x_rows = brought_rows(first_row, lane, 128u, 8u);
  let own = lane % 128u;
  let half = lane / 128u;
  // As with rows.
  let w_start = min(first_out + own, params.outputs - 1u) * params.stride;
  var next_x = fetch_x(x_rows, lane, 0u, chunks, 128u, 8u);
  var next_w = load_chunk(w_start, w_start + params.tails, 0u, chunks);
  var sums = TilesSums();
  var totals = TilesTotals();
  tiles_store_x(lane, next_x);
  tiles_store_w(half, own, half_values(next_w, half));
  workgroupBarrier();
  for (var chunk = 0u; chunk < chunks; chunk++) {
    let next = min(chunk + 1u, chunks - 1u);
    next_x = fetch_x(x_rows, lane, 8u * next, chunks, 128u, 8u);
    next_w = load_chunk(w_start, w_start + params.tails, next, chunks);
    if TILE_ENDS {
      totals = tiles_add(totals, tiles_columns(TilesSums(), 0u, 2u, m, n), 0u, m);
      totals = tiles_add(totals, tiles_columns(TilesSums(), 2u, 2u, m, n), 1u, m);
    } else {
      sums = tiles_columns(sums, 0u, 4u, m, n);
      if segment_ends(chunk, chunks) {
        totals = tiles_add(totals, sums, 0u, m);
        sums = TilesSums();
      }
    }
    // Nobody reads the tiles any more.
    workgroupBarrier();
    tiles_store_x(lane, next_x);
    tiles_store_w(half, own, half_values(next_w, half));
    workgroupBarrier();
  }
  store(first_row + 4u * m + 0u, first_out + 4u * n, totals.r0a);
  store(first_row + 4u * m + 0u, first_out + 64u + 4u * n, totals.r0b);
  store(first_row + 4u * m + 1u, first_out + 4u * n, totals.r1a);
  store(first_row + 4u * m + 1u, first_out + 64u + 4u * n, totals.r1b);
  store(first_row + 4u * m + 2u, first_out + 4u * n, totals.r2a);
  store(first_row + 4u * m + 2u, first_out + 64u + 4u * n, totals.r2b);
  store(first_row + 4u * m + 3u, first_out + 4u * n, totals.r3a);
  store(first_row + 4u * m + 3u, first_out + 64u + 4u * n, totals.r3b);
  store(first_row + 64u + 4u * m + 0u, first_out + 4u * n, totals.r4a);
  store(first_row + 64u + 4u * m + 0u, first_out + 64u + 4u * n, totals.r4b);
  store(first_row + 64u + 4u * m + 1u, first_out + 4u * n, totals.r5a);
  store(first_row + 64u + 4u * m + 1u, first_out + 64u + 4u * n, totals.r5b);
  store(first_row + 64u + 4u * m + 2u, first_out + 4u * n, totals.r6a);
  store(first_row + 64u + 4u * m + 2u, first_out + 64u + 4u * n, totals.r6b);
  store(first_row + 64u + 4u * m + 3u, first_out + 4u * n, totals.r7a);
  store(first_row + 64u + 4u * m + 3u, first_out + 64u + 4u * n, totals.r7b);
}
