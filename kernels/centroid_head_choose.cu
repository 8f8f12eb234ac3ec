// centroid_head, first and third part: the clusters of a row, and all logits.
//
// Spec    core/src/ops/centroid_head.rs
//
//   centroid_head__choose  the top_k clusters of a row, the largest score first, of equal ones the lower cluster
//                          grid: rows; CENTROID_THREADS a block
//   centroid_head__fill    the logits that were found, and the smallest of them less 1 for every other token
//                          grid: slices of CENTROID_SLICE logits, rows; CENTROID_THREADS a block

#include "common/chain.cuh"
#include "common/half.cuh"
#include "common/reduce.cuh"

// Scores and clusters as numbers of the same order, none of which is 0: a larger score first, then a lower cluster. Floats
// stand in the order of IEEE 754's totalOrder.
static __device__ __forceinline__ u64 key_of(float score, unsigned cluster) {
  const unsigned bits = __float_as_uint(score);
  return u64(bits ^ (bits >> 31 ? ~0u : 0x80000000u)) << 32 | ~cluster;
}

static __device__ __forceinline__ u64 largest(u64 key) {
#pragma unroll
  for (unsigned reach = WARP / 2; reach > 0; reach /= 2) key = max(key, __shfl_xor_sync(ALL_LANES, key, reach));
  return key;
}

extern "C" __global__ void __launch_bounds__(CENTROID_THREADS)
centroid_head__choose(const float* __restrict__ scores,  // [rows, clusters]
                      unsigned* __restrict__ chosen,     // [rows, top_k]
                      CudaCentroidParams params,
                      const StepState* __restrict__ step) {
  follow();
  constexpr unsigned WARPS = CENTROID_THREADS / WARP;
  __shared__ u64 of_warp[2][WARPS];
  const unsigned row = blockIdx.x;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  scores += size_t(row) * params.clusters;
  u64 last = ~u64(0), mine = ~u64(0);
  for (unsigned i = 0; i < params.top_k; i++) {
    // What was chosen, and what comes before it, is not chosen again. Who has not lost its best keeps it.
    if (mine >= last) {
      mine = 0;
      for (unsigned c = threadIdx.x; c < params.clusters; c += CENTROID_THREADS) {
        const u64 key = key_of(scores[c], c);
        if (i == 0 || key < last) mine = max(mine, key);
      }
    }
    // Two places take turns, so one barrier a cluster is enough.
    const u64 best = largest(mine);
    if (lane_id() == 0) of_warp[i % 2][warp_id()] = best;
    __syncthreads();
    last = largest(of_warp[i % 2][lane_id() % WARPS]);
    if (threadIdx.x == 0) chosen[size_t(row) * params.top_k + i] = ~unsigned(last);
  }
}

extern "C" __global__ void __launch_bounds__(CENTROID_THREADS)
centroid_head__fill(const float* __restrict__ ordering,   // [vocab]
                    const unsigned* __restrict__ chosen,  // [rows, top_k]
                    const float* __restrict__ found,      // [rows, top_k * each]
                    float* __restrict__ out,              // [rows, vocab]
                    CudaCentroidParams params,
                    const StepState* __restrict__ step) {
  follow();
  __shared__ float partial[CENTROID_THREADS / WARP];
  const unsigned row = blockIdx.y, count = params.top_k * params.each, first = blockIdx.x * CENTROID_SLICE;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  const unsigned end = min(first + CENTROID_SLICE, params.vocab);
  found += size_t(row) * count;
  chosen += size_t(row) * params.top_k;
  out += size_t(row) * params.vocab;
  float low = __int_as_float(0x7f800000);
  for (unsigned i = threadIdx.x; i < count; i += CENTROID_THREADS) low = fminf(low, found[i]);
  const float rest = -block_max(-low, partial) - 1.f;
  for (unsigned t = first + threadIdx.x; t < end; t += CENTROID_THREADS) out[t] = rest;
  // What was filled is overwritten by other threads.
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count; i += CENTROID_THREADS) {
    const unsigned token = unsigned(ordering[chosen[i / params.each] * params.each + i % params.each]);
    if (token >= first && token < end) out[token] = found[i];
  }
}
