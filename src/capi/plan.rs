//! Stateless step
//!
//! For programs that keep parameters and state in arrays of their own. A plan
//! holds what does not change between steps; parameters, gradients and all
//! state planes are passed to each step. The optimizer above is a plan together
//! with its state, and both give the same bits.

use std::ffi::{c_char, c_void};
use std::mem::take;

use super::arguments::{List, Out};
use super::buffers::{none_overlap, Buffer};
use super::guard::{call, call_always};
use super::handles::sonew_plan;
use super::names::Names;
use super::options::{options, sonew_options};
use super::owned::ask_for;
use super::passed::{CallersScalars, Passed};
use super::registry::Registry;
use super::stage_handle::{self, ENDED};
use super::status::sonew_status;
use super::step::{sonew_step_options, step_options};
use super::tensor::{sonew_tensor, tensors};
use super::tensor_settings::SONEW_SCALARS;
use super::versioned::{self, Entries, Growing, Versioned};
use crate::error::{Error, Result};
use crate::layout::{check_count, planes, Plane, TensorSpec};
use crate::memory::{again, list, reserve, try_list, OF_A_STEP, OF_TENSORS};
use crate::options::StepOptions;
use crate::step::UnderWay;
use crate::{Plan, Target, TensorBuffers};

/// The value that a handle stands for.
pub(super) struct Owned {
    pub plan: Plan,
    tensors: Vec<TensorSpec>,
    /// The state planes of every tensor.
    planes: Vec<Vec<Plane>>,
    names: Vec<Names>,
    /// The step in stages that is under way, if one is, and its buffers.
    pub staged: Option<Staged>,
    pub spare: SpareBuffers,
}

/// A step in stages, and its buffers.
pub(super) struct Staged {
    /// Frees the handle.
    pub handle: stage_handle::Handle,
    pub under_way: UnderWay,
    pub passed: Passed,
}

impl Owned {
    /// Calls `body` with each buffer of the step in stages that is under way.
    pub(super) fn for_each_staged(
        &self,
        mut body: impl FnMut(Buffer<'_>) -> Result<()>,
    ) -> Result<()> {
        let Staged { passed, .. } = self.staged.as_ref().ok_or(ENDED)?;
        let tensors = self.tensors.iter().zip(&self.planes).zip(&passed.buffers);
        for ((tensor, planes), buffers) in tensors {
            let target = match buffers.target {
                Target::Parameters(_) => PARAMETER,
                Target::Direction(_) => DIRECTION,
            };
            body(Buffer::of(
                tensor,
                target,
                buffers.target.elements().elements(),
            ))?;
            if let Some(gradient) = buffers.gradient {
                body(Buffer::of(tensor, GRADIENT, gradient))?;
            }
            for (plane, elements) in planes.iter().zip(&buffers.planes) {
                body(Buffer::of(tensor, &plane.name, elements.elements()))?;
            }
        }
        Ok(())
    }

    /// Refuses a handle that is not that of the step in stages under way.
    pub(super) fn staged(&self, stages: usize) -> Result<()> {
        let staged = self.staged.as_ref().ok_or(ENDED)?;
        staged.handle.check(stages)
    }

    /// Notes that no step in stages is under way any more.
    pub(super) fn end_stages(&mut self) {
        if let Some(Staged { passed, .. }) = self.staged.take() {
            self.spare.passed = passed;
        }
    }
}

static PLANS: Registry<Owned> = Registry::new();

/// Calls `body` with the plan of a handle.
pub(super) fn with<R>(
    plan: *const sonew_plan,
    body: impl FnOnce(&mut Owned) -> Result<R>,
) -> Result<R> {
    PLANS.with(plan.addr(), "plan", body)
}

/// The buffers of one tensor for one step. Fill it in with
/// sonew_buffers_init(). Every buffer has len elements, in the tensor's order,
/// of the types that its sonew_tensor declares.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_buffers {
    /// Set by sonew_buffers_init(). The same for all entries of a list.
    pub struct_size: usize,
    /// Parameters, updated in place: p <- p - lr (u + weight_decay p). NULL if
    /// direction is given.
    pub params: *mut c_void,
    /// Receives the grafted direction u, in the type of params; NULL if params
    /// is given. The caller then applies learning rate and weight decay, and the
    /// plane "master" is not changed.
    pub direction: *mut c_void,
    /// The gradient. NULL: the tensor takes no part in the step, and the other fields
    /// are not looked at.
    pub grad: *const c_void,
    /// Pointers to the state planes, in the order of sonew_plan_planes(), of as many
    /// elements as it tells.
    /// Before the first step the caller sets "master" to a copy of the
    /// parameters, and all other planes to zero.
    pub planes: *const *mut c_void,
    /// The number of planes.
    pub plane_count: usize,
    /// The number of elements of each other buffer; must be that of the tensor.
    pub len: usize,
    /// The learning rate is multiplied by this; finite and not negative.
    /// Default 1.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and not negative. Default 0. The
    /// weight_decay of sonew_options is not used here.
    pub weight_decay: f64,
    /// The number of the tensor's own step, 1 for the first in which it has a
    /// gradient, if that is not the step_number of the call. Default 0: it is.
    pub step_number: u64,
    /// SONEW_SCALARS numbers of the tensor's state, zero before its first step; each
    /// step in which it has a gradient updates them. May be NULL unless the plan has
    /// SONEW_RELATIVE_LAGGED, which is the default, or lagged_norms, or the step betas of
    /// its own.
    pub scalars: *mut f64,
}

// SAFETY: 11 * 8 bytes without padding.
unsafe impl Growing for sonew_buffers {
    const SIZES: &'static [usize] = &[size_of::<sonew_buffers>()];
}

// SAFETY: the first field is the size; numbers and raw pointers.
unsafe impl Versioned for sonew_buffers {
    const HINT: &'static str = "call sonew_buffers_init() first";

    fn with_defaults(struct_size: usize) -> Self {
        sonew_buffers {
            struct_size,
            params: std::ptr::null_mut(),
            direction: std::ptr::null_mut(),
            grad: std::ptr::null(),
            planes: std::ptr::null(),
            plane_count: 0,
            len: 0,
            lr_scale: 1.0,
            weight_decay: 0.0,
            step_number: 0,
            scalars: std::ptr::null_mut(),
        }
    }
}

/// Creates a plan for steps over count tensors and writes its handle to *plan.
/// Arguments and statuses are those of sonew_create(), except SONEW_HEADER_LENGTH: what
/// a plan works on is saved by its caller. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_create(
    options: *const sonew_options,
    tensors: *const sonew_tensor,
    count: usize,
    plan: *mut *mut sonew_plan,
) -> sonew_status {
    // SAFETY: the header asks for pointers that hold what they say.
    call(|| unsafe { create(options, tensors, count, plan) })
}

/// # Safety
/// As for [`sonew_plan_create`].
unsafe fn create(
    c_options: *const sonew_options,
    c_tensors: *const sonew_tensor,
    count: usize,
    out: *mut *mut sonew_plan,
) -> Result<()> {
    // SAFETY: the caller's promise, for all three.
    let (out, (options, pool), tensors) = unsafe {
        (
            Out::new(out, "plan")?,
            options(c_options, "options")?,
            tensors(c_tensors, count)?,
        )
    };
    ask_for(&tensors, &options)?;
    let plan = Plan::in_pool(&options, &tensors, pool.as_ref())?;
    let planes = list(tensors.iter().map(|t| planes(&options, t)), OF_TENSORS)?;
    let names = tensors.iter().zip(&planes).map(|(t, p)| Names::new(t, p));
    let owned = Owned {
        names: try_list(names, OF_TENSORS)?,
        plan,
        tensors,
        planes,
        staged: None,
        spare: SpareBuffers::default(),
    };
    let handle = PLANS.insert(Box::new(owned));
    out.write(std::ptr::without_provenance_mut(handle));
    Ok(())
}

/// Frees a plan, and its threads as sonew_free() does an optimizer's. NULL is
/// allowed and does nothing. Since 0.2.
#[no_mangle]
pub extern "C" fn sonew_plan_free(plan: *mut sonew_plan) -> sonew_status {
    if plan.is_null() {
        return sonew_status::SONEW_OK;
    }
    call_always(|| PLANS.remove(plan.addr(), "plan").map(drop))
}

/// The state planes that a tensor of a plan needs, or the arrays that a file has of a
/// tensor, in order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct sonew_planes {
    /// Their names, in UTF-8, which live as long as the handle that was asked.
    pub names: *const *const c_char,
    /// Their types, each one of sonew_dtype, which live as long.
    pub dtypes: *const i32,
    /// How many there are.
    pub count: usize,
    /// The number of elements of each, which live as long: that of the tensor, but for
    /// "pooled" (see sonew_pooling).
    pub lens: *const usize,
}

// SAFETY: 4 * 8 bytes without padding.
unsafe impl Growing for sonew_planes {
    const SIZES: &'static [usize] = &[size_of::<sonew_planes>()];
}

impl Names {
    pub(super) fn planes(&self) -> sonew_planes {
        sonew_planes {
            names: self.list.as_ptr(),
            dtypes: self.dtypes.as_ptr(),
            count: self.arrays.len(),
            lens: self.lens.as_ptr(),
        }
    }
}

/// Writes the names, types and lengths of the state planes that a tensor needs to *planes. Pass
/// sizeof *planes for size.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_planes(
    plan: *const sonew_plan,
    tensor: usize,
    planes: *mut sonew_planes,
    size: usize,
) -> sonew_status {
    let value = || {
        with(plan, |owned| {
            let names = owned.names.get(tensor).ok_or(Error::UnknownTensor {
                index: tensor,
                count: owned.tensors.len(),
            })?;
            Ok(names.planes())
        })
    };
    // SAFETY: the header asks for a struct of this size.
    unsafe { versioned::tell(planes, size, "planes", value) }
}

/// Fills in the defaults of a list of count entries: all pointers NULL, lr_scale 1,
/// weight_decay and step_number 0. Pass sizeof *buffers for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_buffers_init(
    buffers: *mut sonew_buffers,
    count: usize,
    size: usize,
) -> sonew_status {
    // SAFETY: the header asks for so many structs of this size.
    call_always(|| unsafe { versioned::init_list(buffers, count, size, "buffers") })
}

/// Takes one step. buffers has one entry for each tensor, count in all. step
/// may be NULL, which means the defaults. step_number is the t of the bias
/// correction, 1 for the first step; the caller counts it. A tensor that has not
/// taken part in every step has a step_number of its own in its entry.
///
/// Buffers that are written (params, direction, planes) may not overlap any
/// other buffer of the call. Gradients may overlap each other.
///
/// Errors: those of sonew_step(), SONEW_WRONG_LENGTH, SONEW_PLANE_COUNT,
/// SONEW_STRUCT_SIZE, SONEW_AMBIGUOUS_TARGET. Since 0.2.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_step(
    plan: *mut sonew_plan,
    step: *const sonew_step_options,
    step_number: u64,
    buffers: *const sonew_buffers,
    count: usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for pointers that hold what they say.
        let step = unsafe { step_options(step) }?;
        with(plan, |owned| {
            // SAFETY: the header asks for buffers as long as they say.
            let mut passed = unsafe { checked_buffers(owned, &step, buffers, count) }?;
            let stepped = owned.plan.step(&step, step_number, &mut passed.buffers);
            if stepped.is_ok() {
                // SAFETY: the call is not over, so that what it was passed is still valid.
                unsafe { passed.give_scalars() };
            }
            owned.spare.passed = passed;
            stepped
        })
    })
}

/// Checks the buffers of a step, and that no step in stages is under way.
///
/// # Safety
/// `buffers` is null, or points to `count` entries whose pointers are valid until the
/// step is done.
pub(super) unsafe fn checked_buffers(
    owned: &mut Owned,
    step: &StepOptions,
    buffers: *const sonew_buffers,
    count: usize,
) -> Result<Passed> {
    if owned.staged.is_some() {
        return Err(Error::InStages);
    }
    check_count("buffers", count, owned.tensors.len())?;
    let (tensors, planes) = (&owned.tensors, &owned.planes);
    let options = owned.plan.options();
    let own_betas = step.betas(options) != [options.beta1, options.beta2];
    let asks = options.needs_scalars() || own_betas;
    // SAFETY: the caller's promise.
    unsafe { owned.spare.check(buffers, tensors, planes, asks) }
}

/// Lists that are empty between steps and keep their allocations, so that a step
/// allocates nothing.
#[derive(Default)]
pub(super) struct SpareBuffers {
    passed: Passed,
    all: Vec<Buffer<'static>>,
}

impl SpareBuffers {
    /// Checks the buffers of all tensors.
    ///
    /// # Safety
    /// `first` points to one entry for each tensor, whose pointers are valid until the
    /// step is done.
    unsafe fn check(
        &mut self,
        first: *const sonew_buffers,
        tensors: &[TensorSpec],
        planes: &[Vec<Plane>],
        asks_for_scalars: bool,
    ) -> Result<Passed> {
        let Passed {
            buffers,
            mut scalars,
        } = take(&mut self.passed);
        let mut buffers = again(buffers);
        scalars.clear();
        let mut all = again(take(&mut self.all));
        let what = || OF_A_STEP.to_owned();
        let most = planes.iter().map(|planes| 3 + planes.len()).sum();
        reserve(&mut all, most, what)?;
        reserve(&mut buffers, tensors.len(), what)?;
        reserve(&mut scalars, tensors.len(), what)?;
        // SAFETY: the caller's promise.
        let entries = unsafe { Entries::new(first, tensors.len(), "buffers") }?;
        for (i, (tensor, planes)) in tensors.iter().zip(planes).enumerate() {
            let entry = entries.get(i)?;
            if entry.grad.is_null() {
                buffers.push(TensorBuffers::absent());
                scalars.push(CallersScalars(std::ptr::null_mut()));
                continue;
            }
            // SAFETY: the caller's promise.
            unsafe {
                let mut checked = check(i, &entry, tensor, planes, &mut all)?;
                let place = entry.scalars;
                if asks_for_scalars || !place.is_null() {
                    let name = || format!("buffers[{i}].scalars");
                    all.push(Buffer::numbers(
                        tensor,
                        SCALARS,
                        SONEW_SCALARS,
                        place,
                        name,
                    )?);
                }
                let place = CallersScalars(place);
                checked.scalars = place.read();
                buffers.push(checked);
                scalars.push(place);
            }
        }
        none_overlap(&mut all)?;
        self.all = again(all);
        Ok(Passed { buffers, scalars })
    }
}

/// Checks an entry with a gradient. Adds its buffers to `all`, which has room for them. Nothing is done
/// with them before all are known not to overlap.
///
/// # Safety
/// The planes of the entry are null, or `plane_count` pointers; all pointers are valid
/// until the step is done.
unsafe fn check<'a>(
    i: usize,
    entry: &sonew_buffers,
    tensor: &'a TensorSpec,
    planes: &'a [Plane],
    all: &mut Vec<Buffer<'a>>,
) -> Result<TensorBuffers<'static>> {
    if entry.len != tensor.len() {
        return Err(Error::WrongLength {
            tensor: tensor.name.clone(),
            argument: format!("buffers[{i}]"),
            length: entry.len,
            expected: tensor.len(),
        });
    }
    if entry.plane_count != planes.len() {
        return Err(Error::PlaneCount {
            tensor: tensor.name.clone(),
            count: entry.plane_count,
            expected: planes.len(),
        });
    }
    let target = target(i, entry, tensor)?;
    let name = || format!("buffers[{i}].grad");
    let gradient = Buffer::read(tensor, GRADIENT, tensor.grads, entry.grad, name)?;
    // SAFETY: the caller's promise.
    let given = unsafe {
        let argument = format_args!(
            "buffers[{i}].planes, the state of tensor \"{}\",",
            tensor.name
        );
        List::new(entry.planes, entry.plane_count, argument)
    }?;
    all.push(target);
    all.push(gradient);
    // SAFETY: the caller's promise.
    let written = |buffer: &Buffer<'_>| unsafe { buffer.raw().elements_mut() };
    // SAFETY: as above.
    let read = |buffer: &Buffer<'_>| unsafe { buffer.raw().elements() };
    let mut buffers = TensorBuffers::new(
        match entry.params.is_null() {
            false => Target::Parameters(written(&target)),
            true => Target::Direction(written(&target)),
        },
        Some(read(&gradient)),
        [],
    );
    for (p, (plane, pointer)) in planes.iter().zip(given.iter()).enumerate() {
        let name = || format!("buffers[{i}].planes[{p}]");
        let buffer = Buffer::write_plane(tensor, plane, pointer, name)?;
        all.push(buffer);
        buffers.planes.push(written(&buffer));
    }
    (buffers.lr_scale, buffers.weight_decay) = (entry.lr_scale, entry.weight_decay);
    buffers.step_number = entry.step_number;
    Ok(buffers)
}

// The purposes of buffers, for messages.
const PARAMETER: &str = "the parameter";
const DIRECTION: &str = "the direction";
const GRADIENT: &str = "the gradient";
const SCALARS: &str = "the scalars";

/// The parameters or the direction: the buffer that a step writes besides the
/// state planes.
fn target<'a>(i: usize, entry: &sonew_buffers, tensor: &'a TensorSpec) -> Result<Buffer<'a>> {
    let (what, field, pointer) = match (entry.params.is_null(), entry.direction.is_null()) {
        (false, false) => {
            let tensor = tensor.name.clone();
            return Err(Error::AmbiguousTarget { tensor });
        }
        (true, true) if !tensor.is_empty() => {
            let tensor = tensor.name.clone();
            return Err(Error::NoTarget { index: i, tensor });
        }
        (true, _) => (DIRECTION, "direction", entry.direction),
        (false, true) => (PARAMETER, "params", entry.params),
    };
    let name = || format!("buffers[{i}].{field}");
    Buffer::write(tensor, what, tensor.params, pointer, name)
}
