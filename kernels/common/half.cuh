// Halves and tensor-core products without CUDA's headers, which NVRTC has no path to.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ u16 half_of(float x) {
  u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
}

__device__ __forceinline__ float float_of(u16 h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}

// Two halves of a word: `low` in bits 0 to 15.
__device__ __forceinline__ u32 halves_of(float low, float high) {
  u32 h;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(high), "f"(low));
  return h;
}

// A half twice, and sums of two pairs of them.
constexpr __device__ u32 twice(u32 half) { return half | half << 16; }
__device__ __forceinline__ u32 add2(u32 a, u32 b) {
  u32 c;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}

__device__ __forceinline__ float low_half(u32 h) { return float_of(u16(h)); }
__device__ __forceinline__ float high_half(u32 h) { return float_of(u16(h >> 16)); }

// Four bytes of the eight of `a` and `b` (bytes 4 to 7), chosen by the nibbles of `select`.
__device__ __forceinline__ u32 bytes_of(u32 a, u32 b, u32 select) {
  u32 d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(select));
  return d;
}

// c += a b with a [16, 16] and b [16, 8] of halves, sums in f32. Of lane l, with g = l / 4 and t = l % 4:
// a[0] = (g; 2t, 2t+1), a[1] = (g+8; 2t, 2t+1), a[2] = (g; 2t+8, 2t+9), a[3] = (g+8; 2t+8, 2t+9), b[0] = (2t, 2t+1; g),
// b[1] = (2t+8, 2t+9; g), c = (g; 2t), (g; 2t+1), (g+8; 2t), (g+8; 2t+1).
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a b with a [16, 32] of bytes, signed or not, and b [32, 8] of signed bytes. Of lane l, with g = l / 4 and t = l % 4:
// a[0] = (g; 4t to 4t+3), a[1] = (g+8; 4t to 4t+3), a[2] = (g; 4t+16 to 4t+19), a[3] = (g+8; 4t+16 to 4t+19), b0 = (4t to
// 4t+3; g), b1 = (4t+16 to 4t+19; g), c as above.
template <bool SIGNED>
__device__ __forceinline__ void mma_bytes(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if constexpr (SIGNED)
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
  else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(0));
}

// The same of 16 columns: a[16, 16] in two registers, b [16, 8] in one.
template <bool SIGNED>
__device__ __forceinline__ void mma_bytes(int (&c)[4], u32 a0, u32 a1, u32 b) {
  if constexpr (SIGNED)
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(0));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(0));
}
