//! Weights as kernels read them: 16 rows by 64 columns at a time, in the order of the lanes of a tensor-core product.
//!
//! A matrix is cut into tiles of 16 rows, and a tile into chunks of 64 columns. Of lane `l` of a warp, with `g = l / 4`
//! and `t = l % 4`, a chunk's columns `16 j + 4 t` to `16 j + 4 t + 3` of rows `g` and `g + 8`, for `j` from 0 to 3. Codes
//! stay as narrow as in the file. A tile has four planes, each contiguous over the tiles of all experts:
//!
//! | plane | of a chunk (or a block of 256 columns) |
//! |---|---|
//! | codes | `[32 lanes][bits]` words: the upper bits of codes, or halves |
//! | extra | `[32 lanes][extra]` words: lower bits; for `F32` the values as they are, row by row |
//! | scales | see [`Scales`] |
//! | deltas | f16 factors of a block: `[16 rows]`, or `[16 rows][2]` with those of mins |
//!
//! What a bit means is said where it is packed ([`super::pack`]) and read (`kernels/common/weights.cuh`).

use gemma4_core::tensor::{DType, Tensor};

use super::pack;

/// Rows of a tile.
pub(crate) const TILE: usize = 16;
/// Columns of a chunk.
pub(crate) const CHUNK: usize = 64;
/// Columns of a block.
pub(crate) const BLOCK: usize = 256;
/// Planes of a layout.
pub(crate) const PLANES: usize = 4;

/// How codes become values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// An `f32` factor a row: `[16 rows]` words a tile.
    Row,
    /// A 16-bit factor for each 32 columns: `[8 g][2 rows g, g + 8][2 groups]` of a chunk.
    Half,
    /// The same and a 16-bit offset: `[8 g][factor, offset][2 rows][2 groups]` of a chunk.
    HalfMin,
    /// Eight factors and eight mins of six bits a block, with their f16 factors: `[16 rows][16 bytes]`.
    SixBit,
    /// An `i8` factor for each 16 columns: `[16 rows][16]` of a block.
    Byte16,
    /// An `i8` factor for each 32 columns: `[16 rows][8]` of a block.
    Byte32,
    /// A factor and a min of four bits for each 16 columns: `[16 rows][16 bytes]` of a block.
    Nibble,
}

/// The shape of a type's planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Bits of a code in the plane of codes.
    pub(crate) bits: usize,
    /// Bits of a code in the plane of extra bits.
    pub(crate) extra: usize,
    /// How codes become values.
    pub(crate) scales: Scales,
}

impl Form {
    /// The form of `dtype`.
    pub(crate) const fn of(dtype: DType) -> Self {
        let (bits, extra, scales) = match dtype {
            DType::F32 => (32, 0, Scales::Row),
            DType::F16 | DType::BF16 => (16, 0, Scales::Row),
            DType::Q4_0 | DType::IQ4_NL | DType::MXFP4 => (4, 0, Scales::Half),
            DType::Q4_1 => (4, 0, Scales::HalfMin),
            DType::Q5_0 => (4, 1, Scales::Half),
            DType::Q5_1 => (4, 1, Scales::HalfMin),
            DType::Q8_0 => (8, 0, Scales::Half),
            DType::Q2_K => (2, 0, Scales::Nibble),
            DType::Q3_K => (2, 1, Scales::Byte16),
            DType::Q4_K => (4, 0, Scales::SixBit),
            DType::Q5_K => (4, 1, Scales::SixBit),
            DType::Q6_K => (4, 2, Scales::Byte16),
            DType::IQ4_XS => (4, 0, Scales::Byte32),
        };
        Self { bits, extra, scales }
    }
}

/// Where the values of a matrix are on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(super) dtype: DType,
    pub(super) form: Form,
    experts: usize,
    rows: usize,
    pub(super) cols: usize,
}

impl Layout {
    /// The layout of `tensor`.
    pub(crate) fn new(tensor: &Tensor) -> Self {
        let &Tensor { dtype, experts, rows, cols, .. } = tensor;
        Self { dtype, form: Form::of(dtype), experts, rows, cols }
    }

    /// Tiles of a matrix.
    pub(crate) fn tiles_of_expert(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// Tiles of all matrices.
    pub(crate) fn tiles(&self) -> usize {
        self.tiles_of_expert() * self.experts
    }

    /// Chunks of a row.
    pub(crate) fn chunks(&self) -> usize {
        self.cols.div_ceil(CHUNK)
    }

    pub(super) fn blocks(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    /// Bytes of a tile in each plane.
    pub(crate) fn tile_bytes(&self) -> [usize; PLANES] {
        let (chunks, blocks) = (self.chunks(), self.blocks());
        let extra =
            if self.dtype == DType::F32 { TILE * self.cols * 4 } else { chunks * 128 * self.form.extra };
        let (scales, deltas) = match self.form.scales {
            Scales::Row => (TILE * 4, 0),
            Scales::Half => (chunks * 64, 0),
            Scales::HalfMin => (chunks * 128, 0),
            Scales::SixBit => (blocks * 256, 0),
            Scales::Byte16 => (blocks * 256, blocks * 32),
            Scales::Byte32 => (blocks * 128, blocks * 32),
            Scales::Nibble => (blocks * 256, blocks * 64),
        };
        [chunks * 128 * self.form.bits, extra, scales, deltas]
    }

    /// First byte of each plane, and the end of the last.
    pub(crate) fn planes(&self) -> ([u64; PLANES], u64) {
        let (mut starts, mut end) = ([0; PLANES], 0u64);
        for (start, bytes) in starts.iter_mut().zip(self.tile_bytes()) {
            *start = end;
            end = (end + bytes as u64 * self.tiles() as u64).next_multiple_of(256);
        }
        (starts, end)
    }

    /// `WeightView` of `kernels/common/weights.cuh` for planes that start at the device address `base`.
    pub(crate) fn view(&self, base: u64) -> [u8; 48] {
        let mut bytes = [0; 48];
        let (starts, _) = self.planes();
        for (to, start) in bytes.chunks_exact_mut(8).zip(starts) {
            to.copy_from_slice(&(base + start).to_le_bytes());
        }
        let sizes = [self.rows, self.cols, self.tiles_of_expert(), self.chunks()];
        for (to, size) in bytes[32..].chunks_exact_mut(4).zip(sizes) {
            let size = u32::try_from(size).expect("sizes of a model fit 32 bits");
            to.copy_from_slice(&size.to_le_bytes());
        }
        bytes
    }

    /// Writes one tile into its place in each plane.
    pub(crate) fn fill(&self, tensor: &Tensor, tile: usize, mut out: [&mut [u8]; PLANES]) {
        for plane in &mut out {
            plane.fill(0);
        }
        let (expert, first) = (tile / self.tiles_of_expert(), tile % self.tiles_of_expert() * TILE);
        let rows: [Option<&[u8]>; TILE] =
            std::array::from_fn(|r| (first + r < self.rows).then(|| tensor.row(expert, first + r)));
        match self.form.scales {
            Scales::Row => pack::floats(self, &rows, out),
            _ => pack::codes(self, &rows, out),
        }
    }
}
