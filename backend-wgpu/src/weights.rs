//! Weights on the device: file blocks in a layout that shaders can read, split where a binding is too small.
//!
//! The blocks of a row stay in order. What would keep a block from being a multiple of 16 bytes, its scale mostly, goes
//! to planes behind the row's blocks, one for each field; planes start at words, rows at multiples of 16 bytes:
//!
//! ```text
//! row:  body of block 0 | body of block 1 | ... | tail 0, tail 1, tail 2, ... | other tails ... | padding
//! ```
//!
//! Within a block scales are what they are in the file, and codes are in an order that suits the lanes of a GPU:
//! [`arrange`] tells which.
//!
//! Nothing is dequantised here, except vectors: a tensor of one row becomes `f32`, as norms read it.

mod arrange;

use std::ops::Range;
use std::sync::Arc;

use gemma4_core::quant;
use gemma4_core::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::device::Device;
use crate::error::WgpuError;

/// A weight on the device.
#[derive(Clone, Debug)]
pub struct Weight {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dtype: DType,
    experts: usize,
    rows: usize,
    cols: usize,
    layout: Layout,
    parts: Vec<Part>,
}

/// A range of a weight's rows in a buffer of its own.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) buffer: wgpu::Buffer,
    /// Rows, counted through all experts.
    pub(crate) rows: Range<usize>,
}

/// Where things are in a row, in words of 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// From one row to the next; a multiple of 4.
    pub(crate) stride: u32,
    /// From the start of the row to its plane of tails; `stride` if there is none.
    pub(crate) tails: u32,
}

/// How a block is cut, in bytes of the file's block.
struct Cut {
    dtype: DType,
    /// Values of a block; halves go in pairs.
    values: usize,
    /// Bytes of a file's block.
    bytes: usize,
    /// What stays in front: a multiple of 16 bytes.
    body: Range<usize>,
    /// What goes to planes behind the bodies, a plane each.
    tails: Vec<Tail>,
}

/// A field of every block, in a plane of its own.
struct Tail {
    field: Range<usize>,
    /// Bytes from one block's to the next one's.
    pitch: usize,
}

impl Cut {
    fn of(dtype: DType) -> Self {
        let (values, bytes) = (dtype.block_len(), dtype.block_bytes());
        let tail = |field: Range<usize>| Tail { pitch: field.len(), field };
        let (values, bytes, body, tails) = match dtype {
            DType::F32 => (4, 16, 0..16, vec![]),
            DType::F16 | DType::BF16 => (8, 16, 0..16, vec![]),
            DType::Q4_0 | DType::Q8_0 | DType::IQ4_NL => (values, bytes, 2..bytes, vec![tail(0..2)]),
            DType::Q4_1 => (values, bytes, 4..20, vec![tail(0..4)]),
            DType::Q5_0 => (values, bytes, 6..22, vec![tail(2..6), tail(0..2)]),
            DType::Q5_1 => (values, bytes, 8..24, vec![tail(0..8)]),
            DType::MXFP4 => (values, bytes, 1..17, vec![tail(0..1)]),
            DType::Q2_K => (values, bytes, 0..80, vec![tail(80..84)]),
            // Two bytes of waste, so that scales and factor are one load.
            DType::Q3_K => (values, bytes, 0..96, vec![Tail { field: 96..110, pitch: 16 }]),
            DType::Q6_K => (values, bytes, 0..208, vec![tail(208..210)]),
            DType::IQ4_XS => (values, bytes, 8..136, vec![tail(0..8)]),
            DType::Q4_K | DType::Q5_K => (values, bytes, 0..bytes, vec![]),
        };
        Self { dtype, values, bytes, body, tails }
    }

    fn layout(&self, cols: usize) -> Layout {
        let blocks = cols.div_ceil(self.values);
        let tails = blocks * self.body.len() / 4;
        let words = self.tails.iter().fold(tails, |words, tail| words + (blocks * tail.pitch).div_ceil(4));
        let narrow = crate::lower::narrow;
        Layout { stride: narrow(words.next_multiple_of(4)), tails: narrow(tails) }
    }

    /// Copies a row of the file to a row of the device.
    fn row(&self, from: &[u8], to: &mut [u8]) {
        let blocks = from.len().div_ceil(self.bytes);
        let (bodies, mut rest) = to.split_at_mut(blocks * self.body.len());
        let bodies = bodies.chunks_exact_mut(self.body.len());
        for (index, (block, body)) in from.chunks(self.bytes).zip(bodies).enumerate() {
            // A row of floats may end within a block.
            let end = self.body.end.min(block.len());
            body[..end - self.body.start].copy_from_slice(&block[self.body.start..end]);
            arrange::body(self.dtype, index, block, body);
        }
        for (number, Tail { field, pitch }) in self.tails.iter().enumerate() {
            let (plane, after) = rest.split_at_mut((blocks * pitch).next_multiple_of(4));
            let tails = plane.chunks_exact_mut(*pitch);
            for (index, (block, tail)) in from.chunks_exact(self.bytes).zip(tails).enumerate() {
                tail[..field.len()].copy_from_slice(&block[field.clone()]);
                arrange::tail(self.dtype, number, index, tail);
            }
            rest = after;
        }
    }
}

/// Bytes that a thread repacks, right into staging memory.
const PIECE: usize = 2 << 20;
/// Bytes sent before the device is given time to take in those that were sent before: staging memory is freed only then.
const BATCH: usize = 256 << 20;

impl Weight {
    pub(crate) fn upload(device: &Device, tensor: &Tensor) -> Result<Self, WgpuError> {
        let vector = tensor.experts * tensor.rows == 1;
        if vector && tensor.dtype != DType::F32 {
            let mut values = vec![0.0f32; tensor.cols];
            quant::decode(tensor.dtype, &tensor.data, &mut values);
            let bytes = gemma4_core::tensor::Bytes::from_owner(bytemuck::cast_slice(&values).to_vec());
            let decoded = Tensor::new(&tensor.name, DType::F32, [1, 1, tensor.cols], bytes);
            return Self::upload(device, &decoded.expect("as many bytes as values"));
        }
        let cut = Cut::of(tensor.dtype);
        let layout = cut.layout(tensor.cols);
        let stride = layout.stride as usize * 4;
        let total = tensor.experts * tensor.rows;
        let whole = usize::try_from(device.max_binding).unwrap_or(usize::MAX) / stride;
        // Experts are not cut, so that a dispatch finds an expert in one buffer.
        let unit = if tensor.experts > 1 { tensor.rows } else { 1 };
        let most = whole / unit * unit;
        if most == 0 {
            let need = (unit * stride) as u64;
            let limit = "max_storage_buffer_binding_size";
            return Err(device.limit(&tensor.name, need, "bytes", device.max_binding, limit));
        }
        // Parts of nearly one size.
        let parts = total.div_ceil(most);
        let each = total.div_ceil(parts).next_multiple_of(unit).min(most);
        let parts = (0..total)
            .step_by(each.max(1))
            .map(|first| {
                let rows = first..(first + each).min(total);
                let buffer = device.storage(&tensor.name, (rows.len() * stride) as u64)?;
                send(device, &buffer, tensor, &cut, stride, rows.clone());
                Ok(Part { buffer, rows })
            })
            .collect::<Result<_, WgpuError>>()?;
        device.check()?;
        let Tensor { dtype, experts, rows, cols, .. } = *tensor;
        Ok(Self { inner: Arc::new(Inner { dtype, experts, rows, cols, layout, parts }) })
    }

    /// Element type on the device.
    pub(crate) fn dtype(&self) -> DType {
        self.inner.dtype
    }

    /// Matrices.
    pub(crate) fn experts(&self) -> usize {
        self.inner.experts
    }

    /// Rows of a matrix.
    pub(crate) fn rows(&self) -> usize {
        self.inner.rows
    }

    /// Values of a row.
    pub(crate) fn cols(&self) -> usize {
        self.inner.cols
    }

    pub(crate) fn layout(&self) -> Layout {
        self.inner.layout
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.inner.parts
    }
}

/// Repacks rows of a tensor into a buffer: pieces side by side, and one batch while the device takes in another.
fn send(
    device: &Device,
    buffer: &wgpu::Buffer,
    tensor: &Tensor,
    cut: &Cut,
    stride: usize,
    rows: Range<usize>,
) {
    let floats = matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16);
    let as_it_is = floats && tensor.row_bytes() == stride;
    let cut = (!as_it_is).then_some(cut);
    let ranges = |rows: Range<usize>, bytes: usize| {
        let each = (bytes / stride.max(1)).max(1);
        rows.clone().step_by(each).map(move |first| first..(first + each).min(rows.end))
    };
    let mut before = None;
    for batch in ranges(rows.clone(), BATCH) {
        let pieces: Vec<_> = ranges(batch, PIECE).collect();
        pieces.into_par_iter().for_each_init(Vec::new, |row, piece| {
            let offset = ((piece.start - rows.start) * stride) as u64;
            let size = wgpu::BufferSize::new((piece.len() * stride) as u64);
            let view = size.and_then(|size| device.queue.write_buffer_with(buffer, offset, size));
            // Where there is no staging memory left, `Device::check` says so.
            if let Some(view) = view {
                fill(view, tensor, cut, stride, piece, row);
            }
        });
        let batch = device.queue.submit([]);
        if let Some(before) = before.replace(batch) {
            let _ = device.gpu.poll(wgpu::PollType::Wait { submission_index: Some(before), timeout: None });
        }
    }
}

/// Fills staging memory with rows of a tensor, repacked unless there is nothing to `cut`. Each is made in `row` first:
/// reading staging memory back would be slow.
fn fill(
    mut view: wgpu::QueueWriteBufferView,
    tensor: &Tensor,
    cut: Option<&Cut>,
    stride: usize,
    rows: Range<usize>,
    row: &mut Vec<u8>,
) {
    let row_bytes = tensor.row_bytes();
    let source = &tensor.data[rows.start * row_bytes..rows.end * row_bytes];
    let Some(cut) = cut else {
        view.slice(..).copy_from_slice(source);
        return;
    };
    // What is between the planes of a row is never written, and stays zero.
    row.clear();
    row.resize(stride, 0);
    for (i, from) in source.chunks_exact(row_bytes.max(1)).enumerate() {
        cut.row(from, row);
        view.slice(i * stride..(i + 1) * stride).copy_from_slice(row);
    }
}

#[cfg(test)]
mod tests;
