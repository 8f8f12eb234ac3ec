// linear of one row with two or three weights of one type, whose outputs follow one another:
//   out[r, first + o] = sum over c of x[r, c] * [w; w1; w2][o, c]
//
// Spec    core/src/ops/linear.rs
// Launch  x, y: 4 * LANES_THREADS / LANES outputs of one weight a workgroup, all of `w` first. ROWS is 1
// Differs from the spec in the order of the sum (f32): see common/matvec.wgsl.

@group(0) @binding(0) var<storage, read> x4: array<vec4<f32>>;   // [rows, cols / 4]
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(0) @binding(2) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride] words
@group(0) @binding(3) var<storage, read> w1: array<vec4<u32>>;   // [second, stride] words
@group(0) @binding(4) var<storage, read> w2: array<vec4<u32>>;   // [third, stride] words
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

@compute @workgroup_size(LANES_THREADS)
fn linear__stack(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, lane: Lane) {
  let index = lane_index(lane);
  let each = 4u * (LANES_THREADS / LANES);
  // Which weight this workgroup has, where its outputs start, and how many there are.
  var of_weight = group.y * groups.x + group.x;
  var which = 0u;
  var first = params.first;
  var outputs = params.outputs;
  let before_second = (params.outputs + each - 1u) / each;
  if of_weight >= before_second {
    of_weight -= before_second;
    which = 1u;
    first += outputs;
    outputs = params.second;
    let before_third = (params.second + each - 1u) / each;
    if params.third > 0u && of_weight >= before_third {
      of_weight -= before_third;
      which = 2u;
      first += outputs;
      outputs = params.third;
    }
  }
  let output = of_weight * each + 4u * (index / LANES);
  let starts = min(vec4(output) + vec4(0u, 1u, 2u, 3u), vec4(outputs - 1u)) * params.stride;
  let chunks = params.cols / 32u;
  let own = index & (LANES - 1u);
  // Three copies of one loop: reads of a binding that is known.
  var sum: vec4<f32>;
  if which == 0u {
    weight_of = 0u;
    sum = matvec(starts, params.tails, chunks, own, 0u, 1u).a;
  } else if which == 1u {
    weight_of = 1u;
    sum = matvec(starts, params.tails, chunks, own, 0u, 1u).a;
  } else {
    weight_of = 2u;
    sum = matvec(starts, params.tails, chunks, own, 0u, 1u).a;
  }
  // No invocation may leave before the sum: rows are the same for all of them.
  if select(step.rows, step.picked, params.picked != 0u) == 0u { return; }
  let total = lanes_sum(sum, index);
  if own != 0u || output >= outputs { return; }
  let at = first + output;
  out[at] = total.x;
  if output + 1u < outputs { out[at + 1u] = total.y; }
  if output + 2u < outputs { out[at + 2u] = total.z; }
  if output + 3u < outputs { out[at + 3u] = total.w; }
}
