// Copies from global to shared memory that do not wait.
#pragma once

#include "common/half.cuh"

// Makes an address a value of its own: the compiler would put it together anew at each use, or behind a wait, to save registers.
__device__ __forceinline__ void keep(const u8*& address) { asm volatile("" : "+l"(address)); }
// The address of shared memory for copies that are told it as a number.
__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }
// 16 bytes past the first cache, for memory that is read once, or 8 through it.
__device__ __forceinline__ void copy16(u32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void copy16(void* to, const void* from) { copy16(shared_address(to), from); }
__device__ __forceinline__ void copy8(u32 to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
// 16 bytes, or nothing: without a branch, which would cost more than the copy.
__device__ __forceinline__ void copy16_when(u32 to, const void* from, bool there) {
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16; }" ::"r"(to), "l"(from),
               "r"(u32(there))
               : "memory");
}
// 16 bytes that are here.
__device__ __forceinline__ void put16(u32 to, uint4 x) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
// 16 bytes, or zeros.
__device__ __forceinline__ void copy16_if(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
               : "memory");
}
// Ends a group of copies.
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `PENDING` groups of this thread are under way.
template <int PENDING>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
