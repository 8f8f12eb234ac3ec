//! From files to the device, by way of pinned memory.
//!
//! While the device copies one piece, all cores repack the next one from the mapped file straight into pinned memory.

use std::sync::{Arc, PoisonError};

use gemma4_core::tensor::Tensor;
use rayon::prelude::*;

use super::layout::{Layout, PLANES};
use crate::device::Device;
use crate::driver::{Buffer, Context, Staging, Table};
use crate::error::CudaError;

/// Bytes that are repacked and sent at once.
const PIECE: usize = 32 << 20;
/// Pieces: one is filled, one is copied, and one is ready to be.
const PIECES: usize = 3;
/// Bytes that a core copies at once.
const SHARE: usize = 1 << 20;

/// Pinned memory that weights pass through.
#[derive(Debug)]
pub(crate) struct Uploader {
    pieces: Vec<Staging>,
    next: usize,
}

impl Uploader {
    fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        let piece = || Staging::new(context, "memory to load through", bytes);
        Ok(Self { pieces: (0..PIECES).map(|_| piece()).collect::<Result<_, _>>()?, next: 0 })
    }

    /// The next piece of memory.
    fn turn(&mut self) -> &mut Staging {
        self.next = (self.next + 1) % self.pieces.len();
        &mut self.pieces[self.next]
    }
}

/// Lets `use_it` use an uploader whose pieces have at least `bytes` bytes.
fn with<T>(
    device: &Device,
    bytes: usize,
    use_it: impl FnOnce(&mut Uploader) -> Result<T, CudaError>,
) -> Result<T, CudaError> {
    let mut uploader = device.uploader.lock().unwrap_or_else(PoisonError::into_inner);
    if uploader.as_ref().is_none_or(|uploader| uploader.pieces[0].bytes() < bytes) {
        *uploader = None;
        *uploader = Some(Uploader::new(&device.context, bytes.max(PIECE))?);
    }
    use_it(uploader.as_mut().expect("made above"))
}

/// Sends bytes as they are.
pub(super) fn bytes(device: &Device, from: &[u8], to: &Buffer) -> Result<(), CudaError> {
    with(device, 0, |uploader| {
        for (start, piece) in (0..).step_by(PIECE).zip(from.chunks(PIECE)) {
            let staging = uploader.turn();
            copy(piece, &mut staging.fill()?[..piece.len()]);
            device.stream.upload(staging, 0..piece.len(), to, start)?;
        }
        Ok(())
    })
}

/// Sends a matrix, tile by tile.
pub(super) fn matrix(
    device: &Device,
    tensor: &Tensor,
    layout: &Layout,
    to: &Buffer,
) -> Result<(), CudaError> {
    let tile_bytes = layout.tile_bytes();
    let (planes, _) = layout.planes();
    let tile: usize = tile_bytes.iter().sum();
    let (tiles, each) = (layout.tiles(), (PIECE / tile).max(1));
    with(device, tile, |uploader| {
        for first in (0..tiles).step_by(each) {
            let count = each.min(tiles - first);
            let staging = uploader.turn();
            fill(tensor, layout, first, count, staging.fill()?);
            let mut start = 0;
            for (plane, bytes) in planes.iter().zip(tile_bytes) {
                let end = start + count * bytes;
                if bytes > 0 {
                    let at = plane + (first * bytes) as u64;
                    device.stream.upload(staging, start..end, to, at)?;
                }
                start = end;
            }
        }
        Ok(())
    })
}

/// Repacks `count` tiles from tile `first` on into `out`, plane after plane.
fn fill(tensor: &Tensor, layout: &Layout, first: usize, count: usize, out: &mut [u8]) {
    let tile_bytes = layout.tile_bytes();
    let mut rest = out;
    let mut planes: [Vec<&mut [u8]>; PLANES] = tile_bytes.map(|bytes| {
        let (plane, after) = std::mem::take(&mut rest).split_at_mut(count * bytes);
        rest = after;
        // A plane that a type lacks is an empty slice for each tile.
        if bytes == 0 {
            (0..count).map(|_| &mut [][..]).collect()
        } else {
            plane.chunks_exact_mut(bytes).collect()
        }
    });
    let [codes, extra, scales, deltas] = planes.each_mut().map(std::mem::take);
    let tiles = (codes, extra, scales, deltas).into_par_iter().enumerate();
    tiles.for_each(|(at, (codes, extra, scales, deltas))| {
        layout.fill(tensor, first + at, [codes, extra, scales, deltas]);
    });
}

/// A tensor in main memory, as the file has it and as kernels read it.
pub(super) fn host(device: &Device, tensor: &Tensor) -> Result<Table, CudaError> {
    Table::new(&device.context, &tensor.name, &tensor.data, |to| copy(&tensor.data, to))
}

/// Copies on all cores: reading a mapped file is mostly taking its pages in.
fn copy(from: &[u8], to: &mut [u8]) {
    to.par_chunks_mut(SHARE).zip(from.par_chunks(SHARE)).for_each(|(to, from)| to.copy_from_slice(from));
}

#[cfg(test)]
mod tests {
    use gemma4_core::tensor::{Bytes, DType};

    use super::*;

    #[test]
    fn pieces_put_together_are_the_planes_of_the_whole() {
        for dtype in [DType::Q6_K, DType::Q8_0, DType::F16] {
            let shape = [2, 40, 512];
            let row = dtype.row_bytes(512).unwrap();
            let data: Vec<u8> = (0..row * 80).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
            let tensor = Tensor::new("x", dtype, shape, Bytes::from_owner(data)).unwrap();
            let layout = Layout::new(&tensor);
            let (tiles, bytes) = (layout.tiles(), layout.tile_bytes());
            let total: usize = bytes.iter().sum();
            let mut whole = vec![0xAA; total * tiles];
            fill(&tensor, &layout, 0, tiles, &mut whole);
            let mut piece = vec![0xAA; total * 2 + 5];
            fill(&tensor, &layout, 3, 2, &mut piece);
            let (mut of_whole, mut of_piece) = (0, 0);
            for bytes in bytes {
                let from = of_whole + 3 * bytes;
                assert_eq!(whole[from..from + 2 * bytes], piece[of_piece..of_piece + 2 * bytes], "{dtype}");
                of_whole += tiles * bytes;
                of_piece += 2 * bytes;
            }
            assert_eq!(piece[of_piece..], [0xAA; 5]);
        }
    }
}
