// The heads of a row, a warp each: norms and turns them, keys and values go to the cache.
//   queries  out[r, h] = rope(n(q[r, h]) * q_norm)                      n(x) = x / sqrt(mean(x^2) + eps)
//   cache    key = rope(n(k[r, h]) * k_norm), value = n(v[r, h]), or v[r, h] itself
#pragma once

#include "common/kv_write.cuh"

constexpr u32 GROUPS = 4;  // of 128 values: heads have up to 512

// Cosine and sine of an angle of up to 2^18: less a multiple of pi / 2, which is taken in three parts.
__device__ __forceinline__ float2 turn(float angle) {
  const float n = rintf(angle * 0.63661977f);
  float r = fmaf(n, -1.57079637f, angle);
  r = fmaf(n, 4.37113883e-8f, r);
  r = fmaf(n, 1.71512451e-15f, r);
  const float z = r * r;
  const float s = fmaf(r * z, fmaf(z, fmaf(z, -1.9515296e-4f, 8.332161e-3f), -0.16666655f), r);
  const float c = fmaf(z * z, fmaf(z, fmaf(z, 2.4433157e-5f, -1.3887316e-3f), 0.041666646f), fmaf(z, -0.5f, 1.f));
  const u32 quadrant = u32(int(n)) & 3;
  const float x = quadrant & 1 ? s : c, y = quadrant & 1 ? c : s;
  return make_float2(quadrant == 1 || quadrant == 2 ? -x : x, quadrant >= 2 ? -y : y);
}

// What a layer knows of its heads.
struct HeadWeights {
  const float *q_norm, *k_norm;  // [dim]; 0 where there are no such heads
  const float* frequency;        // [dim / 2]
};

// Head blockIdx.y * HEADS_EACH + warp of row blockIdx.x: first those of the queries, then of the keys, then of the values.
__device__ __forceinline__ void prepare_heads(
    const float* __restrict__ qkv, const HeadWeights& weights, float* __restrict__ out, u8* k, u8* v,
    const RowInfo* __restrict__ rows, const u32* __restrict__ tables, const CudaPrepareParams& params,
    const StepState* __restrict__ step) {
  // Four at once are stored: of itself, an array of floats may start at any of them.
  __shared__ __align__(16) float shared[HEADS_EACH][128 * GROUPS];
  const u32 lane = threadIdx.x % 32, row = blockIdx.x, dim = params.dim;
  const u32 head = blockIdx.y * HEADS_EACH + threadIdx.x / 32;
  if (row >= step->rows || head >= params.heads + 2 * params.kv_heads) return;
  const bool query = head < params.heads, value = head >= params.heads + params.kv_heads;
  const u32 first = value ? params.value_start + (head - params.heads - params.kv_heads) * dim : head * dim;
  const float* x = qkv + size_t(row) * params.width + first;

  float h[GROUPS][4], squares = 0.f;
#pragma unroll
  for (u32 q = 0; q < GROUPS; q++) {
    const u32 at = 128 * q + 4 * lane;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    if (at < dim) {
      sum = *reinterpret_cast<const float4*>(x + at);
      for (u32 plane = 1; plane < params.planes; plane++) {
        const float4 more = *reinterpret_cast<const float4*>(x + size_t(plane) * params.plane_stride + at);
        sum.x += more.x; sum.y += more.y; sum.z += more.z; sum.w += more.w;
      }
    }
    h[q][0] = sum.x; h[q][1] = sum.y; h[q][2] = sum.z; h[q][3] = sum.w;
#pragma unroll
    for (u32 i = 0; i < 4; i++) squares = fmaf(h[q][i], h[q][i], squares);
  }
  for (u32 mask = 1; mask < 32; mask *= 2) squares += __shfl_xor_sync(~0u, squares, mask);
  const bool plain = value && params.plain;
  const float scale = plain ? 1.f : __fdiv_rn(1.f, __fsqrt_rn(__fdiv_rn(squares, float(dim)) + params.eps));
  const float* weight = query ? weights.q_norm : weights.k_norm;
#pragma unroll
  for (u32 q = 0; q < GROUPS; q++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 at = 128 * q + 4 * lane + i;
      h[q][i] *= value || at >= dim ? scale : scale * weight[at];
    }
  }

  const RowInfo info = rows[row];
  if (!value) {
    // Pairs (i, i + dim / 2) meet through shared memory.
    float* all = shared[threadIdx.x / 32];
#pragma unroll
    for (u32 q = 0; q < GROUPS; q++) {
      *reinterpret_cast<float4*>(all + 128 * q + 4 * lane) = make_float4(h[q][0], h[q][1], h[q][2], h[q][3]);
    }
    __syncwarp();
#pragma unroll
    for (u32 q = 0; q < GROUPS; q++) {
#pragma unroll
      for (u32 i = 0; i < 4; i++) {
        const u32 at = 128 * q + 4 * lane + i, half = dim / 2;
        if (at >= dim) continue;
        const bool low = at < half;
        const float2 cs = turn(__fmul_rn(float(info.position), weights.frequency[low ? at : at - half]));
        const float other = all[low ? at + half : at - half];
        h[q][i] = fmaf(h[q][i], cs.x, low ? -(other * cs.y) : other * cs.y);
      }
    }
  }
  if (query) {
#pragma unroll
    for (u32 q = 0; q < GROUPS; q++) {
      const u32 at = 128 * q + 4 * lane;
      if (at < dim) {
        float* to = out + (size_t(row) * params.heads + head) * dim + at;
        *reinterpret_cast<float4*>(to) = make_float4(h[q][0], h[q][1], h[q][2], h[q][3]);
      }
    }
    return;
  }
  const u32 kind = value ? params.v_kind : params.k_kind, kv_head = (head - params.heads) % params.kv_heads;
  const u32 page = page_of(tables, info.slot, info.position / PAGE, params.local);
  u8* to = (value ? v : k) + head_at(page, params.kv_heads, kv_head, kind, dim);
#pragma unroll
  for (u32 q = 0; q < GROUPS; q++) {
    if (128 * q < dim) store_group(kind, to, info.position % PAGE, dim, q, h[q]);
  }
}
