// attention, for what the other kernels do not take: heads of other widths, caches of f32. Slow and exact.
//
// Spec    core/src/ops/attention.rs
// Launch  x: rows, y: query heads; 256 threads; 1024 floats of shared memory
//
// A block takes a query through its keys in tiles of 256 at absolute positions: a thread makes the logit of a key, then
// adds up one or two columns of all values of the tile.

#include "common/chain.cuh"
#include "common/kv_any.cuh"
#include "common/prepare.cuh"
#include "common/rotate.cuh"

constexpr u32 KEYS = 256, DIM_MAX = 512;
constexpr float LOG2E = 1.44269504f;

// A number that all threads get: the largest of theirs, or their sum in a fixed order.
template <bool SUM>
__device__ float over_block(float x, float* shared) {
  for (u32 mask = 1; mask < 32; mask *= 2) {
    const float other = __shfl_xor_sync(~0u, x, mask);
    x = SUM ? x + other : fmaxf(x, other);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float all = shared[0];
  for (u32 w = 1; w < KEYS / 32; w++) all = SUM ? all + shared[w] : fmaxf(all, shared[w]);
  return all;
}

extern "C" __global__ void __launch_bounds__(KEYS, 1) attention__any(
    const float* __restrict__ q, const u8* __restrict__ k, const u8* __restrict__ v, float* __restrict__ out,
    const RowInfo* __restrict__ rows, const u32* __restrict__ tables, CudaAttentionParams params,
    const StepState* __restrict__ step) {
  follow();
  __shared__ float query[DIM_MAX], weights[KEYS], across[KEYS / 32];
  const u32 head = blockIdx.y, row = blockIdx.x, lane = threadIdx.x % 32, dim = params.dim;
  if (row >= step->rows) return;
  const RowInfo info = rows[row];
  const Seen seen = seen_by(info, params.window, params.reach);
  const u32 kv_head = head / params.group, first = seen.first, last = seen.last;
  const size_t place = (size_t(row) * params.heads + head) * dim;
  for (u32 start = threadIdx.x / 32 * 128; start < dim; start += KEYS / 32 * 128) {
    float x[4];
    for (u32 i = 0; i < 4; i++) x[i] = start + 4 * lane + i < dim ? q[place + start + 4 * lane + i] : 0.f;
    if (params.k_kind == KV_TQ3_0) rotate<4>(x, false);
    for (u32 i = 0; i < 4; i++) query[start + 4 * lane + i] = x[i];
  }
  __syncthreads();

  float top = LOWEST, total = 0.f, sums[2] = {0.f, 0.f};
  for (u32 start = first / KEYS * KEYS; start <= last; start += KEYS) {
    const u32 page = page_of(tables, info.slot, start / PAGE, params.local), key = start + threadIdx.x;
    const u8* keys = k + head_at(page, params.kv_heads, kv_head, params.k_kind, dim);
    const u8* values = v + head_at(page, params.kv_heads, kv_head, params.v_kind, dim);
    const bool sees = key >= first && key <= last;
    float logit = LOWEST;
    if (sees) {
      // Several sums, which are added up pairwise: one alone would round off too much.
      float part[8] = {};
      for (u32 d = 0; d < dim; d++) part[d % 8] = fmaf(query[d], value_of(params.k_kind, keys, key % PAGE, dim, d), part[d % 8]);
      logit = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    }
    const float now = fmaxf(top, over_block<false>(logit, across));
    const float alpha = exp2_of((top - now) * LOG2E), weight = sees ? exp2_of((logit - now) * LOG2E) : 0.f;
    top = now;
    weights[threadIdx.x] = weight;
    total = fmaf(total, alpha, over_block<true>(weight, across));
    const u32 from = max(first, start), to = min(last, start + KEYS - 1);
    for (u32 i = 0; i < 2; i++) {
      const u32 d = threadIdx.x + KEYS * i;
      if (d >= dim) continue;
      float part = 0.f;
      for (u32 j = from; j <= to; j++) part = fmaf(weights[j - start], value_of(params.v_kind, values, j % PAGE, dim, d), part);
      sums[i] = fmaf(sums[i], alpha, part);
    }
    __syncthreads();
  }

  for (u32 i = 0; i < 2; i++) {
    if (threadIdx.x + KEYS * i < dim) query[threadIdx.x + KEYS * i] = __fdiv_rn(sums[i], total);
  }
  __syncthreads();
  for (u32 start = threadIdx.x / 32 * 128; start < dim; start += KEYS / 32 * 128) {
    float x[4];
    for (u32 i = 0; i < 4; i++) x[i] = start + 4 * lane + i < dim ? query[start + 4 * lane + i] : 0.f;
    if (params.v_kind == KV_TQ3_0) rotate<4>(x, true);
    for (u32 i = 0; i < 4; i++) {
      if (start + 4 * lane + i < dim) out[place + start + 4 * lane + i] = x[i];
    }
  }
}
