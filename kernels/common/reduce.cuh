// Sums and maxima over the lanes of a warp and the warps of a block.
//
// The order of a sum follows from the number of threads alone, and every thread gets the same bits: a butterfly adds
// the same two numbers on both of its sides, and addition commutes.
#pragma once

#include "gen/abi.cuh"

constexpr unsigned ALL_LANES = 0xffffffffu;

static __device__ __forceinline__ unsigned lane_id() { return threadIdx.x % WARP; }
static __device__ __forceinline__ unsigned warp_id() { return threadIdx.x / WARP; }

// The sum over `LANES` neighbouring lanes, in each of them; all lanes of the warp call it.
template <unsigned LANES = WARP>
static __device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (unsigned reach = LANES / 2; reach > 0; reach /= 2) value += __shfl_xor_sync(ALL_LANES, value, reach);
  return value;
}

// The largest over `LANES` neighbouring lanes, in each of them; NaN is never largest.
template <unsigned LANES = WARP>
static __device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (unsigned reach = LANES / 2; reach > 0; reach /= 2)
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, reach));
  return value;
}

// The sum over a block of whole warps (at most 32), in every thread. One barrier: `partial` (one float a warp, shared
// memory) must not be in use, so sums that follow one another take turns between two of them.
static __device__ __forceinline__ float block_sum(float value, float* partial) {
  value = warp_sum(value);
  if (lane_id() == 0) partial[warp_id()] = value;
  __syncthreads();
  return warp_sum(lane_id() < blockDim.x / WARP ? partial[lane_id()] : 0.f);
}

// Two sums for the barrier of one.
static __device__ __forceinline__ float2 block_sums(float2 value, float2* partial) {
  value = make_float2(warp_sum(value.x), warp_sum(value.y));
  if (lane_id() == 0) partial[warp_id()] = value;
  __syncthreads();
  const float2 other = lane_id() < blockDim.x / WARP ? partial[lane_id()] : make_float2(0.f, 0.f);
  return make_float2(warp_sum(other.x), warp_sum(other.y));
}

// The largest over a block, as `block_sum`.
static __device__ __forceinline__ float block_max(float value, float* partial) {
  value = warp_max(value);
  if (lane_id() == 0) partial[warp_id()] = value;
  __syncthreads();
  return warp_max(lane_id() < blockDim.x / WARP ? partial[lane_id()] : -__int_as_float(0x7f800000));
}

// Whether this block is the last of `blocks` to get here, which all threads are told: it may then read, past the first
// cache (`__ldcg`), what the others wrote to global memory before they came. `arrived` counts them; it is 0 before and
// after.
//
// What the block wrote goes before its arrival, for the barrier puts it before the release of thread 0. A fence of every
// thread would say the same and wait longer.
static __device__ __forceinline__ bool last_block(unsigned* arrived, unsigned blocks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(arrived), "r"(blocks - 1)
                 : "memory");
    last = before == blocks - 1;
  }
  __syncthreads();
  return last;
}
