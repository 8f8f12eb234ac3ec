// attention, decode class, second half: splits of a row and query head, added up in ascending order.
//
// Spec    core/src/ops/attention.rs
// Launch  x: query heads, y: rows; COMBINE_THREADS a workgroup
//
// Sums pass from one dispatch to the next in `state` and `out`, one split after the other, so it does not matter how
// many dispatches there are.

override DIM: u32 = 32u;      // values of a head
override SPLIT: u32 = 256u;   // keys

const COMBINE_THREADS: u32 = 128u;
const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;     // [rows, heads, splits, 1 + DIM / 4]
@group(0) @binding(1) var<storage, read> rows: array<RowInfo>;          // [rows]
@group(0) @binding(2) var<storage, read_write> state: array<vec2<f32>>; // [rows, heads]: largest logit, sum
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;   // [rows, heads, DIM]
@group(1) @binding(0) var<uniform> params: AttentionParams;

struct Sum { top: f32, total: f32, values: vec4<f32> }

// Adds a split: its largest logit and sum of weights, and its weighted values. Nothing changes unless it is there.
fn add(sum: Sum, stat: vec4<f32>, values: vec4<f32>, is_there: bool) -> Sum {
  let top = max(sum.top, select(LOWEST, stat.x, is_there));
  let kept = select(exp(sum.top - top), 1.0, sum.top == top);
  let fresh = select(0.0, select(exp(stat.x - top), 1.0, stat.x == top), is_there);
  return Sum(top, fma(stat.y, fresh, sum.total * kept), fma(values, vec4<f32>(fresh), sum.values * kept));
}

@compute @workgroup_size(COMBINE_THREADS)
fn attention__combine(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let position = rows[workgroup.y].position;
  let first = select(0u, position + 1u - params.window, position + 1u > params.window);
  let all = position / SPLIT - first / SPLIT + 1u;
  if params.first >= all { return; }
  let count = min(all - params.first, params.splits);
  let head = workgroup.y * params.heads + workgroup.x;
  let each = 1u + DIM / 4u;
  let here = head * params.splits * each;
  let column = min(lane, DIM / 4u - 1u);
  let to = head * (DIM / 4u) + column;

  var sum = Sum(LOWEST, 0.0, vec4<f32>(0.0));
  if params.first > 0u {
    let before = state[head];
    sum = Sum(before.x, before.y, out[to]);
  }
  for (var i = 0u; i < count; i += 4u) {
    let p0 = here + i * each;
    let p1 = here + min(i + 1u, count - 1u) * each;
    let p2 = here + min(i + 2u, count - 1u) * each;
    let p3 = here + min(i + 3u, count - 1u) * each;
    let s0 = partial[p0]; let s1 = partial[p1]; let s2 = partial[p2]; let s3 = partial[p3];
    let v0 = partial[p0 + 1u + column]; let v1 = partial[p1 + 1u + column];
    let v2 = partial[p2 + 1u + column]; let v3 = partial[p3 + 1u + column];
    sum = add(sum, s0, v0, true);
    sum = add(sum, s1, v1, i + 1u < count);
    sum = add(sum, s2, v2, i + 2u < count);
    sum = add(sum, s3, v3, i + 3u < count);
  }
  // All have read the state before one writes it.
  workgroupBarrier();
  let done = params.first + count == all;
  if lane < DIM / 4u { out[to] = select(sum.values, sum.values / sum.total, done); }
  if lane == 0u { state[head] = vec2<f32>(sum.top, sum.total); }
}
