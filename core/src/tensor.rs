//! Weight tensors as files hold them: element types, shapes and bytes that are shared, never copied.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// An element type of a weight tensor. Names and numbers are GGUF's (`ggml_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "the names every Gemma user knows from GGUF files")]
#[expect(missing_docs, reason = "the layout of each is in `quant`")]
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

impl DType {
    /// Every type, in the order of the declaration.
    pub const ALL: [DType; 16] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2_K,
        DType::Q3_K,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
        DType::IQ4_NL,
        DType::IQ4_XS,
        DType::MXFP4,
    ];

    /// GGUF's number, its name, values a block, bytes a block.
    const fn row(self) -> (u32, &'static str, usize, usize) {
        match self {
            DType::F32 => (0, "F32", 1, 4),
            DType::F16 => (1, "F16", 1, 2),
            DType::BF16 => (30, "BF16", 1, 2),
            DType::Q4_0 => (2, "Q4_0", 32, 18),
            DType::Q4_1 => (3, "Q4_1", 32, 20),
            DType::Q5_0 => (6, "Q5_0", 32, 22),
            DType::Q5_1 => (7, "Q5_1", 32, 24),
            DType::Q8_0 => (8, "Q8_0", 32, 34),
            DType::Q2_K => (10, "Q2_K", 256, 84),
            DType::Q3_K => (11, "Q3_K", 256, 110),
            DType::Q4_K => (12, "Q4_K", 256, 144),
            DType::Q5_K => (13, "Q5_K", 256, 176),
            DType::Q6_K => (14, "Q6_K", 256, 210),
            DType::IQ4_NL => (20, "IQ4_NL", 32, 18),
            DType::IQ4_XS => (23, "IQ4_XS", 256, 136),
            DType::MXFP4 => (39, "MXFP4", 32, 17),
        }
    }

    /// The type with GGUF's number `id`, if this program reads it.
    #[must_use]
    pub fn from_ggml(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.row().0 == id)
    }

    /// GGUF's number.
    #[must_use]
    pub const fn ggml(self) -> u32 {
        self.row().0
    }

    /// GGUF's name, such as `Q4_K`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Values in one block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of a row of `cols` values; `None` if blocks do not fill it or the product overflows.
    #[must_use]
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A range of bytes that somebody owns: a memory map, a vector, or the program itself.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Static(&'static [u8]),
    Mapped(Arc<dyn AsRef<[u8]> + Send + Sync>),
    Shared(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl Bytes {
    /// Bytes inside the program.
    #[must_use]
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Static(bytes) }
    }

    /// Bytes of `owner`, which lives as long as any part of them.
    pub fn from_owner(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self { range: 0..owner.as_ref().len(), owner: Owner::Shared(Arc::new(owner)) }
    }

    /// Bytes of a mapped file, whose pages hold nothing else.
    pub fn from_mapped(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self { range: 0..owner.as_ref().len(), owner: Owner::Mapped(Arc::new(owner)) }
    }

    /// Whether they are those of a mapped file: nobody writes to the pages they lie in.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        matches!(self.owner, Owner::Mapped(_))
    }

    /// The part `range`, counted from the start of this part; `None` if it reaches past the end.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        self.get(range.clone())?;
        let start = self.range.start;
        Some(Self { owner: self.owner.clone(), range: start + range.start..start + range.end })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Static(bytes) => bytes,
            Owner::Mapped(owner) | Owner::Shared(owner) => (**owner).as_ref(),
        };
        &all[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

/// A weight: `experts` matrices of `rows` rows of `cols` values, each row contiguous.
///
/// Vectors have one row. The bytes are as in the file: blocks of [`DType`] along a row.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name in the file it came from.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Matrices; 1 unless the tensor holds experts.
    pub experts: usize,
    /// Rows of one matrix (outputs of a linear map).
    pub rows: usize,
    /// Values of one row (inputs of a linear map).
    pub cols: usize,
    /// `experts * rows` rows of `dtype.row_bytes(cols)` bytes.
    pub data: Bytes,
}

impl Tensor {
    /// A tensor whose bytes are exactly what its shape needs; `None` otherwise.
    #[must_use]
    pub fn new(name: &str, dtype: DType, [experts, rows, cols]: [usize; 3], data: Bytes) -> Option<Self> {
        let bytes = dtype.row_bytes(cols)?.checked_mul(rows)?.checked_mul(experts)?;
        (bytes == data.len()).then(|| Self { name: name.to_owned(), dtype, experts, rows, cols, data })
    }

    /// Bytes of one row.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.data.len() / (self.experts * self.rows).max(1)
    }

    /// Row `row` of matrix `expert`.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    #[must_use]
    pub fn row(&self, expert: usize, row: usize) -> &[u8] {
        let bytes = self.row_bytes();
        let start = (expert * self.rows + row) * bytes;
        &self.data[start..start + bytes]
    }

    /// The columns `range` of every row as a tensor of their own, whose bytes are a copy.
    ///
    /// Blocks stay as they are; where the range cuts one, values are decoded to `F32`. `None` if there are no such
    /// columns.
    #[must_use]
    pub fn columns(&self, name: &str, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.cols {
            return None;
        }
        let shape = [self.experts, self.rows, range.len()];
        let rows = self.data.chunks_exact(self.row_bytes().max(1));
        if let (Some(start), Some(end)) = (self.dtype.row_bytes(range.start), self.dtype.row_bytes(range.end))
        {
            let bytes: Vec<u8> = rows.flat_map(|row| &row[start..end]).copied().collect();
            return Self::new(name, self.dtype, shape, Bytes::from_owner(bytes));
        }
        let mut values = vec![0.0f32; self.cols];
        let mut bytes = Vec::new();
        for row in rows {
            crate::quant::decode(self.dtype, row, &mut values);
            bytes.extend(values[range.clone()].iter().flat_map(|value| value.to_le_bytes()));
        }
        Self::new(name, DType::F32, shape, Bytes::from_owner(bytes))
    }

    /// A vector of `f32`.
    #[must_use]
    pub fn vector(name: &str, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let data = Bytes::from_owner(bytes);
        Self { name: name.to_owned(), dtype: DType::F32, experts: 1, rows: 1, cols: values.len(), data }
    }

    /// The rows `range` of a single matrix as a tensor of their own, sharing the bytes.
    ///
    /// `None` if there are experts or no such rows.
    #[must_use]
    pub fn slice_rows(&self, name: &str, range: Range<usize>) -> Option<Self> {
        if self.experts != 1 || range.start > range.end {
            return None;
        }
        let bytes = self.row_bytes();
        let data = self.data.slice(range.start.checked_mul(bytes)?..range.end.checked_mul(bytes)?)?;
        Self::new(name, self.dtype, [1, range.len(), self.cols], data)
    }
}
