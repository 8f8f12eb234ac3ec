// One value of a weight, for kernels that read a few rows: embeddings and routers.
#pragma once

#include "common/weights.cuh"

// Element (`row`, `col`) of the first matrix of `w`, of type `WEIGHT`. Neighbouring columns share words: lanes that
// take four columns each, or one after another, read whole lines.
template <class W>
__device__ __forceinline__ float value_at(const WeightView& w, u32 row, u32 col) {
  const u32 tile = row / 16, r = row % 16, c = col % 64;
  const u32 product = c / 16, t = c % 16 / 4, i = c % 4;
  const u32 lane = r % 8 * 4 + t, which = i / 2 * 2 + r / 8;  // register of the product
  const size_t chunk = size_t(tile) * w.chunks + col / 64, words = (chunk * 32 + lane) * W::BITS;
  const u32* codes = reinterpret_cast<const u32*>(w.codes);
  if constexpr (W::BITS == 32) {
    return reinterpret_cast<const float*>(w.extra)[size_t(tile) * 16 * w.cols + size_t(r) * w.cols + col];
  } else if constexpr (W::SCALES == ROW) {
    const float scale = reinterpret_cast<const float*>(w.scales)[tile * 16 + r];
    return float_of(reinterpret_cast<const u16*>(w.codes)[(words + 4 * product + which) * 2 + i % 2]) * scale;
  } else {
    u32 code;
    if constexpr (W::BITS == 8) code = codes[words + 2 * product + which / 2] >> (8 * (which % 2) + 16 * (i % 2)) & 255u;
    else if constexpr (W::BITS == 4) code = codes[words + product] >> (4 * which + 16 * (i % 2)) & 15u;
    else code = codes[words + product / 2] >> (8 * (product % 2) + 2 * which + 16 * (i % 2)) & 3u;
    if constexpr (W::EXTRA != 0) {
      const u32* extra = reinterpret_cast<const u32*>(w.extra) + (chunk * 32 + lane) * W::EXTRA;
      const u32 above = which % 2 ? W::BITS : 0;
      u32 k, first, word = 0;
      if constexpr (W::EXTRA == 2) k = 2 * (product % 2) + which / 2, first = k < 2 ? 2 * k : 2 * k + 4, word = product / 2;
      else k = 2 * product + which / 2, first = W::BITS == 2 ? k / 2 * 4 + k % 2 : k < 4 ? k : k + 4;
      code |= (extra[word] >> (first + above + 16 * (i % 2)) & ((1u << W::EXTRA) - 1)) << W::BITS;
    }
    float q;
    if constexpr (W::CODES == IQ4) q = float(IQ4_VALUES[code]);
    else if constexpr (W::CODES == MX) q = float(MXFP4_VALUES[code]);
    else q = float(int(code) - W::OFFSET);

    const size_t block = (size_t(tile) * (w.chunks / 4) + col / 256) * 16 + r;
    const u16* deltas = reinterpret_cast<const u16*>(w.deltas);
    if constexpr (W::SCALES == HALF || W::SCALES == HALF_MIN) {
      constexpr u32 parts = W::SCALES == HALF ? 1 : 2;
      const u16* at = reinterpret_cast<const u16*>(w.scales) + (chunk * 8 + r % 8) * 4 * parts + r / 8 * 2 + c / 32;
      return parts == 1 ? scale16<W>(at[0]) * q : __fadd_rn(__fmul_rn(scale16<W>(at[0]), q), float_of(at[4]));
    } else if constexpr (W::SCALES == SIX_BIT) {
      const u32* v = reinterpret_cast<const u32*>(w.scales) + block * 4;
      const u32 j = col % 256 / 32;
      const u32 s = j < 5   ? v[3] >> (6 * j) & 63u
                    : j < 7 ? v[j - 4] >> 12 & 15u | v[j - 4] >> 24 & 0x30u
                            : v[1] >> 30 | v[2] >> 30 << 2 | v[3] >> 30 << 4;
      const u32 m = v[1 + j / 4] >> (j / 2 % 2 * 6 + j % 2 * 16) & 63u;
      return __fadd_rn(__fmul_rn(__fmul_rn(low_half(v[0]), float(s)), q), -__fmul_rn(high_half(v[0]), float(m)));
    } else if constexpr (W::SCALES == BYTE16) {
      return float_of(deltas[block]) * float(reinterpret_cast<const signed char*>(w.scales)[block * 16 + col % 256 / 16]) * q;
    } else if constexpr (W::SCALES == BYTE32) {
      return float_of(deltas[block]) * float(reinterpret_cast<const signed char*>(w.scales)[block * 8 + col % 256 / 32]) * q;
    } else {
      const u32* v = reinterpret_cast<const u32*>(w.scales) + block * 4;
      const u32 j = col % 256 / 16;
      const u32 s = v[j / 8] >> (4 * (j % 8)) & 15u, m = v[2 + j / 8] >> (4 * (j % 8 / 2) + 16 * (j % 2)) & 15u;
      return __fadd_rn(__fmul_rn(__fmul_rn(float_of(deltas[2 * block]), float(s)), q),
                       -__fmul_rn(float_of(deltas[2 * block + 1]), float(m)));
    }
  }
}

__device__ __forceinline__ float weight_at(const WeightView& w, u32 row, u32 col) {
  return value_at<type::WEIGHT>(w, row, col);
}
