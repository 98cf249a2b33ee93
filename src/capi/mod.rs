//! sonew.h - SONew, the Sparsified Online Newton method, as a C library
//!
//! SONew (arXiv 2311.10085) is an optimizer for training neural networks. Its time
//! and memory are proportional to the number of parameters: with the defaults a step
//! takes about twice as long as a fused AdamW's, and the state 12 bytes per parameter
//! where AdamW's takes 8. It takes fewer steps on problems that Adam finds hard: its
//! preconditioner is not a diagonal but a tridiagonal or banded matrix. The
//! program computes gradients; this library keeps the second-order state and
//! updates the parameters in place.
//!
//! A complete example, for a network of one layer, which goes on from a checkpoint if
//! there is one:
//!
//! ```c
//! sonew_tensor tensors[2];
//! sonew_tensors_init(tensors, 2, sizeof *tensors); // the defaults
//! tensors[0].name = "fc1.weight";
//! tensors[0].ndim = 2;
//! tensors[0].dims[0] = 1000;                       // [out, in]
//! tensors[0].dims[1] = 784;
//! tensors[1].name = "fc1.bias";
//! tensors[1].ndim = 1;
//! tensors[1].dims[0] = 1000;
//! tensors[1].update = SONEW_UPDATE_ADAM;           // plain Adam
//!
//! sonew_options options;
//! sonew_options_init(&options, sizeof options);    // the defaults
//! options.band = 1;                                // tridiagonal
//! sonew_optimizer *optimizer = NULL;
//! if (sonew_create(&options, tensors, 2, &optimizer) != SONEW_OK) {
//!     fprintf(stderr, "%s\n", sonew_last_error());
//!     exit(1);
//! }
//!
//! void *params[] = {weight, bias};                 // buffers of floats
//! const void *grads[] = {weight_grad, bias_grad};
//! const char *path = "checkpoint.safetensors";
//! FILE *file = fopen(path, "rb");                  // is there a checkpoint?
//! if (file != NULL) {
//!     fclose(file);
//!     if (sonew_load(optimizer, path, NULL, params, 2) != SONEW_OK) {
//!         fprintf(stderr, "%s\n", sonew_last_error());
//!         exit(1);
//!     }
//! }
//! sonew_optimizer_info info;
//! sonew_info(optimizer, &info, sizeof info);
//! sonew_step_options step;
//! sonew_step_options_init(&step, sizeof step);
//! for (uint64_t i = info.step_count; i < 1000; i++) {
//!     compute_gradients(weight, bias, weight_grad, bias_grad);
//!     step.lr = 1e-3;
//!     if (sonew_step(optimizer, &step, params, grads, 2) != SONEW_OK)
//!         fprintf(stderr, "%s\n", sonew_last_error());
//!     if (i % 100 == 99 && sonew_save(optimizer, path, params, 2) != SONEW_OK)
//!         fprintf(stderr, "%s\n", sonew_last_error());
//! }
//! sonew_free(optimizer);
//! ```
//!
//! The functions of this example come first; then options and tensors, what can be relied
//! on, and everything else. For C++ there is sonew.hpp, for XLA sonew_xla.h.
//!
//! ---
//!
//! What is computed, and what can be relied on
//!
//! What it computes, for one chain of coordinates j, gradient g, step t from
//! 1, band b:
//!
//! ```text
//! m         <- beta1 m + (1 - beta1) g                    momentum
//! H[j][j]   <- beta2 H[j][j] + (1 - beta2) g[j]^2         diagonal
//! H[j+k][j] <- beta2 H[j+k][j] + (1 - beta2) g[j] g[j+k]  sub-diagonals,
//!                                                         k = 1..b
//! m^ = m / (1 - beta1^t)
//! H^ = H / (1 - beta2^t) + eps I                          damping
//! u  = X m^                                               direction
//! u <- u |a| / |u|                                        grafting: u takes
//!                                       the norm of another method's a
//! p <- p - lr (u + weight_decay p)
//! ```
//!
//! X minimises tr(X H^) - log det X among the positive definite matrices of
//! band b: its inverse agrees with H^ on the band.
//!
//! What can be relied on:
//!
//! - A call that does not return SONEW_OK has changed nothing and written no
//!   output: no parameter, no state, no file, no step count.
//!   sonew_last_error() says why it failed. Nothing is clamped, guessed or
//!   copied silently.
//! - The same inputs give the same bits, for any number of threads, with every
//!   instruction set, whatever floating-point mode the caller has set.
//! - A pointer may be NULL only where its function says so; NULL, misaligned
//!   and overlapping buffers are refused. The library cannot check whether a
//!   buffer is as long as its tensor.
//! - Different handles may be used by different threads at once. One handle is
//!   for one thread at a time: a second thread gets SONEW_BUSY. Only a pool, and
//!   sonew_info(), are for any number of threads.
//! - A handle is a number that is never used again, not an address. A freed
//!   handle is always refused.
//! - A failed allocation is a status: SONEW_OUT_OF_MEMORY (or SONEW_IO, SONEW_THREADS
//!   where the system says it in its own way), which every function may return but
//!   those that free, abort, finish, initialize structs or answer questions. What the C
//!   library itself allocates, above all when a thread starts, is excepted:
//!   docs/guarantees.md lists it. Each thread that is in a call sets aside 256 KiB of
//!   address space for this, which are used only if memory is lacking.
//! - Nothing is printed, no signal handlers are installed, and no threads are
//!   used but the library's own, which end when the last optimizer or plan that
//!   has used them is freed.
//! - A thread that is cancelled with pthread_cancel() while it is in a call
//!   completes the call, and ends at its next cancellation point. A call must not
//!   be left by longjmp() out of a signal handler: its handles then stay
//!   SONEW_BUSY for ever and are never freed, what it was writing is incomplete,
//!   and the thread keeps the library's floating-point mode and cannot be
//!   cancelled.
//! - After fork() the child can use every handle, but not its parent's live
//!   files and running saves: SONEW_FORKED. It is recognized in a new pid
//!   namespace, too, from Linux 4.14 on.
//!
//! Conventions. Strings are UTF-8 and end with a NUL; strings that are passed in
//! are copied. All structs are filled in by the library, with the size that they have in
//! the caller's header: what a call takes, by the struct's init function or by the
//! function that asks for it, before the caller changes fields; what a call tells, by
//! that call. So structs can get more fields in later versions, and old programs work
//! with new libraries, and new programs with old libraries.
//! For truth values 0 means false and 1 means true, and nothing else is
//! accepted. Fields called reserved must be 0. The arithmetic is float32, or
//! float64 for tensors with float64 parameters or state; because it may be
//! float32, a number that does not fit into float32 is out of range.

// The items below have C names, and their documentation is for the header.
#![allow(non_camel_case_types)]

pub(crate) mod arguments;
mod blocks;
pub(crate) mod buffers;
mod contents;
mod file;
mod flat;
pub(crate) mod guard;
mod handles;
mod info;
mod last_error;
mod live;
mod names;
mod optimizer;
pub(crate) mod options;
mod owned;
mod partial;
mod passed;
mod plan;
mod pool;
mod registry;
mod stage_handle;
mod stages;
mod status;
pub(crate) mod step;
mod step_arguments;
mod struct_layout;
pub(crate) mod tensor;
mod tensor_settings;
mod texts;
mod told;
mod version;
mod versioned;
mod view;
