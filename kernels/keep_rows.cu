// keep_rows: ring[slot[r], position[r] mod rows, column + c] = x[r, c]
//
// Spec    core/src/ops/keep_rows.rs
// Launch  x: blocks of RING_WARPS warps, 256 columns each; y: rows
// A row that a later one of its slot would overwrite is left out, so no two blocks write to one place.

#include "common/chain.cuh"
#include "common/row.cuh"

extern "C" __global__ void __launch_bounds__(RING_WARPS * WARP)
keep_rows(const float* __restrict__ x,          // [rows, cols]
          const RowInfo* __restrict__ rows,     // [rows]
          const unsigned* __restrict__ picked,  // [picked]
          float* __restrict__ ring,             // [slots, params.rows, stride]
          RingParams params,
          const StepState* __restrict__ step) {
  follow();
  const unsigned at = blockIdx.y, c = column_of(blockIdx.x * RING_WARPS + warp_id()), cols = params.cols;
  if (at >= (params.picked ? step->picked : step->rows)) return;
  const RowInfo info = rows[params.picked ? picked[at] : at];
  if (info.flags >> 8 >= params.rows) return;
  x += size_t(at) * cols;
  ring += (size_t(info.slot) * params.rows + info.position % params.rows) * params.stride + params.column;
  float v[EACH];
  if ((cols | params.stride | params.column) % 4 == 0) {
    load<true>(v, x, c, cols);
    store<true>(ring, v, c, cols);
  } else {
    load<false>(v, x, c, cols);
    store<false>(ring, v, c, cols);
  }
}
