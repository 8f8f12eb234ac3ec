//! Activations in the form that products read: `Prepared` of `kernels/common/prepare.cuh`.

use gemma4_core::abi::PREPARED_BLOCK;

use super::narrow;

/// Columns of a tile of the operand.
const TILE: u64 = 8;

/// The shape of a prepared activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// Most rows.
    rows: u32,
    /// Blocks of [`PREPARED_BLOCK`] columns of a row; the last one is filled up with zeros.
    blocks: u32,
    /// Whether a value is two halves, and a row two columns of the operand.
    split: bool,
}

/// Bytes of the struct as kernels take it: an address and four integers.
pub(crate) const BYTES: usize = 24;

impl Prepared {
    /// The form of `[rows, cols]`.
    pub(crate) fn of(rows: usize, cols: usize, split: bool) -> Self {
        Self { rows: narrow(rows), blocks: narrow(cols).div_ceil(PREPARED_BLOCK), split }
    }

    fn tiles(self) -> u64 {
        (u64::from(self.rows) * if self.split { 2 } else { 1 }).div_ceil(TILE)
    }

    /// Bytes of all of it: parts and sums of a tile, sums of its rows, and a scale for each block of a row.
    pub(crate) fn bytes(self) -> u64 {
        let (tiles, blocks) = (self.tiles(), u64::from(self.blocks));
        let tile_rows = if self.split { TILE / 2 } else { TILE };
        let parts = tiles * blocks * (2048 + 128 + 256) * 2;
        parts + tiles * tile_rows * blocks * (8 + 16) * 4 + u64::from(self.rows) * blocks * 4
    }

    /// The struct by value, of memory at `address`.
    pub(crate) fn argument(self, address: u64) -> Vec<u8> {
        let tiles = u32::try_from(self.tiles()).expect("rows fit 32 bits");
        let mut bytes = address.to_ne_bytes().to_vec();
        for number in [tiles, self.blocks, u32::from(self.split), 0] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    /// The struct that says that the form is not wanted.
    pub(crate) fn none() -> Vec<u8> {
        vec![0; BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_size_is_that_of_its_parts() {
        // A tile of 4 split rows, 2 blocks.
        let one = Prepared::of(3, 300, true);
        assert_eq!(one.bytes(), 2 * (2432 * 2 + 4 * 24 * 4) + 3 * 2 * 4);
        // Two tiles of 8 rows.
        let two = Prepared::of(9, 256, false);
        assert_eq!(two.bytes(), 2 * (2432 * 2 + 8 * 24 * 4) + 9 * 4);
        assert_eq!(one.argument(7).len(), BYTES);
        assert_eq!(Prepared::none().len(), BYTES);
    }
}
