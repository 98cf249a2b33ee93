//! One test for each reason to refuse a load, and for each difference that its
//! options allow.

use super::*;
use crate::checkpoint::Texts;
use crate::layout::{Chains, Scalars, Update};
use crate::options::{Damping, Graft, InstructionSet, Pooling, Rounding, Statistics};

fn specs(names: &[&str]) -> Vec<TensorSpec> {
    names.iter().map(|n| TensorSpec::new(*n, &[2, 3])).collect()
}

/// The header that an optimizer with these options and tensors saves.
fn header(options: &Options, tensors: &[TensorSpec]) -> Header {
    let saved = |spec: &TensorSpec| SavedTensor {
        spec: spec.clone(),
        lr_scale: 1.0,
        weight_decay: 0.0,
        master_set: spec.master,
        master_reset: false,
        step_count: 2,
        scalars: Scalars::default(),
    };
    Header {
        options: options.clone(),
        tensors: tensors.iter().map(saved).collect(),
        step: 3,
        parameters: false,
        texts: Texts::default(),
    }
}

/// The position of every tensor in one file.
fn assign(
    saved: &Header,
    options: &Options,
    tensors: &[TensorSpec],
    parameters: bool,
    live: bool,
    load: &LoadOptions,
) -> Result<Vec<Option<usize>>> {
    let sources = super::assign(&[(saved, live)], options, tensors, parameters, load)?;
    let position = |sources: Vec<Source>| sources.first().map(|source| source.tensor);
    Ok(sources.into_iter().map(position).collect())
}

/// Assigns tensors with these names, with equal options, without parameters.
fn assign_names(
    file: &[&str],
    optimizer: &[&str],
    load: &LoadOptions,
) -> Result<Vec<Option<usize>>> {
    let options = Options::default();
    let saved = header(&options, &specs(file));
    assign(&saved, &options, &specs(optimizer), false, false, load)
}

fn renaming(pairs: &[(&str, &str)]) -> LoadOptions {
    let owned = |&(from, to): &(&str, &str)| (from.to_owned(), to.to_owned());
    LoadOptions {
        rename: pairs.iter().map(owned).collect(),
        ..LoadOptions::default()
    }
}

fn common() -> LoadOptions {
    LoadOptions {
        common_tensors_only: true,
        ..LoadOptions::default()
    }
}

fn overriding() -> LoadOptions {
    LoadOptions {
        override_options: true,
        ..LoadOptions::default()
    }
}

#[test]
fn tensors_are_found_by_name() {
    let found = assign_names(&["a", "b", "c"], &["c", "a", "b"], &LoadOptions::default());
    assert_eq!(found.unwrap(), [Some(2), Some(0), Some(1)]);
}

#[test]
fn every_option_that_differs_is_named() {
    type Change = fn(&mut Options);
    let differing: [(&str, Change); 18] = [
        ("band", |o| o.band = 0),
        ("beta1", |o| o.beta1 = f64::from((o.beta1 as f32).next_up())),
        ("beta2", |o| o.beta2 = 0.5),
        ("lagged_norms", |o| o.lagged_norms = Some(true)),
        ("pooling", |o| o.pooling = Pooling::Band),
        ("shrink", |o| o.shrink = 0.5),
        ("nesterov", |o| o.nesterov = true),
        ("eps", |o| o.eps = 0.5),
        ("gamma", |o| o.gamma = 0.5),
        ("statistics", |o| o.statistics = Statistics::WeightedSum),
        ("damping", |o| o.damping = Damping::Relative),
        ("bias_correction", |o| o.bias_correction = false),
        ("graft", |o| o.graft = Graft::Sgd),
        ("graft_eps", |o| o.graft_eps = 0.5),
        ("graft_bias_correction", |o| o.graft_bias_correction = false),
        ("weight_decay", |o| o.weight_decay = 0.5),
        ("rounding", |o| {
            o.rounding = match o.rounding {
                Rounding::Nearest => Rounding::Stochastic,
                Rounding::Stochastic => Rounding::Nearest,
            }
        }),
        ("seed", |o| o.seed = 1),
    ];
    let tensors = specs(&["a"]);
    let saved = header(&Options::default(), &tensors);
    for (name, change) in differing {
        let mut options = Options::default();
        change(&mut options);
        let refused = assign(
            &saved,
            &options,
            &tensors,
            false,
            false,
            &LoadOptions::default(),
        );
        let Err(Error::OptionDiffers {
            option,
            file,
            optimizer,
        }) = refused
        else {
            panic!("{name}");
        };
        assert_eq!(option, name);
        // No name is Rust's: they are those of files and of all languages.
        for value in [file, optimizer] {
            assert!(!value.contains(char::is_uppercase), "{value}");
        }
        let overridden = assign(&saved, &options, &tensors, false, false, &overriding());
        match name {
            // Its plane is not in the file.
            "pooling" => assert!(matches!(overridden, Err(Error::PlaneMissing { .. }))),
            _ => drop(overridden.unwrap()),
        }
    }
}

/// The rank counts where there is one.
#[test]
fn another_rank_is_refused() {
    let tensors = specs(&["a"]);
    let of = |pooling, rank| Options {
        pooling,
        rank,
        ..Options::default()
    };
    let load = |pooling| {
        let saved = header(&of(pooling, 4), &tensors);
        let load = LoadOptions::default();
        assign(&saved, &of(pooling, 5), &tensors, false, false, &load).map(drop)
    };
    assert!(load(Pooling::None).is_ok() && load(Pooling::Band).is_ok());
    let refused = load(Pooling::Rank);
    assert!(matches!(
        refused,
        Err(Error::OptionDiffers { option: "rank", .. })
    ));
}

#[test]
fn a_difference_of_options_shows_both_values() {
    let tensors = specs(&["a"]);
    let options = Options {
        band: 4,
        ..Options::default()
    };
    let saved = header(&Options::default(), &tensors);
    let refused = assign(
        &saved,
        &options,
        &tensors,
        false,
        false,
        &LoadOptions::default(),
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "option band is 1 in the file, 4 in the optimizer; to keep that of the optimizer, if the \
         file has every plane that it needs, name \"band\" in the overrides of the load"
    );
}

#[test]
fn what_belongs_to_the_machine_may_differ() {
    let tensors = specs(&["a"]);
    let options = Options {
        threads: 2,
        instruction_set: InstructionSet::Portable,
        ..Options::default()
    };
    let saved = header(&Options::default(), &tensors);
    assign(
        &saved,
        &options,
        &tensors,
        false,
        false,
        &LoadOptions::default(),
    )
    .unwrap();
}

#[test]
fn a_tensor_that_the_file_lacks_is_refused() {
    assert!(matches!(
        assign_names(&["a"], &["a", "b"], &LoadOptions::default()),
        Err(Error::TensorMissing { tensor, present: "optimizer", missing: "file" })
            if tensor == "b"
    ));
}

#[test]
fn a_tensor_that_the_optimizer_lacks_is_refused() {
    assert!(matches!(
        assign_names(&["a", "b"], &["b"], &LoadOptions::default()),
        Err(Error::TensorMissing { tensor, present: "file", missing: "optimizer" })
            if tensor == "a"
    ));
}

#[test]
fn common_tensors_are_loaded_on_request() {
    let found = assign_names(&["a", "b"], &["c", "b"], &common());
    assert_eq!(found.unwrap(), [None, Some(1)]);
}

#[test]
fn nothing_in_common_is_refused() {
    assert!(matches!(
        assign_names(&["a"], &["b"], &common()),
        Err(Error::TensorMissing { tensor, .. }) if tensor == "b"
    ));
}

/// Assigns one tensor to another of the same name.
fn assign_specs(file: TensorSpec, optimizer: TensorSpec, load: &LoadOptions) -> Result<()> {
    let options = Options::default();
    let saved = header(&options, &[file]);
    assign(&saved, &options, &[optimizer], false, false, load).map(drop)
}

fn differs(result: Result<()>, in_what: &str) -> bool {
    matches!(result, Err(Error::TensorDiffers { tensor, what, .. }) if tensor == "a" && what == in_what)
}

#[test]
fn other_dimensions_are_always_refused() {
    for load in [LoadOptions::default(), common(), overriding()] {
        let [two, three] = [&[2, 3][..], &[3, 2]].map(|dims| TensorSpec::new("a", dims));
        assert!(differs(assign_specs(two, three, &load), "dims"));
    }
}

#[test]
fn other_chains_are_always_refused() {
    let rows = TensorSpec::new("a", &[2, 3]);
    let columns = rows.clone().with_chains(Chains::Strided);
    for load in [LoadOptions::default(), common(), overriding()] {
        let refused = assign_specs(rows.clone(), columns.clone(), &load);
        assert!(differs(refused, "chains"));
    }
}

#[test]
fn another_update_needs_an_override_and_its_planes() {
    let sonew = TensorSpec::new("a", &[2, 3]);
    let adam = sonew.clone().with_update(Update::Adam);
    let refused = assign_specs(sonew.clone(), adam.clone(), &LoadOptions::default());
    assert!(differs(refused, "update"));
    // Plain Adam needs fewer planes; in the other direction one is missing.
    assign_specs(sonew.clone(), adam.clone(), &overriding()).unwrap();
    assert!(matches!(
        assign_specs(adam, sonew, &overriding()),
        Err(Error::PlaneMissing { tensor, plane, .. }) if tensor == "a" && plane == "band.1"
    ));
}

#[test]
fn another_type_of_state_is_always_refused() {
    let float32 = TensorSpec::new("a", &[2, 3]);
    let with_state = |state| {
        let spec = float32.clone();
        spec.with_dtypes(Dtype::Bf16, Dtype::F16, state)
    };
    for load in [LoadOptions::default(), common(), overriding()] {
        // The types of parameters and gradients are not part of the state.
        assign_specs(float32.clone(), with_state(Dtype::F32), &load).unwrap();
        for state in [Dtype::F64, Dtype::Bf16] {
            assert!(matches!(
                assign_specs(float32.clone(), with_state(state), &load),
                Err(Error::DtypeDiffers { tensor, argument, file: Dtype::F32, optimizer })
                    if tensor == "a" && argument == "momentum" && optimizer == state
            ));
        }
    }
}

#[test]
fn parameters_of_another_type_are_always_refused() {
    let options = Options::default();
    let float32 = TensorSpec::new("a", &[2, 3]);
    let half = float32
        .clone()
        .with_dtypes(Dtype::F16, Dtype::F32, Dtype::F32);
    let mut saved = header(&options, &[float32]);
    saved.parameters = true;
    for load in [LoadOptions::default(), common(), overriding()] {
        assert!(matches!(
            assign(&saved, &options, std::slice::from_ref(&half), true, false, &load),
            Err(Error::DtypeDiffers { argument, file: Dtype::F32, optimizer: Dtype::F16, .. })
                if argument == "parameter"
        ));
    }
}

#[test]
fn master_weights_on_one_side_need_an_override() {
    let plain = TensorSpec::new("a", &[2, 3]);
    let master = plain.clone().with_master();
    for (file, optimizer) in [(&plain, &master), (&master, &plain)] {
        let assign = |load: LoadOptions| assign_specs(file.clone(), optimizer.clone(), &load);
        assert!(differs(assign(LoadOptions::default()), "master"));
        assign(overriding()).unwrap();
    }
}

#[test]
fn a_wider_band_is_refused_and_a_smaller_one_allowed_on_request() {
    let tensors = specs(&["a"]);
    let banded = |band| Options {
        band,
        ..Options::default()
    };
    let saved = header(&banded(2), &tensors);
    assert!(matches!(
        assign(&saved, &banded(4), &tensors, false, false, &overriding()),
        Err(Error::PlaneMissing { plane, .. }) if plane == "band.3"
    ));
    assign(&saved, &banded(1), &tensors, false, false, &overriding()).unwrap();
}

#[test]
fn a_graft_that_needs_another_plane_is_refused() {
    let tensors = specs(&["a"]);
    let options = Options {
        graft: Graft::NormalizedRmsprop,
        ..Options::default()
    };
    let saved = header(&Options::default(), &tensors);
    assert!(matches!(
        assign(&saved, &options, &tensors, false, false, &overriding()),
        Err(Error::PlaneMissing { plane, .. }) if plane == "rms"
    ));
}

#[test]
fn parameters_that_are_not_there_are_refused() {
    let tensors = specs(&["a"]);
    let options = Options::default();
    let mut saved = header(&options, &tensors);
    let load = LoadOptions::default();
    assert!(matches!(
        assign(&saved, &options, &tensors, true, false, &load),
        Err(Error::PlaneMissing { plane, .. }) if plane == "parameter"
    ));
    saved.parameters = true;
    assign(&saved, &options, &tensors, true, false, &load).unwrap();
    assign(&saved, &options, &tensors, false, false, &load).unwrap();
}

#[test]
fn tensors_can_be_renamed_and_swapped() {
    let found = assign_names(&["a", "b"], &["x", "b"], &renaming(&[("a", "x")]));
    assert_eq!(found.unwrap(), [Some(0), Some(1)]);
    let swap = renaming(&[("a", "b"), ("b", "a")]);
    let found = assign_names(&["a", "b"], &["a", "b"], &swap);
    assert_eq!(found.unwrap(), [Some(1), Some(0)]);
}

/// The reason why renaming is refused between two tensors in the file and two in
/// the optimizer.
fn rename_refused(pairs: &[(&str, &str)]) -> &'static str {
    match assign_names(&["a", "b"], &["x", "b"], &renaming(pairs)) {
        Err(Error::Rename { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn renaming_what_the_file_lacks_is_refused() {
    assert_eq!(rename_refused(&[("c", "x")]), "the file has no such tensor");
}

#[test]
fn renaming_to_what_the_optimizer_lacks_is_refused() {
    assert_eq!(
        rename_refused(&[("a", "y")]),
        "the optimizer has no such tensor"
    );
}

#[test]
fn renaming_twice_is_refused() {
    assert_eq!(
        rename_refused(&[("a", "x"), ("a", "b")]),
        "the tensor is renamed twice"
    );
}

#[test]
fn renaming_two_to_one_is_refused() {
    assert_eq!(
        rename_refused(&[("a", "x"), ("b", "x")]),
        "two tensors get this name"
    );
}

#[test]
fn renaming_onto_another_saved_tensor_is_refused() {
    assert_eq!(
        rename_refused(&[("a", "b")]),
        "the file has another tensor of this name, which is not renamed"
    );
}

/// Whether a file without parameters is accepted.
fn allowed(
    saved: &Header,
    options: &Options,
    tensors: &[TensorSpec],
    load: &LoadOptions,
) -> Result<()> {
    assign(saved, options, tensors, false, false, load).map(drop)
}

/// Float32 cannot tell them apart.
#[test]
fn numbers_that_were_given_as_float32_are_the_same() {
    let double = Options {
        eps: 1e-7,
        ..Options::default()
    };
    let single = Options {
        beta1: f64::from(0.9f32),
        beta2: f64::from(0.99f32),
        eps: f64::from(1e-7f32),
        ..Options::default()
    };
    let tensors = specs(&["a"]);
    for (file, optimizer) in [(&double, &single), (&single, &double)] {
        assert_ne!(file.beta1.to_bits(), optimizer.beta1.to_bits());
        let saved = header(file, &tensors);
        allowed(&saved, optimizer, &tensors, &LoadOptions::default()).unwrap();
    }
}

fn overriding_only(names: &[&str]) -> LoadOptions {
    LoadOptions {
        overrides: names.iter().map(|&name| name.to_owned()).collect(),
        ..LoadOptions::default()
    }
}

#[test]
fn what_is_named_may_differ_and_nothing_else() {
    let file = Options::default();
    let optimizer = Options {
        beta1: 0.5,
        weight_decay: 0.1,
        ..Options::default()
    };
    let (tensors, saved) = (specs(&["a"]), header(&file, &specs(&["a"])));
    let load = |names: &[&str]| allowed(&saved, &optimizer, &tensors, &overriding_only(names));
    load(&["beta1", "weight_decay"]).unwrap();
    let refused = load(&["weight_decay"]).unwrap_err();
    assert!(matches!(
        refused,
        Error::OptionDiffers {
            option: "beta1",
            ..
        }
    ));
    let how = "to keep that of the optimizer, name \"beta1\" in the overrides of the load";
    assert!(refused.to_string().ends_with(how), "{refused}");
    let refused = load(&["beta1"]).unwrap_err();
    assert!(matches!(
        refused,
        Error::OptionDiffers {
            option: "weight_decay",
            ..
        }
    ));
    let refused = load(&["beta1", "weight_decay", "beta_2"]).unwrap_err();
    assert!(matches!(refused, Error::UnknownName { name, .. } if name == "beta_2"));
}

/// Pooled sums of another size are refused, whatever may differ.
#[test]
fn the_size_of_pooled_sums_may_not_differ() {
    let pooled = |pooling, size| match pooling {
        Pooling::Band => Options {
            pooling,
            band: size,
            ..Options::default()
        },
        _ => Options {
            pooling,
            rank: size,
            ..Options::default()
        },
    };
    for (pooling, names) in [(Pooling::Band, "band"), (Pooling::Rank, "rank")] {
        let saved = header(&pooled(pooling, 2), &specs(&["a"]));
        let load = |size: usize, load: &LoadOptions| {
            allowed(&saved, &pooled(pooling, size), &specs(&["a"]), load)
        };
        for options in [
            overriding_only(&[names]),
            LoadOptions {
                override_options: true,
                convert_state: true,
                ..LoadOptions::default()
            },
        ] {
            load(2, &options).unwrap();
            let refused = load(1, &options).unwrap_err();
            assert!(
                matches!(&refused, Error::TensorDiffers { tensor, what: "dims of the pooled sums", .. } if tensor == "a"),
                "{refused}"
            );
        }
    }
}

#[test]
fn the_update_of_a_tensor_may_be_named() {
    let options = Options::default();
    let saved = header(&options, &specs(&["a"]));
    let tensors = [specs(&["a"])[0].clone().with_update(Update::Adam)];
    let load = |names: &[&str]| allowed(&saved, &options, &tensors, &overriding_only(names));
    load(&["update"]).unwrap();
    let refused = load(&["master"]).unwrap_err();
    assert!(matches!(
        refused,
        Error::TensorDiffers { what: "update", .. }
    ));
    let how = "the optimizer, if the file has every plane that it needs, name \"update\" in";
    assert!(refused.to_string().contains(how), "{refused}");
}

/// A tensor's own options are compared where they, or those of all, apply.
#[test]
fn own_options_of_tensors_are_compared() {
    let options = Options::default();
    let group = Options {
        beta2: 0.5,
        ..Options::default()
    };
    let plain = specs(&["a", "b"]);
    let mut grouped = plain.clone();
    grouped[1] = grouped[1].clone().with_options(&group);
    let mut same = plain.clone();
    same[0] = same[0].clone().with_options(&options);
    let load = |file: &[TensorSpec], here: &[TensorSpec], names: &[&str]| {
        allowed(
            &header(&options, file),
            &options,
            here,
            &overriding_only(names),
        )
    };
    load(&grouped, &grouped, &[]).unwrap();
    load(&same, &plain, &[]).unwrap();
    load(&grouped, &plain, &["beta2"]).unwrap();
    for (file, here) in [(&grouped, &plain), (&plain, &grouped)] {
        let refused = load(file, here, &[]).unwrap_err();
        assert!(
            matches!(&refused, Error::TensorDiffers { tensor, what: "beta2", .. } if tensor == "b"),
            "{refused}"
        );
    }
}
