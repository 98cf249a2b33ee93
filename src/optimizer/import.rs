//! Setting the state to one that the caller provides.

use super::state::{zeros, Storage, TensorState};
use super::Optimizer;
use crate::checkpoint::Master;
use crate::dtype::Elements;
use crate::error::{Error, Result};
use crate::layout::{Scalars, TensorSpec, MASTER};
use crate::step::fits;

impl Optimizer {
    /// Replaces the optimizer's state by a copy of the caller's: its step count,
    /// which becomes that of every tensor, too, and for each tensor its planes in the
    /// order of [`planes`](Optimizer::planes), as [`plane`](Optimizer::plane) returns
    /// them. [`change_settings`](Optimizer::change_settings) changes that
    /// of tensors which have not taken part in every step. Master weights are taken as
    /// set, so that the next step does not copy them from the parameters; pooled sums of shards
    /// as [added up over all of them](Optimizer::partial_sums). If the state
    /// was in a live file, that file is closed at its last step, and the new state is in
    /// memory.
    ///
    /// # Errors
    /// Nothing has changed then. [`Error::TensorCount`], [`Error::PlaneCount`],
    /// [`Error::WrongDtype`] and [`Error::WrongLength`]; [`Error::OutOfMemory`].
    pub fn set_state(&mut self, step_count: u64, planes: &[Vec<Elements<'_>>]) -> Result<()> {
        self.between_steps()?;
        self.check_count("planes", planes.len())?;
        for ((spec, state), planes) in self.specs.iter().zip(&self.state).zip(planes) {
            if planes.len() != state.planes.len() {
                return Err(Error::PlaneCount {
                    tensor: spec.name.clone(),
                    count: planes.len(),
                    expected: state.planes.len(),
                });
            }
            for (plane, elements) in state.planes.iter().zip(planes) {
                fits(spec, &plane.name, *elements, plane.dtype, plane.len())?;
            }
        }
        if self.live_file().is_some() {
            let zeroed = |(spec, state): (&TensorSpec, &TensorState)| {
                let planes = state.planes.iter();
                let zeros = planes.map(|plane| zeros(spec, plane).map(Storage::Memory));
                zeros.collect::<Result<Vec<_>>>()
            };
            let memory = self.specs.iter().zip(&self.state).map(zeroed);
            let memory: Vec<_> = memory.collect::<Result<_>>()?;
            self.close_live();
            for (state, elements) in self.state.iter_mut().zip(memory) {
                state.elements = elements;
            }
        }
        for (state, planes) in self.state.iter_mut().zip(planes) {
            for (own, elements) in state.elements.iter_mut().zip(planes) {
                own.copy_from_slice(elements.bytes());
            }
            state.step_count = step_count;
            state.scalars = Scalars::default();
            state.is_partial = false;
            state.master = match state.planes.iter().any(|plane| plane.name == MASTER) {
                true => Master::Set,
                false => Master::Empty,
            };
        }
        self.step_count = step_count;
        self.plan.forget_norm();
        self.fresh = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::options::{Options, StepOptions};

    fn optimizer() -> Optimizer {
        let tensors = [
            TensorSpec::new("a", &[3, 5]),
            TensorSpec::new("b", &[7])
                .with_dtypes(Dtype::F32, Dtype::F32, Dtype::Bf16)
                .with_master(),
        ];
        Optimizer::new(Options::default(), &tensors).unwrap()
    }

    fn step(optimizer: &mut Optimizer, params: &mut [Vec<f32>; 2]) {
        let grads = [vec![0.5f32; 15], vec![-0.25; 7]];
        let [a, b] = params;
        let grads = [Some(&grads[0][..]), Some(&grads[1][..])];
        optimizer
            .step(&StepOptions::default(), &mut [a, b], &grads)
            .unwrap();
    }

    #[test]
    fn a_state_that_was_put_in_place_goes_on_as_where_it_came_from() {
        let mut params = [vec![1.0; 15], vec![2.0; 7]];
        let mut first = optimizer();
        (0..3).for_each(|_| step(&mut first, &mut params));
        let mut second = optimizer();
        let planes = |o: &Optimizer, tensor| {
            let count = o.planes(tensor).unwrap().len();
            let plane = |p| o.plane(tensor, p).unwrap().bytes().to_vec();
            (0..count).map(plane).collect::<Vec<_>>()
        };
        let view = |tensor| -> Vec<Elements<'_>> {
            let count = first.planes(tensor).unwrap().len();
            (0..count)
                .map(|p| first.plane(tensor, p).unwrap())
                .collect()
        };
        second
            .set_state(first.step_count(), &[view(0), view(1)])
            .unwrap();
        let mut copy = params.clone();
        step(&mut first, &mut params);
        step(&mut second, &mut copy);
        assert_eq!(params, copy);
        assert_eq!(second.step_count(), 4);
        for tensor in 0..2 {
            assert_eq!(planes(&first, tensor), planes(&second, tensor));
        }
    }

    #[test]
    fn a_state_from_elsewhere_leaves_a_live_file_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.safetensors");
        let mut params = [vec![1.0; 15], vec![2.0; 7]];
        let mut optimizer = optimizer();
        step(&mut optimizer, &mut params);
        optimizer.make_live(&path).unwrap();
        step(&mut optimizer, &mut params);
        let (a, b, m) = ([9f32; 15], [crate::dtype::bf16::ONE; 7], [9f32; 7]);
        let (a, b, m) = (Elements::new(&a), Elements::new(&b), Elements::new(&m));
        let planes = [vec![a, a, a], vec![b, b, b, m]];
        optimizer.set_state(7, &planes).unwrap();
        assert!(optimizer.live_file().is_none());
        assert_eq!(optimizer.plane(0, 1).unwrap(), a);
        step(&mut optimizer, &mut params);
        assert_eq!(optimizer.step_count(), 8);

        let mode = crate::LoadMode::MapShared;
        let load = crate::LoadOptions {
            mode,
            ..crate::LoadOptions::default()
        };
        optimizer.load(&path, &load, None).unwrap();
        assert_eq!(optimizer.step_count(), 2);
    }

    #[test]
    fn a_state_that_does_not_fit_changes_nothing() {
        let mut params = [vec![1.0; 15], vec![2.0; 7]];
        let mut optimizer = optimizer();
        step(&mut optimizer, &mut params);
        let before = optimizer.plane(0, 0).unwrap().bytes().to_vec();
        let (a, b, m) = ([9f32; 15], [crate::dtype::bf16::ONE; 7], [9f32; 7]);
        let (a, b, m) = (Elements::new(&a), Elements::new(&b), Elements::new(&m));
        let mut refused = |planes: &[Vec<Elements<'_>>]| {
            let error = optimizer.set_state(9, planes).unwrap_err();
            assert_eq!(optimizer.step_count(), 1);
            assert_eq!(optimizer.plane(0, 0).unwrap().bytes(), before);
            error
        };
        let error = refused(&[vec![a, a, a]]);
        assert!(matches!(error, Error::TensorCount { .. }), "{error}");
        let error = refused(&[vec![a, a, a], vec![b, b, b]]);
        assert!(matches!(error, Error::PlaneCount { .. }), "{error}");
        let error = refused(&[vec![a, a, a], vec![b, b, m, m]]);
        assert!(matches!(error, Error::WrongDtype { .. }), "{error}");
        let error = refused(&[vec![a, a, m], vec![b, b, b, m]]);
        assert!(matches!(error, Error::WrongLength { .. }), "{error}");
    }
}
