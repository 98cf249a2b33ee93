//! The kernels, as the rest of the library calls them: each finds the loop for the
//! types of the buffers.

use arrayvec::ArrayVec;

use crate::access::{Access, Run, TargetRun};
use crate::apply::{Deliver, Write};
use crate::buffers::MAX_PLANES;
use crate::element::{with_element, with_state, Stored};
use crate::isa::Scalar;
use crate::norms::{largest_lane, GradientSquares, LargestL1};
use crate::read::{Nesterov, Read, Scale};
use crate::runs::{later, padded, padded_mut, with_padded};
use crate::simd::{is_single, rounded, Kernel, Number, LANES};
use crate::update::Update;
use crate::workspace::Arrays;
use crate::{
    Apply, Coordinates, Dtype, Factor, Gradient, Incoming, Isa, Largest, Reading, Rule, Shape,
    Squares, TakenIn, Workspace,
};

/// The kernels of an instruction set for one type of arithmetic, float32 or
/// float64.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    pub(crate) arithmetic: Dtype,
}

/// Does something in the type of the arithmetic.
macro_rules! in_arithmetic {
    ($self:ident, $T:ident => $body:expr) => {
        match $self.arithmetic {
            $crate::dtype::Dtype::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(crate) use in_arithmetic;

impl Kernels {
    /// Kernels that compute in float64 if `arithmetic` is that, or in float32.
    pub fn new(isa: Isa, arithmetic: Dtype) -> Self {
        Kernels { isa, arithmetic }
    }

    /// The type that is computed in.
    pub fn arithmetic(&self) -> Dtype {
        self.arithmetic
    }

    pub(crate) fn call<T: Scalar, K: Kernel<T>>(&self, kernel: K) -> K::Output {
        T::run(self.isa, kernel)
    }

    /// Starts in a tensor of this shape.
    pub fn begin(&self, work: &mut Workspace, shape: Shape) {
        in_arithmetic!(self, T => work.begin::<T>(shape))
    }

    /// Ends a chunk of which so many directions were at hand.
    pub fn advance(&self, work: &mut Workspace, count: usize) {
        in_arithmetic!(self, T => work.advance::<T>(count))
    }

    /// Makes `count` new coordinates, from the `from`-th on, ones that do not
    /// exist.
    pub fn pad(&self, work: &mut Workspace, from: usize, count: usize) {
        in_arithmetic!(self, T => work.pad::<T>(from, count))
    }

    /// Makes the gradient of `count` neighbours that do not exist zero (see
    /// [`Kernels::gradient`]).
    pub fn pad_gradient(&self, work: &mut Workspace, at: (usize, usize), count: usize) {
        in_arithmetic!(self, T => work.pad_gradient::<T>(at, count))
    }

    /// Says of `count` coordinates how many of their chain follow: `rest` after
    /// the last of them, and `step` more after each before it.
    pub fn set_reach(
        &self,
        work: &mut Workspace,
        which: Coordinates,
        (from, count): (usize, usize),
        rest: usize,
        step: usize,
    ) {
        in_arithmetic!(self, T => work.set_reach::<T>(which, (from, count), rest, step))
    }

    /// Copies `scale * gradient` of a run: of the `neighbour`-th neighbours, from the
    /// `from`-th coordinate on.
    pub fn gradient(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        run: Run,
        (neighbour, from): (usize, usize),
        scale: Factor,
    ) {
        let (run, dtype) = (access.gradient(run), access.gradient_dtype());
        in_arithmetic!(self, T => {
            let arrays = work.arrays::<T>();
            let to = &mut arrays.new.gradient[neighbour * arrays.new.at.gradient_step + from..];
            let to = to.as_chunks_mut().0;
            with_element!(dtype, E => padded::<E>(run, |first, from| {
                let to = &mut to[first..];
                self.call(Scale { from, to, scale });
            }))
        })
    }

    /// A run of a state plane comes into the chunk, from the `from`-th new coordinate
    /// on.
    pub fn read(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        run: Run,
        (plane, from): (usize, usize),
        reading: Reading,
    ) {
        let (gradient, gradient_dtype) = (access.gradient(run), access.gradient_dtype());
        let (run, dtype) = (access.plane(plane, run), access.state_dtype());
        let ahead = access.ahead() * dtype.size();
        in_arithmetic!(self, T => {
            let arrays = work.arrays::<T>();
            let to = &mut arrays.state[plane * arrays.new.plane + arrays.new.at.new + from..];
            let to = to.as_chunks_mut().0;
            with_state!(T, dtype, E => padded::<E>(run, |first, from| {
                let to = &mut to[first..];
                self.call(Read { from, to, ahead, reading });
            }));
            if let Reading::Nesterov { by, scale, .. } = reading {
                with_element!(gradient_dtype, E => padded::<E>(gradient, |first, gradient| {
                    let momentum = &mut to[first..];
                    self.call(Nesterov { gradient, momentum, by, scale });
                }));
            }
        })
    }

    /// The state of a run comes into the chunk, and takes in the gradient if there is
    /// one; the diagonal in the chunk becomes what divides the momentum.
    pub fn update(
        &self,
        work: &mut Workspace,
        access: &mut Access<'_>,
        rule: &Rule,
        incoming: &Incoming,
        taken_in: &mut TakenIn,
    ) {
        if incoming.gradient == Gradient::None {
            for plane in 0..2 + work.shape().band {
                let at = (plane, incoming.from);
                self.read(work, access, incoming.run, at, rule.reading(plane));
            }
            return;
        }
        in_arithmetic!(self, T => with_state!(T, access.state_dtype(), E => {
            let mut planes = ArrayVec::new();
            // SAFETY: the access is borrowed exclusively, and no other of its planes
            // are in use.
            unsafe { access.planes(incoming.run, 0, &mut planes) };
            let len = planes[0].len();
            if len.is_multiple_of(size_of::<[E; LANES]>()) {
                let planes = &mut planes;
                return self.update_whole::<T, E>(work, access, rule, incoming, planes, taken_in);
            }
            with_padded::<MAX_PLANES>(&mut planes, size_of::<E>(), |planes| {
                self.update_whole::<T, E>(work, access, rule, incoming, planes, taken_in);
            });
        }))
    }

    pub(crate) fn update_whole<T: Scalar, E: Stored>(
        &self,
        work: &mut Workspace,
        access: &Access<'_>,
        rule: &Rule,
        incoming: &Incoming,
        planes: &mut [&mut [u8]],
        taken_in: &mut TakenIn,
    ) {
        let band = work.shape().band;
        let noise = &mut ArrayVec::new();
        access.noise(noise);
        let Arrays { state, new, .. } = work.arrays::<T>();
        macro_rules! update {
            ($BAND:literal) => {{
                let update = &mut Update::<T, E, $BAND, false>::new(
                    new, band, access, rule, incoming, planes, 0, noise, taken_in,
                );
                self.call((update, state))
            }};
        }
        match const { is_single::<T>() } && self.is_fast() && band > 0 {
            true => update!(1),
            false => update!(0),
        }
    }

    /// Whether a gradient can be read where it lies: it has the type of the arithmetic, and
    /// a number of that type scales it.
    pub fn reads_in_place(&self, access: &Access<'_>, rule: &Rule) -> bool {
        access.gradient_dtype() == self.arithmetic && rule.scale.is_plain()
    }

    /// Whether there are specializations: for float32, on every instruction set but plain
    /// Rust.
    pub(crate) fn is_fast(&self) -> bool {
        self.arithmetic != Dtype::F64 && self.isa.is_fast()
    }

    /// Directions of a run that were kept, from the `kept`-th on, reach their target.
    pub fn deliver_kept(&self, access: &mut Access<'_>, run: Run, kept: usize, apply: Apply) {
        // SAFETY: the access is borrowed exclusively.
        let (kept, target) = unsafe { (access.kept(kept, run.len), access.target(run)) };
        let Some(kept) = kept else { return };
        in_arithmetic!(self, T => {
            let direction = bytemuck::cast_slice::<u8, T>(kept).as_chunks().0;
            self.deliver::<T>(direction, target, apply)
        })
    }

    pub(crate) fn deliver<T: Scalar>(
        &self,
        direction: &[[T; LANES]],
        target: TargetRun<'_>,
        apply: Apply,
    ) {
        let TargetRun {
            to,
            dtype,
            master,
            noise,
            ahead,
        } = target;
        match (apply, master) {
            (Apply::Write { scale }, _) => with_element!(dtype, E => {
                padded_mut::<E>(to, |first, to| {
                    let (from, noise) = (&direction[first..], later(noise, first));
                    self.call::<T, _>(Write { from, to, scale, noise, are_directions: true });
                })
            }),
            (Apply::Update { rate, decay }, None) => with_element!(dtype, E => {
                padded_mut::<E>(to, |first, params| {
                    let (direction, noise) = (&direction[first..], later(noise, first));
                    self.call(Deliver { direction, params, rate, decay, noise, ahead });
                })
            }),
            // The master is the parameter; what is in few bits is its copy.
            (Apply::Update { rate, decay }, Some(master)) => {
                padded_mut::<f32>(master, |first, params| {
                    let (direction, noise) = (&direction[first..], None);
                    self.call(Deliver {
                        direction,
                        params,
                        rate,
                        decay,
                        noise,
                        ahead,
                    });
                });
                let (scale, noise, are_directions) = (Factor::ONE, None, false);
                with_element!(dtype, E => padded_mut::<E>(to, |first, to| {
                    padded::<f32>(&master[first * LANES * size_of::<f32>()..], |later, from| {
                        let to = &mut to[later..];
                        self.call::<T, _>(Write { from, to, scale, noise, are_directions });
                    });
                }))
            }
        }
    }

    /// The sum of squares of `scale * gradient` over a run; NaN if one of them
    /// is not finite.
    pub fn gradient_squares(&self, access: &Access<'_>, run: Run, scale: Factor) -> f64 {
        let (run, dtype) = (access.gradient(run), access.gradient_dtype());
        let mut squares = Squares::default();
        let mut finite = true;
        in_arithmetic!(self, T => with_element!(dtype, E => {
            padded::<E>(run, |_, gradient| {
                let sums = &mut squares.0;
                finite &= self.call::<T, _>(GradientSquares { gradient, scale, sums });
            });
        }));
        if finite {
            squares.total()
        } else {
            f64::NAN
        }
    }

    /// The largest number of all lanes.
    pub fn largest(&self, mut largest: Largest) -> f64 {
        in_arithmetic!(self, T => largest_lane::<T>(largest.lanes()))
    }

    /// The largest `H_jj + |H_j,j-1|` of `count` new coordinates, which are not
    /// damped: the l1 norm of a row's lower part, as the authors' JAX code takes
    /// it for relative damping.
    pub fn largest_l1(&self, work: &mut Workspace, count: usize) -> f64 {
        let band = work.shape().band;
        in_arithmetic!(self, T => {
            let arrays = work.arrays::<T>();
            let (plane, at) = (arrays.new.plane, arrays.new.at);
            let (diagonal, others) = arrays.state[plane..].split_at(plane);
            let diagonal = &diagonal[at.new..][..count];
            let before = (band > 0).then(|| &others[at.previous..][..count]);
            let (whole, rest) = diagonal.as_chunks();
            let largest = self.call(LargestL1 {
                diagonal: whole,
                before: before.map(|before| before.as_chunks().0),
            });
            let l1 = |i: usize| {
                let entry = before.map_or(0.0, |before| before[i].to_f64().abs());
                rounded::<T>(diagonal[i].to_f64() + entry)
            };
            let rest = (count - rest.len()..count).map(l1);
            rest.fold(largest, |a, b| if a < b { b } else { a })
        })
    }

    /// `H_jj + |H_j+1,j|` of the `i`-th new coordinate.
    pub fn l1_of_first(&self, work: &mut Workspace, i: usize) -> f64 {
        in_arithmetic!(self, T => work.l1_of_first::<T>(i))
    }
}
