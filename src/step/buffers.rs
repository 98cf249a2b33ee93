//! What the caller lends for a step, and the checks before it.

use crate::error::{Error, Result};
use crate::layout::TensorSpec;
use crate::options::not_negative;

/// The buffers of one tensor for one step. Each has the tensor's number of
/// elements, in the tensor's own memory order.
pub struct TensorBuffers<'a> {
    /// What the step writes besides the state.
    pub target: Target<'a>,
    /// The gradient; `None` leaves the tensor out of the step: its state and
    /// its target stay as they are.
    pub gradient: Option<&'a [f32]>,
    /// The state planes, in the order of [`planes`](crate::layout::planes).
    /// All zeros before the first step.
    pub planes: Vec<&'a mut [f32]>,
    /// Multiplies the learning rate, finite and not negative.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and not negative.
    pub weight_decay: f64,
}

/// What a step writes for a tensor.
pub enum Target<'a> {
    /// Parameters, updated in place: `p <- p - lr (u + weight_decay p)`.
    Parameters(&'a mut [f32]),
    /// The grafted direction `u` is written here; learning rate and weight
    /// decay are left to the caller.
    Direction(&'a mut [f32]),
}

impl Target<'_> {
    fn len(&self) -> usize {
        match self {
            Target::Parameters(p) => p.len(),
            Target::Direction(u) => u.len(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Target::Parameters(_) => "the parameter",
            Target::Direction(_) => "the direction",
        }
    }
}

/// Refuses buffers that do not fit their tensor.
pub(super) fn check(
    tensor: &TensorSpec,
    plane_names: &[String],
    lr: f64,
    buffers: &TensorBuffers<'_>,
) -> Result<()> {
    let length = |argument: &str, length: usize| {
        let expected = tensor.len();
        if length == expected {
            return Ok(());
        }
        Err(Error::WrongLength {
            tensor: tensor.name.clone(),
            argument: argument.to_owned(),
            length,
            expected,
        })
    };
    length(buffers.target.name(), buffers.target.len())?;
    if let Some(gradient) = buffers.gradient {
        length("the gradient", gradient.len())?;
    }
    if buffers.planes.len() != plane_names.len() {
        return Err(Error::PlaneCount {
            tensor: tensor.name.clone(),
            count: buffers.planes.len(),
            expected: plane_names.len(),
        });
    }
    for (name, plane) in plane_names.iter().zip(&buffers.planes) {
        length(name, plane.len())?;
    }
    let of = |what| format!("{what} of tensor \"{}\"", tensor.name);
    not_negative(&of("lr_scale"), buffers.lr_scale)?;
    not_negative(&of("weight_decay"), buffers.weight_decay)?;
    let rate = lr * buffers.lr_scale;
    not_negative(&of("lr times lr_scale"), rate)?;
    let decay = rate * buffers.weight_decay;
    not_negative(&of("lr times lr_scale times weight_decay"), decay)
}
