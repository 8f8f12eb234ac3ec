//! Activations in the form that products read: `Prepared` of `kernels/common/prepare.cuh`.

use gemma4_core::abi::PREPARED_BLOCK;

use super::narrow;

/// Rows of prompts in a tile.
const TILE: u64 = 8;
/// Bytes of a block of a row: `Halves`, and one half a value.
pub(super) const HALVES: u32 = 1024;
const ONE_HALF: u32 = 512;

/// Bytes of `Digits`: two bytes a value, or four where products are exact.
pub(super) fn digits(exact: bool) -> u32 {
    144 + PREPARED_BLOCK * if exact { 4 } else { 2 }
}

/// How a value is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// As one half.
    Half,
    /// As bytes.
    Digits,
    /// As bytes, and as two halves for weights that are no codes.
    DigitsAndHalves,
}

/// The shape of a prepared activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// Most rows.
    rows: u32,
    /// Blocks of [`PREPARED_BLOCK`] columns of a row; the last one is filled up with zeros.
    blocks: u32,
    parts: Parts,
    /// Of a block as bytes.
    digits: u32,
}

/// Bytes of the struct as kernels take it: an address and four integers.
pub(crate) const BYTES: usize = 24;

impl Prepared {
    /// The form of `[rows, cols]`.
    pub(crate) fn of(rows: usize, cols: usize, parts: Parts, exact: bool) -> Self {
        let blocks = narrow(cols).div_ceil(PREPARED_BLOCK);
        Self { rows: narrow(rows), blocks, parts, digits: digits(exact) }
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(self) -> u64 {
        let (rows, blocks) = (u64::from(self.rows), u64::from(self.blocks));
        match self.parts {
            Parts::Half => blocks * (rows.next_multiple_of(TILE) * u64::from(ONE_HALF) + rows * 4),
            Parts::Digits => rows * blocks * u64::from(self.digits),
            Parts::DigitsAndHalves => rows * blocks * u64::from(self.digits + HALVES),
        }
    }

    /// The struct by value, of memory at `address`.
    pub(crate) fn argument(self, address: u64) -> Vec<u8> {
        let mut bytes = address.to_ne_bytes().to_vec();
        let digits = u32::from(self.parts != Parts::Half);
        let halves = u32::from(self.parts == Parts::DigitsAndHalves);
        for number in [self.rows, self.blocks, digits, halves] {
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
        let digits = Prepared::of(3, 300, Parts::Digits, false);
        assert_eq!(digits.bytes(), 3 * 2 * 656);
        assert_eq!(Prepared::of(3, 300, Parts::Digits, true).bytes(), 3 * 2 * 1168);
        assert_eq!(Prepared::of(3, 300, Parts::DigitsAndHalves, false).bytes(), 3 * 2 * (656 + 1024));
        // Two tiles of 8 rows, and a scale for each row and block.
        assert_eq!(Prepared::of(9, 256, Parts::Half, false).bytes(), 2 * 8 * 512 + 9 * 4);
        assert_eq!(digits.argument(7).len(), BYTES);
        assert_eq!(Prepared::none().len(), BYTES);
    }
}
