// gather_rows: out[i, c] = x[picked[i], c]
//
// Spec    core/src/ops/gather_rows.rs
// Launch  x: blocks of ELEMENT_THREADS threads, 4 columns each; y: picked rows

#include "common/chain.cuh"
#include "gen/abi.cuh"

extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)
gather_rows(const float* __restrict__ x,          // [rows, cols]
            const unsigned* __restrict__ picked,  // [picked]
            float* __restrict__ out,              // [picked, cols]
            CudaElementParams params,
            const StepState* __restrict__ step) {
  follow();
  const unsigned cols = params.cols, c = 4 * (blockIdx.x * ELEMENT_THREADS + threadIdx.x);
  if (blockIdx.y >= step->picked) return;
  x += size_t(picked[blockIdx.y]) * cols;
  out += size_t(blockIdx.y) * cols;
  if (cols % 4 == 0) {
    if (c < cols) *reinterpret_cast<float4*>(out + c) = *reinterpret_cast<const float4*>(x + c);
  } else {
    for (unsigned i = c; i < min(c + 4, cols); i++) out[i] = x[i];
  }
}
