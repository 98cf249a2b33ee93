//! The instruction sets, and the choice among them.
//!
//! To add one: a file with its vector types, a variant of [`Isa`], and a line
//! in each of its three functions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use super::Kernels;

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Advanced SIMD of 64-bit Arm.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// From the slowest to the fastest.
    const ALL: &'static [Isa] = &[
        Isa::Portable,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon,
    ];

    /// The instruction sets that this processor has, the fastest last.
    pub(crate) fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.iter().copied().filter(|isa| isa.supported())
    }

    /// The fastest that this processor has.
    pub(crate) fn best() -> Isa {
        Isa::available().last().unwrap_or(Isa::Portable)
    }

    /// The name that users see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
        }
    }

    fn supported(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
        }
    }

    /// The kernels of an instruction set from [`Isa::available`].
    pub(crate) fn kernels(self) -> &'static Kernels {
        assert!(self.supported(), "{} is not available", self.name());
        match self {
            Isa::Portable => &portable_f32::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2_f32::TABLE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512_f32::TABLE,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon_f32::TABLE,
        }
    }
}

/// The entry points of one instruction set, vector and choice of element types
/// (parameters, gradients, state), with the table that names them. They alone
/// carry the target features; all that they call is inlined into them.
macro_rules! table {
    ($module:ident, $isa:ident, [$($feature:meta)?], $vector:ty, $P:ty, $G:ty, $S:ty) => {
        mod $module {
            use super::super::vector::Vector;
            use super::super::{apply, direction, length, pack, statistics};
            use super::super::{
                Apply, Array, Average, Kernels, Planes, Reference, Term, Workspace,
            };
            use super::*;

            pub(super) static TABLE: Kernels = Kernels {
                isa: Isa::$isa,
                gradient_squares: gradient_squares_of,
                average: average_of,
                directions: Workspace::directions::<<$vector as Vector>::Scalar>,
                begin: Workspace::begin::<<$vector as Vector>::Scalar>,
                pad: Workspace::pad::<<$vector as Vector>::Scalar>,
                set_reach: Workspace::set_reach::<<$vector as Vector>::Scalar>,
                pack: pack_of,
                largest_l1: largest_l1_of,
                l1_of_first: Workspace::l1_of_first::<<$vector as Vector>::Scalar>,
                direction: direction_of,
                reference: reference_of,
                block_squares: block_squares_of,
                apply: apply_of,
            };

            table!(@entry [$($feature)?] gradient_squares_of(g: &[u8], scale: f64) -> f64
                { length::gradient_squares::<$vector, $G>(g, scale) });
            table!(@entry [$($feature)?] average_of(plane: &mut [u8], g: &[u8], term: Term<'_>, by: Average) -> ()
                { statistics::average::<$vector, $G, $S>(plane, g, term, by) });
            table!(@entry [$($feature)?] pack_of(work: &mut Workspace, array: Array, at: usize, plane: &[u8], factor: f64, add: f64) -> ()
                { pack::pack::<$vector, $S>(work, array, at, plane, factor, add) });
            table!(@entry [$($feature)?] largest_l1_of(work: &mut Workspace, at: usize, count: usize) -> f64
                { pack::largest_l1::<$vector>(work, at, count) });
            table!(@entry [$($feature)?] direction_of(work: &mut Workspace, gamma: f64) -> ()
                { direction::direction::<$vector>(work, gamma) });
            table!(@entry [$($feature)?] reference_of(work: &mut Workspace, array: Array, at: usize, g: &[u8], run: Planes<'_>, reference: Reference) -> ()
                { length::reference::<$vector, $G, $S>(work, array, at, g, run, reference) });
            table!(@entry [$($feature)?] block_squares_of(work: &mut Workspace, array: Array) -> f64
                { length::block_squares::<$vector>(work, array) });
            table!(@entry [$($feature)?] apply_of(direction: &[u8], run: &mut [u8], by: Apply) -> ()
                { apply::apply::<$vector, $P>(direction, run, by) });
        }
    };
    (@entry [$($feature:meta)?] $name:ident($($argument:ident: $type:ty),*) -> $result:ty { $body:expr }) => {
        $(#[$feature])?
        unsafe fn $name($($argument: $type),*) -> $result {
            // SAFETY: the table is reached only where the processor has the
            // instruction set.
            unsafe { $body }
        }
    };
}

table!(portable_f32, Portable, [], portable::F32x16, f32, f32, f32);
#[cfg(target_arch = "x86_64")]
table!(
    avx2_f32,
    Avx2,
    [target_feature(enable = "avx2,fma")],
    avx2::F32x16,
    f32,
    f32,
    f32
);
#[cfg(target_arch = "x86_64")]
table!(
    avx512_f32,
    Avx512,
    [target_feature(enable = "avx512f")],
    avx512::F32x16,
    f32,
    f32,
    f32
);
#[cfg(target_arch = "aarch64")]
table!(
    neon_f32,
    Neon,
    [target_feature(enable = "neon")],
    neon::F32x16,
    f32,
    f32,
    f32
);
