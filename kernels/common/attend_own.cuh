// attention of a row whose heads are not prepared yet: a block makes the queries that it asks with, and the block that sees
// the row itself makes and stores its key and value. What attn_prepare does, bit by bit (heads.cuh).
//
// Keys and values of earlier tokens are there before the kernel in front of this one is done, so copies of them begin early:
// whatever wrote them is further back than that, and the kernel in front is a product, which invites nobody.
#pragma once

#include "common/attend.cuh"
#include "common/heads.cuh"

template <class Attend>
struct OwnHeads {
  static constexpr u32 N = DIM / 128;             // groups of a head
  static constexpr u32 PAIRS = N > 1 ? N / 2 : 1;  // of them that have angles of their own
  static constexpr bool NEXT = N <= 2;             // there are registers for the next head of a warp

  const float* qkv;
  const HeadWeights weights;
  const CudaPrepareParams& params;
  u8 *k, *v;                     // pools of the cache
  u8* to;                        // where in them this warp stores a head of the row, if it does
  float2 by[PAIRS][4];
  float w[N][4];                 // weight of the norm of the warp's next head
  bool stores;
  u32 token;

  __device__ __forceinline__ OwnHeads(const float* qkv, const HeadWeights& weights, const CudaPrepareParams& params, u8* k,
                                      u8* v)
      : qkv(qkv), weights(weights), params(params), k(k), v(v) {}

  // What needs nothing of the kernel before. `newest`: this block's keys end with that of the row.
  __device__ __forceinline__ void ahead(Attend& attend, const Turn& turn, const RowInfo& info, bool newest, u32 group) {
    stores = newest && params.kv_heads > 0;
    // The row's own key is not there yet: no tile that the first copies reach may have it.
    const bool early = !stores || (turn.first / KEYS + Attend::BEGUN) * KEYS <= info.position;
    attend.aim(turn);
    if (early) attend.begin();
    token = info.position % PAGE;
    angles(by, weights.frequency, info.position, DIM / 2);
    load_weight(w, stores && threadIdx.x / 32 < 2 ? weights.k_norm : weights.q_norm, DIM);
    // Columns without a query are zeros.
    for (u32 i = threadIdx.x; i < DIM / 16 * 32; i += THREADS) {
      if (i % 32 >= 4 * group) reinterpret_cast<uint4*>(attend.q)[i] = make_uint4(0, 0, 0, 0);
    }
    if (!stores) return;
    const u32 page = page_of(attend.cache.tables, info.slot, info.position / PAGE, params.local);
    const bool value = threadIdx.x / 32 == 1;
    to = (value ? v : k) + head_at(page, params.kv_heads, blockIdx.x, value ? V_KIND : K_KIND, DIM);
  }

  // Which head of the row a job is: the row's key and value first where they are stored, then the queries of the group.
  __device__ __forceinline__ u32 head_of(u32 job, u32 group) const {
    if (!stores) return blockIdx.x * group + job;
    if (job < 2) return params.heads + job * params.kv_heads + blockIdx.x;
    return blockIdx.x * group + job - 2;
  }

  // A query that is normed and turned, as column `c`. On its way to the operand it lies in the operand's own bytes of that
  // column, of which each step of 16 values has 64.
  __device__ __forceinline__ void put(Attend& attend, u32 c, const float (&h)[N][4]) const {
    const u32 lane = threadIdx.x % 32;
    const auto place = [&](u32 value) { return reinterpret_cast<float4*>(attend.q + value / 16 * 512 + c * 64 + value % 16 * 4); };
#pragma unroll
    for (u32 q = 0; q < N; q++) *place(128 * q + 4 * lane) = make_float4(h[q][0], h[q][1], h[q][2], h[q][3]);
    __syncwarp();
    float x[PIECES][8] = {};
#pragma unroll
    for (u32 piece = 0; piece < PIECES; piece++) {
      const u32 value = 256 * piece + 8 * lane;
      if (value >= DIM) continue;
      const float4 a = *place(value), b = *place(value + 4);
      x[piece][0] = a.x; x[piece][1] = a.y; x[piece][2] = a.z; x[piece][3] = a.w;
      x[piece][4] = b.x; x[piece][5] = b.y; x[piece][6] = b.z; x[piece][7] = b.w;
    }
    __syncwarp();
#pragma unroll
    for (u32 piece = 0; piece < PIECES; piece++) attend.put_query(c, 256 * piece + 8 * lane, x[piece]);
  }

  // The row's key, or its value.
  __device__ __forceinline__ void store(float (&h)[N][4], bool value) const {
    norm_head(h, w, !value, value && params.plain, DIM, params.eps);
    if (!value) turn_head(h, by);
#pragma unroll
    for (u32 q = 0; q < N; q++) {
      if (value) store_group(V_KIND, to, token, DIM, q, h[q]);
      else store_group(K_KIND, to, token, DIM, q, h[q]);
    }
  }

  __device__ __forceinline__ void load(float (&h)[N][4], u32 job, u32 jobs, u32 group) const {
    const float* x = qkv + first_column(params, head_of(job, group));
    load_head(h, x, job < jobs ? DIM : 0, params.planes, params.plane_stride);
  }

  // Behind `follow`. The next head of a warp is under way while it works on one, where there is room for it.
  __device__ __forceinline__ void go(Attend& attend, u32 group) {
    const u32 warp = threadIdx.x / 32, first = stores ? 2 : 0, jobs = first + group;
    float h[N][4], next[N][4];
    load(h, warp, jobs, group);
#pragma unroll 1
    for (u32 job = warp; job < jobs; job += WARPS) {
      if (NEXT) load(next, job + WARPS, jobs, group);
      if (job < first) {
        store(h, job == 1);
        load_weight(w, weights.q_norm, DIM);
      } else {
        norm_head(h, w, true, false, DIM, params.eps);
        turn_head(h, by);
        put(attend, job - first, h);
      }
      if (!NEXT) load(h, job + WARPS, jobs, group);
#pragma unroll
      for (u32 q = 0; NEXT && q < N; q++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) h[q][i] = next[q][i];
      }
    }
    if (attend.begun()) return;
    __syncthreads();  // the row's key and value are in the cache
    attend.begin();
  }
};
