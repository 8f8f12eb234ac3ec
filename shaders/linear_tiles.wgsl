// linear, prefill class, tiles of 128 rows: shaders/common/linear_tiles.wgsl says what and how.
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 128); y: ceil(rows / 128)

var<workgroup> tiles_x: array<Tile4, 1024>;  // [2, 16 columns, 128 rows / 4]
var<workgroup> tiles_w: array<Tile4, 1024>;  // [2, 16 columns, 128 outputs / 4]

// Values of four columns of row `m`, from index `at`.
fn tiles_put_x(at: u32, m: u32, values: Tile4) {
  let i = at + m / 4u;
  tiles_x[i][m % 4u] = values.x;
  tiles_x[i + 32u][m % 4u] = values.y;
  tiles_x[i + 64u][m % 4u] = values.z;
  tiles_x[i + 96u][m % 4u] = values.w;
}

// Values of four columns of output `n`, from index `at`.
fn tiles_put_w(at: u32, n: u32, values: Tile4) {
  let i = at + n / 4u;
  tiles_w[i][n % 4u] = values.x;
  tiles_w[i + 32u][n % 4u] = values.y;
  tiles_w[i + 64u][n % 4u] = values.z;
  tiles_w[i + 96u][n % 4u] = values.w;
}

fn tiles_store_x(tile: u32, m: u32, v: Half) {
  let scale = tile_scale(largest(v));
  tile_note(tile * 128u + m, scale);
  let inverse = 1.0 / scale;
  tiles_put_x(tile * 512u + 0u, m, Tile4(v.a * inverse));
  tiles_put_x(tile * 512u + 128u, m, Tile4(v.b * inverse));
  tiles_put_x(tile * 512u + 256u, m, Tile4(v.c * inverse));
  tiles_put_x(tile * 512u + 384u, m, Tile4(v.d * inverse));
}

fn tiles_store_w(tile: u32, n: u32, v: Half) {
  tiles_put_w(tile * 512u + 0u, n, Tile4(v.a));
  tiles_put_w(tile * 512u + 128u, n, Tile4(v.b));
  tiles_put_w(tile * 512u + 256u, n, Tile4(v.c));
  tiles_put_w(tile * 512u + 384u, n, Tile4(v.d));
}

// 128 rows by 128 outputs; 8 by 8 for an invocation.
@compute @workgroup_size(256)
fn linear__tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 128u;
  let first_out = group.x * 128u;
  // Invocations that are neighbours in n share rows of x; those in m share outputs.
  let m = lane / 16u;
  let n = lane % 16u;
  let chunks = params.cols / 32u;
  let halves = 2u * chunks;
  let brings_x = lane < 128u;
  let brings_w = lane >= 128u;
  let own = lane % 128u;
  // What is past the end is the last one again: its products are never stored.
  let x_start = min(first_row + own, row_count() - 1u) * (params.cols / 4u);
  let w_start = min(first_out + own, params.outputs - 1u) * params.stride;
  var next_x = Half();
  var next_w = Chunk();
  if brings_x {
    tiles_store_x(0u, own, fetch_x(x_start, 0u, chunks));
  } else if brings_w {
    next_w = load_chunk(w_start, w_start + params.tails, 0u, chunks);
    tiles_store_w(0u, own, half_values(next_w, 0u));
  }
  var t0_0 = vec4<f32>(); var t0_1 = vec4<f32>();
  var t1_0 = vec4<f32>(); var t1_1 = vec4<f32>();
  var t2_0 = vec4<f32>(); var t2_1 = vec4<f32>();
  var t3_0 = vec4<f32>(); var t3_1 = vec4<f32>();
  var t4_0 = vec4<f32>(); var t4_1 = vec4<f32>();
  var t5_0 = vec4<f32>(); var t5_1 = vec4<f32>();
  var t6_0 = vec4<f32>(); var t6_1 = vec4<f32>();
  var t7_0 = vec4<f32>(); var t7_1 = vec4<f32>();
  workgroupBarrier();
  for (var half = 0u; half < halves; half++) {
    let next = min(half + 1u, halves - 1u);
    if brings_x {
      next_x = fetch_x(x_start, next, chunks);
    } else if brings_w && (next & 1u) == 0u {
      next_w = load_chunk(w_start, w_start + params.tails, next >> 1u, chunks);
    }
    let tile = half & 1u;
    let start_x = tile * 512u + m;
    let start_w = tile * 512u + n;
    var s0_0 = tile_begin(t0_0); var s0_1 = tile_begin(t0_1);
    var s1_0 = tile_begin(t1_0); var s1_1 = tile_begin(t1_1);
    var s2_0 = tile_begin(t2_0); var s2_1 = tile_begin(t2_1);
    var s3_0 = tile_begin(t3_0); var s3_1 = tile_begin(t3_1);
    var s4_0 = tile_begin(t4_0); var s4_1 = tile_begin(t4_1);
    var s5_0 = tile_begin(t5_0); var s5_1 = tile_begin(t5_1);
    var s6_0 = tile_begin(t6_0); var s6_1 = tile_begin(t6_1);
    var s7_0 = tile_begin(t7_0); var s7_1 = tile_begin(t7_1);
    for (var k = 0u; k < 512u; k += 128u) {
      let a00 = tiles_x[start_x + k]; let a01 = tiles_x[start_x + k + 16u];
      let b00 = tiles_w[start_w + k]; let b01 = tiles_w[start_w + k + 16u];
      s0_0 = fma(Tile4(a00.x), b00, s0_0);
      s0_1 = fma(Tile4(a00.x), b01, s0_1);
      s1_0 = fma(Tile4(a00.y), b00, s1_0);
      s1_1 = fma(Tile4(a00.y), b01, s1_1);
      s2_0 = fma(Tile4(a00.z), b00, s2_0);
      s2_1 = fma(Tile4(a00.z), b01, s2_1);
      s3_0 = fma(Tile4(a00.w), b00, s3_0);
      s3_1 = fma(Tile4(a00.w), b01, s3_1);
      s4_0 = fma(Tile4(a01.x), b00, s4_0);
      s4_1 = fma(Tile4(a01.x), b01, s4_1);
      s5_0 = fma(Tile4(a01.y), b00, s5_0);
      s5_1 = fma(Tile4(a01.y), b01, s5_1);
      s6_0 = fma(Tile4(a01.z), b00, s6_0);
      s6_1 = fma(Tile4(a01.z), b01, s6_1);
      s7_0 = fma(Tile4(a01.w), b00, s7_0);
      s7_1 = fma(Tile4(a01.w), b01, s7_1);
      let a10 = tiles_x[start_x + k + 32u]; let a11 = tiles_x[start_x + k + 32u + 16u];
      let b10 = tiles_w[start_w + k + 32u]; let b11 = tiles_w[start_w + k + 32u + 16u];
      s0_0 = fma(Tile4(a10.x), b10, s0_0);
      s0_1 = fma(Tile4(a10.x), b11, s0_1);
      s1_0 = fma(Tile4(a10.y), b10, s1_0);
      s1_1 = fma(Tile4(a10.y), b11, s1_1);
      s2_0 = fma(Tile4(a10.z), b10, s2_0);
      s2_1 = fma(Tile4(a10.z), b11, s2_1);
      s3_0 = fma(Tile4(a10.w), b10, s3_0);
      s3_1 = fma(Tile4(a10.w), b11, s3_1);
      s4_0 = fma(Tile4(a11.x), b10, s4_0);
      s4_1 = fma(Tile4(a11.x), b11, s4_1);
      s5_0 = fma(Tile4(a11.y), b10, s5_0);
      s5_1 = fma(Tile4(a11.y), b11, s5_1);
      s6_0 = fma(Tile4(a11.z), b10, s6_0);
      s6_1 = fma(Tile4(a11.z), b11, s6_1);
      s7_0 = fma(Tile4(a11.w), b10, s7_0);
      s7_1 = fma(Tile4(a11.w), b11, s7_1);
      let a20 = tiles_x[start_x + k + 64u]; let a21 = tiles_x[start_x + k + 64u + 16u];
      let b20 = tiles_w[start_w + k + 64u]; let b21 = tiles_w[start_w + k + 64u + 16u];
      s0_0 = fma(Tile4(a20.x), b20, s0_0);
      s0_1 = fma(Tile4(a20.x), b21, s0_1);
      s1_0 = fma(Tile4(a20.y), b20, s1_0);
      s1_1 = fma(Tile4(a20.y), b21, s1_1);
      s2_0 = fma(Tile4(a20.z), b20, s2_0);
      s2_1 = fma(Tile4(a20.z), b21, s2_1);
      s3_0 = fma(Tile4(a20.w), b20, s3_0);
      s3_1 = fma(Tile4(a20.w), b21, s3_1);
      s4_0 = fma(Tile4(a21.x), b20, s4_0);
      s4_1 = fma(Tile4(a21.x), b21, s4_1);
      s5_0 = fma(Tile4(a21.y), b20, s5_0);
      s5_1 = fma(Tile4(a21.y), b21, s5_1);
      s6_0 = fma(Tile4(a21.z), b20, s6_0);
      s6_1 = fma(Tile4(a21.z), b21, s6_1);
      s7_0 = fma(Tile4(a21.w), b20, s7_0);
      s7_1 = fma(Tile4(a21.w), b21, s7_1);
      let a30 = tiles_x[start_x + k + 96u]; let a31 = tiles_x[start_x + k + 96u + 16u];
      let b30 = tiles_w[start_w + k + 96u]; let b31 = tiles_w[start_w + k + 96u + 16u];
      s0_0 = fma(Tile4(a30.x), b30, s0_0);
      s0_1 = fma(Tile4(a30.x), b31, s0_1);
      s1_0 = fma(Tile4(a30.y), b30, s1_0);
      s1_1 = fma(Tile4(a30.y), b31, s1_1);
      s2_0 = fma(Tile4(a30.z), b30, s2_0);
      s2_1 = fma(Tile4(a30.z), b31, s2_1);
      s3_0 = fma(Tile4(a30.w), b30, s3_0);
      s3_1 = fma(Tile4(a30.w), b31, s3_1);
      s4_0 = fma(Tile4(a31.x), b30, s4_0);
      s4_1 = fma(Tile4(a31.x), b31, s4_1);
      s5_0 = fma(Tile4(a31.y), b30, s5_0);
      s5_1 = fma(Tile4(a31.y), b31, s5_1);
      s6_0 = fma(Tile4(a31.z), b30, s6_0);
      s6_1 = fma(Tile4(a31.z), b31, s6_1);
      s7_0 = fma(Tile4(a31.w), b30, s7_0);
      s7_1 = fma(Tile4(a31.w), b31, s7_1);
    }
    let scale0 = tile_noted(tile * 128u + 4u * m + 0u);
    t0_0 = tile_end(s0_0, t0_0, scale0); t0_1 = tile_end(s0_1, t0_1, scale0);
    let scale1 = tile_noted(tile * 128u + 4u * m + 1u);
    t1_0 = tile_end(s1_0, t1_0, scale1); t1_1 = tile_end(s1_1, t1_1, scale1);
    let scale2 = tile_noted(tile * 128u + 4u * m + 2u);
    t2_0 = tile_end(s2_0, t2_0, scale2); t2_1 = tile_end(s2_1, t2_1, scale2);
    let scale3 = tile_noted(tile * 128u + 4u * m + 3u);
    t3_0 = tile_end(s3_0, t3_0, scale3); t3_1 = tile_end(s3_1, t3_1, scale3);
    let scale4 = tile_noted(tile * 128u + 64u + 4u * m + 0u);
    t4_0 = tile_end(s4_0, t4_0, scale4); t4_1 = tile_end(s4_1, t4_1, scale4);
    let scale5 = tile_noted(tile * 128u + 64u + 4u * m + 1u);
    t5_0 = tile_end(s5_0, t5_0, scale5); t5_1 = tile_end(s5_1, t5_1, scale5);
    let scale6 = tile_noted(tile * 128u + 64u + 4u * m + 2u);
    t6_0 = tile_end(s6_0, t6_0, scale6); t6_1 = tile_end(s6_1, t6_1, scale6);
    let scale7 = tile_noted(tile * 128u + 64u + 4u * m + 3u);
    t7_0 = tile_end(s7_0, t7_0, scale7); t7_1 = tile_end(s7_1, t7_1, scale7);
    if brings_x {
      tiles_store_x(1u - tile, own, next_x);
    } else if brings_w {
      tiles_store_w(1u - tile, own, half_values(next_w, next & 1u));
    }
    workgroupBarrier();
  }
  store(first_row + 4u * m + 0u, first_out + 4u * n, t0_0);
  store(first_row + 4u * m + 0u, first_out + 64u + 4u * n, t0_1);
  store(first_row + 4u * m + 1u, first_out + 4u * n, t1_0);
  store(first_row + 4u * m + 1u, first_out + 64u + 4u * n, t1_1);
  store(first_row + 4u * m + 2u, first_out + 4u * n, t2_0);
  store(first_row + 4u * m + 2u, first_out + 64u + 4u * n, t2_1);
  store(first_row + 4u * m + 3u, first_out + 4u * n, t3_0);
  store(first_row + 4u * m + 3u, first_out + 64u + 4u * n, t3_1);
  store(first_row + 64u + 4u * m + 0u, first_out + 4u * n, t4_0);
  store(first_row + 64u + 4u * m + 0u, first_out + 64u + 4u * n, t4_1);
  store(first_row + 64u + 4u * m + 1u, first_out + 4u * n, t5_0);
  store(first_row + 64u + 4u * m + 1u, first_out + 64u + 4u * n, t5_1);
  store(first_row + 64u + 4u * m + 2u, first_out + 4u * n, t6_0);
  store(first_row + 64u + 4u * m + 2u, first_out + 64u + 4u * n, t6_1);
  store(first_row + 64u + 4u * m + 3u, first_out + 4u * n, t7_0);
  store(first_row + 64u + 4u * m + 3u, first_out + 64u + 4u * n, t7_1);
}
