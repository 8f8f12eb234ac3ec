//! NVIDIA's library of matrix products, where it is installed and asked for.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preferred, cublasOperation_t, cublasStatus_t, cudaDataType,
};

use super::{Buffer, Context, Stream, symbols};
use crate::error::CudaError;

/// Memory that products may use on the side, in bytes: what NVIDIA recommends from Hopper on.
const WORKSPACE: u64 = 32 << 20;

/// Rows that an algorithm is chosen for; it is used for any number of them.
const ROWS: u64 = 2048;

/// The opened library.
#[derive(Debug)]
pub(crate) struct Library {
    context: Arc<Context>,
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
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
pub(crate) struct Algorithm(sys::cublasLtMatmulAlgo_t);

/// Addresses of the operands of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    /// `[outputs, cols]` halves.
    pub(crate) weight: u64,
    /// `[rows, cols]` halves.
    pub(crate) x: u64,
    /// `[rows, stride]` floats, of which the first `outputs` of each row are written.
    pub(crate) out: u64,
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
                // SAFETY: the function is there, the handle is valid, and this is the only place that destroys it.
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
        // SAFETY: the function is there (`Library::open`); writes one handle.
        let status =
            unsafe { sys::cublasLtMatrixLayoutCreate(&raw mut handle, kind, rows, cols, stride.into()) };
        succeed("describing a matrix", status)?;
        Ok(Self(handle))
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
        // SAFETY: the function is there (`Library::open`); writes one handle.
        let status = unsafe { sys::cublasLtMatmulDescCreate(&raw mut handle, compute, scale) };
        succeed("describing a product", status)?;
        let product = Descriptor(handle);
        let turned = cublasOperation_t::CUBLAS_OP_T;
        // SAFETY: the attribute has the size of what is given, which is copied.
        let status = unsafe {
            sys::cublasLtMatmulDescSetAttribute(
                product.0,
                Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const turned).cast(),
                size_of_val(&turned),
            )
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

impl Library {
    /// Opens the library for a device.
    ///
    /// # Errors
    ///
    /// [`CudaError::NoLibrary`], or what it says itself.
    pub(crate) fn open(context: &Arc<Context>) -> Result<Self, CudaError> {
        symbols::library()?;
        let workspace = Buffer::new(context, "memory for products", WORKSPACE)?;
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the function is there, and the device's context is current; writes one handle.
        succeed("opening it", unsafe { sys::cublasLtCreate(&raw mut handle) })?;
        Ok(Self { context: Arc::clone(context), handle, workspace, products: AtomicU64::new(0) })
    }

    /// The algorithm for a shape: always the same one for the same library and device, and one that takes a sum in one
    /// piece, so that a row has the same bits among any other rows.
    pub(crate) fn choose(&self, shape: Shape) -> Result<Algorithm, CudaError> {
        self.context.bind()?;
        let described = Described::new(shape, ROWS)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the function is there (`Library::open`); writes one handle.
        let status = unsafe { sys::cublasLtMatmulPreferenceCreate(&raw mut handle) };
        succeed("saying what is preferred", status)?;
        let preference = Preference(handle);
        let in_one_piece = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_NONE as u32;
        let set = |attribute: Preferred, value: *const c_void, bytes: usize| {
            // SAFETY: the attribute has the size of what is given, which is copied.
            let status =
                unsafe { sys::cublasLtMatmulPreferenceSetAttribute(preference.0, attribute, value, bytes) };
            succeed("saying what is preferred", status)
        };
        let scheme = Preferred::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
        set(scheme, (&raw const in_one_piece).cast(), size_of_val(&in_one_piece))?;
        let workspace = self.workspace.bytes();
        let most = Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        set(most, (&raw const workspace).cast(), size_of_val(&workspace))?;

        let mut found = sys::cublasLtMatmulHeuristicResult_t {
            algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: cublasStatus_t::CUBLAS_STATUS_SUCCESS,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut count: c_int = 0;
        let Described { product, weight, x, out } = &described;
        // SAFETY: all handles are alive; at most one result and its count are written.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                product.0,
                weight.0,
                x.0,
                out.0,
                out.0,
                preference.0,
                1,
                &raw mut found,
                &raw mut count,
            )
        };
        succeed("choosing an algorithm", status)?;
        if count == 0 {
            let Shape { outputs, cols, .. } = shape;
            return Err(CudaError::Library(format!("it has no product with {outputs} x {cols} halves")));
        }
        Ok(Algorithm(found.algo))
    }

    /// Enqueues a product of `rows` rows, multiplied with `factor`.
    pub(crate) fn multiply(
        &self,
        stream: &Stream,
        (shape, algorithm): (Shape, &Algorithm),
        rows: u32,
        operands: Operands,
        factor: f32,
    ) -> Result<(), CudaError> {
        self.context.bind()?;
        let described = Described::new(shape, rows.into())?;
        let Described { product, weight, x, out } = &described;
        let nothing = 0.0f32;
        let workspace = usize::try_from(self.workspace.bytes()).expect("it is small");
        // SAFETY: all handles are alive, and descriptions are not needed after the call. The addresses are those of scratch
        // memory and of an activation of the plan, which are as large as the shape says for as many rows as a step may have
        // (`lower/library.rs`), and are freed only behind everything that was enqueued; see also `Stream::launch`.
        let status = unsafe {
            sys::cublasLtMatmul(
                self.handle,
                product.0,
                (&raw const factor).cast(),
                operands.weight as *const c_void,
                weight.0,
                operands.x as *const c_void,
                x.0,
                (&raw const nothing).cast(),
                operands.out as *const c_void,
                out.0,
                operands.out as *mut c_void,
                out.0,
                &raw const algorithm.0,
                self.workspace.address() as *mut c_void,
                workspace,
                stream.handle().cast(),
            )
        };
        self.products.fetch_add(1, Ordering::Relaxed);
        succeed("a product", status)
    }

    /// Memory of the device that it takes, in bytes; part of it when it is opened.
    pub(crate) fn bytes(&self) -> u64 {
        self.workspace.bytes()
    }

    /// Products that were enqueued so far.
    pub(crate) fn products(&self) -> u64 {
        self.products.load(Ordering::Relaxed)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if self.context.finish().is_ok() {
            // SAFETY: the function is there, the handle is valid, and nothing uses it any more.
            let _ = unsafe { sys::cublasLtDestroy(self.handle) };
        }
    }
}
