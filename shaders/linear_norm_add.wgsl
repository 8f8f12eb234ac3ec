// linear of one row, then norm_add of the product and the norm of the sum, by the last workgroup that is done:
//   out = w x;  residual = (residual + n(out) * add_w) * scale;  next = n(residual) * next_w      n(x) = x / sqrt(mean(x^2) + eps)
// linear__norm_add_twice adds another branch first: residual = (residual + n(dense) * dense_w + n(out) * add_w) * scale.
//
// Spec    core/src/ops/linear.rs, core/src/ops/norm_add.rs, core/src/ops/rms_norm.rs
// Launch  x, y: 4 * LANES_THREADS / LANES outputs a workgroup; up to 24 * ROW_THREADS outputs, a multiple of four; ROWS is 1
// Differs from the spec in f32 arithmetic and in the order of the sums: see common/matvec.wgsl and common/quads.wgsl. Bits are
// those of linear and then norm_add__rms_norm or norm_add__twice, which steps of several rows have.

@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;                    // [cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;                     // [outputs, stride] words
@group(0) @binding(2) @coherent var<storage, read_write> out: array<vec4<f32>>;   // [outputs / 4]
@group(0) @binding(3) var<storage, read_write> residual: array<vec4<f32>>;        // [outputs / 4]
@group(0) @binding(4) var<storage, read_write> next: array<vec4<f32>>;            // [outputs / 4]
@group(0) @binding(5) var<storage, read> add_w: array<vec4<f32>>;                 // [outputs / 4]
@group(0) @binding(6) var<storage, read> next_w: array<vec4<f32>>;                // [outputs / 4]
@group(0) @binding(7) var<storage, read_write> arrived: array<atomic<u32>>;       // [1]
@group(0) @binding(8) var<storage, read> dense: array<vec4<f32>>;                 // [outputs / 4]
@group(0) @binding(9) var<storage, read> dense_w: array<vec4<f32>>;               // [outputs / 4]
@group(1) @binding(0) var<uniform> params: LinearNormParams;

// An invocation does what two of a norm's workgroup do.
const_assert ROW_THREADS == 2u * LANES_THREADS;

// A place for each subgroup of those; a subgroup has at least four invocations.
var<workgroup> row_partial: array<f32, ROW_THREADS / 4u>;

// The sum of all `first`s and then of all `second`s, as common/reduce_subgroup.wgsl takes it.
fn row_sum(first: f32, second: f32, index: u32) -> f32 {
  let one = subgroupAdd(first);
  let two = subgroupAdd(second);
  workgroupBarrier();
  if index % SUBGROUP == 0u {
    row_partial[index / SUBGROUP] = one;
    row_partial[(LANES_THREADS + index) / SUBGROUP] = two;
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < ROW_THREADS / SUBGROUP; i++) { sum += row_partial[i]; }
  return sum;
}

fn inverse_rms(first: Quads, second: Quads, eps: f32, index: u32) -> f32 {
  return inverse_of(row_sum(sum_of_squares(first), sum_of_squares(second), index), params.outputs, eps);
}

// Quads of a row, zero past its end.
fn out_at(i: u32) -> vec4<f32> { if 4u * i < params.outputs { return out[i]; } return vec4(0.0); }
fn residual_at(i: u32) -> vec4<f32> { if 4u * i < params.outputs { return residual[i]; } return vec4(0.0); }
fn add_w_at(i: u32) -> vec4<f32> { if 4u * i < params.outputs { return add_w[i]; } return vec4(0.0); }
fn next_w_at(i: u32) -> vec4<f32> { if 4u * i < params.outputs { return next_w[i]; } return vec4(0.0); }
fn dense_at(i: u32) -> vec4<f32> { if 4u * i < params.outputs { return dense[i]; } return vec4(0.0); }
fn dense_w_at(i: u32) -> vec4<f32> { if 4u * i < params.outputs { return dense_w[i]; } return vec4(0.0); }

fn load_out(l: u32) -> Quads {
  return Quads(
    out_at(l), out_at(l + ROW_THREADS), out_at(l + 2u * ROW_THREADS),
    out_at(l + 3u * ROW_THREADS), out_at(l + 4u * ROW_THREADS), out_at(l + 5u * ROW_THREADS),
  );
}
fn load_residual(l: u32) -> Quads {
  return Quads(
    residual_at(l), residual_at(l + ROW_THREADS), residual_at(l + 2u * ROW_THREADS),
    residual_at(l + 3u * ROW_THREADS), residual_at(l + 4u * ROW_THREADS), residual_at(l + 5u * ROW_THREADS),
  );
}
fn load_add_w(l: u32) -> Quads {
  return Quads(
    add_w_at(l), add_w_at(l + ROW_THREADS), add_w_at(l + 2u * ROW_THREADS),
    add_w_at(l + 3u * ROW_THREADS), add_w_at(l + 4u * ROW_THREADS), add_w_at(l + 5u * ROW_THREADS),
  );
}
fn load_next_w(l: u32) -> Quads {
  return Quads(
    next_w_at(l), next_w_at(l + ROW_THREADS), next_w_at(l + 2u * ROW_THREADS),
    next_w_at(l + 3u * ROW_THREADS), next_w_at(l + 4u * ROW_THREADS), next_w_at(l + 5u * ROW_THREADS),
  );
}
fn load_dense(l: u32) -> Quads {
  return Quads(
    dense_at(l), dense_at(l + ROW_THREADS), dense_at(l + 2u * ROW_THREADS),
    dense_at(l + 3u * ROW_THREADS), dense_at(l + 4u * ROW_THREADS), dense_at(l + 5u * ROW_THREADS),
  );
}
fn load_dense_w(l: u32) -> Quads {
  return Quads(
    dense_w_at(l), dense_w_at(l + ROW_THREADS), dense_w_at(l + 2u * ROW_THREADS),
    dense_w_at(l + 3u * ROW_THREADS), dense_w_at(l + 4u * ROW_THREADS), dense_w_at(l + 5u * ROW_THREADS),
  );
}

fn put_residual(i: u32, v: vec4<f32>) { if 4u * i < params.outputs { residual[i] = v; } }
fn put_next(i: u32, v: vec4<f32>) { if 4u * i < params.outputs { next[i] = v; } }

fn store_residual(l: u32, v: Quads) {
  put_residual(l, v.q0);
  put_residual(l + ROW_THREADS, v.q1);
  put_residual(l + 2u * ROW_THREADS, v.q2);
  put_residual(l + 3u * ROW_THREADS, v.q3);
  put_residual(l + 4u * ROW_THREADS, v.q4);
  put_residual(l + 5u * ROW_THREADS, v.q5);
}
fn store_next(l: u32, v: Quads) {
  put_next(l, v.q0);
  put_next(l + ROW_THREADS, v.q1);
  put_next(l + 2u * ROW_THREADS, v.q2);
  put_next(l + 3u * ROW_THREADS, v.q3);
  put_next(l + 4u * ROW_THREADS, v.q4);
  put_next(l + 5u * ROW_THREADS, v.q5);
}

fn sum_of(v: Quads, norm: f32, weight: Quads, r: Quads) -> Quads {
  let by = params.scale;
  return Quads(
    added(v.q0, norm, weight.q0, r.q0, by), added(v.q1, norm, weight.q1, r.q1, by), added(v.q2, norm, weight.q2, r.q2, by),
    added(v.q3, norm, weight.q3, r.q3, by), added(v.q4, norm, weight.q4, r.q4, by), added(v.q5, norm, weight.q5, r.q5, by),
  );
}

fn first_sum_of(v: Quads, norm: f32, weight: Quads, r: Quads) -> Quads {
  return Quads(
    first_added(v.q0, norm, weight.q0, r.q0), first_added(v.q1, norm, weight.q1, r.q1),
    first_added(v.q2, norm, weight.q2, r.q2), first_added(v.q3, norm, weight.q3, r.q3),
    first_added(v.q4, norm, weight.q4, r.q4), first_added(v.q5, norm, weight.q5, r.q5),
  );
}

// Adds the product to `before`, the residual of both halves of the row, and norms the sum.
fn finish(before: array<Quads, 2>, index: u32) {
  let other = index + LANES_THREADS;
  let first = load_out(index);
  let second = load_out(other);
  let norm = inverse_rms(first, second, params.eps, index);
  let one = sum_of(first, norm, load_add_w(index), before[0]);
  let two = sum_of(second, norm, load_add_w(other), before[1]);
  store_residual(index, one);
  store_residual(other, two);
  let scale = inverse_rms(one, two, params.next_eps, index);
  store_next(index, weighted(one, scale, load_next_w(index)));
  store_next(other, weighted(two, scale, load_next_w(other)));
}

// Whether this workgroup is the last one that stores its products.
fn product(group: vec3<u32>, groups: vec3<u32>, index: u32) -> bool {
  let output = 4u * ((group.y * groups.x + group.x) * (LANES_THREADS / LANES) + index / LANES);
  let starts = min(vec4(output) + vec4(0u, 1u, 2u, 3u), vec4(params.outputs - 1u)) * params.stride;
  let own = index & (LANES - 1u);
  let total = lanes_sum(matvec(starts, params.tails, params.cols / 32u, own, 0u, 1u).a, index);
  if own == 0u && output < params.outputs { out[output / 4u] = total; }
  return arrive(0u, groups.x * groups.y, index);
}

@compute @workgroup_size(LANES_THREADS)
fn linear__norm_add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  if !product(group, groups, index) { return; }
  finish(array<Quads, 2>(load_residual(index), load_residual(index + LANES_THREADS)), index);
}

@compute @workgroup_size(LANES_THREADS)
fn linear__norm_add_twice(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let other = index + LANES_THREADS;
  if !product(group, groups, index) { return; }
  let first = load_dense(index);
  let second = load_dense(other);
  let norm = inverse_rms(first, second, params.eps, index);
  let before = array<Quads, 2>(
    first_sum_of(first, norm, load_dense_w(index), load_residual(index)),
    first_sum_of(second, norm, load_dense_w(other), load_residual(other)),
  );
  finish(before, index);
}
