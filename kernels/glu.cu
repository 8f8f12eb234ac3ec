// glu: out[r, c] = f(gate[r, c]) * up[r, c], where f is gelu or silu
//
// Spec    core/src/ops/glu.rs
// Launch  x: blocks of GLU_WARPS warps, 256 columns each; y: rows. In front of a product of few rows, at most 256 columns are
//         part of that launch: `linear__glu_N`.
// Differs from the spec in f32 arithmetic: see common/activation.cuh.

#include "common/chain.cuh"
#include "common/glu.cuh"

template <bool QUADS>
static __device__ __forceinline__ void glu_block(const float* __restrict__ gate, const float* __restrict__ up,
                                                 float* __restrict__ out, const Prepared& prepared,
                                                 const CudaGluParams& params, const StepState* __restrict__ step) {
  if (params.invites) invite();
  const unsigned row = blockIdx.y, block = blockIdx.x * GLU_WARPS + warp_id(), c = column_of(block), cols = params.cols;
  gate += size_t(row) * params.gate_cols + params.gate_start;
  up += size_t(row) * params.up_cols + params.up_start;
  const unsigned rows = rows_of(step, params.picked);
  follow();
  float g[EACH];
  gated<QUADS>(g, gate, up, params, c);
  // Padding rows are read like others and not written; so are blocks past the end of the row.
  if (row >= rows || block * PREPARED_BLOCK >= cols) return;
  put<QUADS>(g, out, prepared, row, block, cols);
}

extern "C" __global__ void __launch_bounds__(GLU_WARPS * WARP)
glu(const float* __restrict__ gate,  // [gate_planes][rows, gate_cols], from gate_start
    const float* __restrict__ up,    // [up_planes][rows, up_cols], from up_start
    float* __restrict__ out,         // [rows, cols], or 0
    Prepared prepared,               // out for products
    CudaGluParams params,
    const StepState* __restrict__ step) {
  if (has_quads(params)) {
    glu_block<true>(gate, up, out, prepared, params, step);
  } else {
    glu_block<false>(gate, up, out, prepared, params, step);
  }
}
