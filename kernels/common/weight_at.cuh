// One value of a weight, for kernels that read a few rows: embeddings and routers.
#pragma once

#include "common/weights.cuh"

// Element (`row`, `col`) of the first matrix of `w`, of type `WEIGHT`. Neighbouring columns share words: lanes that
// take four columns each, or one after another, read whole lines.
template <class W>
__device__ __forceinline__ float value_at(const WeightView& w, u32 row, u32 col) {
  const u32 tile = row / 16, r = row % 16, c = col % 64;
  const u32 product = c / 16, t = c % 16 / 4, i = c % 4;
  const u32 lane = r % 8 * 4 + t;
  const size_t chunk = size_t(tile) * w.chunks + col / 64, words = (chunk * 32 + lane) * W::BITS;
  const u32* codes = reinterpret_cast<const u32*>(w.codes);
  if constexpr (W::BITS == 32) {
    return reinterpret_cast<const float*>(w.extra)[size_t(tile) * 16 * w.cols + size_t(r) * w.cols + col];
  } else if constexpr (W::SCALES == ROW) {
    const float scale = reinterpret_cast<const float*>(w.scales)[tile * 16 + r];
    return float_of(reinterpret_cast<const u16*>(w.codes)[(words + 4 * product + i / 2 * 2 + r / 8) * 2 + i % 2]) * scale;
  } else {
    // Of group `product / 2`, register `r` holds the byte of this element; bytes are columns 0, 2, 1 and 3 of four.
    const u32 h = product / 2, reg = product % 2 * 2 + r / 8, byte = (i % 2 * 2 + i / 2) * 8;
    u32 code;
    if constexpr (W::BITS == 8) code = codes[words + 4 * h + reg] >> byte & 255u;
    else if constexpr (W::BITS == 4) code = codes[words + product] >> (byte + r / 8 * 4) & 15u;
    else code = codes[words + h] >> (byte + 2 * reg) & 3u;
    if constexpr (W::EXTRA != 0) {
      const u32* extra = reinterpret_cast<const u32*>(w.extra) + (chunk * 32 + lane) * W::EXTRA;
      const u32 low = W::EXTRA == 2 ? extra[h] >> (byte + 2 * reg) & 3u : extra[0] >> (byte + 4 * h + reg) & 1u;
      code = code << W::EXTRA | low;
    }
    float q;
    if constexpr (W::CODES == IQ4) q = float(IQ4_VALUES[code]);
    else if constexpr (W::CODES == MX) q = float(MXFP4_VALUES[code]);
    else if constexpr (W::CODES == MOVED) q = float(int(code << (32 - W::BITS - W::EXTRA)) >> (32 - W::BITS - W::EXTRA));
    else q = float(code);

    const size_t block = (size_t(tile) * (w.chunks / 4) + col / 256) * 16 + r;
    const u16* deltas = reinterpret_cast<const u16*>(w.deltas);
    if constexpr (W::SCALES == HALF || W::SCALES == HALF_MIN) {
      constexpr u32 parts = W::SCALES == HALF ? 1 : 2;
      const u16* at = reinterpret_cast<const u16*>(w.scales) + (chunk * 8 + r % 8) * 4 * parts + r / 8 * 2 + c / 32;
      return parts == 1 ? scale16<W>(at[0]) * q : __fadd_rn(__fmul_rn(scale16<W>(at[0]), q), float_of(at[4]));
    } else if constexpr (W::SCALES == SIX_BIT) {
      const u32* v = reinterpret_cast<const u32*>(w.scales) + block * 4;
      const u32 j = col % 256 / 32;
      const u32 at = j % 4 * 8, s = j < 4 ? v[3] >> at & 63u : (v[3] >> at & 0xc0u) >> 2 | (v[2] >> at & 0xc0u) >> 6 | (v[1] >> at & 0xc0u) >> 4;
      const u32 m = v[1 + j / 4] >> (j / 2 % 2 * 8 + j % 2 * 16) & 63u;
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
