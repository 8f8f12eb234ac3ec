// The heads of a row, a warp each: norms and turns them, keys and values go to the cache.
//   queries  out[r, h] = rope(n(q[r, h]) * q_norm)                      n(x) = x / sqrt(mean(x^2) + eps)
//   cache    key = rope(n(k[r, h]) * k_norm), value = n(v[r, h]), or v[r, h] itself
//
// A warp holds a head in groups of 128 values, of which lane l has values 4 l to 4 l + 3.
#pragma once

#include "common/chain.cuh"
#include "common/kv_write.cuh"

constexpr u32 GROUPS = 4;  // heads have up to 512 values

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

// Where a head stands among the columns of a row: first those of the queries, then of the keys, then of the values.
__device__ __forceinline__ u32 first_column(const CudaPrepareParams& params, u32 head) {
  const u32 values = params.heads + params.kv_heads;
  return head >= values ? params.value_start + (head - values) * params.dim : head * params.dim;
}

__device__ __forceinline__ void spread(float (&v)[4], float4 x) { v[0] = x.x; v[1] = x.y; v[2] = x.z; v[3] = x.w; }

__device__ __forceinline__ void four(float (&v)[4], const float* from, bool there) {
  spread(v, there ? *reinterpret_cast<const float4*>(from) : make_float4(0.f, 0.f, 0.f, 0.f));
}

// The weight of a norm, ahead of `follow`, zeros where there is none.
template <u32 N>
__device__ __forceinline__ void load_weight(float (&w)[N][4], const float* weight, u32 dim) {
#pragma unroll
  for (u32 q = 0; q < N; q++) {
    const u32 at = 128 * q + 4 * (threadIdx.x % 32);
    spread(w[q], weight && at < dim ? ahead(reinterpret_cast<const float4*>(weight + at)) : make_float4(0.f, 0.f, 0.f, 0.f));
  }
}

// The sum of a head's planes, zeros past its end.
template <u32 N>
__device__ __forceinline__ void load_head(float (&h)[N][4], const float* x, u32 dim, u32 planes, u32 stride) {
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (u32 q = 0; q < N; q++) four(h[q], x + 128 * q + 4 * lane, 128 * q + 4 * lane < dim);
  // As many together as have registers; those that are not there are zeros.
  constexpr u32 TOGETHER = N > 2 ? 2 : 4;
#pragma unroll 1
  for (u32 first = 1; first < planes; first += TOGETHER) {
    float more[TOGETHER][N][4];
#pragma unroll
    for (u32 k = 0; k < TOGETHER; k++) {
#pragma unroll
      for (u32 q = 0; q < N; q++) {
        const u32 at = 128 * q + 4 * lane;
        four(more[k][q], x + size_t(first + k) * stride + at, at < (first + k < planes ? dim : 0));
      }
    }
#pragma unroll
    for (u32 k = 0; k < TOGETHER; k++) {
#pragma unroll
      for (u32 q = 0; q < N; q++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) h[q][i] += more[k][q][i];
      }
    }
  }
}

// Norms a head that is not stored as it is; `w` is its weight if it has one.
template <u32 N>
__device__ __forceinline__ void norm_head(float (&h)[N][4], const float (&w)[N][4], bool weighted, bool plain, u32 dim,
                                          float eps) {
  float squares = 0.f;
#pragma unroll
  for (u32 q = 0; q < N; q++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) squares = fmaf(h[q][i], h[q][i], squares);
  }
  for (u32 mask = 1; mask < 32; mask *= 2) squares += __shfl_xor_sync(~0u, squares, mask);
  const float scale = plain ? 1.f : __fdiv_rn(1.f, __fsqrt_rn(__fdiv_rn(squares, float(dim)) + eps));
#pragma unroll
  for (u32 q = 0; q < N; q++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) h[q][i] *= weighted ? scale * w[q][i] : scale;
  }
}

// A value of a pair, turned: the other one is half a head behind a `low` one, and before one that is not.
__device__ __forceinline__ float turned(float value, float other, float2 by, bool low) {
  return fmaf(value, by.x, low ? -(other * by.y) : other * by.y);
}

// Head blockIdx.y * HEADS_EACH + warp of row blockIdx.x. What no kernel of the step writes is read before the one before
// this is done.
__device__ __forceinline__ void prepare_heads(
    const float* __restrict__ qkv, const HeadWeights& weights, float* __restrict__ out, u8* k, u8* v,
    const RowInfo* __restrict__ rows, const u32* __restrict__ tables, const CudaPrepareParams& params,
    const StepState* __restrict__ step) {
  // Four at once are stored: of itself, an array of floats may start at any of them.
  __shared__ __align__(16) float shared[HEADS_EACH][128 * GROUPS];
  const u32 lane = threadIdx.x % 32, row = blockIdx.x, dim = params.dim, half = dim / 2;
  const u32 head = blockIdx.y * HEADS_EACH + threadIdx.x / 32;
  const bool there = row < step->rows && head < params.heads + 2 * params.kv_heads;
  const bool query = head < params.heads, value = head >= params.heads + params.kv_heads;
  const bool plain = value && params.plain;
  const RowInfo info = rows[there ? row : 0];
  float w[GROUPS][4];
  load_weight(w, value ? nullptr : query ? weights.q_norm : weights.k_norm, there ? dim : 0);
  float2 by[GROUPS][4];
#pragma unroll
  for (u32 q = 0; q < GROUPS; q++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      const u32 at = 128 * q + 4 * lane + i;
      if (value || at >= dim || !there) continue;
      by[q][i] = turn(__fmul_rn(float(info.position), weights.frequency[at < half ? at : at - half]));
    }
  }
  const u32 kind = value ? params.v_kind : params.k_kind, kv_head = (head - params.heads) % max(params.kv_heads, 1u);
  u8* to = value ? v : k;
  if (there && !query) {
    const u32 page = page_of(tables, info.slot, info.position / PAGE, params.local);
    to += head_at(page, params.kv_heads, kv_head, kind, dim);
  }
  follow();
  if (!there) return;

  float h[GROUPS][4];
  load_head(h, qkv + size_t(row) * params.width + first_column(params, head), dim, params.planes, params.plane_stride);
  norm_head(h, w, !value, plain, dim, params.eps);
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
        const u32 at = 128 * q + 4 * lane + i;
        if (at >= dim) continue;
        const bool low = at < half;
        h[q][i] = turned(h[q][i], all[low ? at + half : at - half], by[q][i], low);
      }
    }
  }
  if (query) {
#pragma unroll
    for (u32 q = 0; q < GROUPS; q++) {
      const u32 at = 128 * q + 4 * lane;
      if (at < dim) {
        float* row_of = out + (size_t(row) * params.heads + head) * dim + at;
        *reinterpret_cast<float4*>(row_of) = make_float4(h[q][0], h[q][1], h[q][2], h[q][3]);
      }
    }
    return;
  }
#pragma unroll
  for (u32 q = 0; q < GROUPS; q++) {
    if (128 * q < dim) store_group(kind, to, info.position % PAGE, dim, q, h[q]);
  }
}
