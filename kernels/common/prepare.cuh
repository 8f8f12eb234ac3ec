// The form in which products on tensor cores read activations.
//
// A row is cut into blocks of 256 columns. The values of a block are scaled, so that the largest is below 1024.
//
// Rows of decoding (`split` = 1) become whole numbers, which two signed bytes hold: the largest of a block is 32639, and a
// value is off by half of one, or 1 / 65278 of the largest. Where products are to be exact to f32 (VALUE_BYTES=4), they are
// whole numbers of 2^-20 and the scale a power of two: four bytes, within 2^-31 of the block's largest value. A product of
// integers takes each byte of a row as a column of the B operand of its own. For weights that are not codes but halves,
// values are also two halves, whose sum has 22 bits: x = high + low / 2048. Both forms hold what a lane of `mma` wants in
// one load, see `Digits` and `Halves`:
//
//   [rows][blocks] Digits, then [rows][blocks] Halves, if `halves` = 1
//
// Rows of prompts (`split` = 0) are one half a value, and all blocks of a row have one scale, a power of two, that of the
// row's largest value. Rows come in tiles of 8, which are columns of the B operand:
//
//   parts   [tiles][groups of 32][8 rows][4 t][2][4] halves: t, h, i hold value 16 h + 4 t + i of the group
//   scales  [rows][blocks] floats: what makes up for the scaling
#pragma once

#include "common/half.cuh"

// Bytes of a value, and what the lowest counts.
#ifdef VALUE_BYTES
constexpr int DIGITS = VALUE_BYTES;
#else
constexpr int DIGITS = 2;
#endif
static_assert(DIGITS == 2 || DIGITS == 4);
constexpr float DIGIT = DIGITS == 4 ? 1.f / 1048576 : 1.f / 32;

// Of one block of a row. Sums are of what the bytes stand for, so that a min takes from a product what it was part of.
struct Digits {
  uint4 words[4][DIGITS][4];  // [64 columns][byte d, lowest first][t]: of columns 16 j + 4 t, + 2, + 1, + 3 for j = 0 to 3
  uint2 mins32[4];            // [t] four halves: sums of groups of 32, 2 t and 2 t + 1, and what rounding them left
  uint2 mins16[2][4];         // [half of the block][t] likewise of groups of 16
  float sums32[8];            // sums of groups of 32
  float4 scale;               // x: what makes up for the scaling
};

// Two halves a value, with the scale of `Digits`.
struct Halves {
  uint4 words[8][2][4];  // [32 columns][high, low][t]: of columns 4 t to 4 t + 3, and the same 16 columns on
};

// `backend-cuda/src/lower/prepared.rs` counts on these.
static_assert(sizeof(Digits) == 144 + 256 * DIGITS && sizeof(Halves) == 1024, "memory is for other sizes");

struct Prepared {
  u8* base;    // 0 if nobody wants it
  u32 rows;    // that there is room for
  u32 blocks;  // of 256 values of a row
  u32 split;   // 1: digits
  u32 halves;  // 1: halves too

  __device__ u32 groups() const { return blocks * 8; }
  __device__ Digits* digits(u32 row) const { return reinterpret_cast<Digits*>(base) + size_t(row) * blocks; }
  __device__ Halves* halves_of(u32 row) const { return reinterpret_cast<Halves*>(digits(rows)) + size_t(row) * blocks; }
  // First half of group 0 of a row of a prompt.
  __device__ u16* column(u32 row) const {
    return reinterpret_cast<u16*>(base) + (size_t(row / 8) * groups() * 8 + row % 8) * 32;
  }
  __device__ float* scales() const { return reinterpret_cast<float*>(base + size_t((rows + 7) / 8) * groups() * 512); }
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

// Byte `d` of each of four words.
__device__ __forceinline__ u32 digit_of(const u32* words, u32 d) {
  const u32 pick = d | (4 + d) << 4;
  return bytes_of(bytes_of(words[0], words[1], pick), bytes_of(words[2], words[3], pick), 0x5410u);
}

// Eight values of a block, scaled, as digits: of columns 8 l to 8 l + 7, for lane l. They become what their bytes stand for.
__device__ __forceinline__ void put_digits(float (&x)[8], Digits* to) {
  const u32 lane = threadIdx.x % 32;
  u32 words[2][4];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    constexpr int place[4] = {0, 2, 1, 3};
    // Each byte but the highest is 128 too large at first; flipping its highest bit makes it signed.
    u32& word = words[i / 4][place[i % 4]];
    if constexpr (DIGITS == 4) {
      word = (u32(__float2int_rn(x[i] * (1.f / DIGIT))) + 0x00808080u) ^ 0x00808080u;
    } else {
      // Added to 1.5 * 2^23, a number is whole and in the lowest bits.
      const float whole = __fmaf_rn(x[i], 1.f / DIGIT, 12582912.f);
      word = (__float_as_uint(whole) + 0x80u) ^ 0x80u;
      x[i] = (whole - 12582912.f) * DIGIT;
    }
  }
  // Of 64 columns, lanes 2 j and 2 j + 1 hold those of product j.
  u32* at = reinterpret_cast<u32*>(to->words[lane / 8]) + lane % 8 / 2;
#pragma unroll
  for (u32 d = 0; d < DIGITS; d++)
#pragma unroll
    for (u32 k = 0; k < 2; k++) at[(d * 4 + lane % 2 * 2 + k) * 4] = digit_of(words[k], d);
}

// The same as two halves each.
__device__ __forceinline__ void put_halves(const float (&x)[8], Halves* to) {
  const u32 lane = threadIdx.x % 32;
  uint2* high = reinterpret_cast<uint2*>(to->words[lane / 4][0]) + lane % 4 / 2;
  uint2* low = reinterpret_cast<uint2*>(to->words[lane / 4][1]) + lane % 4 / 2;
#pragma unroll
  for (u32 k = 0; k < 2; k++) {
    u32 first[2], left[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float a = x[4 * k + 2 * i], b = x[4 * k + 2 * i + 1];
      first[i] = halves_of(a, b);
      left[i] = halves_of((a - low_half(first[i])) * 2048.f, (b - high_half(first[i])) * 2048.f);
    }
    high[(lane % 2 * 2 + k) * 2] = make_uint2(first[0], first[1]);
    low[(lane % 2 * 2 + k) * 2] = make_uint2(left[0], left[1]);
  }
}

// A power of two that leaves a block's largest magnitude in [512, 1024), and its inverse: such that f32 has both. Infinity
// stays what it is.
__device__ __forceinline__ void scale_by_two(float largest, float& down, float& up) {
  int e = int(__float_as_uint(largest) >> 23) - 127 - 9;
  if (e > 118) e = 0;
  if (e < -100) e = -100;
  down = __uint_as_float(u32(127 - e) << 23), up = __uint_as_float(u32(127 + e) << 23);
}

// What leaves a block's largest magnitude at 32639 digits. An inverse that is off by 2^-22 moves it by less than a hundredth
// of one.
__device__ __forceinline__ void scale_to_digits(float largest, float& down, float& up) {
  up = fmaxf(largest, 1e-33f) * (1.f / (32639 * DIGIT));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(down) : "f"(up));
}

// Writes one block of a row whose largest magnitude is `largest`. All lanes of a warp call it together; lane l holds
// values 8 l to 8 l + 7 of the block, zeros past the width of the row.
__device__ __forceinline__ void prepare256(const float (&v)[8], const Prepared& out, u32 row, u32 block, float largest) {
  const u32 lane = threadIdx.x % 32;
  float down, up, x[8];
  if (DIGITS == 2 && out.split) scale_to_digits(largest, down, up);
  else scale_by_two(largest, down, up);
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = v[i] * down;
  if (!out.split) {
    u16* to = out.column(row) + size_t(block * 8 + lane / 4) * 256 + lane % 2 * 16 + lane % 4 / 2 * 4;
#pragma unroll
    for (int k = 0; k < 2; k++)
      *reinterpret_cast<uint2*>(to + 8 * k) =
          make_uint2(halves_of(x[4 * k], x[4 * k + 1]), halves_of(x[4 * k + 2], x[4 * k + 3]));
    if (lane == 0) out.scales()[size_t(row) * out.blocks + block] = up;
    return;
  }

  Digits* to = out.digits(row) + block;
  if (out.halves) put_halves(x, out.halves_of(row) + block);
  put_digits(x, to);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += x[i];
  const float sum16 = sum + __shfl_xor_sync(~0u, sum, 1);
  const float sum32 = sum16 + __shfl_xor_sync(~0u, sum16, 2);
  if (lane % 4 == 0) {
    const u16 a = half_of(sum32), b = half_of(sum32 - float_of(a));
    u16* mins = reinterpret_cast<u16*>(to->mins32 + lane / 8) + lane / 4 % 2;
    mins[0] = a, mins[2] = b;
    to->sums32[lane / 4] = sum32;
  }
  if (lane % 2 == 0) {
    const u16 a = half_of(sum16), b = half_of(sum16 - float_of(a));
    u16* mins = reinterpret_cast<u16*>(to->mins16[lane / 16] + lane / 4 % 4) + lane / 2 % 2;
    mins[0] = a, mins[2] = b;
  }
  // Integers know no infinity and no NaN: a block that holds one is multiplied with NaN.
  const bool finite = __all_sync(~0u, fabsf(sum) <= 3.4e38f);
  if (lane == 0) to->scale = make_float4(finite ? up : __uint_as_float(0x7fc00000u), 0.f, 0.f, 0.f);
}

// The same for a row of digits.
__device__ __forceinline__ void prepare256(const float (&v)[8], const Prepared& out, u32 row, u32 block) {
  prepare256(v, out, row, block, largest_of(v));
}
