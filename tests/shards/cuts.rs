//! What a cut between rows leaves: tensors of any shape, with any chains, types and bands,
//! are cut at random rows and put together again. Each entry is compared with what follows
//! from the whole planes and the definition of chains alone.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use rand::Rng;
use sonew::checkpoint::{merge, split, Checkpoint, SplitBy};
use sonew::dtype::{bf16, Dtype, Elements, ElementsMut};
use sonew::layout::{Chains, TensorSpec, Update};
use sonew::options::{Graft, Options};
use sonew::{LoadMode, LoadOptions, Optimizer};

use crate::common::{rng, CHAINS};

/// The arrays of one tensor: for each plane, and the parameter at the end, the numbers of
/// its rows by element of the whole tensor.
type Arrays = Vec<(String, HashMap<usize, f64>)>;

/// The number of elements of a row.
fn row_len(spec: &TensorSpec) -> usize {
    spec.dims[1..].iter().product()
}

/// The elements of these rows, counted in the whole tensor.
fn elements(spec: &TensorSpec, rows: &Range<usize>) -> Range<usize> {
    rows.start * row_len(spec)..rows.end * row_len(spec)
}

/// The tensor with these rows only.
fn part(whole: &TensorSpec, rows: &Range<usize>) -> TensorSpec {
    let all = whole.dims[0];
    let mut spec = whole.clone().with_shard(rows.start, all);
    spec.dims[0] = rows.len();
    spec
}

/// Which element of the whole tensor is `k` after which, where chains go through these rows
/// only. Directly from the definition of chains.
fn neighbours(whole: &TensorSpec, rows: &Range<usize>, k: usize) -> HashMap<usize, usize> {
    let (all, len) = (elements(whole, rows), row_len(whole));
    let last = *whole.dims.last().unwrap();
    let vector = whole.dims.len() == 1;
    let chains: Vec<Vec<usize>> = match whole.chains {
        Chains::ContiguousLines if !vector => {
            let all: Vec<usize> = all.collect();
            all.chunks(last).map(<[usize]>::to_vec).collect()
        }
        Chains::Contiguous | Chains::ContiguousLines => vec![all.collect()],
        Chains::StridedLines => (0..len)
            .map(|col| rows.clone().map(|row| row * len + col).collect())
            .collect(),
        Chains::Strided => {
            let mut in_order: Vec<usize> = all.collect();
            in_order.sort_by_key(|&element| {
                let mut rest = element;
                let dims = whole.dims.iter().rev();
                let digit = |&d: &usize| {
                    let digit = rest % d;
                    rest /= d;
                    digit
                };
                dims.map(digit).collect::<Vec<_>>()
            });
            vec![in_order]
        }
    };
    let pairs = chains.iter().flat_map(|chain| {
        let later = chain.iter().skip(k);
        chain.iter().copied().zip(later.copied())
    });
    pairs.collect()
}

fn sub_diagonal(plane: &str) -> Option<usize> {
    plane.strip_prefix("band.").map(|k| k.parse().unwrap())
}

/// What of `arrays`, of the rows `from`, is left in the rows `to`: entries of the same pair
/// of elements, and zero for others.
fn cut(whole: &TensorSpec, arrays: &Arrays, from: &Range<usize>, to: &Range<usize>) -> Arrays {
    let common = from.start.max(to.start)..from.end.min(to.end).max(from.start.max(to.start));
    let one = |(plane, numbers): &(String, HashMap<usize, f64>)| {
        let pairs =
            sub_diagonal(plane).map(|k| (neighbours(whole, from, k), neighbours(whole, to, k)));
        let entry = |element: usize| {
            let is_same = |(there, here): &(HashMap<_, _>, HashMap<_, _>)| {
                there.get(&element) == here.get(&element)
            };
            match pairs.as_ref().is_none_or(is_same) {
                true => (element, numbers[&element]),
                false => (element, 0.0),
            }
        };
        (plane.clone(), elements(whole, &common).map(entry).collect())
    };
    arrays.iter().map(one).collect()
}

/// Pieces of several ranges of rows, in the rows `to`.
fn put_together(
    whole: &TensorSpec,
    pieces: &[(Range<usize>, Arrays)],
    to: &Range<usize>,
) -> Arrays {
    let mut all: Option<Arrays> = None;
    for (from, arrays) in pieces {
        let next = cut(whole, arrays, from, to);
        match &mut all {
            None => all = Some(next),
            Some(all) => {
                for ((_, numbers), (_, more)) in all.iter_mut().zip(next) {
                    numbers.extend(more);
                }
            }
        }
    }
    all.unwrap()
}

fn numbers(elements: Elements<'_>) -> Vec<f64> {
    match elements.dtype() {
        Dtype::F64 => elements.as_slice::<f64>().unwrap().to_vec(),
        Dtype::F32 => elements
            .as_slice::<f32>()
            .unwrap()
            .iter()
            .map(|&x| x.into())
            .collect(),
        _ => elements
            .as_slice::<bf16>()
            .unwrap()
            .iter()
            .map(|x| x.to_f64())
            .collect(),
    }
}

/// Zeros of this type, in bytes.
fn zeros(dtype: Dtype, len: usize) -> Vec<u64> {
    vec![0; (len * dtype.size()).div_ceil(8)]
}

fn buffer(dtype: Dtype, len: usize, words: &mut [u64]) -> ElementsMut<'_> {
    let bytes = bytemuck::cast_slice_mut(words);
    ElementsMut::from_bytes(dtype, &mut bytes[..len * dtype.size()])
}

/// What an optimizer and the parameters of its one tensor hold.
fn arrays_of(optimizer: &Optimizer, params: Elements<'_>, rows: &Range<usize>) -> Arrays {
    let spec = &optimizer.tensors()[0];
    let places = elements(spec, rows);
    let planes = optimizer.planes(0).unwrap().iter().enumerate();
    let mut all: Arrays = planes
        .map(|(at, plane)| {
            let held = numbers(optimizer.plane(0, at).unwrap());
            (plane.name.clone(), places.clone().zip(held).collect())
        })
        .collect();
    all.push((
        "parameter".to_owned(),
        places.zip(numbers(params)).collect(),
    ));
    all
}

/// A tensor, options, and how it is loaded.
struct Case {
    whole: TensorSpec,
    options: Options,
}

impl Case {
    fn draw(rng: &mut impl Rng) -> Case {
        let ndim = rng.random_range(1..=4);
        let dims: Vec<usize> = (0..ndim).map(|_| rng.random_range(1..=6)).collect();
        let dtypes = [Dtype::F32, Dtype::F64, Dtype::Bf16];
        let params = dtypes[rng.random_range(0..3)];
        let mut whole = TensorSpec::new("t", &dims)
            .with_chains(CHAINS[rng.random_range(0..4)])
            .with_dtypes(params, Dtype::F32, dtypes[rng.random_range(0..3)]);
        whole.master = params != Dtype::F64 && rng.random();
        if rng.random_range(0..6) == 0 {
            whole.update = Update::Adam;
        }
        let graft = [Graft::Adam, Graft::NormalizedRmsprop][rng.random_range(0..2)];
        let options = Options {
            band: rng.random_range(0..=5),
            graft,
            threads: 1,
            ..Options::default()
        };
        Case { whole, options }
    }

    /// An optimizer of some rows.
    fn optimizer(&self, rows: &Range<usize>) -> Optimizer {
        Optimizer::new(self.options.clone(), &[part(&self.whole, rows)]).unwrap()
    }

    /// Loads some rows, and returns what is there then.
    fn loaded(&self, rows: &Range<usize>, paths: &[PathBuf]) -> (Optimizer, Vec<u64>, Arrays) {
        let mut optimizer = self.optimizer(rows);
        let (dtype, len) = (self.whole.params, optimizer.tensors()[0].len());
        let mut params = zeros(dtype, len);
        let load = LoadOptions {
            paths: paths[1..].to_vec(),
            ..LoadOptions::default()
        };
        let buffers = &mut [buffer(dtype, len, &mut params)];
        optimizer.load(&paths[0], &load, Some(buffers)).unwrap();
        let held = buffer(dtype, len, &mut params);
        let arrays = arrays_of(&optimizer, held.elements(), rows);
        (optimizer, params, arrays)
    }

    /// Saves an optimizer of the whole tensor with random numbers, and zeros where entries
    /// have no neighbour.
    fn save_whole(&self, rng: &mut impl Rng, path: &PathBuf) -> Arrays {
        let rows = 0..self.whole.dims[0];
        let mut optimizer = self.optimizer(&rows);
        let planes = optimizer.planes(0).unwrap().to_vec();
        let len = self.whole.len();
        // Every bfloat16 is a float32.
        let mut random = |dtype: Dtype, has: &dyn Fn(usize) -> bool| {
            let mut words = zeros(dtype, len);
            let mut held = buffer(dtype, len, &mut words);
            for at in (0..len).filter(|&at| has(at)) {
                let number = bf16::from_f32(rng.random_range(0.5..2.0));
                match dtype {
                    Dtype::F64 => held.as_mut_slice::<f64>().unwrap()[at] = number.to_f64(),
                    Dtype::F32 => held.as_mut_slice::<f32>().unwrap()[at] = number.to_f32(),
                    _ => held.as_mut_slice::<bf16>().unwrap()[at] = number,
                }
            }
            words
        };
        let mut words = Vec::new();
        for plane in &planes {
            let pairs = sub_diagonal(&plane.name).map(|k| neighbours(&self.whole, &rows, k));
            let has = |at: usize| pairs.as_ref().is_none_or(|pairs| pairs.contains_key(&at));
            words.push(random(plane.dtype, &has));
        }
        let mut params = random(self.whole.params, &|_| true);
        let held = words.iter_mut().zip(&planes);
        let mut held: Vec<_> = held
            .map(|(words, plane)| buffer(plane.dtype, len, words))
            .collect();
        let views: Vec<Elements<'_>> = held.iter_mut().map(|held| held.elements()).collect();
        optimizer.set_state(5, &[views]).unwrap();
        let params = buffer(self.whole.params, len, &mut params);
        optimizer.save(path, Some(&[params.elements()])).unwrap();
        arrays_of(&optimizer, params.elements(), &rows)
    }
}

/// Cuts so many rows at random: some parts may be empty.
fn random_cuts(rng: &mut impl Rng, rows: usize, count: usize) -> Vec<Range<usize>> {
    let mut edges: Vec<usize> = (1..count).map(|_| rng.random_range(0..=rows)).collect();
    edges.extend([0, rows]);
    edges.sort_unstable();
    edges.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[test]
fn every_entry_is_that_of_the_same_two_elements() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, index: usize| folder.path().join(format!("{name}-{index}"));
    let mut rng = rng(11);
    let drawn: Vec<Case> = (0..100).map(|_| Case::draw(&mut rng)).collect();
    // Of several of the chunks in which files are read.
    let long = |chains, state| Case {
        whole: TensorSpec::new("t", &[70, 1001])
            .with_chains(chains)
            .with_dtypes(Dtype::F32, Dtype::F32, state),
        options: Options {
            threads: 1,
            ..Options::default()
        },
    };
    let long = [
        long(Chains::Contiguous, Dtype::F32),
        long(Chains::Strided, Dtype::Bf16),
    ];
    for (number, case) in drawn.into_iter().chain(long).enumerate() {
        let (whole, all) = (&case.whole, 0..case.whole.dims[0]);
        let what = format!("{number}: {whole:?}, band {}", case.options.band);
        let arrays = case.save_whole(&mut rng, &path("whole", 0));

        // One file becomes several.
        let count = rng.random_range(1..=4);
        let parts = random_cuts(&mut rng, all.end, count);
        let mut pieces = Vec::new();
        let mut files = Vec::new();
        for (index, rows) in parts.iter().enumerate() {
            let (optimizer, mut params, held) = case.loaded(rows, &[path("whole", 0)]);
            assert_eq!(held, cut(whole, &arrays, &all, rows), "{what}, {rows:?}");
            let params = buffer(whole.params, optimizer.tensors()[0].len(), &mut params);
            files.push(path("part", index));
            optimizer
                .save(&files[index], Some(&[params.elements()]))
                .unwrap();
            pieces.push((rows.clone(), held));
        }

        // These become others, and one.
        let count = rng.random_range(1..=4);
        for rows in random_cuts(&mut rng, all.end, count) {
            let (.., held) = case.loaded(&rows, &files);
            assert_eq!(
                held,
                put_together(whole, &pieces, &rows),
                "{what}, {rows:?}"
            );
        }
        let opened: Vec<_> = files.iter().map(|f| Checkpoint::open(f).unwrap()).collect();
        merge(&opened, path("merged", 0), &mut |_| ()).unwrap();
        let (.., held) = case.loaded(&all, &[path("merged", 0)]);
        assert_eq!(held, put_together(whole, &pieces, &all), "{what}");

        // A split is what optimizers of the rows would have saved.
        let file = Checkpoint::open(path("merged", 0)).unwrap();
        let split_files: Vec<_> = (0..3).map(|index| path("split", index)).collect();
        split(file, SplitBy::Rows, &split_files, &mut |_| ()).unwrap();
        for (index, file) in split_files.iter().enumerate() {
            let header = Checkpoint::open(file).unwrap().header().clone();
            let spec = &header.tensors[0].spec;
            let first = spec.shard.map_or(0, |shard| shard.first_row);
            let rows = first..first + spec.dims[0];
            let even = (all.end / 3..=all.end.div_ceil(3)).contains(&rows.len());
            assert!(even, "{what}, file {index}: {rows:?}");
            let (optimizer, mut params, _) = case.loaded(&rows, &[path("merged", 0)]);
            let params = buffer(whole.params, spec.len(), &mut params);
            optimizer
                .save(path("expected", 0), Some(&[params.elements()]))
                .unwrap();
            let [split, expected] =
                [file, &path("expected", 0)].map(|file| std::fs::read(file).unwrap());
            assert!(split == expected, "{what}, file {index}");
        }
    }
}

/// A shard goes on from its own file in every mode, with the same bits.
#[test]
fn a_shard_is_mapped_from_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut rng = rng(12);
    let case = Case {
        whole: TensorSpec::new("t", &[6, 5]).with_chains(Chains::Strided),
        options: Options {
            band: 2,
            ..Options::default()
        },
    };
    case.save_whole(&mut rng, &path("whole"));
    let (mut optimizer, ..) = case.loaded(&(1..4), &[path("whole")]);
    optimizer.save(path("part"), None).unwrap();
    optimizer.make_live(path("live")).unwrap();
    let planes = |optimizer: &Optimizer| -> Vec<Vec<u8>> {
        let count = optimizer.planes(0).unwrap().len();
        (0..count)
            .map(|at| optimizer.plane(0, at).unwrap().bytes().to_vec())
            .collect()
    };
    let expected = planes(&optimizer);
    drop(optimizer);
    for (name, mode) in [
        ("part", LoadMode::Read),
        ("part", LoadMode::MapPrivate),
        ("live", LoadMode::Read),
        ("live", LoadMode::MapPrivate),
        ("live", LoadMode::MapShared),
    ] {
        let load = LoadOptions {
            mode,
            ..LoadOptions::default()
        };
        let mut optimizer = case.optimizer(&(1..4));
        optimizer.load(path(name), &load, None).unwrap();
        assert_eq!(planes(&optimizer), expected, "{name} {mode:?}");
        let opened = Optimizer::open(path("part"), LoadMode::Read).unwrap();
        assert_eq!(opened.tensors(), [part(&case.whole, &(1..4))]);
        assert_eq!(planes(&opened), expected);
    }
}
