//! SONew, the Sparsified Online Newton method, as an embeddable optimizer.
//!
//! SONew (Devvrit et al., NeurIPS 2023, [arXiv 2311.10085]) preconditions the
//! momentum of each parameter tensor with a banded approximation of the full
//! Adagrad matrix, at a cost of `O(n)` time and memory. This crate implements
//! the optimizer step: a training program passes raw parameter and gradient
//! buffers, and [`Optimizer`] keeps the second-order state and updates the
//! parameters in place. `libsonew.so` offers the same through a C API; see
//! `include/sonew.h`.
//!
//! ```
//! use sonew::layout::{TensorSpec, Update};
//! use sonew::options::{Options, StepOptions};
//! use sonew::Optimizer;
//!
//! let tensors = [
//!     TensorSpec::new("fc1.weight", &[10, 20]),
//!     TensorSpec::new("fc1.bias", &[10]).with_update(Update::Adam),
//! ];
//! let mut optimizer = Optimizer::new(Options { band: 1, ..Options::default() }, &tensors)?;
//!
//! let (mut weight, mut bias) = (vec![0.1f32; 200], vec![0.0f32; 10]);
//! let (weight_grad, bias_grad) = (vec![1e-3f32; 200], vec![1e-3f32; 10]);
//! let step = StepOptions { lr: 1e-3, ..StepOptions::default() };
//! optimizer.step(&step, &mut [&mut weight, &mut bias], &[Some(&weight_grad), Some(&bias_grad)])?;
//! assert!(weight.iter().all(|&w| w < 0.1));
//! # Ok::<(), sonew::Error>(())
//! ```
//!
//! Tensors of other types than `f32` are declared with
//! [`TensorSpec::with_dtypes`](layout::TensorSpec::with_dtypes); several types
//! in one step go through [`Optimizer::step_any`], as [`dtype::Elements`].
//!
//! # Guarantees
//! - **A refused call changes nothing.** Every argument is checked before the
//!   first byte is written; each [`Error`] names the argument, the tensor and
//!   the value.
//! - **The same bits everywhere.** Results do not depend on the number of
//!   threads, the instruction set, or the floating-point mode of the caller; a
//!   run that is saved, loaded and continued ends like one that never stopped.
//! - **No side effects on the host process.** The only threads are the
//!   library's own ([`Pool`]), which end with the last optimizer that has used
//!   them; nothing is printed; the caller's floating-point mode is restored.
//!
//! # The modules
//! Each depends only on those after it: `capi` (every exported function) ->
//! [`Optimizer`] -> `step` ([`Plan`]) -> `parallel` (threads, tiles) -> the
//! crate `sonew-kernel` (the arithmetic, each loop once for all instruction
//! sets); besides these there are
//! `xla` (the custom call of XLA programs), `checkpoint` (state files),
//! [`layout`] (chains, blocks), [`options`] and [`Error`].
//!
//! [arXiv 2311.10085]: https://arxiv.org/abs/2311.10085

mod capi;
pub mod checkpoint;
pub mod dtype;
mod error;
pub mod layout;
mod memory;
mod optimizer;
pub mod options;
#[doc(hidden)]
pub mod oracle;
mod parallel;
mod process;
mod reserve;
mod signals;
mod step;
mod xla;

pub use error::{Error, Result};
pub use optimizer::{LoadMode, LoadOptions, Optimizer, Saving, StagedStep, TensorSettings};
pub use parallel::Pool;
pub use step::{Plan, Planes, Stage, Stages, Target, TensorBuffers};

/// The example of README.md, which is tested with those of this documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
