//! Calls the handler as a runtime does, with valid and with hostile frames.

mod runtime;

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::null_mut;

use super::ffi::{self, HasSize};
use super::sonew_xla_step_v1;
use crate::layout::{Chains, Scalars, TensorSpec};
use crate::options::{Damping, Options, Pooling, StepOptions};
use crate::{Plan, Stage};

use runtime::{
    number_of, specs, step, variants, words_of,
    Attribute::{Doubles, Integer, Ints, Text},
    Call, World,
};

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
            expected.scalars = words_of(buffers.into_iter().map(|b| b.scalars));
            (expected.count, expected.taken) = (world.count.clone(), vec![1]);
            assert!(world == expected, "{options:?}");
        }
    }
}

#[test]
fn members_of_a_batch_take_steps_of_their_own() {
    let lagged = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let pooled = Options {
        pooling: Pooling::Band,
        band: 5,
        ..Options::default()
    };
    for options in [lagged, pooled] {
        let mut world = World::new(&options, specs(), 3, 5);
        world.count = vec![0, 4, 9];
        let scalars = |i| Scalars {
            norm_ratio: f64::from(i) / 7.0,
            largest: f64::from(i) / 9.0,
            ..Scalars::default()
        };
        world.scalars = words_of((0..9).map(scalars));
        let mut expected = world.clone();
        world.call(&options, &step(), true).run().unwrap();
        let mut plan = Plan::new(&options, &specs()).unwrap();
        let mut scalars = Vec::new();
        for member in 0..3 {
            let number = expected.count[member] as u64 + 1;
            let mut buffers = expected.buffers(member, 0.0);
            plan.step(&step(), number, &mut buffers).unwrap();
            scalars.extend(words_of(buffers.into_iter().map(|b| b.scalars)));
        }
        expected.scalars = scalars;
        expected.taken = vec![1; 3];
        assert!(world == expected, "{options:?}");
    }
}

#[test]
fn a_call_without_shrink_is_one_from_before_there_was_pooling() {
    let options = Options::default();
    let mut world = World::new(&options, specs(), 1, 7);
    let mut expected = world.clone();
    expected.call(&options, &step(), false).run().unwrap();
    let mut call = world.call(&options, &step(), false);
    let numbers = call.attributes.iter_mut().find(|a| a.0 == "numbers");
    let Some((_, Doubles(numbers))) = numbers else {
        panic!("there are numbers");
    };
    numbers.truncate(10);
    call.run().unwrap();
    assert!(world == expected);
}

#[test]
fn pooled_sums_that_do_not_fit_are_refused() {
    let options = Options {
        pooling: Pooling::Band,
        ..Options::default()
    };
    let mut world = World::new(&options, specs(), 1, 13);
    let before = world.clone();
    let good = world.call(&options, &step(), false);
    let refused_with = |message: &str, spoil: &dyn Fn(&mut Call)| {
        let mut call = good.clone();
        spoil(&mut call);
        assert_eq!(call.run().unwrap_err(), message);
    };
    // Operands: count, traced, scalars, then w: parameters, gradient, three planes.
    let wrong = "pooled of tensor \"w\" has dimensions [30, 70], expected [2, 2, 30]";
    refused_with(wrong, &|c| c.operands[7].dims = vec![30, 70]);
    let wrong = "pooled of tensor \"w\" has element type bf16, expected f32";
    refused_with(wrong, &|c| c.results[5].dtype = ffi::BF16);
    let wrong = "momentum of tensor \"w\" overlaps pooled of tensor \"w\"";
    refused_with(wrong, &|c| {
        let inside = c.operands[5].data.wrapping_byte_add(4);
        (c.operands[7].data, c.results[5].data) = (inside, inside);
    });
    let wrong = "options.rank is 0, must be 1 to 64";
    refused_with(wrong, &|c| c.set("pooling", Integer(2)));
    let mut call = good.clone();
    let numbers = call.attributes.iter_mut().find(|a| a.0 == "numbers");
    let Some((_, Doubles(numbers))) = numbers else {
        panic!("there are numbers");
    };
    numbers[10] = 1.0;
    let refused = call.run().unwrap_err();
    assert!(refused.starts_with("options.shrink is 1,"), "{refused}");
    assert!(world == before);
}

#[test]
fn chains_of_a_part_take_turns_as_those_of_the_whole() {
    let options = Options {
        pooling: Pooling::Band,
        band: 2,
        ..Options::default()
    };
    let spec = TensorSpec::new("rows", &[300, 3]).with_chains(Chains::ContiguousLines);
    let mut world = World::new(&options, vec![spec.clone()], 1, 17);
    let mut expected = world.clone();
    // Of groups of 256 chains, the first takes part in every second step alone.
    let shard = spec.with_shard(100, 500);
    let mut plan = Plan::new(&options, &[shard]).unwrap();
    let mut parts = [100i32, 500];
    for number in 1..=3 {
        world.count[0] = number - 1;
        with_parts(&mut world, &options, &mut parts).run().unwrap();
        // Without parts, the same idle plan has a tensor of its own.
        let mut other = world.clone();
        other.call(&options, &step(), false).run().unwrap();
        let mut buffers = expected.buffers(0, options.weight_decay);
        plan.step(&step(), number as u64, &mut buffers).unwrap();
        expected.scalars = words_of(buffers.into_iter().map(|b| b.scalars));
        (expected.count, expected.taken) = (world.count.clone(), vec![1]);
        assert!(world == expected, "step {number}");
    }
    let before = world.clone();
    for wrong in [[201, 500], [-1, 500], [0, 299]] {
        parts = wrong;
        let refused = with_parts(&mut world, &options, &mut parts).run();
        let message = refused.unwrap_err();
        assert!(
            message.starts_with(&format!("parts of tensor \"rows\" has {wrong:?}, must be")),
            "{message}"
        );
    }
    assert!(world == before);
    // Zeros are no part.
    parts = [0; 2];
    with_parts(&mut world, &options, &mut parts).run().unwrap();
    expected.call(&options, &step(), false).run().unwrap();
    assert!(world == expected);
    let mut call = with_parts(&mut world, &options, &mut parts);
    call.operands[2].dims = vec![2];
    let wrong = "the operand \"parts\" has dimensions [2], expected [1, 2]";
    assert_eq!(call.run().unwrap_err(), wrong);
}

/// A call with the operand that says which chains of larger tensors there are.
fn with_parts(world: &mut World, options: &Options, parts: &mut [i32; 2]) -> Call {
    let mut call = world.call(options, &step(), false);
    call.set("parts", Integer(1));
    let operand = runtime::Given {
        dtype: ffi::S32,
        dims: vec![1, 2],
        data: parts.as_mut_ptr().cast(),
    };
    call.operands.insert(2, operand);
    call
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
    world.scalars = vec![[[5, 0x3ff0_0000]; 2]; 3];
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
    let scalars = runs.each_ref().map(|run| words_of(run.scalars()));
    drop(runs);
    drop(buffers);
    for (part, scalars) in parts.iter_mut().zip(scalars) {
        part.scalars = scalars;
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
            let before = number_of(expected[0].scalars[0][0]);
            let stages = in_stages(&options, number as u64, &mut expected);
            let mut reached = Vec::new();
            for so_far in 0..=stages.len() {
                for part in &mut parts {
                    part.reached.clone_from(&reached);
                    part.staged(&options, &stages[..so_far], 2).run().unwrap();
                }
                let after_l1 = stages[..so_far].contains(&(Stage::LargestL1 as i32));
                if after_l1 && so_far < stages.len() {
                    // The squares of the other method came with the largest l1; what a plan
                    // that another call has used knows of them must not come through.
                    assert!(words(&parts).iter().all(|[_, squares]| *squares == [0, 0]));
                }
                reached.extend(words(&parts));
            }
            for (part, expected) in parts.iter().zip(&expected) {
                assert!(part.params == expected.params, "{options:?} {number}");
                assert!(part.planes == expected.planes, "{options:?} {number}");
                assert_eq!(part.scalars, expected.scalars, "{options:?}");
                assert_eq!(part.taken, [1]);
            }
            too_long += i32::from(before > 2.0 * number_of(expected[0].scalars[0][0]));
        }
    }
    assert!(too_long > 0);
}

#[test]
fn scalars_that_do_not_fit_are_refused() {
    let options = Options {
        lagged_norms: Some(true),
        ..Options::default()
    };
    let mut world = World::new(&options, specs(), 1, 13);
    world.scalars[1][0] = [0, 0x7ff8_0000];
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
    assert_eq!(refused, "scalars has dimensions [2, 2], expected [3, 2, 2]");
    let mut call = good.clone();
    call.results[1].dtype = ffi::F32;
    let refused = call.run().unwrap_err();
    assert_eq!(refused, "scalars has element type f32, expected u32");
    let mut call = good;
    call.set("lagged_norms", Integer(0));
    call.set("damping", Integer(0));
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
    // Without scalars.
    let options = Options {
        damping: Damping::Absolute,
        ..Options::default()
    };
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
    refused_with("attribute \"numbers\" has 9 entries, expected 11", &|c| {
        c.set("numbers", Doubles(vec![0.5; 9]));
    });
    refused_with("attribute \"chains\" has 2 entries, expected 3", &|c| {
        c.set("chains", Ints(vec![0; 2]))
    });
    refused_with("chains of tensor \"w\" is 4, must be 0, 1, 2 or 3", &|c| {
        c.set("chains", Ints(vec![4, 0, 0]));
    });
    refused_with("attribute \"traced\" is 2048", &|c| {
        c.set("traced", Integer(2048))
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
