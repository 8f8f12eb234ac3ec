//! Why a property does not hold.

use gemma4_core::backend::Backend;
use gemma4_core::engine::EngineError;
use gemma4_core::program::ShapeError;

use crate::compare::Mismatch;

/// Why a property does not hold.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Two results that should be equal, or close, are not.
    #[error("{what}: {source}")]
    Differs {
        /// What was compared.
        what: String,
        /// Where it differs.
        source: Mismatch,
    },
    /// Two backends part at an op.
    #[error("{op} is the first op that parts ({place}): {output}, row {row}, column {column}: {source}")]
    Parts {
        /// Name of the op.
        op: &'static str,
        /// Its number in the program, and its first weight or pool.
        place: String,
        /// The activation or pool.
        output: String,
        /// Row of the first element outside its bound: a row of the step, or a position of the pool.
        row: usize,
        /// Its column.
        column: usize,
        /// The values there, and how many others there are.
        source: Box<Mismatch>,
    },
    /// Something that should hold does not.
    #[error("{0}")]
    False(String),
    /// The engine failed.
    #[error("the engine failed: {0:?}")]
    Engine(#[from] EngineError),
    /// A program cannot be recorded.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// What a comparison of `what` says.
    pub fn differs(what: impl Into<String>) -> impl FnOnce(Mismatch) -> Self {
        let what = what.into();
        move |source| Self::Differs { what, source }
    }

    /// What a device says.
    pub fn device<B: Backend>(error: B::Error) -> Self {
        Self::Device(Box::new(error))
    }
}
