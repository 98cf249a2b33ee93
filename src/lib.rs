//! SONew, the Sparsified Online Newton method (arXiv 2311.10085).

mod checkpoint;
pub mod dtype;
mod error;
mod kernel;
pub mod layout;
mod memory;
mod optimizer;
pub mod options;
mod parallel;
mod step;

#[doc(hidden)]
pub use kernel::oracle;

pub use error::{Error, Result};
pub use optimizer::{LoadOptions, Optimizer};
pub use step::{Plan, Target, TensorBuffers};
