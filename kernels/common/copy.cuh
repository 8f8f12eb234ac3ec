// Copies from global to shared memory that do not wait.
#pragma once

#include "common/half.cuh"

// 16 bytes; memory that is read once passes by the first cache.
__device__ __forceinline__ void copy16(void* to, const void* from) {
  const u32 at = u32(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
// 16 bytes, or zeros.
__device__ __forceinline__ void copy16_if(void* to, const void* from, bool there) {
  const u32 at = u32(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}
// Ends a group of copies.
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `PENDING` groups of this thread are under way.
template <int PENDING>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
