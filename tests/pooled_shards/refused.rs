//! What shards with pooled correlations are refused, and that a refused call changes nothing.

use sonew::dtype::{Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Options, StepOptions};
use sonew::{Error, LoadMode, LoadOptions, Optimizer, Stage};

use crate::{lines, part, structures};

fn band() -> Options {
    structures()[1].clone()
}

/// Rows 2 to 6 of 9, with 6 coordinates in a chain.
fn shard() -> TensorSpec {
    part(&lines("w", &[9, 6]), &(2..6))
}

const NUMBERS: usize = 5 * 6;

fn stepped() -> (Optimizer, Vec<f32>) {
    let mut optimizer = Optimizer::new(band(), &[shard()]).unwrap();
    let mut params = vec![1f32; 24];
    step(&mut optimizer, &mut params).unwrap();
    (optimizer, params)
}

fn step(optimizer: &mut Optimizer, params: &mut [f32]) -> sonew::Result<()> {
    let grads: Vec<f32> = (1..=params.len()).map(|i| (i as f32).sin()).collect();
    optimizer.step(&StepOptions::default(), &mut [params], &[Some(&grads)])
}

fn partial(optimizer: &Optimizer) -> Vec<f32> {
    let mut sums = vec![f32::NAN; NUMBERS];
    optimizer
        .partial_sums(0, ElementsMut::new(&mut sums))
        .unwrap();
    sums
}

fn held(optimizer: &Optimizer) -> Vec<Vec<u8>> {
    let planes = 0..optimizer.planes(0).unwrap().len();
    planes
        .map(|plane| optimizer.plane(0, plane).unwrap().bytes().to_vec())
        .collect()
}

#[test]
fn nothing_goes_on_with_partial_sums() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let (mut optimizer, mut params) = stepped();
    let before = (held(&optimizer), params.clone());
    let error = step(&mut optimizer, &mut params).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor \"w\" is a shard whose pooled sums of the last step are partial: add them up over \
         all shards, and set them, before the next step or a save"
    );
    macro_rules! is_refused {
        ($call:expr) => {
            refused!($call, Error::PartialSums { tensor } if tensor == "w")
        };
    }
    is_refused!(step(&mut optimizer, &mut params));
    is_refused!(optimizer.save(&path, None));
    is_refused!(optimizer.save_begin(&path, None).map(drop));
    is_refused!(optimizer.size_in_memory(None));
    is_refused!(optimizer.save_to_memory(&mut [0; 10_000], None));
    let grads = vec![0f32; 24];
    let mut lent = [ElementsMut::new(&mut params)];
    let grads = [Some(Elements::new(&grads))];
    is_refused!(optimizer
        .stages(&StepOptions::default(), &mut lent, &grads)
        .map(drop));
    assert!((held(&optimizer), params.clone()) == before);
    assert_eq!(optimizer.step_count(), 1);
    assert!(!path.exists());

    // A copy has them, too.
    let mut copy = optimizer.try_clone().unwrap();
    is_refused!(step(&mut copy, &mut params));
    assert_eq!(partial(&copy), partial(&optimizer));
    // What replaces the state leaves none.
    copy.reset().unwrap();
    step(&mut copy, &mut params).unwrap();
    let planes = before
        .0
        .iter()
        .map(|bytes| Elements::new(bytemuck::cast_slice::<u8, f32>(bytes)));
    copy.set_state(1, &[planes.collect()]).unwrap();
    assert_eq!(partial(&copy), [0f32; NUMBERS]);
    step(&mut copy, &mut params).unwrap();

    let sums = partial(&optimizer);
    assert!(sums[..6].iter().all(|&square| square > 0.0));
    optimizer.set_reduced_sums(0, Elements::new(&sums)).unwrap();
    assert_eq!(held(&optimizer), before.0);
    assert_eq!(partial(&optimizer), [0f32; NUMBERS]);
    optimizer.save(&path, None).unwrap();
    step(&mut optimizer, &mut params).unwrap();
    optimizer
        .load(&path, &LoadOptions::default(), None)
        .unwrap();
    assert_eq!(partial(&optimizer), [0f32; NUMBERS]);
    step(&mut optimizer, &mut params).unwrap();
}

/// Sums are set once: what is set when nothing was to be added changes nothing.
#[test]
fn sums_are_set_once() {
    let (mut optimizer, params) = stepped();
    let ones = vec![1f32; NUMBERS];
    optimizer.set_reduced_sums(0, Elements::new(&ones)).unwrap();
    let set = held(&optimizer);
    let sums: &[f32] = bytemuck::cast_slice(&set[2]);
    assert_eq!(
        (&sums[..NUMBERS], &sums[NUMBERS..]),
        (&[0f32; NUMBERS][..], &ones[..])
    );
    optimizer
        .set_reduced_sums(0, Elements::new(&[7f32; NUMBERS]))
        .unwrap();
    // A step without a gradient leaves the sums of the last one that had one.
    let mut params = params;
    let none: [Option<&[f32]>; 1] = [None];
    optimizer
        .step(&StepOptions::default(), &mut [&mut params], &none)
        .unwrap();
    assert_eq!(partial(&optimizer), [0f32; NUMBERS]);
    optimizer
        .set_reduced_sums(0, Elements::new(&[7f32; NUMBERS]))
        .unwrap();
    assert!(held(&optimizer) == set);
}

#[test]
fn sums_have_a_length_and_a_type() {
    let adam = TensorSpec::new("bias", &[3]).with_update(Update::Adam);
    let double = part(&lines("double", &[9, 6]), &(0..2));
    let double = double.with_dtypes(Dtype::F32, Dtype::F32, Dtype::F64);
    let specs = [shard(), lines("whole", &[4, 6]), adam, double];
    let mut optimizer = Optimizer::new(band(), &specs).unwrap();
    let lens: Vec<_> = (0..4)
        .map(|i| optimizer.partial_sums_len(i).unwrap())
        .collect();
    assert_eq!(lens, [NUMBERS, NUMBERS, 0, NUMBERS]);
    let mut numbers = [1f32; NUMBERS + 1];
    let (less, more) = (NUMBERS - 1, NUMBERS + 1);
    for len in [0, less, more] {
        refused!(
            optimizer.partial_sums(0, ElementsMut::new(&mut numbers[..len])),
            Error::WrongLength { tensor, argument, length, expected: NUMBERS }
                if tensor == "w" && argument == "the partial sums" && length == len
        );
        refused!(
            optimizer.set_reduced_sums(0, Elements::new(&numbers[..len])),
            Error::WrongLength { tensor, argument, length, expected: NUMBERS }
                if tensor == "w" && argument == "the reduced sums" && length == len
        );
    }
    let sums = ElementsMut::new(&mut numbers[..NUMBERS]);
    refused!(
        optimizer.partial_sums(3, sums),
        Error::WrongDtype { tensor, dtype: Dtype::F32, expected: Dtype::F64, .. }
            if tensor == "double"
    );
    refused!(
        optimizer.set_reduced_sums(0, Elements::new(&[0f64; NUMBERS])),
        Error::WrongDtype { tensor, dtype: Dtype::F64, expected: Dtype::F32, .. } if tensor == "w"
    );
    refused!(
        optimizer.partial_sums_len(4),
        Error::UnknownTensor { index: 4, count: 4 }
    );
    refused!(
        optimizer.set_reduced_sums(4, Elements::new(&numbers)),
        Error::UnknownTensor { index: 4, count: 4 }
    );
    assert_eq!(numbers, [1f32; NUMBERS + 1]);
    optimizer
        .partial_sums(1, ElementsMut::new(&mut numbers[..NUMBERS]))
        .unwrap();
    assert_eq!(numbers[..NUMBERS], [0f32; NUMBERS]);
    optimizer
        .partial_sums(2, ElementsMut::<'_>::new(&mut numbers[..0]))
        .unwrap();
}

/// They may be asked for from the last stage on.
#[test]
fn a_step_in_stages_tells_its_sums_when_they_are_there() {
    let mut optimizer = Optimizer::new(band(), &[shard()]).unwrap();
    let (mut params, mut sums) = (vec![1f32; 24], vec![0f32; NUMBERS]);
    let grads: Vec<f32> = (1..=24).map(|i| (i as f32).sin()).collect();
    {
        let mut lent = [ElementsMut::new(&mut params)];
        let grads = [Some(Elements::new(&grads))];
        let step = StepOptions::default();
        let mut stages = optimizer.stages(&step, &mut lent, &grads).unwrap();
        loop {
            let reached = stages.next().unwrap();
            let told = stages.partial_sums(0, ElementsMut::new(&mut sums));
            match reached {
                Some(Stage::Norms) => break told.unwrap(),
                _ => refused!(told, Error::InStages),
            }
        }
        assert!(sums.iter().all(|sum| sum.is_finite()) && sums[0] > 0.0);
        assert_eq!(stages.next().unwrap(), None);
    }
    assert_eq!(partial(&optimizer), sums);
    let (other, _) = stepped();
    assert_eq!(partial(&other), sums);
    // Before the end they cannot be set.
    optimizer.set_reduced_sums(0, Elements::new(&sums)).unwrap();
    let mut lent = [ElementsMut::new(&mut params)];
    let grads = [Some(Elements::new(&grads))];
    let step = StepOptions::default();
    let mut stages = optimizer.stages(&step, &mut lent, &grads).unwrap();
    while stages.next().unwrap() != Some(Stage::Norms) {}
    drop(stages);
    refused!(
        optimizer.set_reduced_sums(0, Elements::new(&sums)),
        Error::InStages
    );
}

#[test]
fn what_cannot_be_a_shard_is_named() {
    let create = |options: Options, spec: TensorSpec| Optimizer::new(options, &[spec]);
    let at_once = || Options {
        lagged_norms: Some(false),
        ..band()
    };
    let error = create(at_once(), shard()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "tensor \"w\" is a shard with pooled correlations, which have to be those of the step \
         before: lagged_norms may not be false"
    );
    refused!(create(at_once(), shard()), Error::PooledShard { tensor } if tensor == "w");
    let strided = |chains| shard().with_chains(chains);
    let vector = part(&lines("w", &[9]), &(2..6));
    for spec in [
        strided(Chains::Strided),
        strided(Chains::StridedLines),
        vector,
    ] {
        let error = create(band(), spec.clone()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "tensor \"w\" is a shard that is cut through its chains, whose correlations cannot be \
             pooled: make rows its chains (contiguous lines), or each part a tensor of its own"
        );
        refused!(create(band(), spec.clone()), Error::PooledCut { tensor } if tensor == "w");
        create(band(), spec.clone().with_update(Update::Adam)).unwrap();
        // All rows are no part.
        let whole = spec.clone().with_shard(0, spec.dims[0]);
        create(at_once(), whole).unwrap();
    }
    create(band(), strided(Chains::Contiguous)).unwrap();
    // No rows are a part.
    refused!(
        create(at_once(), part(&lines("w", &[9, 6]), &(9..9))),
        Error::PooledShard { .. }
    );
}

#[test]
fn a_live_file_has_no_shards_with_pooled_correlations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live");
    let mut optimizer = Optimizer::new(band(), &[shard()]).unwrap();
    refused!(optimizer.make_live(&path), Error::LiveShard { tensor } if tensor == "w");
    assert!(!path.exists() && optimizer.live_file().is_none());
    // Of a live file of all rows, a part can be read.
    let whole = lines("w", &[9, 6]);
    let mut all = Optimizer::new(band(), std::slice::from_ref(&whole)).unwrap();
    all.make_live(&path).unwrap();
    let mut params = vec![1f32; 54];
    (0..3).for_each(|_| step(&mut all, &mut params).unwrap());
    let live = held(&all);
    drop(all);
    let load = |mode| LoadOptions {
        mode,
        ..LoadOptions::default()
    };
    refused!(
        optimizer.load(&path, &load(LoadMode::MapShared), None),
        Error::MappedRows { .. }
    );
    optimizer.load(&path, &load(LoadMode::Read), None).unwrap();
    assert!(held(&optimizer)[2] == live[2]);
}

/// Blocks of a tensor with pooled correlations depend on where it is cut.
#[test]
fn numbers_by_block_are_of_whole_tensors() {
    let (mut optimizer, mut params) = stepped();
    let sums = partial(&optimizer);
    optimizer.set_reduced_sums(0, Elements::new(&sums)).unwrap();
    assert_eq!(shard().block_rows(&band()), 9);
    let grads = vec![1f32; 24];
    let mut lent = [ElementsMut::new(&mut params)];
    let grads = [Some(Elements::new(&grads))];
    let stages = optimizer
        .stages(&StepOptions::default(), &mut lent, &grads)
        .unwrap();
    refused!(
        stages.blocks(),
        Error::BlockCut { tensor, first_row: 2, rows: 4, whole_rows: 9, block_rows: 9 }
            if tensor == "w"
    );
}
