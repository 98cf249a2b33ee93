//! State that is read in one place and written in another.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use sonew_kernel::Target;

use super::*;
use crate::dtype::{Dtype, ElementsMut};
use crate::layout::{Chains, Scalars, Update};
use crate::options::{Damping, Graft, Pooling, Rounding};

const STEPS: u64 = 5;

fn tensors() -> Vec<TensorSpec> {
    let spec = |name: &str, dims: &[usize], chains| TensorSpec::new(name, dims).with_chains(chains);
    let mut tensors = vec![
        spec("rows", &[10, 300], Chains::ContiguousLines),
        spec("row-major", &[5, 1111], Chains::Contiguous),
        spec("columns", &[75, 90], Chains::StridedLines),
        spec("column-major", &[90, 75], Chains::Strided),
        spec("tiny", &[17], Chains::Contiguous),
        spec("adam", &[700], Chains::Contiguous).with_update(Update::Adam),
        spec("few bits", &[60, 50], Chains::Contiguous),
    ];
    tensors[3].master = true;
    tensors[6].state = Dtype::Bf16;
    tensors
}

/// Bytes of every plane: of the copy that is current, and of the other one.
type Copies = Vec<[Vec<Vec<u8>>; 2]>;

/// Parameters and current planes after some steps, in each of which one tensor
/// in seven has no gradient; with `twice`, from one copy of the state to the
/// other.
fn run(options: &Options, twice: bool) -> (Vec<Vec<f32>>, Vec<Vec<Vec<u8>>>) {
    let tensors = tensors();
    let mut plan = Plan::new(options, &tensors).unwrap();
    let mut random = Pcg64Mcg::seed_from_u64(11);
    let mut numbers = |t: &TensorSpec| -> Vec<f32> {
        (0..t.len())
            .map(|_| random.random_range(-1.0..1.0))
            .collect()
    };
    let mut params: Vec<Vec<f32>> = tensors.iter().map(&mut numbers).collect();
    let mut copies: Copies = Vec::new();
    for (tensor, param) in plan.tensors.iter().zip(&params) {
        let bytes = tensor.planes.iter().map(|plane| match plane.name.as_str() {
            "master" => bytemuck::cast_slice(param).to_vec(),
            _ => vec![0; plane.len() * plane.dtype.size()],
        });
        let current: Vec<Vec<u8>> = bytes.collect();
        // Nothing of this may be read.
        let other = current
            .iter()
            .map(|bytes| vec![0xff; bytes.len()])
            .collect();
        copies.push([current, other]);
    }
    let step = StepOptions {
        lr: 0.01,
        ..StepOptions::default()
    };
    let mut scalars = vec![Scalars::default(); tensors.len()];
    for number in 1..=STEPS {
        let mut grads: Vec<Vec<f32>> = tensors.iter().map(&mut numbers).collect();
        // The norms of the step before are too long after small gradients, which damping
        // makes small directions of.
        if number == 2 {
            grads.iter_mut().flatten().for_each(|g| *g *= 1e-4);
        }
        let takes_part = |i: usize| i as u64 % 7 + 1 != number;
        let mut buffers = Vec::new();
        for (i, (param, [current, other])) in params.iter_mut().zip(&mut copies).enumerate() {
            let planes = plan.tensors[i].planes.iter();
            let (from, to): (&[Vec<u8>], _) = if twice {
                (current, other)
            } else {
                (&[], current)
            };
            let read = planes.clone().zip(from);
            let read = read.map(|(p, b)| Elements::from_bytes(p.dtype, b));
            let write = planes.zip(to);
            let mut lent = TensorBuffers::new(
                Target::Parameters(ElementsMut::new(param)),
                takes_part(i).then_some(Elements::new(&grads[i])),
                write.map(|(p, b)| ElementsMut::from_bytes(p.dtype, b)),
            );
            if twice {
                lent.read_from(read);
            }
            lent.weight_decay = 0.1;
            lent.scalars = scalars[i];
            buffers.push(lent);
        }
        plan.step(&step, number, &mut buffers).unwrap();
        scalars = buffers.iter().map(|lent| lent.scalars).collect();
        drop(buffers);
        for (i, copies) in copies.iter_mut().enumerate() {
            if twice && takes_part(i) {
                copies.swap(0, 1);
            }
        }
    }
    let current = copies.into_iter().map(|[current, _]| current);
    (params, current.collect())
}

#[test]
fn a_step_from_one_copy_of_the_state_to_another_has_the_same_bits() {
    let variants = [
        Options::default(),
        Options {
            band: 4,
            damping: Damping::Relative,
            graft: Graft::NormalizedRmsprop,
            ..Options::default()
        },
        Options {
            graft: Graft::None,
            rounding: Rounding::Stochastic,
            ..Options::default()
        },
        Options {
            beta2: 0.5,
            eps: 1e-3,
            lagged_norms: Some(true),
            ..Options::default()
        },
    ];
    let pooled = |band, lagged_norms| Options {
        band,
        pooling: Pooling::Band,
        lagged_norms,
        ..Options::default()
    };
    let variants = variants
        .into_iter()
        .chain([pooled(1, None), pooled(20, Some(false))])
        .chain([Pooling::Rank, Pooling::All].map(|pooling| Options {
            pooling,
            ..pooled(1, None)
        }));
    for options in variants {
        assert!(run(&options, true) == run(&options, false), "{options:?}");
    }
}
