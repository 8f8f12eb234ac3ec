//! Activations in the form that products read: `Prepared` of `kernels/common/prepare.cuh`.

use gemma4_core::abi::PREPARED_BLOCK;

/// Where a prepared activation is in its memory, which is one piece: 16-bit parts of all rows, then a scale and a sum
/// for each block of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// Most rows.
    pub(crate) rows: u32,
    /// Blocks of [`PREPARED_BLOCK`] columns of a row; the last one is filled up with zeros.
    pub(crate) blocks: u32,
}

/// Bytes of the struct as kernels take it: four addresses, `rows` and `blocks`.
const BYTES: usize = 40;

impl Prepared {
    /// The form of `[rows, cols]`.
    pub(crate) fn of(rows: usize, cols: usize) -> Self {
        Self { rows: super::narrow(rows), blocks: super::narrow(cols).div_ceil(PREPARED_BLOCK) }
    }

    /// Bytes of each of its four parts.
    fn parts(self) -> [u64; 4] {
        let blocks = u64::from(self.rows) * u64::from(self.blocks);
        let values = blocks * u64::from(PREPARED_BLOCK);
        [values * 2, values * 2, blocks * 4, blocks * 4]
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(self) -> u64 {
        self.parts().iter().map(|bytes| bytes.next_multiple_of(256)).sum()
    }

    /// The struct by value, of memory at `address`.
    pub(crate) fn argument(self, address: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        let mut at = address;
        for part in self.parts() {
            bytes.extend_from_slice(&at.to_ne_bytes());
            at += part.next_multiple_of(256);
        }
        bytes.extend_from_slice(&self.rows.to_ne_bytes());
        bytes.extend_from_slice(&self.blocks.to_ne_bytes());
        bytes
    }

    /// The struct that says that the form is not wanted.
    pub(crate) fn none() -> Vec<u8> {
        vec![0; BYTES]
    }
}
