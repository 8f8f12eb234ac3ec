// linear, prefill class, tiles of 64 rows: for few rows, and for devices with 16 KiB of workgroup memory.
// shaders/common/linear_tiles.wgsl says what and how.
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 64); y: ceil(rows / 64)

var<workgroup> narrow_x: array<Tile4, 512>;  // [32, 64 rows / 4]
var<workgroup> narrow_w: array<Tile4, 512>;  // [32, 64 outputs / 4]

// Values of four columns, from index `at`.
fn narrow_put_x(at: u32, m: u32, values: Tile4) {
  let i = at + m / 4u;
  narrow_x[i][m % 4u] = values.x;
  narrow_x[i + 16u][m % 4u] = values.y;
  narrow_x[i + 32u][m % 4u] = values.z;
  narrow_x[i + 48u][m % 4u] = values.w;
}

// Values of four columns, from index `at`.
fn narrow_put_w(at: u32, n: u32, values: Tile4) {
  let i = at + n / 4u;
  narrow_w[i][n % 4u] = values.x;
  narrow_w[i + 16u][n % 4u] = values.y;
  narrow_w[i + 32u][n % 4u] = values.z;
  narrow_w[i + 48u][n % 4u] = values.w;
}

fn narrow_load_x(row: u32, m: u32, chunk: u32) {
  let chunks = params.cols / 32u;
  // A row past the end is another row again: its products are never stored.
  let start = min(row, row_count() - 1u) * (params.cols / 4u);
  let x0 = x[start + chunk_quad(chunk, chunks, 0u)];
  let x1 = x[start + chunk_quad(chunk, chunks, 1u)];
  let x2 = x[start + chunk_quad(chunk, chunks, 2u)];
  let x3 = x[start + chunk_quad(chunk, chunks, 3u)];
  let x4 = x[start + chunk_quad(chunk, chunks, 4u)];
  let x5 = x[start + chunk_quad(chunk, chunks, 5u)];
  let x6 = x[start + chunk_quad(chunk, chunks, 6u)];
  let x7 = x[start + chunk_quad(chunk, chunks, 7u)];
  let low = max(max(abs(x0), abs(x1)), max(abs(x2), abs(x3)));
  let high = max(max(abs(x4), abs(x5)), max(abs(x6), abs(x7)));
  let largest = max(low, high);
  let scale = tile_scale(max(max(largest.x, largest.y), max(largest.z, largest.w)));
  tile_note(m, scale);
  let inverse = 1.0 / scale;
  narrow_put_x(0u, m, Tile4(x0 * inverse));
  narrow_put_x(64u, m, Tile4(x1 * inverse));
  narrow_put_x(128u, m, Tile4(x2 * inverse));
  narrow_put_x(192u, m, Tile4(x3 * inverse));
  narrow_put_x(256u, m, Tile4(x4 * inverse));
  narrow_put_x(320u, m, Tile4(x5 * inverse));
  narrow_put_x(384u, m, Tile4(x6 * inverse));
  narrow_put_x(448u, m, Tile4(x7 * inverse));
}

fn narrow_load_w(output: u32, n: u32, chunk: u32) {
  let row = min(output, params.outputs - 1u) * params.stride;
  let v = chunk_values(row, row + params.tails, chunk, params.cols / 32u);
  narrow_put_w(0u, n, Tile4(v.v0));
  narrow_put_w(64u, n, Tile4(v.v1));
  narrow_put_w(128u, n, Tile4(v.v2));
  narrow_put_w(192u, n, Tile4(v.v3));
  narrow_put_w(256u, n, Tile4(v.v4));
  narrow_put_w(320u, n, Tile4(v.v5));
  narrow_put_w(384u, n, Tile4(v.v6));
  narrow_put_w(448u, n, Tile4(v.v7));
}

// 64 rows by 64 outputs; 4 by 4 for an invocation.
@compute @workgroup_size(256)
fn linear__narrow(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 64u;
  let first_out = group.x * 64u;
  // Invocations that are neighbours in n share a row of x; those in m an output.
  let m = lane / 16u;
  let n = lane % 16u;
  var t0_0 = vec4<f32>();
  var t1_0 = vec4<f32>();
  var t2_0 = vec4<f32>();
  var t3_0 = vec4<f32>();
  for (var chunk = 0u; chunk < params.cols / 32u; chunk++) {
    workgroupBarrier();
    if lane < 64u {
      narrow_load_x(first_row + lane, lane, chunk);
    } else if lane < 128u {
      narrow_load_w(first_out + lane - 64u, lane - 64u, chunk);
    }
    workgroupBarrier();
    var s0_0 = tile_begin(t0_0);
    var s1_0 = tile_begin(t1_0);
    var s2_0 = tile_begin(t2_0);
    var s3_0 = tile_begin(t3_0);
    for (var k = 0u; k < 32u; k += 4u) {
      let a00 = narrow_x[k * 16u + m];
      let b00 = narrow_w[k * 16u + n];
      s0_0 = fma(Tile4(a00.x), b00, s0_0);
      s1_0 = fma(Tile4(a00.y), b00, s1_0);
      s2_0 = fma(Tile4(a00.z), b00, s2_0);
      s3_0 = fma(Tile4(a00.w), b00, s3_0);
      let a10 = narrow_x[(k + 1u) * 16u + m];
      let b10 = narrow_w[(k + 1u) * 16u + n];
      s0_0 = fma(Tile4(a10.x), b10, s0_0);
      s1_0 = fma(Tile4(a10.y), b10, s1_0);
      s2_0 = fma(Tile4(a10.z), b10, s2_0);
      s3_0 = fma(Tile4(a10.w), b10, s3_0);
      let a20 = narrow_x[(k + 2u) * 16u + m];
      let b20 = narrow_w[(k + 2u) * 16u + n];
      s0_0 = fma(Tile4(a20.x), b20, s0_0);
      s1_0 = fma(Tile4(a20.y), b20, s1_0);
      s2_0 = fma(Tile4(a20.z), b20, s2_0);
      s3_0 = fma(Tile4(a20.w), b20, s3_0);
      let a30 = narrow_x[(k + 3u) * 16u + m];
      let b30 = narrow_w[(k + 3u) * 16u + n];
      s0_0 = fma(Tile4(a30.x), b30, s0_0);
      s1_0 = fma(Tile4(a30.y), b30, s1_0);
      s2_0 = fma(Tile4(a30.z), b30, s2_0);
      s3_0 = fma(Tile4(a30.w), b30, s3_0);
    }
    let scale0 = tile_noted(4u * m + 0u);
    let scale1 = tile_noted(4u * m + 1u);
    let scale2 = tile_noted(4u * m + 2u);
    let scale3 = tile_noted(4u * m + 3u);
    t0_0 = tile_end(s0_0, t0_0, scale0);
    t1_0 = tile_end(s1_0, t1_0, scale1);
    t2_0 = tile_end(s2_0, t2_0, scale2);
    t3_0 = tile_end(s3_0, t3_0, scale3);
  }
  store(first_row + 4u * m + 0u, first_out + 4u * n, t0_0);
  store(first_row + 4u * m + 1u, first_out + 4u * n, t1_0);
  store(first_row + 4u * m + 2u, first_out + 4u * n, t2_0);
  store(first_row + 4u * m + 3u, first_out + 4u * n, t3_0);
}
