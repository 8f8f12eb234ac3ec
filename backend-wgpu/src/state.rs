//! Pools of the KV cache on the device.
//!
//! A page is `[kv_heads, PAGE]` rows. A row on the device holds what a row of a file does, in planes: the codes of all
//! blocks, for `tq3_0` their high bits, then all scales. Planes start at words and rows at 16 bytes, so that shaders
//! read 16 bytes at once.
//!
//! | type | planes |
//! |---|---|
//! | `f32`, `f16` | the values |
//! | `q8_0` | 32 bytes a block; scales |
//! | `q4_0` | 16 bytes a block; scales |
//! | `tq3_0` | 8 bytes a block, the low bits; 4 bytes a block, the high bits; norms, one for each block |

use std::sync::Arc;

use gemma4_core::kv_type::{KvType, tq3};
use gemma4_core::program::StateSpec;

use crate::device::Device;
use crate::error::WgpuError;

/// A pool on the device.
#[derive(Clone, Debug)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    spec: StateSpec,
    layout: Layout,
    buffer: wgpu::Buffer,
}

impl State {
    pub(crate) fn new(device: &Device, spec: &StateSpec) -> Result<Self, WgpuError> {
        let layout = Layout::of(spec);
        let bytes = (layout.row_bytes * spec.kv_heads * gemma4_core::cache::PAGE) as u64 * spec.pages as u64;
        if bytes > device.max_binding {
            let limit = "max_storage_buffer_binding_size";
            return Err(device.limit(&spec.name, bytes, "bytes", device.max_binding, limit));
        }
        let buffer = device.storage(&spec.name, bytes)?;
        Ok(Self { inner: Arc::new(Inner { spec: spec.clone(), layout, buffer }) })
    }

    pub(crate) fn spec(&self) -> &StateSpec {
        &self.inner.spec
    }

    pub(crate) fn buffer(&self) -> &wgpu::Buffer {
        &self.inner.buffer
    }

    /// Words of one stored head on the device, a multiple of 4.
    pub(crate) fn row_words(&self) -> usize {
        self.inner.layout.row_bytes / 4
    }

    /// Bytes of a page on the device.
    pub(crate) fn page_bytes(&self) -> usize {
        self.inner.layout.row_bytes * self.inner.spec.kv_heads * gemma4_core::cache::PAGE
    }

    /// A page of the device in the layout of [`StateSpec`].
    pub(crate) fn unpack(&self, device: &[u8], page: &mut [u8]) {
        let Inner { spec, layout, .. } = &*self.inner;
        for (from, to) in device.chunks_exact(layout.row_bytes).zip(page.chunks_exact_mut(spec.row_bytes())) {
            layout.pieces(|file, row| to[file].copy_from_slice(&from[row]));
        }
    }

    /// The reverse of [`State::unpack`].
    pub(crate) fn pack(&self, page: &[u8]) -> Vec<u8> {
        let Inner { spec, layout, .. } = &*self.inner;
        let mut device = vec![0; self.page_bytes()];
        for (from, to) in page.chunks_exact(spec.row_bytes()).zip(device.chunks_exact_mut(layout.row_bytes)) {
            layout.pieces(|file, row| to[row].copy_from_slice(&from[file]));
        }
        device
    }
}

/// How a row of a file is cut into planes.
#[derive(Clone, Debug)]
struct Layout {
    /// Bytes of a block of the file.
    block: usize,
    /// Blocks of a row.
    blocks: usize,
    /// Where a plane's bytes are in a block, and where the plane starts in a row of the device.
    planes: Vec<(std::ops::Range<usize>, usize)>,
    row_bytes: usize,
}

impl Layout {
    fn of(spec: &StateSpec) -> Self {
        let (len, block, parts) = match spec.kv_type {
            KvType::F32 | KvType::F16 => {
                let all = 0..spec.row_bytes();
                (spec.head_dim, spec.row_bytes(), vec![all])
            }
            KvType::Q8_0 | KvType::Q4_0 => {
                let bytes = spec.kv_type.block_bytes();
                (spec.kv_type.block_len(), bytes, vec![2..bytes, 0..2])
            }
            KvType::TQ3_0 => (tq3::BLOCK, tq3::BLOCK_BYTES, vec![2..10, 10..14, 0..2]),
        };
        let blocks = spec.head_dim / len;
        let mut end = 0;
        let planes = parts.into_iter().map(|part| {
            let start = end;
            end += (part.len() * blocks).next_multiple_of(4);
            (part, start)
        });
        let planes = planes.collect();
        Self { block, blocks, planes, row_bytes: end.next_multiple_of(16) }
    }

    /// Calls `copy` with every range of a row of a file, and where it is in a row of the device.
    fn pieces(&self, mut copy: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>)) {
        for (part, start) in &self.planes {
            for block in 0..self.blocks {
                let file = block * self.block;
                let row = start + block * part.len();
                copy(file + part.start..file + part.end, row..row + part.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma4_core::model::config::Span;

    #[test]
    fn planes_fill_rows_and_lose_nothing() {
        for kv_type in KvType::ALL {
            for (head_dim, kv_heads) in [(128, 2), (256, 1), (512, 1)] {
                let name = String::new();
                let spec = StateSpec { name, span: Span::Local, kv_type, kv_heads, head_dim, pages: 1 };
                let layout = Layout::of(&spec);
                let mut seen = vec![0; spec.row_bytes()];
                let mut used = vec![0; layout.row_bytes];
                layout.pieces(|file, row| {
                    seen[file].iter_mut().for_each(|n| *n += 1);
                    used[row].iter_mut().for_each(|n| *n += 1);
                });
                assert!(seen.iter().all(|&n| n == 1), "{kv_type} {head_dim}");
                assert!(used.iter().all(|&n| n <= 1), "{kv_type} {head_dim}");
                assert!(layout.row_bytes < spec.row_bytes() + 16, "{kv_type} {head_dim}");
            }
        }
    }
}
