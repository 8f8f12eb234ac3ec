// dequantise: a weight as halves, row by row, for products that a library does
//
// Spec    none: the form of operands is a matter of the lowering (backend-cuda/src/lower/library.rs)
// Launch  grid (ceil(tiles of 16 rows * blocks of 256 columns / 8)), block (256): a warp for each block of a tile. A unit
//         for each type but F32 and BF16, whose values halves may not hold.
// Values are what the file says, times 64 so that small ones stay normal halves and those up to 1023 finite, rounded
// once; those of F16 are as they are. Rows have a multiple of 64 columns.

#include "common/chain.cuh"
#include "common/head.cuh"

// Halves of a row of a chunk in shared memory, and what keeps rows apart so that no two lanes meet at a bank.
constexpr u32 PITCH = 64 + 16;
constexpr float UNIT = 64.f;

// `WORDS` words that a lane has to itself.
template <int WORDS>
__device__ __forceinline__ void read(u32 (&to)[WORDS], const u8* from, size_t lane) {
  const u8* at = from + lane * (WORDS * 4);
  if constexpr (WORDS % 4 == 0) {
#pragma unroll
    for (int i = 0; i < WORDS; i += 4) {
      const uint4 v = stream16(at + 4 * i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else if constexpr (WORDS % 2 == 0) {
#pragma unroll
    for (int i = 0; i < WORDS; i += 2) {
      const uint2 v = stream8(at + 4 * i);
      to[i] = v.x, to[i + 1] = v.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < WORDS; i++) to[i] = stream4(at + 4 * i);
  }
}

// Bytes `i` and `j` of a word of codes as halves of what they stand for.
template <class W>
__device__ __forceinline__ u32 pair(u32 codes, int i, int j, float scale, float min) {
  // 2^23 + byte is a float whose lowest bits are the byte; what is left of it is exact. Signed bytes have their highest bit
  // turned, which moves them by 128.
  constexpr float offset = 8388608.f + (W::SIGNED ? 128.f : 0.f);
  const u32 bytes = W::SIGNED ? codes ^ 0x80808080u : codes;
  const float low = __uint_as_float(bytes_of(bytes, 0x4b000000u, 0x7440u | u32(i))) - offset;
  const float high = __uint_as_float(bytes_of(bytes, 0x4b000000u, 0x7440u | u32(j))) - offset;
  return halves_of(fmaf(low, scale, min), fmaf(high, scale, min));
}

extern "C" __global__ void __launch_bounds__(256)
    dequantise(const WeightView w,     // [rows, cols]
               u16* __restrict__ out,  // [.., cols]
               DequantiseParams params) {
  using W = type::WEIGHT;
  __shared__ __align__(16) u16 staging[8][16 * PITCH];
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const size_t work = size_t(blockIdx.x) * 8 + warp;
  const u32 tile = work / params.blocks, block = work % params.blocks;
  const u32 chunks = tile < w.tiles ? min(4u, w.chunks - 4 * block) : 0;
  const size_t first = size_t(tile) * w.chunks + 4 * block;

  // Narrow codes of all chunks are on their way before the first is waited for.
  constexpr int AHEAD = W::BITS <= 8 ? 4 : 1;
  u32 codes[AHEAD][W::BITS], extra[AHEAD][W::EXTRA ? W::EXTRA : 1];
  const auto fetch = [&](int c) {
    read(codes[c % AHEAD], w.codes, (first + c) * 32 + lane);
    if constexpr (W::EXTRA != 0) read(extra[c % AHEAD], w.extra, (first + c) * 32 + lane);
  };
  if constexpr (AHEAD == 4) {
#pragma unroll
    for (int c = 0; c < 4; c++)
      if (c < chunks) fetch(c);
  }
  follow();
  if (chunks == 0) return;
  Head<W> head;
  const size_t at_block = size_t(tile) * (w.chunks / 4) + block;
  head.block(w.scales + at_block * Head<W>::BLOCK, w.deltas + at_block * Head<W>::DELTAS);

  u16* const mine = staging[warp];
#pragma unroll
  for (int c = 0; c < 4; c++) {
    if (c >= chunks) break;
    if constexpr (AHEAD == 1) fetch(c);
    head.chunk(w.scales + (first + c) * Head<W>::CHUNK, 0);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      u32 a[4];
      if constexpr (W::SCALES != ROW) bytes_of_codes<W>(codes[c % AHEAD], extra[c % AHEAD], h, a);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int p = 2 * h + i, j = W::GROUP == 16 ? 4 * c + p : 2 * c + h;
        if constexpr (W::SCALES == ROW) fragment<W>(codes[c % AHEAD], p, a);
#pragma unroll
        for (int k = 0; k < 2; k++) {
          uint2 four;
          if constexpr (W::SCALES == ROW) {
            four = make_uint2(a[k], a[k + 2]);
          } else {
            const float scale = head.scale(j, k) * (head.factor(k) * UNIT);
            float min = 0.f;
            if constexpr (W::SCALES == HALF_MIN) min = head.min(j, k) * UNIT;
            if constexpr (W::SCALES == SIX_BIT || W::SCALES == NIBBLE) min = -head.min_of(j, k) * UNIT;
            // Bytes are columns 0, 2, 1 and 3 of four.
            four.x = pair<W>(a[2 * i + k], 0, 2, scale, min);
            four.y = pair<W>(a[2 * i + k], 1, 3, scale, min);
          }
          *reinterpret_cast<uint2*>(mine + (g + 8 * k) * PITCH + 16 * p + 4 * t) = four;
        }
      }
    }
    __syncwarp();
    // Eight lanes write the 128 bytes of a row.
#pragma unroll
    for (u32 r = lane / 8; r < 16; r += 4) {
      const u32 row = tile * 16 + r;
      const uint4 eight = *reinterpret_cast<const uint4*>(mine + r * PITCH + lane % 8 * 8);
      if (row < w.rows)
        *reinterpret_cast<uint4*>(out + (size_t(params.first) + row) * w.cols + (4 * block + c) * 64 + lane % 8 * 8) = eight;
    }
    __syncwarp();
  }
}
