// A block of 256 columns of a gated unit, which a warp has in registers as row.cuh says.
#pragma once

#include "gen/abi.cuh"
#include "common/activation.cuh"
#include "common/row.cuh"

// Whether rows start at 16 bytes.
static __device__ __forceinline__ bool has_quads(const CudaGluParams& params) {
  return (params.cols | params.gate_cols | params.gate_start | params.up_cols | params.up_start) % 4 == 0;
}

// Columns c to c + 7 of the row that `gate` and `up` point to.
template <bool QUADS>
static __device__ __forceinline__ void gated(float (&g)[EACH], const float* __restrict__ gate, const float* __restrict__ up,
                                             const CudaGluParams& params, unsigned c) {
  float u[EACH];
  load_two<QUADS>(g, {gate, params.gate_planes, params.gate_stride}, u, {up, params.up_planes, params.up_stride}, c,
                  params.cols);
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) g[i] = (params.silu ? silu(g[i]) : gelu_tanh(g[i])) * u[i];
}
