//! Assigns the operands and results of a call to their purposes, and checks
//! their types and dimensions.

use std::ffi::{c_int, c_void};

use super::ffi;
use super::frame::{dtype, Frame, XlaBuffer};
use super::settings::{self, Settings};
use crate::capi::buffers::{none_overlap, Buffer};
use crate::dtype::{Dtype, Elements, ElementsMut};
use crate::error::{Error, Result};
use crate::layout::{planes, Plane, TensorSpec};
use crate::options::Options;
use crate::{Stage, Target, TensorBuffers};

/// The operands and results of a call.
pub(super) struct Operands<'a> {
    /// Number of members of the batch, each of which takes a step.
    pub members: usize,
    /// The dimensions of a batch.
    batch: &'a [i64],
    count: XlaBuffer<'a>,
    traced: XlaBuffer<'a>,
    reached: Option<XlaBuffer<'a>>,
    /// Which chains of larger tensors there are, if that is given.
    parts: Option<XlaBuffer<'a>>,
    taken: XlaBuffer<'a>,
    /// The scalars of every tensor, if the step needs them, as operand and as result.
    scalars: Option<[XlaBuffer<'a>; 2]>,
    tensors: Vec<TensorOperands<'a>>,
}

/// The operands and results of one tensor.
struct TensorOperands<'a> {
    gradient: XlaBuffer<'a>,
    /// The result for the numbers of a stage.
    numbers: Option<XlaBuffer<'a>>,
    /// Parameters or direction, then state planes.
    written: Vec<Written<'a>>,
}

/// A result, and the operand that holds its initial value.
struct Written<'a> {
    from: Option<XlaBuffer<'a>>,
    to: XlaBuffer<'a>,
}

/// Those of a tensor's scalars that calls know: the norm ratio, and the largest entry of the
/// diagonal.
const SCALARS: usize = 2;

/// The copies to make before the step: source, destination, number of bytes.
type PendingCopies = Vec<(*const u8, *mut u8, usize)>;

impl<'a> Operands<'a> {
    /// Assigns operands and results to their purposes. Those of tensors are
    /// checked later, by [`settle`](Operands::settle).
    pub(super) fn read(
        frame: &Frame<'a>,
        settings: &Settings<'_>,
        options: &Options,
    ) -> Result<Self> {
        let (arguments, results) = (frame.arguments()?, frame.results()?);
        let tensors = settings.tensors.len();
        let state: Vec<usize> = settings.tensors.iter().map(|t| t.planes(options)).collect();
        let all: usize = state.iter().sum();
        let targets = usize::from(!settings.direction || settings.staged);
        let staged = usize::from(settings.staged);
        let reaches = usize::from(!settings.reached.is_empty());
        let parts = usize::from(settings.has_parts);
        let scalars = usize::from(options.needs_scalars());
        let expected = 2 + reaches + parts + scalars + tensors * (1 + targets) + all;
        counted("operands", arguments.len(), expected)?;
        let expected = 1 + scalars + tensors * (1 + staged) + all;
        counted("results", results.len(), expected)?;

        let (mut arguments, mut results) = (arguments.into_iter(), results.into_iter());
        let mut from = || arguments.next().expect("they were counted");
        let mut to = || results.next().expect("they were counted");
        let (count, traced) = (from(), from());
        let batch = count.dims;
        let is = |buffer: &XlaBuffer<'_>, what, types: &[c_int], dims: &[usize]| {
            has(buffer, || what, types, batch, dims)
        };
        is(&count, "the count", &[ffi::S32], &[])?;
        let floating = [ffi::F32, ffi::F64];
        is(&traced, "traced", &floating, &[settings.traced.len()])?;
        let reached = (reaches > 0).then(&mut from);
        if let Some(buffer) = &reached {
            let parts = buffer.dims.get(batch.len() + 1).copied();
            let parts = parts.and_then(|d| usize::try_from(d).ok()).unwrap_or(0);
            let dims = [settings.reached.len(), parts, tensors, 2, 2];
            is(buffer, "the operand \"reached\"", &[ffi::U32], &dims)?;
        }
        let parts = settings.has_parts.then(&mut from);
        if let Some(buffer) = &parts {
            is(buffer, "the operand \"parts\"", &[ffi::S32], &[tensors, 2])?;
        }
        let taken = to();
        is(&taken, "taken", &[ffi::S32], &[])?;
        let scalars = options.needs_scalars().then(|| [from(), to()]);
        for buffer in scalars.iter().flatten() {
            is(buffer, "scalars", &[ffi::U32], &[tensors, SCALARS, 2])?;
        }
        let mut operands = |planes: usize| {
            let numbers = settings.staged.then(&mut to);
            if let Some(buffer) = &numbers {
                is(buffer, "the result \"reached\"", &[ffi::U32], &[2, 2])?;
            }
            let target = Written {
                from: (targets > 0).then(&mut from),
                to: to(),
            };
            let gradient = from();
            let state = (0..planes).map(|_| Written {
                from: Some(from()),
                to: to(),
            });
            let written = std::iter::once(target).chain(state).collect();
            Ok(TensorOperands {
                gradient,
                numbers,
                written,
            })
        };
        Ok(Operands {
            members: members(batch)?,
            batch,
            count,
            traced,
            reached,
            parts,
            taken,
            scalars,
            tensors: state
                .into_iter()
                .map(&mut operands)
                .collect::<Result<_>>()?,
        })
    }

    /// The tensors, with the dimensions and types of their operands.
    pub(super) fn specs(&self, settings: &Settings<'_>) -> Result<Vec<TensorSpec>> {
        let pairs = self.tensors.iter().zip(&settings.tensors);
        pairs
            .map(|(operands, tensor)| self.spec(operands, tensor))
            .collect()
    }

    fn spec(
        &self,
        operands: &TensorOperands<'_>,
        tensor: &settings::Tensor<'_>,
    ) -> Result<TensorSpec> {
        let wrong = |what: &str, problem: String| Error::Operand {
            argument: format!("{what} of tensor \"{}\"", tensor.name),
            problem,
        };
        let floating = |buffer: &XlaBuffer<'_>, what: &str| {
            let no = || {
                wrong(
                    what,
                    format!("has element type {}, not a floating one", buffer.dtype),
                )
            };
            dtype(buffer.dtype).ok_or_else(no)
        };
        let all = operands.gradient.dims;
        let dims = all.get(self.batch.len()..).unwrap_or(&[]);
        let size = |&d: &i64| {
            let no = |_| wrong("the gradient", format!("has dimensions {all:?}"));
            usize::try_from(d).map_err(no)
        };
        Ok(TensorSpec {
            options: None,
            name: tensor.name.to_owned(),
            dims: dims.iter().map(size).collect::<Result<_>>()?,
            chains: tensor.chains,
            update: tensor.update,
            params: floating(&operands.written[0].to, "the parameter")?,
            grads: floating(&operands.gradient, "the gradient")?,
            state: floating(&operands.written[1].to, "the momentum")?,
            master: tensor.master,
            shard: None,
        })
    }

    /// Checks the buffers of all tensors, which are valid, and copies operands
    /// that are not updated in place to their results.
    pub(super) fn settle(&self, options: &Options, specs: &[TensorSpec]) -> Result<()> {
        let arrays = specs.iter().map(|spec| {
            let gradient = Plane::of(spec, "the gradient", spec.grads);
            let target = Plane::of(spec, "the parameter", spec.params);
            let arrays = [gradient, target].into_iter();
            arrays.chain(planes(options, spec)).collect()
        });
        let arrays: Vec<Vec<Plane>> = arrays.collect();
        // For the check of addresses, a whole batch counts as one array.
        let wholes = specs.iter().zip(&arrays).map(|(spec, arrays)| {
            let whole = |array: &Plane| {
                let len = array.len().checked_mul(self.members);
                let len = len.filter(|&n| n <= isize::MAX as usize / 8);
                let len = len.ok_or_else(|| Error::SizeOverflow {
                    tensor: spec.name.clone(),
                    dims: spec.dims.clone(),
                })?;
                Ok(Plane {
                    name: array.name.clone(),
                    dtype: array.dtype,
                    dims: vec![len],
                })
            };
            arrays.iter().map(whole).collect()
        });
        let wholes: Vec<Vec<Plane>> = wholes.collect::<Result<_>>()?;
        let mut all = Vec::new();
        let mut copies = Vec::new();
        for (i, operands) in self.tensors.iter().enumerate() {
            let arrays = arrays[i].iter().zip(&wholes[i]);
            self.settle_tensor(&specs[i], operands, arrays, &mut all, &mut copies)?;
        }
        none_overlap(&mut all)?;
        for (from, to, bytes) in copies {
            // SAFETY: both buffers have `bytes` bytes, as checked above, and no
            // written buffer overlaps another one.
            unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
        }
        Ok(())
    }

    /// `arrays` are the gradient, the target and the state: of one member, and of all.
    fn settle_tensor<'b>(
        &self,
        spec: &'b TensorSpec,
        operands: &TensorOperands<'_>,
        mut arrays: impl Iterator<Item = (&'b Plane, &'b Plane)>,
        all: &mut Vec<Buffer<'b>>,
        copies: &mut PendingCopies,
    ) -> Result<()> {
        let fits = |buffer: &XlaBuffer<'_>, array: &Plane| {
            let name = || format!("{} of tensor \"{}\"", array.name, spec.name);
            has(
                buffer,
                name,
                &[number(array.dtype)],
                self.batch,
                &array.dims,
            )
        };
        let read = |whole, data| Buffer::read_plane(spec, whole, data, || "an operand".to_owned());
        let (gradient, whole) = arrays.next().expect("there is a gradient");
        fits(&operands.gradient, gradient)?;
        all.push(read(whole, operands.gradient.data)?);
        for ((array, whole), Written { from, to }) in arrays.zip(&operands.written) {
            fits(to, array)?;
            let result = || "a result".to_owned();
            all.push(Buffer::write_plane(spec, whole, to.data, result)?);
            let Some(from) = from else { continue };
            fits(from, array)?;
            if from.data != to.data {
                all.push(read(whole, from.data)?);
                let bytes = whole.len() * whole.dtype.size();
                copies.push((from.data.cast_const().cast(), to.data.cast(), bytes));
            }
        }
        Ok(())
    }

    /// The number of steps that a member has taken.
    pub(super) fn count(&self, member: usize) -> Result<u64> {
        // SAFETY: the operand "count" has one `i32` for each member.
        let count = unsafe { read::<i32>(&self.count, member) };
        u64::try_from(count).map_err(|_| Error::OutOfRange {
            argument: "the count".to_owned(),
            value: count.into(),
            allowed: "not negative",
        })
    }

    /// The traced numbers of a member.
    pub(super) fn traced(&self, settings: &Settings<'_>, member: usize) -> Vec<f64> {
        let count = settings.traced.len();
        let indices = member * count..(member + 1) * count;
        // SAFETY: each member has `count` numbers, of one of two types.
        let number = |i| unsafe {
            match self.traced.dtype {
                ffi::F64 => read::<f64>(&self.traced, i),
                _ => read::<f32>(&self.traced, i).into(),
            }
        };
        indices.map(number).collect()
    }

    /// The numbers of the stages that a member has reached, reduced over all
    /// parts.
    pub(super) fn reached(
        &self,
        settings: &Settings<'_>,
        member: usize,
    ) -> Vec<(Stage, Vec<[f64; 2]>)> {
        let Some(buffer) = &self.reached else {
            return Vec::new();
        };
        let (stages, tensors) = (settings.reached.len(), settings.tensors.len());
        let all: i64 = buffer.dims[self.batch.len() + 1];
        let parts = all as usize;
        let number = |stage, part, tensor, slot| {
            let row = (member * stages + stage) * parts + part;
            let at = (row * tensors + tensor) * 2 + slot;
            // SAFETY: the operand has this many numbers, of two words each.
            unsafe { read_number(buffer, at) }
        };
        let reduced = |i, stage, tensor| {
            let all = |slot| (0..parts).map(move |part| number(i, part, tensor, slot));
            let first = match stage {
                Stage::LargestL1 => all(0).fold(0.0, f64::max),
                _ => all(0).sum(),
            };
            [first, all(1).sum()]
        };
        let stages = settings.reached.iter().enumerate();
        let numbers = |(i, &stage)| {
            let numbers = (0..tensors).map(|tensor| reduced(i, stage, tensor));
            (stage, numbers.collect())
        };
        stages.map(numbers).collect()
    }

    /// For each tensor, the number of its first chain in a larger tensor, and how many chains
    /// that has, of a member; `None` for a tensor that is no part.
    pub(super) fn parts(&self, member: usize) -> impl Iterator<Item = Option<[i32; 2]>> + '_ {
        let tensors = self.tensors.len();
        (0..tensors).map(move |tensor| {
            let buffer = self.parts.as_ref()?;
            let at = 2 * (member * tensors + tensor);
            // SAFETY: the operand has two numbers for each tensor of each member.
            let own = [0, 1].map(|i| unsafe { read::<i32>(buffer, at + i) });
            Some(own).filter(|&own| own != [0, 0])
        })
    }

    /// Writes whether a member's step was taken, the scalars in its buffers, and this
    /// part's numbers of the stage that was reached.
    pub(super) fn tell(
        &self,
        member: usize,
        taken: bool,
        buffers: &[TensorBuffers<'_>],
        numbers: &[[f64; 2]],
    ) {
        // SAFETY: these results have an entry for each member.
        unsafe {
            write(&self.taken, member, i32::from(taken));
            if let Some([_, scalars]) = &self.scalars {
                for (tensor, buffers) in buffers.iter().enumerate() {
                    let first = (member * self.tensors.len() + tensor) * SCALARS;
                    write_number(scalars, first, buffers.scalars.norm_ratio);
                    write_number(scalars, first + 1, buffers.scalars.largest);
                }
            }
            for (tensor, numbers) in self.tensors.iter().zip(numbers) {
                let Some(buffer) = &tensor.numbers else {
                    return;
                };
                for (i, &number) in numbers.iter().enumerate() {
                    write_number(buffer, 2 * member + i, number);
                }
            }
        }
    }

    /// The buffers of a member.
    ///
    /// # Safety
    /// [`Operands::settle`] has checked them for these tensors, and nothing else
    /// uses them during `'b`.
    pub(super) unsafe fn buffers<'b>(
        &self,
        settings: &Settings<'_>,
        specs: &[TensorSpec],
        member: usize,
        decay: f64,
    ) -> Vec<TensorBuffers<'b>> {
        let tensors = self.tensors.iter().zip(specs).zip(&settings.tensors);
        let lend = |((operands, spec), tensor): (
            (&TensorOperands<'_>, &TensorSpec),
            &settings::Tensor<'_>,
        )| {
            let bytes = |buffer: &XlaBuffer<'_>, dtype: Dtype| {
                let own = &buffer.dims[self.batch.len()..];
                let len: usize = own.iter().map(|&d| d as usize).product();
                let bytes = len * dtype.size();
                // SAFETY: the buffer holds so many elements for each member.
                (
                    unsafe { buffer.data.cast::<u8>().add(member * bytes) },
                    bytes,
                )
            };
            let (gradient, count) = bytes(&operands.gradient, spec.grads);
            // SAFETY: the caller's promise; no buffer is null or misaligned.
            let gradient = unsafe { std::slice::from_raw_parts(gradient, count) };
            let mut written = operands.written.iter().map(|written| {
                let dtype = dtype(written.to.dtype).expect("its type was checked");
                let (first, count) = bytes(&written.to, dtype);
                // SAFETY: as above; written buffers overlap no other one.
                let slice = unsafe { std::slice::from_raw_parts_mut(first, count) };
                ElementsMut::from_bytes(dtype, slice)
            });
            let target = written.next().expect("there is a target");
            let target = match settings.direction {
                true => Target::Direction(target),
                false => Target::Parameters(target),
            };
            let gradient = Elements::from_bytes(spec.grads, gradient);
            let mut buffers = TensorBuffers::new(target, Some(gradient), written);
            buffers.lr_scale = tensor.lr_scale;
            buffers.weight_decay = decay * tensor.weight_decay;
            buffers
        };
        let mut all: Vec<_> = tensors.map(lend).collect();
        if let Some([scalars, _]) = &self.scalars {
            for (tensor, buffers) in all.iter_mut().enumerate() {
                let first = (member * specs.len() + tensor) * SCALARS;
                // SAFETY: the operand has these numbers for each tensor of each member.
                let number = |i| unsafe { read_number(scalars, first + i) };
                buffers.scalars.norm_ratio = number(0);
                buffers.scalars.largest = number(1);
            }
        }
        all
    }
}

fn counted(what: &'static str, count: usize, expected: usize) -> Result<()> {
    if count == expected {
        return Ok(());
    }
    Err(Error::OperandCount {
        what,
        count,
        expected,
    })
}

fn members(batch: &[i64]) -> Result<usize> {
    let product = batch.iter().try_fold(1usize, |product, &d| {
        usize::try_from(d).ok()?.checked_mul(product)
    });
    product.ok_or_else(|| Error::Operand {
        argument: "the count".to_owned(),
        problem: format!("has dimensions {batch:?}"),
    })
}

/// Refuses a buffer that has another element type, or whose dimensions are not
/// those of the batch followed by `dims`. A buffer that has elements must not be
/// null.
fn has<S: Into<String>>(
    buffer: &XlaBuffer<'_>,
    what: impl FnOnce() -> S,
    types: &[c_int],
    batch: &[i64],
    dims: &[usize],
) -> Result<()> {
    let as_here = |(&found, &expected): (&i64, &usize)| usize::try_from(found) == Ok(expected);
    let problem = match buffer.dims.strip_prefix(batch) {
        _ if !types.contains(&buffer.dtype) => {
            let types: Vec<_> = types.iter().map(|&t| type_name(t)).collect();
            let found = type_name(buffer.dtype);
            format!("has element type {found}, expected {}", types.join(" or "))
        }
        Some(rest) if rest.len() == dims.len() && rest.iter().zip(dims).all(as_here) => {
            if !buffer.data.is_null() || dims.contains(&0) || batch.contains(&0) {
                return Ok(());
            }
            "is null".to_owned()
        }
        _ => {
            let dims = dims.iter().map(|&d| d as i64);
            let expected: Vec<i64> = batch.iter().copied().chain(dims).collect();
            format!("has dimensions {:?}, expected {expected:?}", buffer.dims)
        }
    };
    Err(Error::Operand {
        argument: what().into(),
        problem,
    })
}

fn type_name(number: c_int) -> String {
    let name = match number {
        ffi::S32 => "s32",
        ffi::S64 => "s64",
        ffi::U32 => "u32",
        ffi::F16 => "f16",
        ffi::F32 => "f32",
        ffi::F64 => "f64",
        ffi::BF16 => "bf16",
        _ => return format!("number {number}"),
    };
    name.to_owned()
}

fn number(dtype: Dtype) -> c_int {
    match dtype {
        Dtype::F32 => ffi::F32,
        Dtype::F64 => ffi::F64,
        Dtype::Bf16 => ffi::BF16,
        Dtype::F16 => ffi::F16,
    }
}

/// # Safety
/// The buffer has a `T` at this index.
unsafe fn read<T: Copy>(buffer: &XlaBuffer<'_>, index: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { buffer.data.cast::<T>().add(index).read_unaligned() }
}

/// A float64 in two words, the low one first.
///
/// # Safety
/// The buffer has these words at twice this index.
unsafe fn read_number(buffer: &XlaBuffer<'_>, index: usize) -> f64 {
    // SAFETY: the caller's promise.
    let [low, high] = [0, 1].map(|i| unsafe { read::<u32>(buffer, 2 * index + i) });
    f64::from_bits(u64::from(high) << 32 | u64::from(low))
}

/// # Safety
/// The buffer, a result, has room for these words at twice this index.
unsafe fn write_number(buffer: &XlaBuffer<'_>, index: usize, number: f64) {
    let bits = number.to_bits();
    // SAFETY: the caller's promise.
    unsafe {
        write(buffer, 2 * index, bits as u32);
        write(buffer, 2 * index + 1, (bits >> 32) as u32);
    }
}

/// # Safety
/// The buffer, a result, has room for a `T` at this index.
unsafe fn write<T>(buffer: &XlaBuffer<'_>, index: usize, value: T) {
    let first: *mut c_void = buffer.data;
    // SAFETY: the caller's promise.
    unsafe { first.cast::<T>().add(index).write_unaligned(value) }
}
