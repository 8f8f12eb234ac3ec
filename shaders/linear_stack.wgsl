// linear with two or three weights of one type, whose outputs follow one another:
//   out[r, first + o] = sum over c of x[r, c] * [w; w1; w2][o, c]
//
// Spec    core/src/ops/linear.rs
// Launch  x, y: 4 * LANES_THREADS / LANES outputs of one weight a workgroup, all of `w` first; z: ROWS rows a workgroup
// Differs from the spec in the order of the sum (f32): see common/matvec.wgsl.

@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;   // [rows, cols / 4]
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride] words
@group(0) @binding(3) var<storage, read> w1: array<vec4<u32>>;   // [second, stride] words
@group(0) @binding(4) var<storage, read> w2: array<vec4<u32>>;   // [third, stride] words
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

// Where the products of row `r` of the workgroup's go: so many columns from `first` on, of which `output` is the first.
struct Place { row: u32, rows: u32, first: u32, outputs: u32, output: u32, index: u32 }

// Stores the products of row `r` of the workgroup's with four rows of weights.
fn store(sum: vec4<f32>, r: u32, place: Place) {
  // No invocation may leave before the sum. ROWS and rows are the same for all of them.
  if ROWS <= r || place.rows <= r { return; }
  let total = lanes_sum(sum, place.index);
  let output = place.output;
  if (place.index & (LANES - 1u)) != 0u || output >= place.outputs { return; }
  let at = (place.row + r) * params.out_cols + place.first + output;
  out[at] = total.x;
  if output + 1u < place.outputs { out[at + 1u] = total.y; }
  if output + 2u < place.outputs { out[at + 2u] = total.z; }
  if output + 3u < place.outputs { out[at + 3u] = total.w; }
}

@compute @workgroup_size(LANES_THREADS)
fn linear__stack(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let each = 4u * (LANES_THREADS / LANES);
  // Which weight this workgroup has, and where its outputs start.
  var of_weight = group.y * groups.x + group.x;
  var which = 0u;
  var place = Place(group.z * ROWS, 0u, params.first, params.outputs, 0u, index);
  let before_second = (params.outputs + each - 1u) / each;
  if of_weight >= before_second {
    of_weight -= before_second;
    which = 1u;
    place.first += params.outputs;
    place.outputs = params.second;
    let before_third = (params.second + each - 1u) / each;
    if params.third > 0u && of_weight >= before_third {
      of_weight -= before_third;
      which = 2u;
      place.first += params.second;
      place.outputs = params.third;
    }
  }
  place.rows = select(step.rows, step.picked, params.picked != 0u) - place.row;
  place.output = of_weight * each + 4u * (index / LANES);
  let starts = min(vec4(place.output) + vec4(0u, 1u, 2u, 3u), vec4(place.outputs - 1u)) * params.stride;
  let chunks = params.cols / 32u;
  let quad = place.row * (params.cols / 4u);
  let own = index & (LANES - 1u);
  // Three copies of one loop: reads of a binding that is known.
  var s: Sums;
  if which == 0u {
    weight_of = 0u;
    s = matvec(starts, params.tails, chunks, own, quad, place.rows);
  } else if which == 1u {
    weight_of = 1u;
    s = matvec(starts, params.tails, chunks, own, quad, place.rows);
  } else {
    weight_of = 2u;
    s = matvec(starts, params.tails, chunks, own, quad, place.rows);
  }
  store(s.a, 0u, place);
  store(s.b, 1u, place);
  store(s.c, 2u, place);
  store(s.d, 3u, place);
  store(s.e, 4u, place);
  store(s.f, 5u, place);
  store(s.g, 6u, place);
  store(s.h, 7u, place);
}
