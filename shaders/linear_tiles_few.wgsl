// linear, prefill class, tiles of 16 rows: for programs of few rows. shaders/common/linear_tiles.wgsl says what and how.
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 64); y: ceil(rows / 16)
//
// Few rows leave few tiles, so what an output adds up is made four terms at a time, by 32 invocations each: a term is the sum
// of a segment. Then the terms are added in their order. An invocation has 16 rows by 2 outputs of a term. It decodes its
// weights itself, and reads activations from workgroup memory, a chunk of a term at a time. Tiles are of f32
// (common/tile_f32.wgsl): those of f16 have one shape for any number of rows.

// Activations of chunks of four terms, and eight rows of the terms themselves: 16 KiB, what every device has.
var<workgroup> few_x: array<array<array<array<vec4<f32>, 4>, 4>, 8>, 4>;  // [terms, quads, columns, rows / 4]
var<workgroup> few_terms: array<array<array<vec4<f32>, 64>, 2>, 4>;       // [terms, rows / 4, outputs]

fn few_put_x(term: u32, quad: u32, row: u32, values: vec4<f32>) {
  few_x[term][quad][0][row / 4u][row % 4u] = values.x;
  few_x[term][quad][1][row / 4u][row % 4u] = values.y;
  few_x[term][quad][2][row / 4u][row % 4u] = values.z;
  few_x[term][quad][3][row / 4u][row % 4u] = values.w;
}

// What an invocation brings, of 64 rows: 16 of each term.
fn few_row(own: u32, i: u32) -> u32 { return tile_row(own, i, 64u, 8u) % 16u; }
fn few_term(own: u32, i: u32) -> u32 { return tile_row(own, i, 64u, 8u) / 16u; }
fn few_quad(own: u32, i: u32) -> u32 { return tile_quad(own, i, 64u, 8u); }

fn few_store_x(own: u32, v: Half) {
  few_put_x(few_term(own, 0u), few_quad(own, 0u), few_row(own, 0u), v.a);
  few_put_x(few_term(own, 1u), few_quad(own, 1u), few_row(own, 1u), v.b);
  few_put_x(few_term(own, 2u), few_quad(own, 2u), few_row(own, 2u), v.c);
  few_put_x(few_term(own, 3u), few_quad(own, 3u), few_row(own, 3u), v.d);
}

// Quad `i` of those that invocation `own` brings for terms from `first` on, of their chunk `piece`. What is past the end is the
// last row, or the last chunk, again: its products are never used.
fn few_fetch(own: u32, i: u32, first_row: u32, first: u32, piece: u32, chunks: u32) -> vec4<f32> {
  let row = min(first_row + few_row(own, i), row_count() - 1u);
  let chunk = few_chunk(first + few_term(own, i), piece, chunks);
  return x[row * (params.cols / 4u) + chunk_quad(chunk, chunks, few_quad(own, i))];
}

fn few_fetch_x(own: u32, first_row: u32, first: u32, piece: u32, chunks: u32) -> Half {
  return Half(
    few_fetch(own, 0u, first_row, first, piece, chunks), few_fetch(own, 1u, first_row, first, piece, chunks),
    few_fetch(own, 2u, first_row, first, piece, chunks), few_fetch(own, 3u, first_row, first, piece, chunks),
  );
}

// Chunk `piece` of a term; the last one past the end.
fn few_chunk(term: u32, piece: u32, chunks: u32) -> u32 { return min(term * SEGMENT + piece, chunks - 1u); }

// Sums of 16 rows with two outputs, `a` and `b`.
struct FewSums {
  a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>,
  b0: vec4<f32>, b1: vec4<f32>, b2: vec4<f32>, b3: vec4<f32>,
}

// Adds the products of a column.
fn few_column(s: FewSums, term: u32, quad: u32, column: u32, a: f32, b: f32) -> FewSums {
  let x0 = few_x[term][quad][column][0];
  let x1 = few_x[term][quad][column][1];
  let x2 = few_x[term][quad][column][2];
  let x3 = few_x[term][quad][column][3];
  let wa = vec4(a);
  let wb = vec4(b);
  return FewSums(
    fma(x0, wa, s.a0), fma(x1, wa, s.a1), fma(x2, wa, s.a2), fma(x3, wa, s.a3),
    fma(x0, wb, s.b0), fma(x1, wb, s.b1), fma(x2, wb, s.b2), fma(x3, wb, s.b3),
  );
}

fn few_columns(sums: FewSums, term: u32, quad: u32, a: vec4<f32>, b: vec4<f32>) -> FewSums {
  var s = few_column(sums, term, quad, 0u, a.x, b.x);
  s = few_column(s, term, quad, 1u, a.y, b.y);
  s = few_column(s, term, quad, 2u, a.z, b.z);
  return few_column(s, term, quad, 3u, a.w, b.w);
}

// The terms of a quarter of the rows.
fn few_put_terms(term: u32, place: u32, n: u32, a: vec4<f32>, b: vec4<f32>) {
  few_terms[term][place][n] = a;
  few_terms[term][place][32u + n] = b;
}

// Adds the terms in their order.
fn few_add(total: vec4<f32>, place: u32, n: u32) -> vec4<f32> {
  return (((total + few_terms[0][place][n]) + few_terms[1][place][n]) + few_terms[2][place][n]) + few_terms[3][place][n];
}

// Four rows of an output.
fn few_store(row: u32, output: u32, values: vec4<f32>) {
  if output >= params.outputs { return; }
  let rows = row_count();
  let at = row * params.out_cols + params.first + output;
  if row < rows { out[at] = values.x; }
  if row + 1u < rows { out[at + params.out_cols] = values.y; }
  if row + 2u < rows { out[at + 2u * params.out_cols] = values.z; }
  if row + 3u < rows { out[at + 3u * params.out_cols] = values.w; }
}

// 16 rows by 64 outputs.
@compute @workgroup_size(128)
fn linear__few(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 16u;
  let first_out = group.x * 64u;
  let chunks = params.cols / 32u;
  let terms = (chunks + SEGMENT - 1u) / SEGMENT;
  // Which term this invocation makes, and its first output; the other is 32 further.
  let term = lane / 32u;
  let n = lane % 32u;
  let last = params.outputs - 1u;
  let a_start = min(first_out + n, last) * params.stride;
  let b_start = min(first_out + 32u + n, last) * params.stride;
  // Which outputs it adds up, of a quarter of the first and one of the last eight rows.
  let place = lane / 64u;
  var low = vec4(0.0);
  var high = vec4(0.0);
  var next_x = few_fetch_x(lane, first_row, 0u, 0u, chunks);
  var next_a = load_chunk(a_start, a_start + params.tails, few_chunk(term, 0u, chunks), chunks);
  var next_b = load_chunk(b_start, b_start + params.tails, few_chunk(term, 0u, chunks), chunks);
  for (var first = 0u; first < terms; first += 4u) {
    var s = FewSums();
    for (var piece = 0u; piece < SEGMENT; piece++) {
      let a = next_a;
      let b = next_b;
      few_store_x(lane, next_x);
      workgroupBarrier();
      let ends = piece + 1u == SEGMENT;
      let next_first = select(first, first + 4u, ends);
      let next_piece = select(piece + 1u, 0u, ends);
      let next = few_chunk(next_first + term, next_piece, chunks);
      next_x = few_fetch_x(lane, first_row, next_first, next_piece, chunks);
      next_a = load_chunk(a_start, a_start + params.tails, next, chunks);
      next_b = load_chunk(b_start, b_start + params.tails, next, chunks);
      // The last term may have fewer chunks, and those past the end are 0.
      if (first + term) * SEGMENT + piece < chunks {
        for (var half = 0u; half < 2u; half++) {
          let wa = half_values(a, half);
          let wb = half_values(b, half);
          s = few_columns(s, term, 4u * half, wa.a, wb.a);
          s = few_columns(s, term, 4u * half + 1u, wa.b, wb.b);
          s = few_columns(s, term, 4u * half + 2u, wa.c, wb.c);
          s = few_columns(s, term, 4u * half + 3u, wa.d, wb.d);
        }
      }
      // Nobody reads these activations any more.
      if !ends { workgroupBarrier(); }
    }
    few_put_terms(term, 0u, n, s.a0, s.b0);
    few_put_terms(term, 1u, n, s.a1, s.b1);
    workgroupBarrier();
    low = few_add(low, place, lane % 64u);
    workgroupBarrier();
    few_put_terms(term, 0u, n, s.a2, s.b2);
    few_put_terms(term, 1u, n, s.a3, s.b3);
    workgroupBarrier();
    // Before terms or activations are stored again all invocations have passed another barrier.
    high = few_add(high, place, lane % 64u);
  }
  few_store(first_row + 4u * place, first_out + lane % 64u, low);
  few_store(first_row + 8u + 4u * place, first_out + lane % 64u, high);
}
