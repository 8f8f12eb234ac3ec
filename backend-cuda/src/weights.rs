//! Weights on the device.
//!
//! | what | where and how |
//! |---|---|
//! | vectors | `f32`, as norms read them |
//! | matrices | still quantised, repacked for the lanes of tensor cores: [`layout`] |
//! | the table of per-layer embeddings | in main memory, as the file has it: of its gigabytes a step reads a few rows |

mod blocks;
pub(crate) mod layout;
mod pack;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::{Arc, OnceLock};

use gemma4_core::program::WeightSpec;
use gemma4_core::quant;
use gemma4_core::tensor::{DType, Tensor};

use crate::device::Device;
use crate::driver::{Buffer, Table};
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
    /// None where a program is lowered without a device.
    tensor: Option<Tensor>,
    /// The forms that it has: the usual one since it was loaded, another since a plan asked for it.
    vector: OnceLock<Buffer>,
    matrix: OnceLock<(Layout, Buffer)>,
    table: OnceLock<Table>,
}

/// Whether a weight is the table of per-layer embeddings: its name in GGUF files, or in folders.
pub(crate) fn in_main_memory(name: &str) -> bool {
    ["per_layer_token_embd", "embed_tokens_per_layer"].iter().any(|table| name.contains(table))
}

impl Weight {
    pub(crate) fn upload(device: &Device, tensor: &Tensor) -> Result<Self, CudaError> {
        let weight = Self::new(&WeightSpec::of(tensor), Some(tensor.clone()));
        if in_main_memory(&tensor.name) {
            weight.table(device)?;
        } else if tensor.experts * tensor.rows == 1 {
            weight.vector(device)?;
        } else {
            weight.view(device)?;
        }
        Ok(weight)
    }

    /// A weight that no memory is allocated for.
    pub(crate) fn planned(spec: &WeightSpec) -> Self {
        Self::new(spec, None)
    }

    fn new(spec: &WeightSpec, tensor: Option<Tensor>) -> Self {
        let WeightSpec { dtype, experts, rows, cols, .. } = *spec;
        let (vector, matrix, table) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { inner: Arc::new(Inner { dtype, experts, rows, cols, tensor, vector, matrix, table }) }
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

    fn tensor(&self) -> &Tensor {
        self.inner.tensor.as_ref().expect("weights of a plan have contents")
    }

    /// Address of the values of a vector, or of the rows of a matrix one after another, as `f32`.
    pub(crate) fn vector(&self, device: &Device) -> Result<u64, CudaError> {
        let buffer = made(&self.inner.vector, || {
            let tensor = self.tensor();
            let mut values = vec![0.0f32; tensor.experts * tensor.rows * tensor.cols];
            quant::decode(tensor.dtype, &tensor.data, &mut values);
            let buffer = Buffer::new(&device.context, &tensor.name, (values.len() * 4) as u64)?;
            upload::bytes(device, bytemuck::cast_slice(&values), &buffer)?;
            Ok(buffer)
        })?;
        Ok(buffer.address())
    }

    /// A matrix as kernels take it: a `WeightView` by value.
    pub(crate) fn view(&self, device: &Device) -> Result<[u8; VIEW], CudaError> {
        let (layout, buffer) = made(&self.inner.matrix, || {
            let layout = Layout::new(self.tensor());
            let buffer = Buffer::new(&device.context, &self.tensor().name, layout.planes().1)?;
            upload::matrix(device, self.tensor(), &layout, &buffer)?;
            Ok((layout, buffer))
        })?;
        Ok(layout.view(buffer.address()))
    }

    /// Address of the rows of the file in main memory, as the device sees it.
    pub(crate) fn table(&self, device: &Device) -> Result<u64, CudaError> {
        let buffer = made(&self.inner.table, || upload::host(device, self.tensor()))?;
        Ok(buffer.address())
    }
}

/// What is in a cell, made if nothing is.
fn made<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, CudaError>) -> Result<&T, CudaError> {
    if let Some(there) = cell.get() {
        return Ok(there);
    }
    let new = make()?;
    Ok(cell.get_or_init(|| new))
}

/// Bytes of GPU memory that a tensor takes in its usual form.
#[must_use]
pub fn device_bytes(tensor: &Tensor) -> u64 {
    if in_main_memory(&tensor.name) {
        0
    } else if tensor.experts * tensor.rows == 1 {
        (tensor.cols * 4) as u64
    } else {
        Layout::new(tensor).planes().1
    }
}
