// moe_ffn: out[r, ..] = sum over ranks k of weights[r, k] * down[e] . (gelu(gate[e] . x[r]) * (up[e] . x[r])), e = experts[r, k]
//
// Spec    core/src/ops/moe_ffn.rs
// Launch  decode class: shaders/moe_matvec.wgsl, the first matrices and then `down`
//         prefill class: moe_ffn__sort, and shaders/moe_tiles.wgsl likewise
//         moe_ffn__sort: one workgroup for each expert
//         moe_ffn__combine: x: workgroups of 4 * ROW_THREADS columns; y: rows; where pairs were kept apart
// Differs from the spec in f32 arithmetic and in the order of the sums. Experts are added in rank order.

@group(0) @binding(0) var<storage, read> parts: array<f32>;            // [rows, top_k, cols]
@group(0) @binding(1) var<storage, read> weights: array<f32>;          // [rows, top_k]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;        // [rows, cols]
@group(0) @binding(0) var<storage, read> unsorted: array<u32>;         // [rows, top_k]
@group(0) @binding(1) var<storage, read_write> lists: array<u32>;      // pairs by expert, then tiles
@group(1) @binding(0) var<uniform> params: MoeFfnParams;
@group(1) @binding(1) var<uniform> step: StepState;

@compute @workgroup_size(ROW_THREADS)
fn moe_ffn__combine(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let end = min((group.x + 1u) * 4u * ROW_THREADS, params.outputs);
  for (var c = group.x * 4u * ROW_THREADS + lane; c < end; c += ROW_THREADS) {
    var sum = 0.0;
    for (var rank = 0u; rank < params.top_k; rank++) {
      let pair = group.y * params.top_k + rank;
      sum = fma(weights[pair], parts[pair * params.outputs + c], sum);
    }
    out[group.y * params.outputs + c] = sum;
  }
}

var<workgroup> scan: array<vec2<u32>, ROW_THREADS>;

// One workgroup for each expert: its pairs by row and rank, behind those of the experts before it, and its tiles.
//
// With `before` pairs of lower experts, tiles start at number before / MOE_TILE_PAIRS + expert: that is never below the
// end of the tiles of the expert before, so no expert needs to know how many tiles others have. Numbers in between are
// tiles of no pairs.
@compute @workgroup_size(ROW_THREADS)
fn moe_ffn__sort(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let expert = group.x;
  let pairs = select(step.rows, step.picked, params.picked == 1u) * params.top_k;
  let each = (pairs + ROW_THREADS - 1u) / ROW_THREADS;
  let start = min(lane * each, pairs);
  let end = min(start + each, pairs);
  // Pairs of lower experts, pairs of this one.
  var counts = vec2(0u);
  for (var pair = start; pair < end; pair++) {
    let chosen = unsorted[pair];
    counts += select(vec2(0u), vec2(1u), vec2(chosen < expert, chosen == expert));
  }
  scan[lane] = counts;
  var sum = counts;
  for (var reach = 1u; reach < ROW_THREADS; reach *= 2u) {
    workgroupBarrier();
    if lane >= reach { sum += scan[lane - reach]; }
    workgroupBarrier();
    scan[lane] = sum;
  }
  workgroupBarrier();
  let total = scan[ROW_THREADS - 1u];
  var at = total.x + sum.y - counts.y;
  for (var pair = start; pair < end; pair++) {
    if unsorted[pair] == expert {
      lists[at] = pair;
      at++;
    }
  }
  let tile = total.x / MOE_TILE_PAIRS + expert;
  let next = (total.x + total.y) / MOE_TILE_PAIRS + expert + 1u;
  for (var i = tile + lane; i < next; i += ROW_THREADS) {
    let done = min((i - tile) * MOE_TILE_PAIRS, total.y);
    let word = params.pairs + 3u * i;
    lists[word] = expert;
    lists[word + 1u] = total.x + done;
    lists[word + 2u] = min(total.y - done, MOE_TILE_PAIRS);
  }
}
