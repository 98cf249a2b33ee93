//! Stateless step
//!
//! For programs that keep parameters and state in arrays of their own. A plan
//! holds what does not change between steps; parameters, gradients and all
//! state planes are passed to each step. The optimizer above is a plan together
//! with its state, and both give the same bits.

use std::ffi::{c_char, c_void, CString};
use std::mem::take;

use super::arguments::{not_null, List, Out};
use super::buffers::{none_overlap, Buffer, RawBuffer};
use super::guard::call;
use super::optimizer::{ask_for, c_string};
use super::options::{options, sonew_options};
use super::registry::Registry;
use super::status::sonew_status;
use super::step::{sonew_step_options, step_options};
use super::tensor::{dtype_number, sonew_tensor, tensors};
use super::versioned::{self, Growing, Versioned};
use crate::dtype::ElementsMut;
use crate::error::{Error, Result};
use crate::layout::{check_count, planes, Plane, TensorSpec};
use crate::memory::{again, list, reserve, try_list, OF_A_STEP, OF_TENSORS};
use crate::step::{SpareLists, UnderWay};
use crate::{Plan, Target, TensorBuffers};

/// A plan. Created by sonew_plan_create(), freed by sonew_plan_free().
pub struct sonew_plan {
    _opaque: [u8; 0],
}

/// The value that a handle stands for.
pub(super) struct Owned {
    pub plan: Plan,
    tensors: Vec<TensorSpec>,
    /// The state planes of every tensor.
    planes: Vec<Vec<Plane>>,
    c_planes: Vec<Vec<CString>>,
    /// The step in stages that is under way, if one is, and its buffers.
    pub staged: Option<(UnderWay, Vec<TensorArguments>)>,
    pub spare: SparePlanArguments,
}

impl Owned {
    /// Calls `body` with each buffer of the step in stages that is under way.
    pub(super) fn for_each_staged(
        &self,
        mut body: impl FnMut(Buffer<'_>) -> Result<()>,
    ) -> Result<()> {
        let (_, passed) = self.staged.as_ref().ok_or(Error::NoStages)?;
        let tensors = self.tensors.iter().zip(&self.planes).zip(passed);
        for ((tensor, planes), passed) in tensors {
            passed.for_each(tensor, planes, &mut body)?;
        }
        Ok(())
    }

    /// Notes that no step in stages is under way any more.
    pub(super) fn end_stages(&mut self) {
        if let Some((_, passed)) = self.staged.take() {
            self.spare.keep(passed);
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
    /// The gradient. NULL: the tensor takes no part in the step, and none of its
    /// buffers is written.
    pub grad: *const c_void,
    /// Pointers to the state planes, in the order of sonew_plan_plane_name().
    /// Before the first step the caller sets "master" to a copy of the
    /// parameters, and all other planes to zero.
    pub planes: *const *mut c_void,
    /// The number of planes: sonew_plan_plane_count().
    pub plane_count: usize,
    /// The number of elements of each buffer; must be that of the tensor.
    pub len: usize,
    /// The learning rate is multiplied by this; finite and not negative.
    /// Default 1.
    pub lr_scale: f64,
    /// Decoupled weight decay, finite and not negative. Default 0. The
    /// weight_decay of sonew_options is not used here.
    pub weight_decay: f64,
}

// SAFETY: 9 * 8 bytes without padding.
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
        }
    }
}

/// Creates a plan for steps over count tensors and writes its handle to *plan.
/// Arguments and statuses are those of sonew_create(), but SONEW_HEADER_LENGTH: what
/// a plan works on is saved by its caller. Since 0.1.
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
    let (out, options, tensors) = unsafe {
        (
            Out::new(out, "plan")?,
            options(c_options)?,
            tensors(c_tensors, count)?,
        )
    };
    ask_for(&tensors, options.band)?;
    let plan = Plan::new(&options, &tensors)?;
    let planes = list(tensors.iter().map(|t| planes(&options, t)), OF_TENSORS)?;
    let c_strings =
        |planes: &Vec<Plane>| try_list(planes.iter().map(|p| c_string(&p.name)), OF_TENSORS);
    let owned = Owned {
        plan,
        tensors,
        c_planes: try_list(planes.iter().map(c_strings), OF_TENSORS)?,
        planes,
        staged: None,
        spare: SparePlanArguments::default(),
    };
    let handle = PLANS.insert(Box::new(owned));
    out.write(std::ptr::without_provenance_mut(handle));
    Ok(())
}

/// Frees a plan and its threads, as sonew_free() does an optimizer. NULL is
/// allowed and does nothing. Since 0.1.
#[no_mangle]
pub extern "C" fn sonew_plan_free(plan: *mut sonew_plan) -> sonew_status {
    if plan.is_null() {
        return sonew_status::SONEW_OK;
    }
    call(|| PLANS.remove(plan.addr(), "plan").map(drop))
}

/// Writes the number of state planes that a tensor needs to *count.
///
/// Errors: SONEW_UNKNOWN_TENSOR. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_plane_count(
    plan: *const sonew_plan,
    tensor: usize,
    count: *mut usize,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a pointer to the result.
        let out = unsafe { Out::new(count, "count") }?;
        out.write(with(plan, |owned| Ok(planes_of(owned, tensor)?.len()))?);
        Ok(())
    })
}

/// Writes the name of a state plane that a tensor needs to *name. The string
/// lives as long as the plan.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_plane_name(
    plan: *const sonew_plan,
    tensor: usize,
    plane: usize,
    name: *mut *const c_char,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a pointer to the result.
        let out = unsafe { Out::new(name, "name") }?;
        out.write(with(plan, |owned| {
            Ok(plane_of(owned, tensor, plane)?.as_ptr())
        })?);
        Ok(())
    })
}

/// Writes the type of a state plane that a tensor needs, one of sonew_dtype, to
/// *dtype.
///
/// Errors: SONEW_UNKNOWN_TENSOR, SONEW_UNKNOWN_PLANE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_plan_plane_dtype(
    plan: *const sonew_plan,
    tensor: usize,
    plane: usize,
    dtype: *mut i32,
) -> sonew_status {
    call(|| {
        // SAFETY: the header asks for a pointer to the result.
        let out = unsafe { Out::new(dtype, "dtype") }?;
        out.write(with(plan, |owned| {
            plane_of(owned, tensor, plane)?;
            Ok(dtype_number(owned.planes[tensor][plane].dtype))
        })?);
        Ok(())
    })
}

fn plane_of(owned: &Owned, tensor: usize, plane: usize) -> Result<&CString> {
    let planes = planes_of(owned, tensor)?;
    planes.get(plane).ok_or_else(|| Error::UnknownPlane {
        tensor: owned.tensors[tensor].name.clone(),
        plane,
        count: planes.len(),
    })
}

fn planes_of(owned: &Owned, tensor: usize) -> Result<&[CString]> {
    let planes = owned.c_planes.get(tensor).map(Vec::as_slice);
    planes.ok_or(Error::UnknownTensor {
        index: tensor,
        count: owned.tensors.len(),
    })
}

/// Fills in the defaults of one entry: all pointers NULL, lr_scale 1 and
/// weight_decay 0. Pass sizeof *buffers for size.
///
/// Errors: SONEW_STRUCT_SIZE. Since 0.1.
#[no_mangle]
pub unsafe extern "C" fn sonew_buffers_init(
    buffers: *mut sonew_buffers,
    size: usize,
) -> sonew_status {
    // SAFETY: the header asks for a struct of this size.
    call(|| unsafe { versioned::init(buffers, size, "buffers") })
}

/// Takes one step. buffers has one entry for each tensor, count in all. step
/// may be NULL, which means the defaults. step_number is the t of the bias
/// correction, 1 for the first step; the caller counts it.
///
/// Buffers that are written (params, direction, planes) may not overlap any
/// other buffer of the call. Gradients may overlap each other.
///
/// Errors: those of sonew_step(), SONEW_WRONG_LENGTH, SONEW_PLANE_COUNT,
/// SONEW_STRUCT_SIZE, SONEW_AMBIGUOUS_TARGET. Since 0.1.
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
        // SAFETY: the header asks for buffers as long as they say.
        with(plan, |owned| unsafe {
            let passed = checked_arguments(owned, buffers, count)?;
            let mut buffers = owned.spare.lend(&passed)?;
            let stepped = owned.plan.step(&step, step_number, &mut buffers);
            owned.spare.take_back(buffers);
            owned.spare.keep(passed);
            stepped
        })
    })
}

/// Checks the buffers of a step, and that no step in stages is under way.
///
/// # Safety
/// `buffers` is null, or points to `count` entries whose pointers are valid.
pub(super) unsafe fn checked_arguments(
    owned: &mut Owned,
    buffers: *const sonew_buffers,
    count: usize,
) -> Result<Vec<TensorArguments>> {
    if owned.staged.is_some() {
        return Err(Error::InStages);
    }
    check_count("buffers", count, owned.tensors.len())?;
    not_null(buffers, || "buffers".to_owned())?;
    let (tensors, planes) = (&owned.tensors, &owned.planes);
    // SAFETY: the caller's promise.
    unsafe { owned.spare.check(buffers, tensors, planes) }
}

/// Lists that are empty between steps and keep their allocations, so that a step
/// allocates nothing.
#[derive(Default)]
pub(super) struct SparePlanArguments {
    /// Not emptied, because each entry holds the allocation of its list of
    /// planes.
    passed: Vec<TensorArguments>,
    all: Vec<Buffer<'static>>,
    buffers: SpareLists,
}

impl SparePlanArguments {
    /// Checks the buffers of all tensors.
    ///
    /// # Safety
    /// `first` points to one entry for each tensor, whose pointers are valid.
    unsafe fn check(
        &mut self,
        first: *const sonew_buffers,
        tensors: &[TensorSpec],
        planes: &[Vec<Plane>],
    ) -> Result<Vec<TensorArguments>> {
        let mut passed = take(&mut self.passed);
        let mut all = again(take(&mut self.all));
        let what = || OF_A_STEP.to_owned();
        let most = planes.iter().map(|planes| 2 + planes.len()).sum();
        reserve(&mut all, most, what)?;
        let missing = tensors.len().saturating_sub(passed.len());
        reserve(&mut passed, missing, what)?;
        passed.resize_with(tensors.len(), TensorArguments::default);
        // SAFETY: the caller's promise, for the first entry.
        let stride = unsafe { struct_size(first) };
        let entries = tensors.iter().zip(planes).zip(&mut passed).enumerate();
        for (i, ((tensor, planes), passed)) in entries {
            // SAFETY: the caller's promise; the entries before this one have
            // been checked to be `stride` bytes apart.
            unsafe {
                let entry = entry(first, i, stride)?;
                passed.check(i, &entry, tensor, planes, &mut all)?;
            }
        }
        none_overlap(&mut all)?;
        self.all = again(all);
        Ok(passed)
    }

    /// Borrows buffers that were checked, for a step.
    ///
    /// # Safety
    /// The buffers have their tensors' lengths, and nobody else uses them during
    /// `'b`.
    pub(super) unsafe fn lend<'b>(
        &mut self,
        passed: &[TensorArguments],
    ) -> Result<Vec<TensorBuffers<'b>>> {
        let mut buffers = self.buffers.buffers(passed.len())?;
        for tensor in passed {
            // SAFETY: the caller's promise, and no written buffer overlaps
            // another one.
            let planes = tensor.planes.iter().map(|p| unsafe { p.elements_mut() });
            let planes = self.buffers.planes(planes)?;
            // SAFETY: as above.
            buffers.extend(unsafe { tensor.buffers(planes) });
        }
        Ok(buffers)
    }

    /// Ends the borrow of [`lend`](Self::lend) and keeps the allocations.
    pub(super) fn take_back(&mut self, buffers: Vec<TensorBuffers<'_>>) {
        self.buffers.keep(buffers);
    }

    /// Keeps the allocations of arguments that are not needed any more.
    pub(super) fn keep(&mut self, passed: Vec<TensorArguments>) {
        self.passed = passed;
    }
}

/// Entry `i` of a list whose entries have the size that the caller's version of
/// the struct has.
///
/// # Safety
/// The list has such an entry.
unsafe fn entry(first: *const sonew_buffers, i: usize, stride: usize) -> Result<sonew_buffers> {
    // SAFETY: the caller's promise.
    let (entry, size) = unsafe {
        let entry = first.byte_add(i * stride);
        (entry, struct_size(entry))
    };
    if size != stride {
        return Err(Error::StructSize {
            argument: format!("buffers[{i}].struct_size"),
            size,
            expected: stride,
            hint: "all entries of a list have the same",
        });
    }
    // SAFETY: the caller's promise.
    unsafe { versioned::read(entry, format_args!("buffers[{i}]")) }
}

/// # Safety
/// `entry` begins with its size.
unsafe fn struct_size(entry: *const sonew_buffers) -> usize {
    // SAFETY: the caller's promise.
    unsafe { entry.cast::<usize>().read_unaligned() }
}

/// The checked arguments of a step for one tensor.
#[derive(Default)]
pub(super) struct TensorArguments {
    target: Option<RawBuffer>,
    is_direction: bool,
    gradient: Option<RawBuffer>,
    planes: Vec<RawBuffer>,
    lr_scale: f64,
    weight_decay: f64,
}

impl TensorArguments {
    /// Checks an entry and stores what it says. Adds its buffers to `all`, which
    /// has room for them.
    ///
    /// # Safety
    /// The planes of the entry are null, or `plane_count` pointers.
    unsafe fn check<'a>(
        &mut self,
        i: usize,
        entry: &sonew_buffers,
        tensor: &'a TensorSpec,
        planes: &'a [Plane],
        all: &mut Vec<Buffer<'a>>,
    ) -> Result<()> {
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
        let gradient = || Buffer::read(tensor, GRADIENT, tensor.grads, entry.grad, name);
        let gradient = (!entry.grad.is_null()).then(gradient).transpose()?;
        // SAFETY: the caller's promise.
        let given = unsafe {
            let argument = format_args!(
                "buffers[{i}].planes, the state of tensor \"{}\",",
                tensor.name
            );
            List::new(entry.planes, entry.plane_count, argument)
        }?;
        all.push(target);
        all.extend(gradient);
        self.planes.clear();
        reserve(&mut self.planes, planes.len(), || OF_A_STEP.to_owned())?;
        for (p, (plane, pointer)) in planes.iter().zip(given.iter()).enumerate() {
            let name = || format!("buffers[{i}].planes[{p}]");
            let buffer = Buffer::write(tensor, &plane.name, plane.dtype, pointer, name)?;
            all.push(buffer);
            self.planes.push(buffer.raw());
        }
        self.target = Some(target.raw());
        self.is_direction = entry.params.is_null();
        self.gradient = gradient.map(|buffer| buffer.raw());
        self.lr_scale = entry.lr_scale;
        self.weight_decay = entry.weight_decay;
        Ok(())
    }

    /// Calls `body` with each of the buffers.
    pub(super) fn for_each<'a>(
        &self,
        tensor: &'a TensorSpec,
        planes: &'a [Plane],
        mut body: impl FnMut(Buffer<'a>) -> Result<()>,
    ) -> Result<()> {
        let target = match self.is_direction {
            true => DIRECTION,
            false => PARAMETER,
        };
        let one = [(target, self.target), (GRADIENT, self.gradient)];
        let one = one.into_iter().filter_map(|(what, raw)| Some((what, raw?)));
        let names = planes.iter().map(|plane| plane.name.as_str());
        let state = names.zip(self.planes.iter().copied());
        one.chain(state)
            .try_for_each(|(what, raw)| body(Buffer::checked(tensor, what, raw)))
    }

    /// `None` before anything was checked.
    ///
    /// # Safety
    /// The buffers have their tensors' lengths, and nobody else uses them during
    /// `'b`.
    unsafe fn buffers<'b>(&self, planes: Vec<ElementsMut<'b>>) -> Option<TensorBuffers<'b>> {
        // SAFETY: the caller's promise, and no written buffer overlaps another
        // one.
        let (target, gradient) = unsafe {
            (
                self.target?.elements_mut(),
                self.gradient.map(|raw| raw.elements()),
            )
        };
        Some(TensorBuffers {
            target: match self.is_direction {
                false => Target::Parameters(target),
                true => Target::Direction(target),
            },
            gradient,
            planes,
            lr_scale: self.lr_scale,
            weight_decay: self.weight_decay,
        })
    }
}

// The purposes of buffers, for messages.
const PARAMETER: &str = "the parameter";
const DIRECTION: &str = "the direction";
const GRADIENT: &str = "the gradient";

/// The parameters or the direction: the buffer that a step writes besides the
/// state planes.
fn target<'a>(i: usize, entry: &sonew_buffers, tensor: &'a TensorSpec) -> Result<Buffer<'a>> {
    let (what, field, pointer) = match (entry.params.is_null(), entry.direction.is_null()) {
        (false, false) => {
            let tensor = tensor.name.clone();
            return Err(Error::AmbiguousTarget { tensor });
        }
        (true, true) => {
            let tensor = tensor.name.clone();
            return Err(Error::NoTarget { index: i, tensor });
        }
        (true, false) => (DIRECTION, "direction", entry.direction),
        (false, true) => (PARAMETER, "params", entry.params),
    };
    let name = || format!("buffers[{i}].{field}");
    Buffer::write(tensor, what, tensor.params, pointer, name)
}
