//! Calls the handler as a runtime does, with valid and with hostile frames.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::mem::offset_of;
use std::ptr::null_mut;

use super::ffi::{self, HasSize};
use super::sonew_xla_step_v1;
use crate::dtype::{Elements, ElementsMut};
use crate::layout::{planes, Chains, Scalars, TensorSpec, Update};
use crate::options::{Damping, Graft, Options, StepOptions};
use crate::{Plan, Stage, Target, TensorBuffers};

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
struct Given {
    dtype: c_int,
    dims: Vec<i64>,
    data: *mut c_void,
}

#[derive(Clone)]
enum Attribute {
    Integer(i64),
    Ints(Vec<i32>),
    Doubles(Vec<f64>),
    Text(String),
}
use Attribute::{Doubles, Integer, Ints, Text};

/// A call, in a form in which tests can easily make any part of it wrong.
#[derive(Clone)]
struct Call {
    operands: Vec<Given>,
    results: Vec<Given>,
    attributes: Vec<(&'static str, Attribute)>,
    struct_size: usize,
    stage: c_int,
}

impl Call {
    fn set(&mut self, name: &'static str, value: Attribute) {
        self.attributes.retain(|(n, _)| *n != name);
        self.attributes.push((name, value));
    }

    /// Runs the handler and returns its message, if there is one.
    fn run(&self) -> Result<(), String> {
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

fn span(text: &str) -> ffi::ByteSpan {
    ffi::ByteSpan {
        ptr: text.as_ptr().cast::<c_char>(),
        len: text.len(),
    }
}

fn api() -> ffi::Api {
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
struct World {
    specs: Vec<TensorSpec>,
    members: usize,
    count: Vec<i32>,
    taken: Vec<i32>,
    params: Vec<Vec<f32>>,
    grads: Vec<Vec<f32>>,
    planes: Vec<Vec<Vec<f32>>>,
    /// Those of the tensors of one member after another.
    norm_ratios: Vec<[u32; 2]>,
    /// The numbers of each stage for each tensor, as returned and as passed on.
    numbers: Vec<Vec<[[u32; 2]; 2]>>,
    reached: Vec<[[u32; 2]; 2]>,
}

fn specs() -> Vec<TensorSpec> {
    vec![
        TensorSpec::new("w", &[30, 70]).with_chains(Chains::Strided),
        TensorSpec::new("b", &[70]).with_update(Update::Adam),
        TensorSpec::new("rows", &[6, 11]).with_chains(Chains::ContiguousLines),
    ]
}

impl World {
    fn new(options: &Options, specs: Vec<TensorSpec>, members: usize, seed: u64) -> World {
        let mut x = seed;
        let mut random = |len: usize| -> Vec<f32> {
            let number = |_| {
                x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            };
            (0..len).map(number).collect()
        };
        let all = |spec: &TensorSpec| spec.len() * members;
        World {
            count: vec![0; members],
            taken: vec![7; members],
            params: specs.iter().map(|s| random(all(s))).collect(),
            grads: specs.iter().map(|s| random(all(s))).collect(),
            planes: specs
                .iter()
                .map(|s| vec![vec![0.0; all(s)]; planes(options, s).len()])
                .collect(),
            norm_ratios: vec![[0; 2]; members * specs.len()],
            numbers: specs.iter().map(|_| vec![[[0; 2]; 2]; members]).collect(),
            reached: Vec::new(),
            specs,
            members,
        }
    }

    /// A call that updates parameters in place, for members in a batch if
    /// `batched`.
    fn call(&mut self, options: &Options, step: &StepOptions, batched: bool) -> Call {
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
        let float = |spec: &TensorSpec, data: &mut Vec<f32>| {
            given(ffi::F32, &spec.dims, data.as_mut_ptr().cast())
        };
        let mut operands = vec![
            given(ffi::S32, &[], self.count.as_mut_ptr().cast()),
            given(ffi::F32, &[0], null_mut()),
        ];
        let mut results = vec![given(ffi::S32, &[], self.taken.as_mut_ptr().cast())];
        if options.is_lagged() {
            let data = self.norm_ratios.as_mut_ptr().cast();
            let ratios = given(ffi::U32, &[self.specs.len(), 2], data);
            operands.push(ratios.clone());
            results.push(ratios);
        }
        for (i, spec) in self.specs.iter().enumerate() {
            let param = float(spec, &mut self.params[i]);
            operands.extend([param.clone(), float(spec, &mut self.grads[i])]);
            results.push(param);
            for plane in &mut self.planes[i] {
                let plane = float(spec, plane);
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
            ("damping", number(options.damping == Damping::Relative)),
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
    fn staged(&mut self, options: &Options, stages: &[i32], parts: i64) -> Call {
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
        let mut at = 1 + usize::from(options.is_lagged());
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

    fn buffers(&mut self, member: usize, decay: f64) -> Vec<TensorBuffers<'_>> {
        let ratios = &self.norm_ratios[member * self.specs.len()..];
        let tensors = self.specs.iter().zip(&mut self.params).zip(&self.grads);
        let tensors = tensors.zip(&mut self.planes).zip(ratios);
        tensors
            .map(|((((spec, param), grad), planes), &ratio)| {
                let own = member * spec.len()..(member + 1) * spec.len();
                let plane = |p: &'_ mut Vec<f32>| -> *mut [f32] { &mut p[own.clone()] };
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
                lent
            })
            .collect()
    }
}

fn number_of([low, high]: [u32; 2]) -> f64 {
    f64::from_bits(u64::from(high) << 32 | u64::from(low))
}

/// The words of what a step leaves to the next.
fn ratios_of(scalars: impl Iterator<Item = Scalars>) -> Vec<[u32; 2]> {
    let bits = scalars.map(|scalars| scalars.norm_ratio.to_bits());
    bits.map(|bits| [bits as u32, (bits >> 32) as u32])
        .collect()
}

fn step() -> StepOptions {
    StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    }
}

fn variants() -> Vec<Options> {
    let mut all = Vec::new();
    for graft in [Graft::None, Graft::Adam, Graft::NormalizedRmsprop] {
        for damping in [Damping::Absolute, Damping::Relative] {
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
    all
}

/// Gradients that damping makes directions tiny for, and in the third step large ones: an
/// update with the norms of the step before is too long.
fn spike(world: &mut World, number: i32) {
    let by = [1e-8, 1.7, 1e8, 1.7][number as usize - 1];
    for g in world.grads.iter_mut().flatten() {
        *g *= by;
    }
}

#[test]
fn a_call_is_a_step_to_the_bit() {
    for options in variants() {
        let mut world = World::new(&options, specs(), 1, 3);
        let mut expected = world.clone();
        let mut plan = Plan::new(&options, &specs()).unwrap();
        for number in 1..=4 {
            spike(&mut world, number);
            spike(&mut expected, number);
            world.count[0] = number - 1;
            world.call(&options, &step(), false).run().unwrap();
            let mut buffers = expected.buffers(0, options.weight_decay);
            plan.step(&step(), number as u64, &mut buffers).unwrap();
            expected.norm_ratios = ratios_of(buffers.into_iter().map(|b| b.scalars));
            (expected.count, expected.taken) = (world.count.clone(), vec![1]);
            assert!(world == expected, "{options:?}");
        }
    }
}

#[test]
fn members_of_a_batch_take_steps_of_their_own() {
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let mut world = World::new(&options, specs(), 3, 5);
    world.count = vec![0, 4, 9];
    let scalars = |i| Scalars {
        norm_ratio: f64::from(i) / 7.0,
        ..Scalars::default()
    };
    world.norm_ratios = ratios_of((0..9).map(scalars));
    let mut expected = world.clone();
    world.call(&options, &step(), true).run().unwrap();
    let mut plan = Plan::new(&options, &specs()).unwrap();
    let mut ratios = Vec::new();
    for member in 0..3 {
        let number = expected.count[member] as u64 + 1;
        let mut buffers = expected.buffers(member, 0.0);
        plan.step(&step(), number, &mut buffers).unwrap();
        ratios.extend(ratios_of(buffers.into_iter().map(|b| b.scalars)));
    }
    expected.norm_ratios = ratios;
    expected.taken = vec![1; 3];
    assert!(world == expected);
}

#[test]
fn what_is_not_in_place_is_copied_first() {
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let mut world = World::new(&options, specs(), 1, 7);
    let before = world.clone();
    let mut other = world.clone();
    let mut call = world.call(&options, &step(), false);
    call.results = other.call(&options, &step(), false).results;
    call.run().unwrap();
    assert!(world == before);
    world.call(&options, &step(), false).run().unwrap();
    assert!(world == other);
}

#[test]
fn a_traced_number_is_an_operand() {
    let options = Options::default();
    let mut world = World::new(&options, specs(), 1, 7);
    let mut expected = world.clone();
    let halves = Options {
        beta1: 0.5,
        ..options.clone()
    };
    let quarter = StepOptions { lr: 0.25, ..step() };
    expected.call(&halves, &quarter, false).run().unwrap();

    let mut call = world.call(&options, &step(), false);
    let mut traced = [0.5f32, 0.25];
    call.set("traced", Integer(1 | 1 << 5));
    call.operands[1].dims = vec![2];
    call.operands[1].data = traced.as_mut_ptr().cast();
    call.run().unwrap();
    assert!(world == expected);

    call.set("traced", Integer(1 | 1 << 8));
    let mut traced = [0.5f32, 0.0];
    call.operands[1].data = traced.as_mut_ptr().cast();
    let refused = call.run().unwrap_err();
    assert!(refused.starts_with("step.clip_norm is 0,"), "{refused}");
}

#[test]
fn a_skipped_step_changes_nothing_and_is_told() {
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let mut world = World::new(&options, specs(), 1, 9);
    world.grads[2][3] = f32::INFINITY;
    // They stay, too.
    world.norm_ratios = vec![[5, 0x3ff0_0000]; 3];
    let before = world.clone();
    world.call(&options, &step(), false).run().unwrap();
    assert_eq!(world.taken, [0]);
    world.taken = before.taken.clone();
    assert!(world == before);

    // The direction of a skipped step is zero.
    let mut call = world.call(&options, &step(), false);
    call.set("direction", Integer(1));
    let mut targets = Vec::new();
    let mut at = 3;
    for planes in &before.planes {
        targets.push(call.operands.remove(at));
        at += 1 + planes.len();
    }
    call.run().unwrap();
    assert!(world.params.iter().flatten().all(|&u| u == 0.0));
    assert!(world.planes == before.planes);
}

/// The numbers of a stage of all parts and tensors, as pairs of words.
fn words(worlds: &[World]) -> Vec<[[u32; 2]; 2]> {
    let parts = worlds.iter();
    parts
        .flat_map(|w| w.numbers.iter().map(|numbers| numbers[0]))
        .collect()
}

/// A step of two parts of the same tensors in one process, as the library takes it: the
/// numbers of both are reduced. Returns the stages.
fn in_stages(options: &Options, number: u64, parts: &mut [World; 2]) -> Vec<i32> {
    let mut plans = [0, 1].map(|_| Plan::new(options, &specs()).unwrap());
    let [a, b] = &mut plans;
    let [one, two] = &mut *parts;
    let mut buffers = [one.buffers(0, 0.1), two.buffers(0, 0.1)];
    let [of_a, of_b] = &mut buffers;
    let mut runs = [
        a.stages(&step(), number, of_a).unwrap(),
        b.stages(&step(), number, of_b).unwrap(),
    ];
    let mut stages = Vec::new();
    loop {
        let [first, second] = &mut runs;
        let stage = first.next().unwrap();
        assert_eq!(stage, second.next().unwrap());
        let Some(stage) = stage else { break };
        stages.push(stage as i32);
        for (a, b) in first.numbers().iter_mut().zip(second.numbers()) {
            for (slot, (a, b)) in a.iter_mut().zip(b).enumerate() {
                *a = match (stage, slot) {
                    (Stage::LargestL1, 0) => a.max(*b),
                    _ => *a + *b,
                };
                *b = *a;
            }
        }
    }
    let ratios = runs.each_ref().map(|run| ratios_of(run.scalars()));
    drop(runs);
    drop(buffers);
    for (part, ratios) in parts.iter_mut().zip(ratios) {
        part.norm_ratios = ratios;
    }
    stages
}

#[test]
fn stages_in_calls_of_their_own_are_a_step_to_the_bit() {
    let mut too_long = 0;
    for options in variants() {
        let mut parts = [1, 2].map(|seed| World::new(&options, specs(), 1, seed));
        let mut expected = parts.clone();
        for number in 1..=3 {
            for world in parts.iter_mut().chain(&mut expected) {
                spike(world, number);
                world.count[0] = number - 1;
            }
            let before = number_of(expected[0].norm_ratios[0]);
            let stages = in_stages(&options, number as u64, &mut expected);
            let mut reached = Vec::new();
            for so_far in 0..=stages.len() {
                for part in &mut parts {
                    part.reached.clone_from(&reached);
                    part.staged(&options, &stages[..so_far], 2).run().unwrap();
                }
                reached.extend(words(&parts));
            }
            for (part, expected) in parts.iter().zip(&expected) {
                assert!(part.params == expected.params, "{options:?} {number}");
                assert!(part.planes == expected.planes, "{options:?} {number}");
                assert_eq!(part.norm_ratios, expected.norm_ratios, "{options:?}");
                assert_eq!(part.taken, [1]);
            }
            too_long += i32::from(before > 2.0 * number_of(expected[0].norm_ratios[0]));
        }
    }
    assert!(too_long > 0);
}

#[test]
fn norm_ratios_that_do_not_fit_are_refused() {
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let mut world = World::new(&options, specs(), 1, 13);
    world.norm_ratios[1] = [0, 0x7ff8_0000];
    let before = world.clone();
    let good = world.call(&options, &step(), false);
    let refused = good.run().unwrap_err();
    assert!(
        refused.starts_with("norm_ratio of tensor \"b\" is NaN, must be"),
        "{refused}"
    );
    let mut call = good.clone();
    call.operands[2].dims = vec![2, 2];
    let refused = call.run().unwrap_err();
    assert_eq!(
        refused,
        "norm_ratios has dimensions [2, 2], expected [3, 2]"
    );
    let mut call = good.clone();
    call.results[1].dtype = ffi::F32;
    let refused = call.run().unwrap_err();
    assert_eq!(refused, "norm_ratios has element type f32, expected u32");
    let mut call = good;
    call.set("lagged_norms", Integer(0));
    let refused = call.run().unwrap_err();
    assert!(
        refused.contains("has 17 operands, expected 16"),
        "{refused}"
    );
    call.set("lagged_norms", Integer(2));
    let refused = call.run().unwrap_err();
    assert!(
        refused.contains("attribute \"lagged_norms\" is 2"),
        "{refused}"
    );
    assert!(world == before);
}

#[test]
fn the_query_for_metadata_is_answered_with_nothing_else_there() {
    let mut metadata = ffi::Metadata {
        struct_size: ffi::Metadata::SIZE,
        api_version: ffi::ApiVersion {
            struct_size: size_of::<ffi::ApiVersion>(),
            extension_start: null_mut(),
            major: 9,
            minor: 9,
        },
        traits: 9,
    };
    let mut extension = ffi::MetadataExtension {
        base: ffi::ExtensionBase {
            struct_size: size_of::<ffi::ExtensionBase>(),
            kind: ffi::EXTENSION_METADATA,
            next: null_mut(),
        },
        metadata: &mut metadata,
    };
    let mut unknown = ffi::ExtensionBase {
        struct_size: size_of::<ffi::ExtensionBase>(),
        kind: 77,
        next: std::ptr::from_mut(&mut extension).cast(),
    };
    // Only the fields that the query fills in.
    let mut frame: [*mut c_void; 2] = [16 as *mut c_void, std::ptr::from_mut(&mut unknown).cast()];
    // SAFETY: the frame has the fields that the handler may read.
    let answer = unsafe { sonew_xla_step_v1(frame.as_mut_ptr().cast()) };
    assert!(answer.is_null());
    let version = &metadata.api_version;
    assert_eq!((version.major, version.minor, metadata.traits), (0, 1, 0));
}

#[test]
fn other_stages_of_a_call_are_not_executed() {
    let options = Options::default();
    let mut world = World::new(&options, specs(), 1, 11);
    let before = world.clone();
    for stage in 0..3 {
        let mut call = world.call(&options, &step(), false);
        call.stage = stage;
        call.run().unwrap();
    }
    assert!(world == before);
}

#[test]
fn a_frame_that_is_null_or_too_small_is_refused() {
    // SAFETY: a null frame is allowed.
    assert!(unsafe { sonew_xla_step_v1(null_mut()) }.is_null());
    let options = Options::default();
    let mut world = World::new(&options, specs(), 1, 11);
    let mut call = world.call(&options, &step(), false);
    call.struct_size = ffi::CallFrame::SIZE - 8;
    let refused = call.run().unwrap_err();
    let expected = format!(
        "XLA_FFI_CallFrame.struct_size is {}, expected {}",
        ffi::CallFrame::SIZE - 8,
        ffi::CallFrame::SIZE
    );
    assert!(refused.starts_with(&expected), "{refused}");
    // Without the runtime's functions an error cannot be reported.
    call.struct_size = offset_of!(ffi::CallFrame, api);
    assert_eq!(call.run(), Ok(()));
    // A frame with more fields is accepted.
    call.struct_size = ffi::CallFrame::SIZE + 64;
    assert_eq!(call.run(), Ok(()));
}

#[test]
fn calls_that_do_not_fit_are_refused_and_change_nothing() {
    let options = Options::default();
    let mut world = World::new(&options, specs(), 1, 13);
    let before = world.clone();
    let good = world.call(&options, &step(), false);
    let refused_with = |message: &str, spoil: &dyn Fn(&mut Call)| {
        let mut call = good.clone();
        spoil(&mut call);
        let refused = call.run().expect_err(message);
        assert!(refused.contains(message), "{refused}\n{message}");
    };
    // Operands: count, traced, then w: parameters, gradient, three planes.
    refused_with("the custom call has 14 operands, expected 16", &|c| {
        c.operands.truncate(14);
    });
    refused_with("the custom call has 13 results, expected 12", &|c| {
        c.results.push(c.results[0].clone());
    });
    refused_with("the count has element type s64, expected s32", &|c| {
        c.operands[0].dtype = ffi::S64;
    });
    refused_with("the count is null", &|c| c.operands[0].data = null_mut());
    refused_with("traced has dimensions [1], expected [0]", &|c| {
        c.operands[1].dims = vec![1];
    });
    refused_with("taken has dimensions [2], expected []", &|c| {
        c.results[0].dims = vec![2];
    });
    let batch = |c: &mut Call| c.operands[0].dims = vec![-1];
    refused_with("has dimensions", &batch);
    let wrong = "the parameter of tensor \"w\" has element type f16, expected f32";
    refused_with(wrong, &|c| c.operands[2].dtype = ffi::F16);
    let wrong = "the parameter of tensor \"w\" has dimensions [70, 30], expected [30, 70]";
    refused_with(wrong, &|c| c.operands[2].dims = vec![70, 30]);
    let wrong = "the gradient of tensor \"w\" has element type 4, not a floating one";
    refused_with(wrong, &|c| c.operands[3].dtype = ffi::S32);
    let wrong = "tensor \"w\" has 9 dimensions";
    refused_with(wrong, &|c| c.operands[3].dims = vec![1; 9]);
    let wrong = "the gradient of tensor \"w\" is null";
    refused_with(wrong, &|c| c.operands[3].data = null_mut());
    let wrong = "diagonal of tensor \"w\" has element type bf16, expected f32";
    refused_with(wrong, &|c| c.operands[5].dtype = ffi::BF16);
    refused_with("band.1 of tensor \"w\" has dimensions [2100]", &|c| {
        c.results[4].dims = vec![2100];
    });
    refused_with("is not aligned to 4 bytes", &|c| {
        let data = c.operands[4].data.wrapping_byte_add(2);
        (c.operands[4].data, c.results[2].data) = (data, data);
    });
    refused_with(
        "the gradient of tensor \"w\" overlaps the parameter",
        &|c| c.operands[3].data = c.results[1].data,
    );
    refused_with("overlap", &|c| c.results[1].data = c.results[2].data);

    refused_with("attribute \"band\" is missing", &|c| {
        c.attributes.retain(|(name, _)| *name != "band");
    });
    refused_with("attribute \"band\" is not an s64 scalar", &|c| {
        c.set("band", Doubles(vec![1.0]))
    });
    refused_with("attribute \"chains\" is not an array of s32", &|c| {
        c.set("chains", Doubles(vec![1.0; 3]));
    });
    refused_with("attribute \"names\" is not a string", &|c| {
        c.set("names", Integer(1))
    });
    refused_with("attribute \"numbers\" has 9 entries, expected 10", &|c| {
        c.set("numbers", Doubles(vec![0.5; 9]));
    });
    refused_with("attribute \"chains\" has 2 entries, expected 3", &|c| {
        c.set("chains", Ints(vec![0; 2]))
    });
    refused_with("chains of tensor \"w\" is 4, must be 0, 1, 2 or 3", &|c| {
        c.set("chains", Ints(vec![4, 0, 0]));
    });
    refused_with("attribute \"traced\" is 1024", &|c| {
        c.set("traced", Integer(1024))
    });
    refused_with("attribute \"direction\" is 2", &|c| {
        c.set("direction", Integer(2))
    });
    refused_with("attribute \"band\" is 4294967297", &|c| {
        c.set("band", Integer(1 << 32 | 1))
    });
    refused_with("options.graft is 9, must be 0, 1, 2, 3 or 4", &|c| {
        c.set("graft", Integer(9))
    });
    refused_with("options.band is -1, must be not negative", &|c| {
        c.set("band", Integer(-1))
    });
    refused_with("two tensors are named \"w\"", &|c| {
        c.set("names", Text("w\nw\nrows".to_owned()))
    });
    let number = |place: usize, value: f64| {
        move |c: &mut Call| {
            let Some((_, Doubles(numbers))) = c.attributes.iter_mut().find(|a| a.0 == "numbers")
            else {
                panic!("there are numbers");
            };
            numbers[place] = value;
        }
    };
    refused_with("options.beta2 is 1, must be in [0, 1)", &number(1, 1.0));
    refused_with("options.eps is NaN, must be finite", &number(2, f64::NAN));
    refused_with(
        "step.lr is -1, must be finite and not negative",
        &number(5, -1.0),
    );
    refused_with("step.statistics_weight is 2, must be 1", &number(7, 2.0));
    refused_with("weight_decay of tensor \"w\" is -1", &number(9, -1.0));
    refused_with("attribute \"reached\" is 3", &|c| {
        c.set("staged", Integer(1));
        c.set("reached", Ints(vec![3]));
    });

    world.count[0] = -1;
    let mut count = before.clone();
    count.count[0] = -1;
    let refused = good.run().unwrap_err();
    assert_eq!(refused, "the count is -1, must be not negative");
    assert!(world == count);
}
