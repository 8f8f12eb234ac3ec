// A row of activations that the blocks of a thread block cluster divide among them, each on a multiprocessor of its own: a grid
// of one cluster for each row along y. Clusters are from sm_90 on; elsewhere, and in a launch without them, a row is one block's.
#pragma once

#include "common/copy.cuh"
#include "common/reduce.cuh"

// NVRTC 12.0 does not know the stores: `Compiler::clusters` of backend-cuda/src/compile.rs.
#define CLUSTERS \
  (__CUDA_ARCH__ >= 900 && (__CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 1)))

// A sum over a row, which is used once: what each warp of the cluster has of it, in shared memory.
template <class T>
struct RowSum {
  u64 arrived;  // of the bytes of `partial`: a barrier that counts them
  T partial[WARP];
};

// What a block has of the row of its cluster: from one block to the next its warps have the columns in order.
struct Part {
  unsigned row;
  unsigned rank, size;  // of the block in its cluster, and of the cluster

#if CLUSTERS
  __device__ __forceinline__ Part() : row(blockIdx.y), rank(blockIdx.x), size(gridDim.x) {}
#else
  __device__ __forceinline__ Part() : row(blockIdx.y), rank(0), size(1) {}
#endif

  // The warps of all blocks, and which of them this one is.
  __device__ __forceinline__ unsigned warps() const { return size * (blockDim.x / WARP); }
  __device__ __forceinline__ unsigned warp() const { return rank * (blockDim.x / WARP) + warp_id(); }

  // Makes ready for all sums that follow, and says that this block runs.
  template <class... Sums>
  __device__ __forceinline__ void begin(Sums&... sums) const {
#if CLUSTERS
    if (size == 1) return;
    if (threadIdx.x == 0) {
      (expect(sums), ...);
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
  }

  // Waits until all blocks of the cluster have begun: before that nobody may write to their memory. It stands where a block has
  // waited for something else already.
  __device__ __forceinline__ void all_run() const {
#if CLUSTERS
    if (size > 1) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
  }

#if CLUSTERS
  // Nobody arrives but this thread, now, and the bytes of all warps.
  template <class T>
  __device__ __forceinline__ void expect(RowSum<T>& sum) const {
    const unsigned arrived = shared_address(&sum.arrived), bytes = warps() * unsigned(sizeof(T));
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(arrived) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(arrived), "r"(bytes) : "memory");
  }

  // Hands the value of this warp to all blocks, lane l to block l, and waits until all warps have.
  //
  // A barrier of the cluster would do it too, but it would first wait until what was stored to global memory is there.
  template <class T>
  __device__ __forceinline__ void exchange(T value, RowSum<T>& sum) const {
    if (lane_id() < size) {
      const unsigned to = there(sum.partial + warp()), arrived = there(&sum.arrived);
      if constexpr (sizeof(T) == sizeof(float2)) {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%2, %3}, [%1];" ::"r"(to),
                     "r"(arrived), "f"(value.x), "f"(value.y)
                     : "memory");
      } else {
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %2, [%1];" ::"r"(to), "r"(arrived),
                     "f"(value)
                     : "memory");
      }
    }
    unsigned done;
    do {
      asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                   : "=r"(done)
                   : "r"(shared_address(&sum.arrived))
                   : "memory");
    } while (!done);
    __syncwarp();
  }

  // The address of this block's `p` in the block whose rank is this lane.
  static __device__ __forceinline__ unsigned there(const void* p) {
    unsigned address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(lane_id()));
    return address;
  }
#endif
};

// The sum over a row, behind `all_run`, in every thread that has a part of it: the bits that `block_sum` gives a block of as many
// warps, at most 32.
//
// What a block reads is in its own memory, and was written before it is done waiting. So a block may end behind its last sum.
static __device__ __forceinline__ float row_sum(float value, RowSum<float>& sum, const Part& part) {
#if CLUSTERS
  if (part.size > 1) {
    part.exchange(warp_sum(value), sum);
    return warp_sum(lane_id() < part.warps() ? sum.partial[lane_id()] : 0.f);
  }
#endif
  return block_sum(value, sum.partial);
}

// Two sums for the wait of one.
static __device__ __forceinline__ float2 row_sums(float2 value, RowSum<float2>& sum, const Part& part) {
#if CLUSTERS
  if (part.size > 1) {
    part.exchange(make_float2(warp_sum(value.x), warp_sum(value.y)), sum);
    const float2 other = lane_id() < part.warps() ? sum.partial[lane_id()] : make_float2(0.f, 0.f);
    return make_float2(warp_sum(other.x), warp_sum(other.y));
  }
#endif
  return block_sums(value, sum.partial);
}
