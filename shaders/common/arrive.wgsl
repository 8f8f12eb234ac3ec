// What one workgroup of a dispatch has written, read by another: the last one to arrive does what is left to do, which
// takes less time than to wait for a dispatch that does. WGSL alone has no order of memory between workgroups; SPIR-V has: a
// storageBarrier() is one for the whole device there. So this is for devices that are reached through Vulkan. What is passed
// on is bound `@coherent`.
//
// The op binds `arrived: array<atomic<u32>>`, zero before the dispatch and after it.

var<workgroup> arrived_last: u32;

// Whether this workgroup is the last of `all` that arrive at place `at`; it sees what all of them wrote.
fn arrive(at: u32, all: u32, index: u32) -> bool {
  // The first one brings what all invocations wrote to the one that arrives, the second is its own before it does.
  storageBarrier();
  storageBarrier();
  if index == 0u {
    let last = atomicAdd(&arrived[at], 1u) + 1u == all;
    if last { atomicStore(&arrived[at], 0u); }
    arrived_last = u32(last);
  }
  let last = workgroupUniformLoad(&arrived_last) != 0u;
  if last {
    storageBarrier();
    storageBarrier();
  }
  return last;
}
