// add: x[r, c] = x[r, c] + y[r, c]
//
// Spec    core/src/ops/add.rs
// Launch  x: blocks of ELEMENT_THREADS threads, 4 columns each; y: rows

#include "common/chain.cuh"
#include "gen/abi.cuh"

extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)
add(float* __restrict__ x,        // [rows, cols], in place
    const float* __restrict__ y,  // [rows, cols]
    CudaElementParams params,
    const StepState* __restrict__ step) {
  follow();
  const unsigned cols = params.cols, c = 4 * (blockIdx.x * ELEMENT_THREADS + threadIdx.x);
  if (blockIdx.y >= (params.picked ? step->picked : step->rows)) return;
  x += size_t(blockIdx.y) * cols;
  y += size_t(blockIdx.y) * cols;
  if (cols % 4 == 0) {
    if (c >= cols) return;
    float4 a = *reinterpret_cast<const float4*>(x + c);
    const float4 b = *reinterpret_cast<const float4*>(y + c);
    a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
    *reinterpret_cast<float4*>(x + c) = a;
  } else {
    for (unsigned i = c; i < min(c + 4, cols); i++) x[i] += y[i];
  }
}
