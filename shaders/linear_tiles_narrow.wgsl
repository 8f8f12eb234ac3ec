// linear, prefill class, tiles of 64 rows: for few rows, and for devices with 16 KiB of workgroup memory.
// shaders/common/linear_tiles.wgsl says what and how.
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 64); y: ceil(rows / 64)

var<workgroup> narrow_x: array<Tile4, 512>;  // [2, 16 columns, 64 rows / 4]
var<workgroup> narrow_w: array<Tile4, 512>;  // [2, 16 columns, 64 outputs / 4]

// Values of four columns of row `m`, from index `at`.
fn narrow_put_x(at: u32, m: u32, values: Tile4) {
  let i = at + m / 4u;
  narrow_x[i][m % 4u] = values.x;
  narrow_x[i + 16u][m % 4u] = values.y;
  narrow_x[i + 32u][m % 4u] = values.z;
  narrow_x[i + 48u][m % 4u] = values.w;
}

// Values of four columns of output `n`, from index `at`.
fn narrow_put_w(at: u32, n: u32, values: Tile4) {
  let i = at + n / 4u;
  narrow_w[i][n % 4u] = values.x;
  narrow_w[i + 16u][n % 4u] = values.y;
  narrow_w[i + 32u][n % 4u] = values.z;
  narrow_w[i + 48u][n % 4u] = values.w;
}

fn narrow_store_x(tile: u32, m: u32, v: Half) {
  let scale = tile_scale(largest(v));
  tile_note(tile * 64u + m, scale);
  let inverse = 1.0 / scale;
  narrow_put_x(tile * 256u + 0u, m, Tile4(v.a * inverse));
  narrow_put_x(tile * 256u + 64u, m, Tile4(v.b * inverse));
  narrow_put_x(tile * 256u + 128u, m, Tile4(v.c * inverse));
  narrow_put_x(tile * 256u + 192u, m, Tile4(v.d * inverse));
}

fn narrow_store_w(tile: u32, n: u32, v: Half) {
  narrow_put_w(tile * 256u + 0u, n, Tile4(v.a));
  narrow_put_w(tile * 256u + 64u, n, Tile4(v.b));
  narrow_put_w(tile * 256u + 128u, n, Tile4(v.c));
  narrow_put_w(tile * 256u + 192u, n, Tile4(v.d));
}

// 64 rows by 64 outputs; 4 by 4 for an invocation.
@compute @workgroup_size(256)
fn linear__narrow(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 64u;
  let first_out = group.x * 64u;
  // Invocations that are neighbours in n share rows of x; those in m share outputs.
  let m = lane / 16u;
  let n = lane % 16u;
  let chunks = params.cols / 32u;
  let halves = 2u * chunks;
  let brings_x = lane < 64u;
  let brings_w = lane >= 64u && lane < 128u;
  let own = lane % 64u;
  // What is past the end is the last one again: its products are never stored.
  let x_start = min(first_row + own, row_count() - 1u) * (params.cols / 4u);
  let w_start = min(first_out + own, params.outputs - 1u) * params.stride;
  var next_x = Half();
  var next_w = Chunk();
  if brings_x {
    narrow_store_x(0u, own, fetch_x(x_start, 0u, chunks));
  } else if brings_w {
    next_w = load_chunk(w_start, w_start + params.tails, 0u, chunks);
    narrow_store_w(0u, own, half_values(next_w, 0u));
  }
  var t0_0 = vec4<f32>();
  var t1_0 = vec4<f32>();
  var t2_0 = vec4<f32>();
  var t3_0 = vec4<f32>();
  workgroupBarrier();
  for (var half = 0u; half < halves; half++) {
    let next = min(half + 1u, halves - 1u);
    if brings_x {
      next_x = fetch_x(x_start, next, chunks);
    } else if brings_w && (next & 1u) == 0u {
      next_w = load_chunk(w_start, w_start + params.tails, next >> 1u, chunks);
    }
    let tile = half & 1u;
    let start_x = tile * 256u + m;
    let start_w = tile * 256u + n;
    var s0_0 = tile_begin(t0_0);
    var s1_0 = tile_begin(t1_0);
    var s2_0 = tile_begin(t2_0);
    var s3_0 = tile_begin(t3_0);
    for (var k = 0u; k < 256u; k += 64u) {
      let a00 = narrow_x[start_x + k];
      let b00 = narrow_w[start_w + k];
      s0_0 = fma(Tile4(a00.x), b00, s0_0);
      s1_0 = fma(Tile4(a00.y), b00, s1_0);
      s2_0 = fma(Tile4(a00.z), b00, s2_0);
      s3_0 = fma(Tile4(a00.w), b00, s3_0);
      let a10 = narrow_x[start_x + k + 16u];
      let b10 = narrow_w[start_w + k + 16u];
      s0_0 = fma(Tile4(a10.x), b10, s0_0);
      s1_0 = fma(Tile4(a10.y), b10, s1_0);
      s2_0 = fma(Tile4(a10.z), b10, s2_0);
      s3_0 = fma(Tile4(a10.w), b10, s3_0);
      let a20 = narrow_x[start_x + k + 32u];
      let b20 = narrow_w[start_w + k + 32u];
      s0_0 = fma(Tile4(a20.x), b20, s0_0);
      s1_0 = fma(Tile4(a20.y), b20, s1_0);
      s2_0 = fma(Tile4(a20.z), b20, s2_0);
      s3_0 = fma(Tile4(a20.w), b20, s3_0);
      let a30 = narrow_x[start_x + k + 48u];
      let b30 = narrow_w[start_w + k + 48u];
      s0_0 = fma(Tile4(a30.x), b30, s0_0);
      s1_0 = fma(Tile4(a30.y), b30, s1_0);
      s2_0 = fma(Tile4(a30.z), b30, s2_0);
      s3_0 = fma(Tile4(a30.w), b30, s3_0);
    }
    let scale0 = tile_noted(tile * 64u + 4u * m + 0u);
    t0_0 = tile_end(s0_0, t0_0, scale0);
    let scale1 = tile_noted(tile * 64u + 4u * m + 1u);
    t1_0 = tile_end(s1_0, t1_0, scale1);
    let scale2 = tile_noted(tile * 64u + 4u * m + 2u);
    t2_0 = tile_end(s2_0, t2_0, scale2);
    let scale3 = tile_noted(tile * 64u + 4u * m + 3u);
    t3_0 = tile_end(s3_0, t3_0, scale3);
    if brings_x {
      narrow_store_x(1u - tile, own, next_x);
    } else if brings_w {
      narrow_store_w(1u - tile, own, half_values(next_w, next & 1u));
    }
    workgroupBarrier();
  }
  store(first_row + 4u * m + 0u, first_out + 4u * n, t0_0);
  store(first_row + 4u * m + 1u, first_out + 4u * n, t1_0);
  store(first_row + 4u * m + 2u, first_out + 4u * n, t2_0);
  store(first_row + 4u * m + 3u, first_out + 4u * n, t3_0);
}
