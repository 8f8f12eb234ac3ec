// Storing a head in the cache, byte for byte as core/src/kv_type.rs does: what is rounded to codes is rounded once, so no
// product and sum may become one instruction.
//
// A warp holds a head: of group q of 128 values, lane l has values 4 l to 4 l + 3 in v[q]. Lanes past the end hold zeros.
#pragma once

#include "common/lanes.cuh"
#include "common/pages.cuh"
#include "common/rotate.cuh"

constexpr float F16_MAX = 65504.f;

// NaN stays what it is: the cache shows that something went wrong before.
__device__ __forceinline__ float within(float x, float most) { return x < -most ? -most : x > most ? most : x; }

// Whether a block or group of `lanes` lanes holds what is no number: then it is stored with a scale that is none, for
// codes cannot say so.
template <u32 LANES>
__device__ __forceinline__ bool broken(const float (&v)[4]) {
  bool any = false;
#pragma unroll
  for (u32 i = 0; i < 4; i++) any |= !(fabsf(v[i]) < __int_as_float(0x7f800000));
  const u32 lane = threadIdx.x % 32, mask = LANES == 32 ? ~0u : ((1u << LANES) - 1) << lane / LANES * LANES;
  return __ballot_sync(~0u, any) & mask;
}

// 1 / d, or 0 where that overflows.
__device__ __forceinline__ float inverse_step(float d) {
  const float inverse = __fdiv_rn(1.f, d);
  return fabsf(inverse) < __int_as_float(0x7f800000) ? inverse : 0.f;
}

// The sum of the squares of a group, in the order of core/src/kv_type/tq3.rs: neighbours, then pairs and so on.
__device__ __forceinline__ float group_squares(const float (&v)[4]) {
  const float a = __fadd_rn(__fmul_rn(v[0], v[0]), __fmul_rn(v[1], v[1]));
  const float b = __fadd_rn(__fmul_rn(v[2], v[2]), __fmul_rn(v[3], v[3]));
  float sum = __fadd_rn(a, b);
  for (u32 mask = 1; mask < 32; mask *= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, mask));
  return sum;
}

// Of a block of 32 values, which eight lanes hold, the first of the largest magnitude.
__device__ __forceinline__ float largest_of(const float (&v)[4]) {
  const u32 lane = threadIdx.x % 32;
  float most = 0.f;
#pragma unroll
  for (u32 i = 0; i < 4; i++) most = fabsf(v[i]) > fabsf(most) ? v[i] : most;
  for (u32 mask = 1; mask < 8; mask *= 2) {
    const float other = __shfl_xor_sync(~0u, most, mask);
    const bool earlier = lane & mask;
    if (fabsf(other) > fabsf(most) || (fabsf(other) == fabsf(most) && earlier)) most = other;
  }
  return most;
}

// Stores group `q` of a head of `dim` values, as token `token` of the block `head`.
__device__ __forceinline__ void store_f16(u8* head, u32 token, u32 dim, u32 q, const float (&v)[4]) {
  const u32 value = 128 * q + 4 * (threadIdx.x % 32);
  if (value >= dim) return;
  u32 w[2];
  for (u32 i = 0; i < 2; i++) w[i] = halves_of(within(v[2 * i], F16_MAX), within(v[2 * i + 1], F16_MAX));
  *reinterpret_cast<uint2*>(head + (size_t(token) * dim + value) * 2) = make_uint2(w[0], w[1]);
}

__device__ __forceinline__ void store_scale(u8* head, u32 kind, u32 token, u32 dim, u32 block, float d) {
  u8* scales = head + PAGE * code_bytes(kind, dim);
  reinterpret_cast<u16*>(scales)[block * PAGE + token] = half_of(d);
}

__device__ __forceinline__ void store_q8(u8* head, u32 token, u32 dim, u32 q, const float (&v)[4]) {
  const u32 lane = threadIdx.x % 32, value = 128 * q + 4 * lane;
  const float d = within(__fdiv_rn(fabsf(largest_of(v)), 127.f), F16_MAX), inverse = inverse_step(d);
  const float stored = broken<8>(v) ? __int_as_float(0x7fffffff) : d;
  if (value >= dim) return;
  u32 word = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    // Halves away from 0, as round() does.
    const float x = within(roundf(__fmul_rn(v[i], inverse)), 127.f);
    word |= (u32(int(x)) & 255) << 8 * i;
  }
  *reinterpret_cast<u32*>(head + size_t(token) * dim + value) = word;
  if (lane % 8 == 0) store_scale(head, KV_Q8_0, token, dim, value / 32, stored);
}

__device__ __forceinline__ void store_q4(u8* head, u32 token, u32 dim, u32 q, const float (&v)[4]) {
  const u32 lane = threadIdx.x % 32, value = 128 * q + 4 * lane;
  const float d = within(__fmul_rn(largest_of(v), -0.125f), F16_MAX), inverse = inverse_step(d);
  const float stored = broken<8>(v) ? __int_as_float(0x7fffffff) : d;
  u32 word = 0;
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    const float x = __fadd_rn(__fmul_rn(v[i], inverse), 8.5f);
    word |= u32(fminf(fmaxf(x, 0.f), 15.f)) << 8 * i;
  }
  // The upper half of a block is in the high nibbles.
  const u32 upper = __shfl_xor_sync(~0u, word, 4);
  if (value >= dim) return;
  if (lane % 8 < 4) *reinterpret_cast<u32*>(head + (size_t(token) * dim + value / 32 * 32) / 2 + lane % 8 * 4) = word | upper << 4;
  if (lane % 8 == 0) store_scale(head, KV_Q4_0, token, dim, value / 32, stored);
}

__device__ __forceinline__ void store_tq3(u8* head, u32 token, u32 dim, u32 q, const float (&v)[4]) {
  const u32 lane = threadIdx.x % 32;
  float unit[4];
#pragma unroll
  for (u32 i = 0; i < 4; i++) unit[i] = within(v[i], F16_MAX);
  const float length = __fsqrt_rn(group_squares(unit));
#pragma unroll
  for (u32 i = 0; i < 4; i++) unit[i] = length > 1e-10f ? __fdiv_rn(unit[i], length) : 0.f;
  rotate<4>(unit, false);
  u32 planes[3] = {0, 0, 0};
  float c[4];
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    u32 index = 0;
#pragma unroll
    for (u32 t = 0; t < 7; t++) index += unit[i] >= TQ3_THRESHOLDS[t];
    const u32 size = index & 4 ? index & 3 : 3 - index;
    const float most = size & 2 ? (size & 1 ? TQ3_CENTROIDS[7] : TQ3_CENTROIDS[6])
                                : (size & 1 ? TQ3_CENTROIDS[5] : TQ3_CENTROIDS[4]);
    c[i] = index & 4 ? most : -most;
#pragma unroll
    for (u32 b = 0; b < 3; b++) planes[b] |= (index >> b & 1) << (lane % 8 * 4 + i);
  }
  float norm = within(__fdiv_rn(length, __fsqrt_rn(group_squares(c))), F16_MAX);
  if (broken<32>(v)) norm = __int_as_float(0x7fffffff);
  for (u32 mask = 1; mask < 8; mask *= 2) {
#pragma unroll
    for (u32 b = 0; b < 3; b++) planes[b] |= __shfl_xor_sync(~0u, planes[b], mask);
  }
  // One lane stores a word, and one of each block the norm.
  const u32 block = 4 * q + lane / 8;
  u8* to = head + size_t(token) * code_bytes(KV_TQ3_0, dim) + block * 12;
  const u32 word = lane % 8 == 0 ? planes[0] : lane % 8 == 1 ? planes[1] : planes[2];
  if (lane % 8 < 3) reinterpret_cast<u32*>(to)[lane % 8] = word;
  if (lane % 8 == 3) store_scale(head, KV_TQ3_0, token, dim, block, norm);
}

// Stores a group of a head in a type.
__device__ __forceinline__ void store_group(u32 kind, u8* head, u32 token, u32 dim, u32 q, const float (&v)[4]) {
  const u32 value = 128 * q + 4 * (threadIdx.x % 32);
  if (kind == KV_F32 && value < dim) {
    reinterpret_cast<float4*>(head)[(size_t(token) * dim + value) / 4] = make_float4(v[0], v[1], v[2], v[3]);
  }
  if (kind == KV_F16) store_f16(head, token, dim, q, v);
  if (kind == KV_Q8_0) store_q8(head, token, dim, q, v);
  if (kind == KV_Q4_0) store_q4(head, token, dim, q, v);
  if (kind == KV_TQ3_0) store_tq3(head, token, dim, q, v);
}
