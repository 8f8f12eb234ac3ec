// recall_rows: out[r, c] = ring[slot[r], (position[r] - back) mod rows, c]
//
// Spec    core/src/ops/recall_rows.rs
// Launch  x: blocks of RING_WARPS warps, 256 columns each; y: rows

#include "common/chain.cuh"
#include "common/row.cuh"

template <bool QUADS>
static __device__ __forceinline__ void recall(const float* __restrict__ ring, float* __restrict__ out,
                                              const Prepared& prepared, const RingParams& params) {
  const unsigned block = blockIdx.x * RING_WARPS + warp_id();
  if (block * PREPARED_BLOCK >= params.cols) return;
  float v[EACH];
  load<QUADS>(v, ring, column_of(block), params.cols);
  put<QUADS>(v, out, prepared, blockIdx.y, block, params.cols);
}

extern "C" __global__ void __launch_bounds__(RING_WARPS * WARP)
recall_rows(const float* __restrict__ ring,    // [slots, params.rows, stride]
            const RowInfo* __restrict__ rows,  // [rows]
            float* __restrict__ out,           // [rows, cols], or 0
            Prepared prepared,                 // out for products
            RingParams params,
            const StepState* __restrict__ step) {
  follow();
  if (blockIdx.y >= step->rows) return;
  const RowInfo info = rows[blockIdx.y];
  ring += (size_t(info.slot) * params.rows + (info.position - params.back) % params.rows) * params.stride;
  if ((params.cols | params.stride) % 4 == 0) {
    recall<true>(ring, out, prepared, params);
  } else {
    recall<false>(ring, out, prepared, params);
  }
}
