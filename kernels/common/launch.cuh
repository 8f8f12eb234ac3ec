// When a kernel may read what earlier ones wrote.
#pragma once

// From Hopper on a kernel starts while the one before it is still at work, and waits here until that one is done; the next
// may start as soon as all blocks of this one have come here. Every kernel calls it before it reads or writes anything but
// weights, so that order is kept along any chain of them.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
