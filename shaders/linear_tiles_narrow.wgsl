// linear, prefill class, tiles of 64 rows: for that many, and for devices with 16 KiB of workgroup memory.
// shaders/common/linear_tiles.wgsl says what and how.
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 64); y: ceil(rows / 64)

alias NarrowTile = array<array<array<Tile4, 16>, 4>, 4>;  // 16 columns, 64 rows or outputs
var<workgroup> narrow_x: array<NarrowTile, 2>;
var<workgroup> narrow_w: array<NarrowTile, 2>;

fn narrow_put_x(tile: u32, quad: u32, m: u32, values: Tile4) {
  let at = (m / 4u) ^ tile_turn(quad);
  narrow_x[tile][quad][0][at][m % 4u] = values.x;
  narrow_x[tile][quad][1][at][m % 4u] = values.y;
  narrow_x[tile][quad][2][at][m % 4u] = values.z;
  narrow_x[tile][quad][3][at][m % 4u] = values.w;
}

fn narrow_put_w(tile: u32, quad: u32, n: u32, values: Tile4) {
  narrow_w[tile][quad][0][n / 4u][n % 4u] = values.x;
  narrow_w[tile][quad][1][n / 4u][n % 4u] = values.y;
  narrow_w[tile][quad][2][n / 4u][n % 4u] = values.z;
  narrow_w[tile][quad][3][n / 4u][n % 4u] = values.w;
}

fn narrow_store_x(tile: u32, own: u32, v: Half) {
  let scale = tile_scale(v);
  tile_note(tile * 64u + own, scale);
  narrow_put_x(tile, tile_quad(own, 0u, 64u, 4u), tile_row(own, 0u, 64u, 4u), tile_scaled(v.a, scale));
  narrow_put_x(tile, tile_quad(own, 1u, 64u, 4u), tile_row(own, 1u, 64u, 4u), tile_scaled(v.b, scale));
  narrow_put_x(tile, tile_quad(own, 2u, 64u, 4u), tile_row(own, 2u, 64u, 4u), tile_scaled(v.c, scale));
  narrow_put_x(tile, tile_quad(own, 3u, 64u, 4u), tile_row(own, 3u, 64u, 4u), tile_scaled(v.d, scale));
}

fn narrow_store_w(tile: u32, n: u32, v: Half) {
  narrow_put_w(tile, 0u, n, Tile4(v.a));
  narrow_put_w(tile, 1u, n, Tile4(v.b));
  narrow_put_w(tile, 2u, n, Tile4(v.c));
  narrow_put_w(tile, 3u, n, Tile4(v.d));
}

// Sums of four rows with four outputs: those of some columns, and all.
struct NarrowSums { r0: Tile4, r1: Tile4, r2: Tile4, r3: Tile4 }
struct NarrowTotals { r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32> }

fn narrow_column(s: NarrowSums, a: Tile4, b: Tile4) -> NarrowSums {
  return NarrowSums(
    fma(Tile4(a.x), b, s.r0), fma(Tile4(a.y), b, s.r1), fma(Tile4(a.z), b, s.r2), fma(Tile4(a.w), b, s.r3),
  );
}

// Adds the 16 columns of a tile.
fn narrow_columns(sums: NarrowSums, tile: u32, m: u32, n: u32) -> NarrowSums {
  var s = sums;
  for (var quad = 0u; quad < 4u; quad++) {
    let at = m ^ tile_turn(quad);
    s = narrow_column(s, narrow_x[tile][quad][0][at], narrow_w[tile][quad][0][n]);
    s = narrow_column(s, narrow_x[tile][quad][1][at], narrow_w[tile][quad][1][n]);
    s = narrow_column(s, narrow_x[tile][quad][2][at], narrow_w[tile][quad][2][n]);
    s = narrow_column(s, narrow_x[tile][quad][3][at], narrow_w[tile][quad][3][n]);
  }
  return s;
}

fn narrow_add(t: NarrowTotals, s: NarrowSums, tile: u32, m: u32) -> NarrowTotals {
  let row = tile * 64u + 4u * m;
  return NarrowTotals(
    tile_total(s.r0, t.r0, tile_noted(row)), tile_total(s.r1, t.r1, tile_noted(row + 1u)),
    tile_total(s.r2, t.r2, tile_noted(row + 2u)), tile_total(s.r3, t.r3, tile_noted(row + 3u)),
  );
}

// 64 rows by 64 outputs; 4 by 4 for an invocation.
@compute @workgroup_size(256)
fn linear__narrow(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 64u;
  let first_out = group.x * 64u;
  let place = tile_place(lane);
  let m = place.x + 4u * ((lane >> 5u) & 3u);
  let n = place.y + 8u * (lane >> 7u);
  let chunks = params.cols / 32u;
  let brings_x = lane < 64u;
  let brings_w = lane >= 64u && lane < 128u;
  let own = lane % 64u;
  let x_rows = brought_rows(first_row, own, 64u, 4u);
  // As with rows.
  let w_start = min(first_out + own, params.outputs - 1u) * params.stride;
  var next_x = Half();
  var next_w = Chunk();
  if brings_x {
    narrow_store_x(0u, own, fetch_x(x_rows, own, 0u, chunks, 64u, 4u));
  } else if brings_w {
    next_w = load_chunk(w_start, w_start + params.tails, 0u, chunks);
    narrow_store_w(0u, own, half_values(next_w, 0u));
  }
  var sums = NarrowSums();
  var totals = NarrowTotals();
  workgroupBarrier();
  for (var chunk = 0u; chunk < chunks; chunk++) {
    if brings_x { next_x = fetch_x(x_rows, own, 8u * chunk + 4u, chunks, 64u, 4u); }
    sums = narrow_columns(sums, 0u, m, n);
    if TILE_ENDS {
      totals = narrow_add(totals, sums, 0u, m);
      sums = NarrowSums();
    }
    if brings_x {
      narrow_store_x(1u, own, next_x);
    } else if brings_w {
      narrow_store_w(1u, own, half_values(next_w, 1u));
    }
    workgroupBarrier();
    let next = min(chunk + 1u, chunks - 1u);
    if brings_x {
      next_x = fetch_x(x_rows, own, 8u * next, chunks, 64u, 4u);
    } else if brings_w {
      next_w = load_chunk(w_start, w_start + params.tails, next, chunks);
    }
    sums = narrow_columns(sums, 1u, m, n);
    if TILE_ENDS || segment_ends(chunk, chunks) {
      totals = narrow_add(totals, sums, 1u, m);
      sums = NarrowSums();
    }
    if brings_x {
      narrow_store_x(0u, own, next_x);
    } else if brings_w {
      narrow_store_w(0u, own, half_values(next_w, 0u));
    }
    workgroupBarrier();
  }
  store(first_row + 4u * m, first_out + 4u * n, totals.r0);
  store(first_row + 4u * m + 1u, first_out + 4u * n, totals.r1);
  store(first_row + 4u * m + 2u, first_out + 4u * n, totals.r2);
  store(first_row + 4u * m + 3u, first_out + 4u * n, totals.r3);
}
