//! NVIDIA's library of matrix products, where it is installed.
//!
//! Facts of [the driver](super) hold for it too: a [`Library`] exists only after [`symbols::library`] has found every
//! function that is called here.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtMatmulAlgo_t, cublasLtMatmulAlgoConfigAttributes_t as Config,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreferenceAttributes_t as Preferred, cublasLtReductionScheme_t, cublasStatus_t,
    cudaDataType,
};

use super::{Context, Stream, symbols};
use crate::error::CudaError;

/// `CUBLAS_OP_T` of `cublas_api.h`, which cudarc's part for this library leaves out: the operand is turned.
const TURNED: c_int = 1;

/// Memory that a product may use on the side, in bytes: what NVIDIA recommends from Hopper on.
pub(crate) const WORKSPACE: u64 = 32 << 20;

/// Rows that an algorithm is chosen for; it multiplies any number of groups of [`GROUP`].
const ROWS: u64 = 2048;

/// Rows of a product come in multiples of this: few shapes, all of them tried when the algorithm is chosen. Weights as halves
/// take longer to read than so many rows take to multiply.
const GROUP: u32 = 128;

/// Most rows that an algorithm is tried for: those of the longest steps of prompts.
const MOST_ROWS: u32 = 8192;

/// Algorithms that are asked for: the first that meets all demands is taken.
const CANDIDATES: usize = 16;

/// The opened library.
#[derive(Debug)]
pub(crate) struct Library {
    context: Arc<Context>,
    handle: sys::cublasLtHandle_t,
    /// Products that were enqueued.
    products: AtomicU64,
}

// SAFETY: a handle may be used from any thread.
unsafe impl Send for Library {}
// SAFETY: as above; its functions may be called from several threads at once.
unsafe impl Sync for Library {}

/// A product `out[r, o] = sum over c of x[r, c] * w[o, c]` of halves, with sums and results in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// Rows of the weight.
    pub(crate) outputs: u32,
    /// Its columns.
    pub(crate) cols: u32,
    /// Elements from one row of the output to the next.
    pub(crate) stride: u32,
}

/// How a shape is multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Algorithm(cublasLtMatmulAlgo_t);

/// Addresses of the operands of a product, all of them multiples of 256.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    /// `[outputs, cols]` halves.
    pub(crate) weight: u64,
    /// `[padded(rows), cols]` halves.
    pub(crate) x: u64,
    /// `[padded(rows), stride]` floats, of which the first `outputs` of each row are written.
    pub(crate) out: u64,
    /// [`WORKSPACE`] bytes.
    pub(crate) workspace: u64,
}

/// Rows that are multiplied for `rows` of them: operands have memory for so many.
pub(crate) fn padded(rows: u32) -> u32 {
    rows.next_multiple_of(GROUP)
}

/// Version of cuBLASLt as people write it.
///
/// # Errors
///
/// [`CudaError::NoLibrary`], or [`CudaError::Library`] if it is too old.
pub fn version() -> Result<String, CudaError> {
    symbols::library()?;
    // SAFETY: fact 1; it takes nothing and returns a number.
    let number = unsafe { sys::cublasLtGetVersion() };
    Ok(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
}

fn succeed(what: &str, status: cublasStatus_t) -> Result<(), CudaError> {
    match status {
        cublasStatus_t::CUBLAS_STATUS_SUCCESS => Ok(()),
        other => Err(CudaError::Library(format!("{what}: {}", CublasError(other)))),
    }
}

/// Owns what describes something to the library.
macro_rules! owned {
    ($name:ident, $handle:ty, $destroy:path) => {
        struct $name($handle);

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: facts 1 and 2.
                let _ = unsafe { $destroy(self.0) };
            }
        }
    };
}

owned!(Descriptor, sys::cublasLtMatmulDesc_t, sys::cublasLtMatmulDescDestroy);
owned!(Layout, sys::cublasLtMatrixLayout_t, sys::cublasLtMatrixLayoutDestroy);
owned!(Preference, sys::cublasLtMatmulPreference_t, sys::cublasLtMatmulPreferenceDestroy);

impl Layout {
    /// A matrix of columns of `rows` elements, `stride` from one to the next.
    fn new(kind: cudaDataType, rows: u64, cols: u64, stride: u32) -> Result<Self, CudaError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: fact 1; writes one handle.
        let status =
            unsafe { sys::cublasLtMatrixLayoutCreate(&raw mut handle, kind, rows, cols, stride.into()) };
        succeed("describing a matrix", status)?;
        Ok(Self(handle))
    }
}

impl Preference {
    /// What every algorithm has to do with: [`WORKSPACE`] bytes on the side, and sums in one piece.
    fn new() -> Result<Self, CudaError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: fact 1; writes one handle.
        let status = unsafe { sys::cublasLtMatmulPreferenceCreate(&raw mut handle) };
        succeed("saying what is preferred", status)?;
        let preference = Self(handle);
        let in_one_piece = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
        preference.set(Preferred::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_one_piece.to_ne_bytes())?;
        preference.set(Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE.to_ne_bytes())?;
        Ok(preference)
    }

    fn set(&self, attribute: Preferred, value: &[u8]) -> Result<(), CudaError> {
        // SAFETY: facts 1 and 2; the library compares the size with that of the attribute, and copies the value.
        let status = unsafe {
            sys::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, value.as_ptr().cast(), value.len())
        };
        succeed("saying what is preferred", status)
    }
}

/// What a product is described by. The library counts along columns: its first operand is the weight, turned.
struct Described {
    product: Descriptor,
    weight: Layout,
    x: Layout,
    out: Layout,
}

impl Described {
    fn new(shape: Shape, rows: u64) -> Result<Self, CudaError> {
        let mut handle = std::ptr::null_mut();
        let (compute, scale) = (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F);
        // SAFETY: fact 1; writes one handle.
        let status = unsafe { sys::cublasLtMatmulDescCreate(&raw mut handle, compute, scale) };
        succeed("describing a product", status)?;
        let product = Descriptor(handle);
        let turned = TURNED.to_ne_bytes();
        let attribute = Attribute::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: facts 1 and 2; the attribute has four bytes, which are copied.
        let status = unsafe {
            sys::cublasLtMatmulDescSetAttribute(product.0, attribute, turned.as_ptr().cast(), turned.len())
        };
        succeed("describing a product", status)?;
        let (half, float) = (cudaDataType::CUDA_R_16F, cudaDataType::CUDA_R_32F);
        let (outputs, cols) = (u64::from(shape.outputs), u64::from(shape.cols));
        Ok(Self {
            product,
            weight: Layout::new(half, cols, outputs, shape.cols)?,
            x: Layout::new(half, cols, rows, shape.cols)?,
            out: Layout::new(float, outputs, rows, shape.stride)?,
        })
    }
}

const NOTHING_FOUND: cublasLtMatmulHeuristicResult_t = cublasLtMatmulHeuristicResult_t {
    algo: cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

/// Whether an algorithm was found that works and does with the memory it is given.
fn works(found: &cublasLtMatmulHeuristicResult_t) -> bool {
    found.state == cublasStatus_t::CUBLAS_STATUS_SUCCESS && found.workspaceSize as u64 <= WORKSPACE
}

/// Whether an algorithm takes each sum in one piece, as it was asked to; one that does not say is taken at its word.
fn in_one_piece(algorithm: &cublasLtMatmulAlgo_t) -> bool {
    let read = |attribute| {
        let (mut value, mut written) = ([0u8; 4], 0);
        // SAFETY: fact 1; the attributes have four bytes, of which no more are written, and one size.
        let status = unsafe {
            sys::cublasLtMatmulAlgoConfigGetAttribute(
                algorithm,
                attribute,
                value.as_mut_ptr().cast(),
                value.len(),
                &raw mut written,
            )
        };
        (status == cublasStatus_t::CUBLAS_STATUS_SUCCESS).then(|| u32::from_ne_bytes(value))
    };
    let pieces = read(Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
    let scheme = read(Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
    let none = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
    pieces.is_none_or(|pieces| pieces <= 1) && scheme.is_none_or(|scheme| scheme == none)
}

impl Library {
    /// Opens the library for a device.
    ///
    /// # Errors
    ///
    /// [`CudaError::NoLibrary`], or [`CudaError::Library`] with what it says itself.
    pub(crate) fn open(context: &Arc<Context>) -> Result<Self, CudaError> {
        symbols::library()?;
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: facts 1 and 3; writes one handle.
        succeed("it does not start", unsafe { sys::cublasLtCreate(&raw mut handle) })?;
        Ok(Self { context: Arc::clone(context), handle, products: AtomicU64::new(0) })
    }

    /// The algorithm for a shape, for every number of rows.
    ///
    /// It is the first of those the library offers for [`ROWS`] rows that takes a sum in one piece and works for any
    /// other number of rows: a row has the same bits in any company. The same library and device offer the same ones.
    ///
    /// # Errors
    ///
    /// [`CudaError::Library`] if there is none.
    pub(crate) fn choose(&self, shape: Shape) -> Result<Algorithm, CudaError> {
        self.context.bind()?;
        let described = Described::new(shape, ROWS)?;
        let preference = Preference::new()?;
        let mut found = [NOTHING_FOUND; CANDIDATES];
        let mut count: c_int = 0;
        let most = c_int::try_from(CANDIDATES).expect("a handful");
        let Described { product, weight, x, out } = &described;
        // SAFETY: facts 1 to 3; at most so many results and their number are written.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                product.0,
                weight.0,
                x.0,
                out.0,
                out.0,
                preference.0,
                most,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        let Shape { outputs, cols, .. } = shape;
        succeed(&format!("choosing how to multiply {outputs} x {cols} halves"), status)?;
        let numbers = (1..=MOST_ROWS / GROUP).map(|groups| u64::from(groups * GROUP));
        let others = numbers.map(|rows| Ok((rows, Described::new(shape, rows)?)));
        let others = others.collect::<Result<Vec<_>, CudaError>>()?;
        let mut reasons = Vec::new();
        for found in &found[..usize::try_from(count).unwrap_or(0).min(CANDIDATES)] {
            let refused = || others.iter().find(|(_, other)| !self.takes(other, &found.algo));
            reasons.push(if !works(found) {
                "does not work".to_owned()
            } else if !in_one_piece(&found.algo) {
                "cuts sums".to_owned()
            } else if let Some((rows, _)) = refused() {
                format!("does not take {rows} rows")
            } else {
                return Ok(Algorithm(found.algo));
            });
        }
        let reasons = if reasons.is_empty() { "there is none".to_owned() } else { reasons.join(", ") };
        Err(CudaError::Library(format!("no way to multiply {outputs} x {cols} halves will do: {reasons}")))
    }

    /// Whether a product may be done so.
    fn takes(&self, described: &Described, algorithm: &cublasLtMatmulAlgo_t) -> bool {
        let Described { product, weight, x, out } = described;
        let mut checked = NOTHING_FOUND;
        // SAFETY: facts 1 to 3; one result is written.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                product.0,
                weight.0,
                x.0,
                out.0,
                out.0,
                algorithm,
                &raw mut checked,
            )
        };
        // What it writes into the result's own state is not documented.
        status == cublasStatus_t::CUBLAS_STATUS_SUCCESS && checked.workspaceSize as u64 <= WORKSPACE
    }

    /// Enqueues a product of [`padded`] rows, multiplied with `factor`.
    ///
    /// # Errors
    ///
    /// [`CudaError::Library`].
    pub(crate) fn multiply(
        &self,
        stream: &Stream,
        (shape, algorithm): (Shape, &Algorithm),
        rows: u32,
        operands: Operands,
        factor: f32,
    ) -> Result<(), CudaError> {
        self.context.bind()?;
        let Described { product, weight, x, out } = &Described::new(shape, padded(rows).into())?;
        let nothing = 0.0f32;
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: facts 1 to 3; descriptions and factors are not needed after the call. Fact 4: the addresses are those of
        // scratch memory and of an activation of a plan, which are as large as the shape says for as many padded rows as a
        // step may have (`lower/library.rs`, `Plan`), and are freed only behind everything that was enqueued.
        let status = unsafe {
            sys::cublasLtMatmul(
                self.handle,
                product.0,
                (&raw const factor).cast(),
                pointer(operands.weight),
                weight.0,
                pointer(operands.x),
                x.0,
                (&raw const nothing).cast(),
                pointer(operands.out),
                out.0,
                pointer(operands.out),
                out.0,
                &raw const algorithm.0,
                pointer(operands.workspace),
                usize::try_from(WORKSPACE).expect("it is small"),
                stream.handle().cast(),
            )
        };
        succeed("a product", status)?;
        self.products.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Products that were enqueued so far.
    pub(crate) fn products(&self) -> u64 {
        self.products.load(Ordering::Relaxed)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if self.context.finish().is_ok() {
            // SAFETY: facts 1 to 3, and the device has finished everything that may use it.
            let _ = unsafe { sys::cublasLtDestroy(self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_whole_groups() {
        assert_eq!([1, 128, 129, 2048].map(padded), [128, 128, 256, 2048]);
        assert!(ROWS.is_multiple_of(GROUP.into()) && MOST_ROWS.is_multiple_of(GROUP));
    }

    #[test]
    fn what_the_library_writes_has_the_size_of_its_own_types() {
        // cublasLt.h of 12.0 and 13.10: eight words; that, a size, a status, a float and four integers.
        assert_eq!(size_of::<cublasLtMatmulAlgo_t>(), 64);
        assert_eq!(size_of::<cublasLtMatmulHeuristicResult_t>(), 64 + 8 + 4 + 4 + 16);
    }

    #[test]
    fn a_library_that_is_there_says_its_version_and_one_that_is_not_is_no_panic() {
        match version() {
            Ok(version) => {
                assert!(version.split('.').count() == 3, "{version}");
                // What needs no device: the library refuses attributes of another size.
                let described = Described::new(Shape { outputs: 64, cols: 128, stride: 192 }, 128);
                assert!(described.is_ok() && Preference::new().is_ok());
            }
            Err(error @ (CudaError::NoLibrary { .. } | CudaError::Library(_))) => {
                assert!(error.to_string().contains("--prompts tiles"), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
