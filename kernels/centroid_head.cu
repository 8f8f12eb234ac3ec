// centroid_head, second part: found[r, i] = x[r] . table[token i of the chosen clusters]
//
// Spec    core/src/ops/centroid_head.rs
// Launch  x: blocks of CENTROID_WARPS warps, a token each; y: rows. A unit for each type of the table.
// Differs from the spec in f32 arithmetic: a lane has every 32nd column.

#include "common/chain.cuh"
#include "common/reduce.cuh"
#include "common/weight_at.cuh"

// Products of a lane that are added up before they join its sum: so its error grows with the logarithm of the columns.
constexpr unsigned TERMS = 16;

extern "C" __global__ void __launch_bounds__(CENTROID_WARPS * WARP, 4)
centroid_head(const float* __restrict__ x,          // [rows, hidden]
              const WeightView table,               // [vocab, hidden]
              const float* __restrict__ ordering,   // [vocab]
              const unsigned* __restrict__ chosen,  // [rows, top_k]
              float* __restrict__ found,            // [rows, top_k * each]
              CudaCentroidParams params,
              const StepState* __restrict__ step) {
  follow();
  const unsigned row = blockIdx.y, count = params.top_k * params.each, i = blockIdx.x * CENTROID_WARPS + warp_id();
  if (row >= (params.picked ? step->picked : step->rows) || i >= count) return;
  const unsigned cluster = chosen[size_t(row) * params.top_k + i / params.each];
  const unsigned token = min(unsigned(ordering[cluster * params.each + i % params.each]), params.vocab - 1);
  x += size_t(row) * params.hidden;
  float sum = 0.f;
  for (unsigned start = lane_id(); start < params.hidden; start += TERMS * WARP) {
    float part = 0.f;
#pragma unroll 4
    for (unsigned c = start; c < min(start + TERMS * WARP, params.hidden); c += WARP) {
      part = fmaf(weight_at(table, token, c), x[c], part);
    }
    sum += part;
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) found[size_t(row) * count + i] = sum;
}
