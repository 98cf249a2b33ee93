//! What the caller lends for a step, and the checks before it.

use std::mem::take;

use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{Plane, TensorSpec};
use crate::memory::{again, fill, reserve, OF_A_STEP};
use crate::options::not_negative;

/// The buffers of one tensor for one step. Each has the tensor's number of
/// elements, of the type that it was declared with, in the tensor's own memory
/// order.
pub struct TensorBuffers<'a> {
    /// What the step writes besides the state.
    pub target: Target<'a>,
    /// The gradient; `None` leaves the tensor out of the step: its state and
    /// its target stay as they are.
    pub gradient: Option<Elements<'a>>,
    /// The state planes, in the order of [`planes`](crate::layout::planes).
    /// All zeros before the first step, but for `master`: that is a copy of
    /// the parameters, which the caller makes.
    pub planes: Vec<ElementsMut<'a>>,
    /// Multiplies the learning rate, finite and not negative.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and not negative.
    pub weight_decay: f64,
}

/// Lists of buffers, empty: between steps their owner keeps their memory, so that
/// the next one asks for none.
#[derive(Default)]
pub(crate) struct SpareLists {
    buffers: Vec<TensorBuffers<'static>>,
    /// The last is for the first tensor.
    planes: Vec<Vec<ElementsMut<'static>>>,
}

impl SpareLists {
    /// An empty list with room for so many tensors' buffers.
    pub(crate) fn buffers<'a>(&mut self, tensors: usize) -> Result<Vec<TensorBuffers<'a>>> {
        let what = || OF_A_STEP.to_owned();
        let mut buffers = again(take(&mut self.buffers));
        reserve(&mut buffers, tensors, what)?;
        // For the lists that come back.
        let missing = tensors.saturating_sub(self.planes.len());
        reserve(&mut self.planes, missing, what)?;
        Ok(buffers)
    }

    /// The list of the next tensor's planes.
    pub(crate) fn planes<'a>(
        &mut self,
        planes: impl ExactSizeIterator<Item = ElementsMut<'a>>,
    ) -> Result<Vec<ElementsMut<'a>>> {
        let mut list = again(self.planes.pop().unwrap_or_default());
        fill(&mut list, planes)?;
        Ok(list)
    }

    /// Keeps the memory of lists that are not needed any more.
    pub(crate) fn keep(&mut self, mut buffers: Vec<TensorBuffers<'_>>) {
        for buffers in buffers.drain(..).rev() {
            self.planes.push(again(buffers.planes));
        }
        self.buffers = again(buffers);
    }
}

/// What a step writes for a tensor.
pub enum Target<'a> {
    /// Parameters, updated in place: `p <- p - lr (u + weight_decay p)`. With
    /// master weights these are what is updated, and `p` is their copy.
    Parameters(ElementsMut<'a>),
    /// The grafted direction `u` is written here, in the type of the
    /// parameters; learning rate and weight decay are left to the caller.
    /// Master weights stay as they are.
    Direction(ElementsMut<'a>),
}

/// How a tensor's direction reaches its target.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// Learning rate and, multiplied with it, weight decay.
    Update {
        rate: f64,
        decay: f64,
    },
    Write,
}

impl TensorBuffers<'_> {
    pub(super) fn way(&self, lr: f64) -> Way {
        let rate = lr * self.lr_scale;
        match self.target {
            Target::Parameters(_) => Way::Update {
                rate,
                decay: rate * self.weight_decay,
            },
            Target::Direction(_) => Way::Write,
        }
    }
}

impl Target<'_> {
    fn elements(&self) -> Elements<'_> {
        match self {
            Target::Parameters(p) => p.elements(),
            Target::Direction(u) => u.elements(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Target::Parameters(_) => "the parameter",
            Target::Direction(_) => "the direction",
        }
    }
}

/// Refuses a buffer that has not the tensor's length, or not this type.
pub(crate) fn fits(
    tensor: &TensorSpec,
    argument: &str,
    elements: Elements<'_>,
    dtype: Dtype,
) -> Result<()> {
    if elements.dtype() != dtype {
        return Err(Error::WrongDtype {
            tensor: tensor.name.clone(),
            argument: argument.to_owned(),
            dtype: elements.dtype(),
            expected: dtype,
        });
    }
    if elements.len() != tensor.len() {
        return Err(Error::WrongLength {
            tensor: tensor.name.clone(),
            argument: argument.to_owned(),
            length: elements.len(),
            expected: tensor.len(),
        });
    }
    Ok(())
}

/// Refuses buffers that do not fit their tensor.
pub(super) fn check(
    tensor: &TensorSpec,
    planes: &[Plane],
    lr: f64,
    buffers: &TensorBuffers<'_>,
) -> Result<()> {
    let target = &buffers.target;
    fits(tensor, target.name(), target.elements(), tensor.params)?;
    if let Some(gradient) = buffers.gradient {
        fits(tensor, "the gradient", gradient, tensor.grads)?;
    }
    if buffers.planes.len() != planes.len() {
        return Err(Error::PlaneCount {
            tensor: tensor.name.clone(),
            count: buffers.planes.len(),
            expected: planes.len(),
        });
    }
    for (plane, elements) in planes.iter().zip(&buffers.planes) {
        fits(tensor, &plane.name, elements.elements(), plane.dtype)?;
    }
    let not_negative =
        |what, value| not_negative(format_args!("{what} of tensor \"{}\"", tensor.name), value);
    not_negative("lr_scale", buffers.lr_scale)?;
    not_negative("weight_decay", buffers.weight_decay)?;
    let rate = lr * buffers.lr_scale;
    not_negative("lr times lr_scale", rate)?;
    let decay = rate * buffers.weight_decay;
    not_negative("lr times lr_scale times weight_decay", decay)
}
