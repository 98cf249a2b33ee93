//! Settings of one tensor
//!
//! A tensor is named by its index in the list of tensors that the optimizer was created
//! with. Its settings can be changed at any time between calls: ask for them, change
//! some, and set them.
//!
//! ```c
//! sonew_settings settings;
//! sonew_get_settings(optimizer, 1, &settings, sizeof settings);
//! settings.lr_scale = 0.1;
//! sonew_set_settings(optimizer, 1, &settings);
//! ```

use super::guard::call;
use super::handles::sonew_optimizer;
use super::owned::{ask, with};
use super::status::sonew_status;
use super::tensor::sonew_tensor;
use super::versioned::{self, Growing, Versioned};
use crate::error::Error;
use crate::layout::Scalars;
use crate::optimizer::TensorSettings;

/// The numbers of a tensor's state besides its planes: |a| / |u| of its last step, with
/// lagged_norms; what momentum and statistics were divided by in it, where betas
/// have differed from those of the options (otherwise 0); and the largest entry of its
/// bias-corrected diagonal after it, with SONEW_RELATIVE_LAGGED.
pub const SONEW_SCALARS: usize = 4;

/// The settings of a tensor. Fill them in with sonew_get_settings().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_settings {
    /// Set by sonew_get_settings().
    pub struct_size: usize,
    /// The factor by which the learning rate is multiplied; finite and not negative, 1
    /// at first.
    pub lr_scale: f64,
    /// Decoupled weight decay; finite and not negative, at first that of the options.
    pub weight_decay: f64,
    /// The number of the steps that the tensor took part in: its bias correction counts
    /// these. A step in which it had no gradient is not among them. In a live file less
    /// than 2^47.
    pub step_count: u64,
    /// The numbers of the tensor's state besides its planes: see SONEW_SCALARS. Zeros
    /// before its first step. For programs that keep state in arrays of their own.
    pub scalars: [f64; SONEW_SCALARS],
}

// SAFETY: 8 * 8 bytes without padding.
unsafe impl Growing for sonew_settings {
    const SIZES: &'static [usize] = &[size_of::<sonew_settings>()];
}

// SAFETY: the first field is the size; only numbers.
unsafe impl Versioned for sonew_settings {
    const HINT: &'static str = "call sonew_get_settings() first";

    fn with_defaults(struct_size: usize) -> Self {
        from_settings(&TensorSettings::default(), struct_size)
    }
}

/// The scalars of a tensor, as C has them.
pub(super) type Numbers = [f64; SONEW_SCALARS];

pub(super) fn scalars_of([norm_ratio, momentum, statistics, largest]: Numbers) -> Scalars {
    Scalars {
        norm_ratio,
        bias_corrections: [momentum, statistics],
        largest,
    }
}

pub(super) fn numbers_of(scalars: Scalars) -> Numbers {
    let [momentum, statistics] = scalars.bias_corrections;
    [scalars.norm_ratio, momentum, statistics, scalars.largest]
}

/// Settings for C, whose struct has this size.
pub(super) fn from_settings(settings: &TensorSettings, struct_size: usize) -> sonew_settings {
    sonew_settings {
        struct_size,
        lr_scale: settings.lr_scale,
        weight_decay: settings.weight_decay,
        step_count: settings.step_count,
        scalars: numbers_of(settings.scalars),
    }
}

/// Writes a tensor of an optimizer to *tensor, as sonew_create() takes it, with every
/// type named. Its name, and its own options if it has some, live as long as the optimizer.
/// Pass sizeof *tensor for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_get_tensor(
    optimizer: *const sonew_optimizer,
    index: usize,
    tensor: *mut sonew_tensor,
    size: usize,
) -> sonew_status {
    let value = || {
        ask(optimizer, |owned| {
            let tensors = owned.optimizer.tensors();
            let spec = tensors.get(index).ok_or(Error::UnknownTensor {
                index,
                count: tensors.len(),
            })?;
            Ok(owned.names[index].tensor(spec, size))
        })
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(tensor, size, "tensor", value) }
}

/// Writes the settings of a tensor to *settings. Pass sizeof *settings for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_get_settings(
    optimizer: *const sonew_optimizer,
    index: usize,
    settings: *mut sonew_settings,
    size: usize,
) -> sonew_status {
    let value = || {
        let settings = ask(optimizer, |owned| owned.optimizer.settings(index))?;
        Ok(from_settings(&settings, size))
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(settings, size, "settings", value) }
}

/// Changes the settings of a tensor to *settings.
///
/// Errors: SONEW_STRUCT_SIZE, SONEW_UNKNOWN_FIELD, SONEW_UNKNOWN_TENSOR,
/// SONEW_OUT_OF_RANGE; in a live file SONEW_FORKED and SONEW_IO. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_set_settings(
    optimizer: *mut sonew_optimizer,
    index: usize,
    settings: *const sonew_settings,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a struct as long as it says.
        let c = unsafe { versioned::read(settings, "settings") }?;
        let settings = TensorSettings {
            lr_scale: c.lr_scale,
            weight_decay: c.weight_decay,
            step_count: c.step_count,
            scalars: scalars_of(c.scalars),
        };
        with(optimizer, |owned| {
            owned
                .optimizer
                .change_settings(index, |now| *now = settings)
        })
    })
}
