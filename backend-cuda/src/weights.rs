//! Weights on the device.
//!
//! | what | where and how |
//! |---|---|
//! | vectors | `f32`, as norms read them |
//! | matrices | still quantised, repacked for the lanes of tensor cores: [`layout`] |
//! | the table of per-layer embeddings | in main memory, as the file has it: of its gigabytes a step reads a few rows |

mod blocks;
mod layout;
mod pack;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use gemma4_core::program::WeightSpec;
use gemma4_core::quant;
use gemma4_core::tensor::{DType, Tensor};

use crate::device::Device;
use crate::driver::{Buffer, HostBuffer};
use crate::error::CudaError;

pub(crate) use layout::Layout;
pub(crate) use upload::Uploader;

/// Bytes of a `WeightView`.
pub(crate) const VIEW: usize = 48;

/// A weight on the device. Clones share it.
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
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    /// A vector of `f32`.
    Vector(Buffer),
    /// Planes.
    Matrix(Layout, Buffer),
    /// Rows of the file.
    Host(HostBuffer),
    /// Nothing, where a program is lowered without a device.
    Planned,
}

/// Whether a weight is the table of per-layer embeddings: its name in GGUF files, or in folders.
fn in_main_memory(name: &str) -> bool {
    ["per_layer_token_embd", "embed_tokens_per_layer"].iter().any(|table| name.contains(table))
}

impl Weight {
    pub(crate) fn upload(device: &Device, tensor: &Tensor) -> Result<Self, CudaError> {
        let memory = if in_main_memory(&tensor.name) {
            Memory::Host(upload::host(device, tensor)?)
        } else if tensor.experts * tensor.rows == 1 {
            let mut values = vec![0.0f32; tensor.cols];
            quant::decode(tensor.dtype, &tensor.data, &mut values);
            let buffer = Buffer::new(&device.context, &tensor.name, (values.len() * 4) as u64)?;
            upload::bytes(device, bytemuck::cast_slice(&values), &buffer)?;
            Memory::Vector(buffer)
        } else {
            let layout = Layout::new(tensor);
            let (_, bytes) = layout.planes();
            let buffer = Buffer::new(&device.context, &tensor.name, bytes)?;
            upload::matrix(device, tensor, &layout, &buffer)?;
            Memory::Matrix(layout, buffer)
        };
        let Tensor { dtype, experts, rows, cols, .. } = *tensor;
        Ok(Self { inner: Arc::new(Inner { dtype, experts, rows, cols, memory }) })
    }

    /// A weight that no memory is allocated for.
    pub(crate) fn planned(spec: &WeightSpec) -> Self {
        let WeightSpec { dtype, experts, rows, cols, .. } = *spec;
        Self { inner: Arc::new(Inner { dtype, experts, rows, cols, memory: Memory::Planned }) }
    }

    /// Element type in the file.
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

    /// Address of a vector's values.
    pub(crate) fn vector(&self) -> Option<u64> {
        match &self.inner.memory {
            Memory::Vector(buffer) => Some(buffer.address()),
            _ => None,
        }
    }

    /// A matrix as kernels take it: a `WeightView` by value.
    pub(crate) fn view(&self) -> Option<[u8; VIEW]> {
        match &self.inner.memory {
            Memory::Matrix(layout, buffer) => Some(layout.view(buffer.address())),
            _ => None,
        }
    }

    /// Address of rows in main memory, as the device sees it.
    pub(crate) fn host_table(&self) -> Option<u64> {
        match &self.inner.memory {
            Memory::Host(buffer) => Some(buffer.address()),
            _ => None,
        }
    }
}
