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

// Turns the pairs (i, i + 64 N) of a head of 128 N values: of two groups of a lane, or of lanes 16 apart.
template <u32 N, u32 PAIRS>
__device__ __forceinline__ void turn_head(float (&h)[N][4], const float2 (&by)[PAIRS][4]) {
  static_assert(PAIRS == (N > 1 ? N / 2 : 1), "groups that have angles of their own");
#pragma unroll
  for (u32 q = 0; q < PAIRS; q++) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      if constexpr (N > 1) {
        const float a = h[q][i], b = h[q + PAIRS][i];
        h[q][i] = turned(a, b, by[q][i], true);
        h[q + PAIRS][i] = turned(b, a, by[q][i], false);
      } else {
        const float other = __shfl_xor_sync(~0u, h[q][i], 16);
        h[q][i] = turned(h[q][i], other, by[q][i], threadIdx.x % 32 < 16);
      }
    }
  }
}

// The angles of `turn_head` at a position.
template <u32 PAIRS>
__device__ __forceinline__ void angles(float2 (&by)[PAIRS][4], const float* frequency, u32 position, u32 half) {
#pragma unroll
  for (u32 q = 0; q < PAIRS; q++) {
    float f[4];
    spread(f, ahead(reinterpret_cast<const float4*>(frequency + (128 * q + 4 * (threadIdx.x % 32)) % half)));
#pragma unroll
    for (u32 i = 0; i < 4; i++) by[q][i] = turn(__fmul_rn(float(position), f[i]));
  }
}

// Which head of which row a warp has: head blockIdx.y * HEADS_EACH + warp of row blockIdx.x.
struct RowHead {
  const u32 row = blockIdx.x, head = blockIdx.y * HEADS_EACH + threadIdx.x / 32;
  const bool there, query, value;
  __device__ __forceinline__ RowHead(const CudaPrepareParams& params, const StepState* step)
      : there(row < step->rows && head < params.heads + 2 * params.kv_heads), query(head < params.heads),
        value(head >= params.heads + params.kv_heads) {}
  // Where a key or a value goes.
  __device__ __forceinline__ u8* place(u8* k, u8* v, u32 kind, const RowInfo& info, const u32* tables,
                                       const CudaPrepareParams& params) const {
    const u32 page = page_of(tables, info.slot, info.position / PAGE, params.local);
    return (value ? v : k) + head_at(page, params.kv_heads, (head - params.heads) % params.kv_heads, kind, params.dim);
  }
};

// prepare_heads of heads of WIDTH values, a multiple of 128, and known types.
template <u32 WIDTH, u32 OF_K, u32 OF_V>
__device__ __forceinline__ void prepare_known_heads(
    const float* __restrict__ qkv, const HeadWeights& weights, float* __restrict__ out, u8* k, u8* v,
    const RowInfo* __restrict__ rows, const u32* __restrict__ tables, const CudaPrepareParams& params,
    const StepState* __restrict__ step) {
  if (params.invites) invite();
  constexpr u32 N = WIDTH / 128;
  const RowHead mine(params, step);
  if (!mine.there) return follow();
  const RowInfo info = rows[mine.row];
  float w[N][4], h[N][4];
  float2 by[N > 1 ? N / 2 : 1][4];
  load_weight(w, mine.value ? nullptr : mine.query ? weights.q_norm : weights.k_norm, WIDTH);
  if (!mine.value) angles(by, weights.frequency, info.position, WIDTH / 2);
  u8* to = mine.query ? nullptr : mine.place(k, v, mine.value ? OF_V : OF_K, info, tables, params);
  follow();
  const float* x = qkv + size_t(mine.row) * params.width + first_column(params, mine.head);
  load_head(h, x, WIDTH, params.planes, params.plane_stride);
  norm_head(h, w, !mine.value, mine.value && params.plain, WIDTH, params.eps);
  if (!mine.value) turn_head(h, by);
#pragma unroll
  for (u32 q = 0; q < N; q++) {
    if (mine.query) {
      float* row_of = out + (size_t(mine.row) * params.heads + mine.head) * WIDTH + 128 * q + 4 * (threadIdx.x % 32);
      *reinterpret_cast<float4*>(row_of) = make_float4(h[q][0], h[q][1], h[q][2], h[q][3]);
    } else if (mine.value) {
      store_group(OF_V, to, info.position % PAGE, WIDTH, q, h[q]);
    } else {
      store_group(OF_K, to, info.position % PAGE, WIDTH, q, h[q]);
    }
  }
}

// Head blockIdx.y * HEADS_EACH + warp of row blockIdx.x. What no kernel of the step writes is read before the one before
// this is done.
__device__ __forceinline__ void prepare_heads(
    const float* __restrict__ qkv, const HeadWeights& weights, float* __restrict__ out, u8* k, u8* v,
    const RowInfo* __restrict__ rows, const u32* __restrict__ tables, const CudaPrepareParams& params,
    const StepState* __restrict__ step) {
  // Four at once are stored: of itself, an array of floats may start at any of them.
  __shared__ __align__(16) float shared[HEADS_EACH][128 * GROUPS];
  const u32 lane = threadIdx.x % 32, dim = params.dim, half = dim / 2;
  const RowHead mine(params, step);
  const bool there = mine.there, value = mine.value, plain = value && params.plain;
  const RowInfo info = rows[there ? mine.row : 0];
  float w[GROUPS][4];
  load_weight(w, value ? nullptr : mine.query ? weights.q_norm : weights.k_norm, there ? dim : 0);
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
  const u32 kind = value ? params.v_kind : params.k_kind;
  u8* to = there && !mine.query ? mine.place(k, v, kind, info, tables, params) : nullptr;
  follow();
  if (!there) return;

  float h[GROUPS][4];
  load_head(h, qkv + size_t(mine.row) * params.width + first_column(params, mine.head), dim, params.planes, params.plane_stride);
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
  if (mine.query) {
#pragma unroll
    for (u32 q = 0; q < GROUPS; q++) {
      const u32 at = 128 * q + 4 * lane;
      if (at < dim) {
        float* row_of = out + (size_t(mine.row) * params.heads + mine.head) * dim + at;
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
