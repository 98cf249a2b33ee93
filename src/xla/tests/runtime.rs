//! A runtime that calls the handler: frames, and tensors for a batch of members.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr::null_mut;

use super::super::ffi::{self, HasSize};
use super::super::sonew_xla_step_v1;
use crate::dtype::{Elements, ElementsMut};
use crate::layout::{planes, Chains, Plane, Scalars, TensorSpec, Update};
use crate::options::{Damping, Graft, Options, Pooling, StepOptions};
use crate::{Target, TensorBuffers};

thread_local! {
    static MESSAGE: RefCell<Option<(c_int, String)>> = const { RefCell::new(None) };
}

/// The runtime's function that makes errors.
unsafe extern "C" fn error_create(args: *mut ffi::ErrorCreateArgs) -> *mut c_void {
    // SAFETY: the handler passes such a struct.
    let (code, text) = unsafe { ((*args).code, CStr::from_ptr((*args).message)) };
    let text = text.to_str().unwrap().to_owned();
    MESSAGE.with_borrow_mut(|message| *message = Some((code, text)));
    args.cast()
}

/// An operand or a result.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) dtype: c_int,
    pub(super) dims: Vec<i64>,
    pub(super) data: *mut c_void,
}

#[derive(Clone)]
pub(super) enum Attribute {
    Integer(i64),
    Ints(Vec<i32>),
    Doubles(Vec<f64>),
    Text(String),
}
use Attribute::{Doubles, Integer, Ints, Text};

/// A call, in a form in which tests can easily make any part of it wrong.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) operands: Vec<Given>,
    pub(super) results: Vec<Given>,
    pub(super) attributes: Vec<(&'static str, Attribute)>,
    pub(super) struct_size: usize,
    pub(super) stage: c_int,
}

impl Call {
    pub(super) fn set(&mut self, name: &'static str, value: Attribute) {
        self.attributes.retain(|(n, _)| *n != name);
        self.attributes.push((name, value));
    }

    /// Runs the handler and returns its message, if there is one.
    pub(super) fn run(&self) -> Result<(), String> {
        let buffer = |given: &Given| ffi::Buffer {
            struct_size: ffi::Buffer::SIZE,
            extension_start: null_mut(),
            dtype: given.dtype,
            data: given.data,
            rank: given.dims.len() as i64,
            dims: given.dims.as_ptr(),
        };
        let operands: Vec<_> = self.operands.iter().map(buffer).collect();
        let results: Vec<_> = self.results.iter().map(buffer).collect();
        fn pointers<T>(list: &[T]) -> Vec<*const T> {
            list.iter().map(std::ptr::from_ref).collect()
        }
        let (operand_list, result_list) = (pointers(&operands), pointers(&results));
        let types = vec![ffi::TYPE_BUFFER; operands.len().max(results.len())];
        let buffers = |list: &Vec<*const ffi::Buffer>| ffi::Buffers {
            struct_size: ffi::Buffers::SIZE,
            extension_start: null_mut(),
            size: list.len() as i64,
            types: types.as_ptr(),
            buffers: list.as_ptr(),
        };

        let mut kinds = Vec::new();
        let mut names = Vec::new();
        let mut values: Vec<*const c_void> = Vec::new();
        let mut scalars = Vec::new();
        let mut arrays = Vec::new();
        let mut spans = Vec::new();
        for (name, value) in &self.attributes {
            names.push(span(name));
            match value {
                Integer(value) => scalars.push(ffi::Scalar {
                    dtype: ffi::S64,
                    value: std::ptr::from_ref(value).cast(),
                }),
                Ints(list) => arrays.push(ffi::Array {
                    dtype: ffi::S32,
                    size: list.len(),
                    data: list.as_ptr().cast(),
                }),
                Doubles(list) => arrays.push(ffi::Array {
                    dtype: ffi::F64,
                    size: list.len(),
                    data: list.as_ptr().cast(),
                }),
                Text(text) => spans.push(span(text)),
            }
        }
        let (mut scalar, mut array, mut text) = (scalars.iter(), arrays.iter(), spans.iter());
        for (_, value) in &self.attributes {
            let (kind, value): (_, *const c_void) = match value {
                Integer(_) => {
                    let next = std::ptr::from_ref(scalar.next().unwrap());
                    (ffi::ATTRIBUTE_SCALAR, next.cast())
                }
                Ints(_) | Doubles(_) => {
                    let next = std::ptr::from_ref(array.next().unwrap());
                    (ffi::ATTRIBUTE_ARRAY, next.cast())
                }
                Text(_) => {
                    let next = std::ptr::from_ref(text.next().unwrap());
                    (ffi::ATTRIBUTE_STRING, next.cast())
                }
            };
            kinds.push(kind);
            values.push(value);
        }
        let name_list = pointers(&names);
        let api = api();
        let mut frame = ffi::CallFrame {
            struct_size: self.struct_size,
            extension_start: null_mut(),
            api: &api,
            context: null_mut(),
            stage: self.stage,
            arguments: buffers(&operand_list),
            results: buffers(&result_list),
            attributes: ffi::Attributes {
                struct_size: ffi::Attributes::SIZE,
                extension_start: null_mut(),
                size: kinds.len() as i64,
                types: kinds.as_ptr(),
                names: name_list.as_ptr(),
                values: values.as_ptr(),
            },
        };
        let frame: *mut ffi::CallFrame = &mut frame;
        MESSAGE.with_borrow_mut(|message| *message = None);
        // SAFETY: a frame as the runtime makes it.
        let failed = unsafe { !sonew_xla_step_v1(frame.cast()).is_null() };
        let message = MESSAGE.with_borrow_mut(Option::take);
        assert_eq!(failed, message.is_some());
        match message {
            None => Ok(()),
            Some((code, text)) => {
                assert_eq!(code, ffi::INVALID_ARGUMENT);
                Err(text)
            }
        }
    }
}

pub(super) fn span(text: &str) -> ffi::ByteSpan {
    ffi::ByteSpan {
        ptr: text.as_ptr().cast::<c_char>(),
        len: text.len(),
    }
}

pub(super) fn api() -> ffi::Api {
    ffi::Api {
        struct_size: ffi::Api::SIZE,
        extension_start: null_mut(),
        api_version: ffi::ApiVersion {
            struct_size: size_of::<ffi::ApiVersion>(),
            extension_start: null_mut(),
            major: 0,
            minor: 3,
        },
        internal_api: std::ptr::null(),
        error_create: Some(error_create),
    }
}

/// Tensors with parameters, gradients and state, for a batch of members.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct World {
    pub(super) specs: Vec<TensorSpec>,
    pub(super) members: usize,
    pub(super) count: Vec<i32>,
    pub(super) taken: Vec<i32>,
    pub(super) params: Vec<Vec<f32>>,
    pub(super) grads: Vec<Vec<f32>>,
    pub(super) planes: Vec<Vec<Vec<f32>>>,
    /// What the planes are, of each member.
    pub(super) kinds: Vec<Vec<Plane>>,
    /// Those of the tensors of one member after another.
    pub(super) scalars: Vec<[[u32; 2]; 2]>,
    /// The numbers of each stage for each tensor, as returned and as passed on.
    pub(super) numbers: Vec<Vec<[[u32; 2]; 2]>>,
    pub(super) reached: Vec<[[u32; 2]; 2]>,
}

pub(super) fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("w", &[30, 70]).with_chains(Chains::Strided),
        TensorSpec::new("b", &[70]).with_update(Update::Adam),
        TensorSpec::new("rows", &[6, 11]).with_chains(Chains::ContiguousLines),
    ]
}

impl World {
    pub(super) fn new(
        options: &Options,
        specs: Vec<TensorSpec>,
        members: usize,
        seed: u64,
    ) -> World {
        let mut x = seed;
        let mut random = |len: usize| -> Vec<f32> {
            let number = |_| {
                x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            };
            (0..len).map(number).collect()
        };
        let all = |spec: &TensorSpec| spec.len() * members;
        let kinds: Vec<_> = specs.iter().map(|s| planes(options, s)).collect();
        let zeros = |plane: &Plane| vec![0.0; plane.len() * members];
        World {
            count: vec![0; members],
            taken: vec![7; members],
            params: specs.iter().map(|s| random(all(s))).collect(),
            grads: specs.iter().map(|s| random(all(s))).collect(),
            planes: kinds
                .iter()
                .map(|kinds| kinds.iter().map(zeros).collect())
                .collect(),
            kinds,
            scalars: vec![[[0; 2]; 2]; members * specs.len()],
            numbers: specs.iter().map(|_| vec![[[0; 2]; 2]; members]).collect(),
            reached: Vec::new(),
            specs,
            members,
        }
    }

    /// A call that updates parameters in place, for members in a batch if
    /// `batched`.
    pub(super) fn call(&mut self, options: &Options, step: &StepOptions, batched: bool) -> Call {
        let batch: &[i64] = if batched { &[self.members as i64] } else { &[] };
        let dims = |dims: &[usize]| -> Vec<i64> {
            let own = dims.iter().map(|&d| d as i64);
            batch.iter().copied().chain(own).collect()
        };
        let given = |dtype, own: &[usize], data: *mut c_void| Given {
            dtype,
            dims: dims(own),
            data,
        };
        let float =
            |dims: &[usize], data: &mut Vec<f32>| given(ffi::F32, dims, data.as_mut_ptr().cast());
        let mut operands = vec![
            given(ffi::S32, &[], self.count.as_mut_ptr().cast()),
            given(ffi::F32, &[0], null_mut()),
        ];
        let mut results = vec![given(ffi::S32, &[], self.taken.as_mut_ptr().cast())];
        if options.needs_scalars() {
            let data = self.scalars.as_mut_ptr().cast();
            let scalars = given(ffi::U32, &[self.specs.len(), 2, 2], data);
            operands.push(scalars.clone());
            results.push(scalars);
        }
        for (i, spec) in self.specs.iter().enumerate() {
            let param = float(&spec.dims, &mut self.params[i]);
            operands.extend([param.clone(), float(&spec.dims, &mut self.grads[i])]);
            results.push(param);
            for (plane, kind) in self.planes[i].iter_mut().zip(&self.kinds[i]) {
                let plane = float(&kind.dims, plane);
                operands.push(plane.clone());
                results.push(plane);
            }
        }
        let number = |flag: bool| Integer(flag.into());
        let each = |f: &dyn Fn(&TensorSpec) -> i32| Ints(self.specs.iter().map(f).collect());
        let names: Vec<_> = self.specs.iter().map(|s| s.name.as_str()).collect();
        let numbers = [
            options.beta1,
            options.beta2,
            options.eps,
            options.gamma,
            options.graft_eps,
            step.lr,
            step.grad_scale,
            step.statistics_weight,
            step.clip_norm.unwrap_or(0.0),
            options.weight_decay,
            options.shrink,
        ];
        let mut attributes = vec![
            ("names", Text(names.join("\n"))),
            ("chains", each(&|s| s.chains as i32)),
            ("updates", each(&|s| (s.update == Update::Adam).into())),
            ("master", each(&|_| 0)),
            ("lr_scales", Doubles(vec![1.0; names.len()])),
            ("weight_decays", Doubles(vec![1.0; names.len()])),
            ("band", Integer(options.band as i64)),
            ("threads", Integer(options.threads as i64)),
            ("seed", Integer(options.seed.cast_signed())),
            ("statistics", Integer(0)),
            ("damping", Integer(options.damping as i64)),
            ("graft", Integer(options.graft as i64)),
            ("bias_correction", number(options.bias_correction)),
            (
                "graft_bias_correction",
                number(options.graft_bias_correction),
            ),
            ("rounding", Integer(0)),
            ("instruction_set", Integer(0)),
            ("non_finite", Integer(0)),
            ("numbers", Doubles(numbers.to_vec())),
            ("traced", Integer(0)),
            ("direction", Integer(0)),
            ("staged", Integer(0)),
        ];
        let later = [
            ("lagged_norms", options.is_lagged()),
            ("nesterov", options.nesterov),
            ("pooling", options.pooling == Pooling::Band),
        ];
        for (name, _) in later.into_iter().filter(|(_, is_set)| *is_set) {
            attributes.push((name, Integer(1)));
        }
        Call {
            operands,
            results,
            attributes,
            struct_size: ffi::CallFrame::SIZE,
            stage: ffi::STAGE_EXECUTE,
        }
    }

    /// A call for the stage after `stages`, of a step on `parts` parts.
    pub(super) fn staged(&mut self, options: &Options, stages: &[i32], parts: i64) -> Call {
        let mut call = self.call(options, &step(), false);
        call.set("staged", Integer(1));
        call.set("reached", Ints(stages.to_vec()));
        if !stages.is_empty() {
            let reached = Given {
                dtype: ffi::U32,
                dims: vec![stages.len() as i64, parts, self.specs.len() as i64, 2, 2],
                data: self.reached.as_mut_ptr().cast(),
            };
            call.operands.insert(2, reached);
        }
        let mut at = 1 + usize::from(options.needs_scalars());
        for (numbers, planes) in self.numbers.iter_mut().zip(&self.planes) {
            let numbers = Given {
                dtype: ffi::U32,
                dims: vec![2, 2],
                data: numbers.as_mut_ptr().cast(),
            };
            call.results.insert(at, numbers);
            at += 2 + planes.len();
        }
        call
    }

    pub(super) fn buffers(&mut self, member: usize, decay: f64) -> Vec<TensorBuffers<'_>> {
        let scalars = &self.scalars[member * self.specs.len()..];
        let tensors = self.specs.iter().zip(&mut self.params).zip(&self.grads);
        let tensors = tensors.zip(&mut self.planes).zip(scalars);
        tensors
            .map(|((((spec, param), grad), planes), &[ratio, largest])| {
                let own = member * spec.len()..(member + 1) * spec.len();
                let members = self.members;
                let plane = |p: &'_ mut Vec<f32>| -> *mut [f32] {
                    let len = p.len() / members;
                    &mut p[member * len..][..len]
                };
                let mut lent = TensorBuffers::new(
                    Target::Parameters(ElementsMut::new(&mut param[own.clone()])),
                    Some(Elements::new(&grad[own.clone()])),
                    planes
                        .iter_mut()
                        // SAFETY: each plane is borrowed only once.
                        .map(|p| ElementsMut::new(unsafe { &mut *plane(p) })),
                );
                lent.weight_decay = decay;
                lent.scalars.norm_ratio = number_of(ratio);
                lent.scalars.largest = number_of(largest);
                lent
            })
            .collect()
    }
}

pub(super) fn number_of([low, high]: [u32; 2]) -> f64 {
    f64::from_bits(u64::from(high) << 32 | u64::from(low))
}

/// The words of what a step leaves to the next.
pub(super) fn words_of(scalars: impl Iterator<Item = Scalars>) -> Vec<[[u32; 2]; 2]> {
    let words = |x: f64| [x.to_bits() as u32, (x.to_bits() >> 32) as u32];
    scalars
        .map(|scalars| [scalars.norm_ratio, scalars.largest].map(words))
        .collect()
}

pub(super) fn step() -> StepOptions {
    StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    }
}

pub(super) fn variants() -> Vec<Options> {
    let mut all = Vec::new();
    for graft in [Graft::None, Graft::Adam, Graft::NormalizedRmsprop] {
        for damping in [
            Damping::Absolute,
            Damping::Relative,
            Damping::RelativeLagged,
        ] {
            all.push(Options {
                band: all.len() % 4,
                graft,
                damping,
                weight_decay: 0.1,
                ..Options::default()
            });
        }
    }
    let lagged = all.clone().into_iter().map(|options| Options {
        lagged_norms: Some(true),
        nesterov: options.band % 2 == 0,
        ..options
    });
    all.extend(lagged);
    for (band, lagged_norms, damping) in [
        (3, None, Damping::Absolute),
        (20, Some(false), Damping::Relative),
        (2, None, Damping::Relative),
    ] {
        all.push(Options {
            band,
            lagged_norms,
            damping,
            pooling: Pooling::Band,
            weight_decay: 0.1,
            ..Options::default()
        });
    }
    all
}
