// dequantise: a quantised matrix as halves, 256 times its values, row by row: for products that a library does
//
// Spec    none: the form of operands is a matter of the lowering (backend-cuda/src/lower/library.rs)
// Launch  grid (tiles of 16 rows, groups of 8 blocks of 256 columns), block (256): a warp for each block. A unit for each
//         quantised type.
// Values are those of the tiles of prompts (common/tiles.cuh), rounded alike.

#include "common/head.cuh"
#include "common/tiles.cuh"

extern "C" __global__ void __launch_bounds__(256)
    dequantise(const WeightView w,       // [rows, cols]
               u16* __restrict__ out,    // [.., cols]
               DequantiseParams params) {
  using W = type::WEIGHT;
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const u32 tile = blockIdx.x, block = blockIdx.y * 8 + threadIdx.x / 32;
  if (4 * block >= w.chunks) return;
  const size_t blocks = w.chunks / 4;
  Head<W> head;
  head.block(w.scales + (tile * blocks + block) * Head<W>::BLOCK, w.deltas + (tile * blocks + block) * Head<W>::DELTAS);
  u16* rows[2];
  for (int k = 0; k < 2; k++) rows[k] = out + (size_t(params.first) + tile * 16 + g + 8 * k) * w.cols;
#pragma unroll
  for (int c = 0; c < 4; c++) {
    const u32 chunk = 4 * block + c;
    if (W::PARTIAL && chunk >= w.chunks) break;
    const size_t at = size_t(tile) * w.chunks + chunk;
    head.chunk(w.scales + at * Head<W>::CHUNK, 0);
    u32 codes[W::BITS], extra[W::EXTRA ? W::EXTRA : 1];
    const u32* from = reinterpret_cast<const u32*>(w.codes) + (at * 32 + lane) * W::BITS;
    const u32* above = reinterpret_cast<const u32*>(w.extra) + (at * 32 + lane) * W::EXTRA;
#pragma unroll
    for (int i = 0; i < W::BITS; i++) codes[i] = from[i];
#pragma unroll
    for (int i = 0; i < W::EXTRA; i++) extra[i] = above[i];
#pragma unroll
    for (int p = 0; p < 4; p++) {
      u32 a[4], scale[2], min[2];
      fragment<W>(codes, extra, p, a);
      const int j = W::GROUP == 16 ? 4 * c + p : 2 * c + p / 2;
#pragma unroll
      for (int k = 0; k < 2; k++) {
        const float s = head.scale(j, k) * (head.factor(k) * (TILE_UNIT / W::UNIT));
        scale[k] = halves_of(s, s);
        float m = 0.f;
        if constexpr (W::SCALES == HALF_MIN) m = head.min(j, k) * TILE_UNIT;
        if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) m = -head.min_of(j, k) * TILE_UNIT;
        min[k] = halves_of(m, m);
      }
      values<W>(a, scale, min);
#pragma unroll
      for (int k = 0; k < 2; k++) {
        if (tile * 16 + g + 8 * k < w.rows)
          *reinterpret_cast<uint2*>(rows[k] + chunk * 64 + 16 * p + 4 * t) = make_uint2(a[k], a[k + 2]);
      }
    }
  }
}
