//! Kernels with their arguments.

use std::ffi::c_void;

use super::Function;
use crate::error::CudaError;

/// A kernel and all that a launch of it needs but the grid.
#[derive(Debug)]
pub(crate) struct Call {
    pub(super) function: Function,
    /// The arguments, each at a multiple of 8 bytes.
    storage: Vec<u64>,
    /// Word of `storage` that each argument starts at.
    starts: Vec<usize>,
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    /// Blocks of a cluster, along the first axis.
    pub(super) cluster: u32,
    /// It may begin while the kernel before it still runs, for which it waits itself.
    pub(super) follows: bool,
}

impl Call {
    /// Puts arguments, given as their bytes, to a kernel; `follows` says that it waits for the one before it.
    ///
    /// # Errors
    ///
    /// [`CudaError::Launch`] if the kernel takes others, or cannot have such blocks.
    pub(crate) fn new(
        function: Function,
        arguments: &[Vec<u8>],
        block: [u32; 3],
        shared: u32,
        follows: bool,
    ) -> Result<Self, CudaError> {
        let threads = block.iter().try_fold(1u32, |threads, &side| threads.checked_mul(side)).unwrap_or(0);
        function.allow(threads, shared)?;
        if let Some(sizes) = function.parameters()? {
            let given = arguments.iter().map(Vec::len);
            if let Some(what) = differ(&sizes, given) {
                return Err(CudaError::Launch { entry: function.name().to_owned(), what });
            }
        }
        let (mut storage, mut starts) = (Vec::new(), Vec::new());
        for argument in arguments {
            starts.push(storage.len());
            let words = argument.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            });
            storage.extend(words);
        }
        Ok(Self { function, storage, starts, block, shared, cluster: 1, follows })
    }

    /// With blocks in clusters of so many along the first axis.
    pub(crate) fn in_clusters(self, cluster: u32) -> Self {
        Self { cluster, ..self }
    }

    /// The addresses of the arguments, as a launch takes them. They are valid as long as `self` is not changed.
    pub(super) fn arguments(&self) -> Vec<*mut c_void> {
        let address = |&start: &usize| (&raw const self.storage[start]).cast_mut().cast();
        self.starts.iter().map(address).collect()
    }
}

/// Says how arguments differ from parameters, if they do.
fn differ(parameters: &[usize], arguments: impl ExactSizeIterator<Item = usize>) -> Option<String> {
    let (want, got) = (parameters.len(), arguments.len());
    if want != got {
        return Some(format!("it takes {want} arguments and was given {got}"));
    }
    let mut pairs = parameters.iter().zip(arguments).enumerate();
    let (at, (want, got)) = pairs.find(|(_, (want, got))| **want != *got)?;
    Some(format!("its argument {at} has {want} bytes and was given {got}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn arguments_of_another_number_or_size_are_refused() {
        let differ =
            |parameters: &[usize], arguments: &[usize]| super::differ(parameters, arguments.iter().copied());
        assert_eq!(differ(&[8, 4], &[8, 4]), None);
        assert_eq!(differ(&[8, 4], &[8]).unwrap(), "it takes 2 arguments and was given 1");
        assert_eq!(differ(&[8, 40, 4], &[8, 8, 4]).unwrap(), "its argument 1 has 40 bytes and was given 8");
    }
}
