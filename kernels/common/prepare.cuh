// The form in which products on tensor cores read activations.
//
// A row is cut into blocks of 256 columns. The values of a block are scaled by a power of two, so that the largest lies
// in [512, 1024), and become halves: one (`split` = 0), or two whose sum has 22 bits (`split` = 1: x = high + low / 2048,
// within 2^-22 of x as long as x is at least 2^-24 of the largest). Each part of each row is a column of the B operand of
// `mma`; columns come in tiles of 8, and the 32 halves of a group of 32 values lie as the lanes of `mma` want them: 16
// bytes for each lane, of which the first 8 are its share of the group's first 16 values.
//
//   parts   [tiles][groups of 32][8 columns][4 t][2][4] halves: t, h, i hold value 16 h + 4 t + i of the group
//   mins32  [tiles][blocks][8 columns][4 t][4] halves: sums of groups 2t, 2t+1, and what rounding them left
//   mins16  [tiles][blocks][2][8 columns][4 t][4] halves: likewise of groups of 16, of each half of the block
//   sums32  [row tiles][groups of 32][tile rows] floats, sums16 likewise: sums of scaled values
//   scales  [rows][blocks] floats: the power of two that makes up for the scaling
//
// All blocks of a row of single halves have one scale, that of the row's largest value; split rows have one a block.
// Sums are those of what is multiplied, so that offsets of codes cancel exactly. A tile has 8 rows, or 4 if they are split.
#pragma once

#include "common/half.cuh"

struct Prepared {
  u8* base;    // 0 if nobody wants it
  u32 tiles;   // of 8 columns of the B operand
  u32 blocks;  // of 256 values of a row
  u32 split;   // 1: two columns a row
  u32 unused;

  __device__ u32 groups() const { return blocks * 8; }
  __device__ u32 tile_rows() const { return split ? 4 : 8; }
  __device__ u16* parts() const { return reinterpret_cast<u16*>(base); }
  __device__ u16* mins32() const { return parts() + size_t(tiles) * blocks * 2048; }
  __device__ u16* mins16() const { return mins32() + size_t(tiles) * blocks * 128; }
  __device__ float* sums32() const { return reinterpret_cast<float*>(mins16() + size_t(tiles) * blocks * 256); }
  __device__ float* sums16() const { return sums32() + size_t(tiles) * tile_rows() * blocks * 8; }
  __device__ float* scales() const { return sums16() + size_t(tiles) * tile_rows() * blocks * 16; }
  // First half of group 0 of a column.
  __device__ u16* column(u32 n) const { return parts() + (size_t(n / 8) * groups() * 8 + n % 8) * 32; }
};

// The largest magnitude of a block, in all lanes of the warp that holds it as `prepare256` wants it.
__device__ __forceinline__ float largest_of(const float (&v)[8]) {
  float largest = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v[i]));
#pragma unroll
  for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, d));
  return largest;
}

// Writes one block of a row whose largest magnitude is `largest`. All lanes of a warp call it together; lane l holds
// values 8 l to 8 l + 7 of the block, zeros past the width of the row.
__device__ __forceinline__ void prepare256(const float (&v)[8], const Prepared& out, u32 row, u32 block, float largest) {
  const u32 lane = threadIdx.x % 32;
  // Powers of two that f32 has, both ways. Infinity stays what it is.
  int e = int(__float_as_uint(largest) >> 23) - 127 - 9;
  if (e > 118) e = 0;
  if (e < -100) e = -100;
  const float down = __uint_as_float(u32(127 - e) << 23);

  u16 high[8], low[8];
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const float x = v[i] * down;
    high[i] = half_of(x);
    const float rest = x - float_of(high[i]);
    low[i] = half_of(rest * 2048.f);
    sum += out.split ? x : float_of(high[i]);
  }
  const float sum16 = sum + __shfl_xor_sync(~0u, sum, 1);
  const float sum32 = sum16 + __shfl_xor_sync(~0u, sum16, 2);

  const u32 group = block * 8 + lane / 4, h = lane % 4 / 2, t = lane % 2 * 2;
  const u32 columns = out.split ? 2 : 1;
#pragma unroll
  for (u32 part = 0; part < 2; part++) {
    if (part == columns) break;
    const u32 n = row * columns + part;
    u16* to = out.column(n) + size_t(group) * 256 + t * 8 + h * 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      u32 words[2];
#pragma unroll
      for (int k = 0; k < 2; k++) {
        const int at = 4 * i + 2 * k;
        words[k] = part ? low[at] | u32(low[at + 1]) << 16 : high[at] | u32(high[at + 1]) << 16;
      }
      *reinterpret_cast<uint2*>(to + 8 * i) = make_uint2(words[0], words[1]);
    }
    // The sums belong to the first part; the second adds nothing to them.
    const u32 at = (n / 8) * out.blocks + block;
    if (lane % 4 == 0) {
      const u16 a = part ? u16(0) : half_of(sum32), b = part ? u16(0) : half_of(sum32 - float_of(a));
      u16* mins = out.mins32() + (size_t(at) * 8 + n % 8) * 16 + lane / 8 * 4 + lane / 4 % 2;
      mins[0] = a;
      mins[2] = b;
    }
    if (lane % 2 == 0) {
      const u16 a = part ? u16(0) : half_of(sum16), b = part ? u16(0) : half_of(sum16 - float_of(a));
      const u32 j = lane / 2;
      u16* mins = out.mins16() + ((size_t(at) * 2 + j / 8) * 8 + n % 8) * 16 + j % 8 / 2 * 4 + j % 2;
      mins[0] = a;
      mins[2] = b;
    }
  }
  const u32 rows = out.tile_rows();
  if (lane % 4 == 0) out.sums32()[(size_t(row / rows) * out.groups() + group) * rows + row % rows] = sum32;
  if (lane % 2 == 0) {
    const u32 at = block * 16 + lane / 2;
    out.sums16()[(size_t(row / rows) * out.groups() * 2 + at) * rows + row % rows] = sum16;
  }
  if (lane == 0) out.scales()[size_t(row) * out.blocks + block] = __uint_as_float(u32(127 + e) << 23);
}

// The same for a row of split parts.
__device__ __forceinline__ void prepare256(const float (&v)[8], const Prepared& out, u32 row, u32 block) {
  prepare256(v, out, row, block, largest_of(v));
}
