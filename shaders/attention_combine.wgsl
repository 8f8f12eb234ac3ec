// attention, decode class, second half: splits of a row and query head, added up in ascending order.
//
// Spec    core/src/ops/attention.rs
// Launch  x: query heads * pieces of COMBINE_COLUMNS vec4s, y: rows; ROW_THREADS invocations a workgroup
//
// Splits are counted from the first that the row sees. Number `i` is added to strand `i % COMBINE_STRANDS`, in ascending order,
// and in the end the strands one after the other. They pass from one dispatch to the next in `carried`, so it does not
// matter how many dispatches there are.

override DIM: u32 = 32u;     // values of a head
override SPLIT: u32 = 256u;  // keys

const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read> partial: array<vec4<f32>>;        // [rows, heads, splits, 1 + DIM / 4]
@group(0) @binding(1) var<storage, read> rows: array<RowInfo>;             // [rows]
@group(0) @binding(2) var<storage, read_write> carried: array<vec4<f32>>;  // [rows, heads, pieces, strands, 1 + columns]
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;      // [rows, heads, DIM]
@group(1) @binding(0) var<uniform> params: AttentionParams;

var<workgroup> strand_values: array<vec4<f32>, ROW_THREADS>;
var<workgroup> strand_stats: array<vec2<f32>, COMBINE_STRANDS>;

// Last position that a row sees.
fn last_seen(info: RowInfo) -> u32 {
  if params.reach == 1u { return info.position - 1u; }
  if params.reach == 2u { return info.position + min(info.flags >> 8u, params.window - 1u); }
  return info.position;
}

struct Sum { top: f32, total: f32, values: vec4<f32> }

// Adds a split: its largest logit and sum of weights, and its weighted values. Nothing changes unless it is there.
fn add(sum: Sum, stat: vec2<f32>, values: vec4<f32>, is_there: bool) -> Sum {
  let top = max(sum.top, select(LOWEST, stat.x, is_there));
  let kept = select(exp(sum.top - top), 1.0, sum.top == top);
  let fresh = select(0.0, select(exp(stat.x - top), 1.0, stat.x == top), is_there);
  return Sum(top, fma(stat.y, fresh, sum.total * kept), fma(values, vec4<f32>(fresh), sum.values * kept));
}

@compute @workgroup_size(ROW_THREADS)
fn attention__combine(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  let position = rows[workgroup.y].position;
  let first = select(0u, position + 1u - params.window, position + 1u > params.window);
  let all = last_seen(rows[workgroup.y]) / SPLIT - first / SPLIT + 1u;
  if params.first >= all { return; }
  let count = min(all - params.first, params.splits);
  let pieces = (DIM / 4u + COMBINE_COLUMNS - 1u) / COMBINE_COLUMNS;
  let head = workgroup.y * params.heads + workgroup.x / pieces;
  let strand = index / COMBINE_COLUMNS;
  let wanted = workgroup.x % pieces * COMBINE_COLUMNS + index % COMBINE_COLUMNS;
  let column = min(wanted, DIM / 4u - 1u);
  let each = 1u + DIM / 4u;
  let here = head * params.splits * each;
  let piece = workgroup.y * params.heads * pieces + workgroup.x;
  let carry = (piece * COMBINE_STRANDS + strand) * (1u + COMBINE_COLUMNS);
  let to_carry = carry + 1u + index % COMBINE_COLUMNS;

  var sum = Sum(LOWEST, 0.0, vec4<f32>(0.0));
  if params.first > 0u { sum = Sum(carried[carry].x, carried[carry].y, carried[to_carry]); }
  for (var i = strand; i < count; i += 4u * COMBINE_STRANDS) {
    let p0 = here + i * each;
    let p1 = here + min(i + COMBINE_STRANDS, count - 1u) * each;
    let p2 = here + min(i + 2u * COMBINE_STRANDS, count - 1u) * each;
    let p3 = here + min(i + 3u * COMBINE_STRANDS, count - 1u) * each;
    let s0 = partial[p0]; let s1 = partial[p1]; let s2 = partial[p2]; let s3 = partial[p3];
    let v0 = partial[p0 + 1u + column]; let v1 = partial[p1 + 1u + column];
    let v2 = partial[p2 + 1u + column]; let v3 = partial[p3 + 1u + column];
    sum = add(sum, s0.xy, v0, true);
    sum = add(sum, s1.xy, v1, i + COMBINE_STRANDS < count);
    sum = add(sum, s2.xy, v2, i + 2u * COMBINE_STRANDS < count);
    sum = add(sum, s3.xy, v3, i + 3u * COMBINE_STRANDS < count);
  }
  if params.first + count < all {
    // All have read what one of them now writes.
    workgroupBarrier();
    carried[to_carry] = sum.values;
    if index % COMBINE_COLUMNS == 0u { carried[carry] = vec4<f32>(sum.top, sum.total, 0.0, 0.0); }
    return;
  }
  strand_values[index] = sum.values;
  if index % COMBINE_COLUMNS == 0u { strand_stats[strand] = vec2<f32>(sum.top, sum.total); }
  workgroupBarrier();
  if strand == 0u && wanted == column {
    for (var s = 1u; s < COMBINE_STRANDS; s++) {
      sum = add(sum, strand_stats[s], strand_values[s * COMBINE_COLUMNS + index], strand_stats[s].y > 0.0);
    }
    out[head * (DIM / 4u) + column] = sum.values / sum.total;
  }
}
