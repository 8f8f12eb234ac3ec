// softcap: x[r, c] = cap * tanh(x[r, c] / cap)
//
// Spec    core/src/ops/softcap.rs
// Launch  x: blocks of ELEMENT_THREADS threads, 4 columns each; y: rows
// Differs from the spec in f32 arithmetic. In front of `sample` it is part of that kernel.

#include "gen/abi.cuh"
#include "common/activation.cuh"
#include "common/chain.cuh"

extern "C" __global__ void __launch_bounds__(ELEMENT_THREADS)
softcap(float* __restrict__ x,  // [rows, cols], in place
        CudaElementParams params,
        const StepState* __restrict__ step) {
  follow();
  const unsigned cols = params.cols, c = 4 * (blockIdx.x * ELEMENT_THREADS + threadIdx.x);
  if (blockIdx.y >= (params.picked ? step->picked : step->rows)) return;
  x += size_t(blockIdx.y) * cols;
  if (cols % 4 == 0) {
    if (c >= cols) return;
    float4 v = *reinterpret_cast<const float4*>(x + c);
    v.x = softcap_of(v.x, params.cap), v.y = softcap_of(v.y, params.cap);
    v.z = softcap_of(v.z, params.cap), v.w = softcap_of(v.w, params.cap);
    *reinterpret_cast<float4*>(x + c) = v;
  } else {
    for (unsigned i = c; i < min(c + 4, cols); i++) x[i] = softcap_of(x[i], params.cap);
  }
}
