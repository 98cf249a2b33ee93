//! Elements as they lie in memory become lanes, and lanes elements.

use half::{bf16, f16};

use super::noise::Random;
use super::simd::{Number, Register, SingleRegister, Vector, LANES};
use super::sixteen::Sixteen;

/// A type of stored elements.
pub(crate) trait Stored: bytemuck::Pod {
    /// Whether numbers are rounded to fewer bits. Then every NaN is stored as
    /// the canonical one; otherwise it is stored as it is.
    const ROUNDS: bool;
    /// The smallest normal number: state below it becomes zero.
    const LEAST_NORMAL: f64;

    /// The lanes of stored elements.
    #[inline(always)]
    fn load<V: Vector>(isa: V::Isa, from: &[Self; LANES]) -> V {
        match const { V::INLINES } {
            true => Self::load_inline(isa, from),
            false => Self::load_apart(isa, from),
        }
    }

    /// Rounds, stores, and returns what is stored: to nearest even, or, with
    /// `noise`, to 16 bits by stochastic rounding, the first element having this
    /// index in its plane. From float64, 16 bits are reached by way of float32.
    #[inline(always)]
    fn store<V: Vector>(x: V, isa: V::Isa, to: &mut [Self; LANES], noise: Random) -> V {
        match const { V::INLINES } {
            true => Self::store_inline(x, isa, to, noise),
            false => Self::store_apart(x, isa, to, noise),
        }
    }

    fn load_inline<V: Vector>(isa: V::Isa, from: &[Self; LANES]) -> V;
    fn store_inline<V: Vector>(x: V, isa: V::Isa, to: &mut [Self; LANES], noise: Random) -> V;

    #[inline(never)]
    fn load_apart<V: Vector>(isa: V::Isa, from: &[Self; LANES]) -> V {
        Self::load_inline(isa, from)
    }
    #[inline(never)]
    fn store_apart<V: Vector>(x: V, isa: V::Isa, to: &mut [Self; LANES], noise: Random) -> V {
        Self::store_inline(x, isa, to, noise)
    }

    /// Stores numbers of the arithmetic's type past the caches, and returns them.
    fn stream<V: Vector>(_: V, _: &mut [Self; LANES]) -> V {
        unreachable!("only float32 is stored past the caches");
    }
}

/// An element that is a number of one of the arithmetics. Between the two,
/// every processor converts alike.
macro_rules! float {
    ($type:ident) => {
        impl Stored for $type {
            const ROUNDS: bool = false;
            const LEAST_NORMAL: f64 = $type::MIN_POSITIVE as f64;

            #[inline(always)]
            fn load_inline<V: Vector>(isa: V::Isa, from: &[Self; LANES]) -> V {
                if size_of::<V::Scalar>() == size_of::<$type>() {
                    return V::load(isa, bytemuck::cast_ref(from));
                }
                let mut lanes = [V::Scalar::ZERO; LANES];
                for i in 0..LANES {
                    lanes[i] = V::Scalar::from_f64(from[i].into());
                }
                V::load(isa, &lanes)
            }

            #[inline(always)]
            fn store_inline<V: Vector>(x: V, isa: V::Isa, to: &mut [Self; LANES], _: Random) -> V {
                if size_of::<V::Scalar>() == size_of::<$type>() {
                    x.store(bytemuck::cast_mut(to));
                    return x;
                }
                let mut lanes = [V::Scalar::ZERO; LANES];
                x.store(&mut lanes);
                for i in 0..LANES {
                    to[i] = lanes[i].to_f64() as $type;
                }
                Self::load(isa, to)
            }

            #[inline(always)]
            fn stream<V: Vector>(x: V, to: &mut [Self; LANES]) -> V {
                x.stream(bytemuck::cast_mut(to));
                x
            }
        }
    };
}

float!(f32);
float!(f64);

/// An element of 16 bits, which is read and rounded as a float32.
macro_rules! sixteen {
    ($type:ident) => {
        impl Stored for $type {
            const ROUNDS: bool = true;
            const LEAST_NORMAL: f64 = f32::MIN_POSITIVE as f64;

            #[inline(always)]
            fn load_inline<V: Vector>(isa: V::Isa, from: &[Self; LANES]) -> V {
                let from: &[u16; LANES] = bytemuck::cast_ref(from);
                let mut lanes = [0f32; LANES];
                for i in (0..LANES).step_by(V::Single::LANES) {
                    let x = V::Single::load_u16(isa, &from[i..]);
                    let x = <$type as Sixteen>::read(isa, x);
                    x.store(&mut lanes[i..]);
                }
                f32::load(isa, &lanes)
            }

            #[inline(always)]
            fn store_inline<V: Vector>(
                x: V,
                isa: V::Isa,
                to: &mut [Self; LANES],
                noise: Random,
            ) -> V {
                let to: &mut [u16; LANES] = bytemuck::cast_mut(to);
                // NaN is rare, and a choice in every lane takes long.
                let x = match x.is_finite(isa) {
                    true => x,
                    false => x.canonical(isa),
                };
                let mut lanes = [0f32; LANES];
                f32::store(x, isa, &mut lanes, None);
                let width = V::Single::LANES;
                for i in (0..LANES).step_by(2 * width) {
                    let first = round::<$type, V::Single>(isa, &mut lanes, i, noise);
                    if i + width < LANES {
                        let second = round::<$type, V::Single>(isa, &mut lanes, i + width, noise);
                        V::Single::store_u16_pair(first, second, &mut to[i..]);
                    } else {
                        first.store_u16(&mut to[i..]);
                    }
                }
                f32::load(isa, &lanes)
            }
        }
    };
}

sixteen!(bf16);
sixteen!(f16);

/// Rounds lanes from one on, and returns the words that they are then.
#[inline(always)]
fn round<S: Sixteen, R: SingleRegister>(
    isa: R::Isa,
    lanes: &mut [f32; LANES],
    i: usize,
    noise: Random,
) -> R {
    let x = R::load(isa, &lanes[i..]);
    let words = match noise {
        None => S::round(isa, x),
        Some((noise, index)) => S::round_stochastically(isa, x, noise.bits(isa, index + i)),
    };
    S::read(isa, words).store(&mut lanes[i..]);
    words
}

/// Calls a macro-like closure body for the element type that is known at run
/// time: `with_element!(dtype, E => expression)`.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::Dtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::dtype::Dtype::F64 => {
                type $E = f64;
                $body
            }
            $crate::dtype::Dtype::Bf16 => {
                type $E = half::bf16;
                $body
            }
            $crate::dtype::Dtype::F16 => {
                type $E = half::f16;
                $body
            }
        }
    };
}
/// The same for a type that state can have, whose arithmetic is that of `$T`:
/// float64, where the state is.
macro_rules! with_state {
    ($T:ident, $dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::Dtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::dtype::Dtype::F64 => {
                if const { size_of::<$T>() == size_of::<f64>() } {
                    type $E = f64;
                    $body
                } else {
                    unreachable!("arithmetic on float64 state is float64")
                }
            }
            _ => {
                type $E = half::bf16;
                $body
            }
        }
    };
}

pub(crate) use {with_element, with_state};

/// The whole vectors of a buffer of elements.
#[inline(always)]
pub(crate) fn chunks_mut<E: Stored>(bytes: &mut [u8]) -> &mut [[E; LANES]] {
    bytemuck::cast_slice_mut(bytes).as_chunks_mut().0
}
