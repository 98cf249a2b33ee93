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
use crate::dtype::Dtype;

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

    /// The kernels of an instruction set from [`Isa::available`], for this
    /// type of arithmetic.
    pub(crate) fn kernels(self, arithmetic: Dtype) -> &'static Kernels {
        assert!(self.supported(), "{} is not available", self.name());
        let [single, double] = match self {
            Isa::Portable => &portable_tables::TABLES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2_tables::TABLES,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512_tables::TABLES,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon_tables::TABLES,
        };
        match arithmetic {
            Dtype::F64 => double,
            _ => single,
        }
    }
}

/// Methods that are one intrinsic each, of the register inside.
macro_rules! intrinsics {
    ($($name:ident($($other:ident),*) = $intrinsic:path;)*) => {$(
        #[inline(always)]
        unsafe fn $name(self $(, $other: Self)*) -> Self {
            Self(unsafe { $intrinsic(self.0 $(, $other.0)*) })
        }
    )*};
}
use intrinsics;

/// The entry points of one instruction set, and the tables that name them: for
/// float32 and for float64. They alone carry the target features; all that
/// they call is inlined into them.
macro_rules! tables {
    ($module:ident, [$($feature:meta)?], $vectors:ident) => {
        mod $module {
            use super::super::block::Entries;
            use super::super::case::Case;
            use super::super::element::Stored;
            use super::super::lines::{Lines, Place};
            use super::super::pass::{Pass, Stretch};
            use super::super::vector::Vector;
            use super::super::window::Window;
            use super::super::{block, damping, gradient, halo, pass as passes, sink, source};
            use super::super::{
                Apply, Denominator, Kernels, Squares, State, Target, Task, Workspace, MAX_PLANES,
            };
            use super::*;

            pub(super) static TABLES: [Kernels; 2] =
                [table::<$vectors::Singles>(), table::<$vectors::Doubles>()];

            const fn table<V: Vector>() -> Kernels {
                Kernels {
                    gradient_squares: gradient_squares::<V>,
                    begin: Workspace::begin::<V::Scalar>,
                    pad: Workspace::pad::<V::Scalar>,
                    pad_gradient: Workspace::pad_gradient::<V::Scalar>,
                    set_reach: Workspace::set_reach::<V::Scalar>,
                    pack: pack::<V>,
                    pack_gradient: pack_gradient::<V>,
                    largest_l1: largest_l1::<V>,
                    l1_of_first: Workspace::l1_of_first::<V::Scalar>,
                    block: block::block::<V, Calls>,
                    deliver: deliver::<V>,
                }
            }

            tables!(@entry [$($feature)?]
                gradient_squares(run: &[u8], dtype: Dtype, scale: f64) -> f64 = gradient::gradient_squares);
            tables!(@entry [$($feature)?]
                pack(work: &mut Workspace, state: &State<'_>, at: usize, denominator: Denominator) -> ()
                = halo::pack);
            tables!(@entry [$($feature)?]
                pack_gradient(work: &mut Workspace, at: usize, run: &[u8], dtype: Dtype, scale: f64) -> ()
                = gradient::pack_gradient);
            tables!(@entry [$($feature)?]
                largest_l1(work: &mut Workspace, at: usize, count: usize) -> f64 = damping::largest_l1);

            struct Calls;
            impl Entries for Calls {
                unsafe fn run<V: Vector, S: Stored, W, const BAND: usize, const BROKEN: bool>(
                    work: &mut Workspace,
                    task: Task<'_>,
                ) -> Squares
                where
                    W: Window<V, BAND>,
                {
                    // SAFETY: passed on from the caller.
                    unsafe { run::<V, S, W, BAND, BROKEN>(work, task) }
                }

                unsafe fn steady<V: Vector, S: Stored, C: Case, W, const BAND: usize, const BROKEN: bool>(
                    pass: &mut Pass<'_, '_, V, S, W, BAND, BROKEN>,
                    work: &mut Workspace,
                    task: &Task<'_>,
                    stretch: &Stretch,
                ) where
                    W: Window<V, BAND>,
                {
                    // SAFETY: passed on from the caller.
                    unsafe { steady::<V, S, C, W, BAND, BROKEN>(pass, work, task, stretch) }
                }

                unsafe fn take_rest<V: Vector, S: Stored, const BAND: usize>(
                    work: &mut Workspace,
                    task: &Task<'_>,
                    at: usize,
                    place: Place,
                    rest: *mut V::Scalar,
                ) {
                    // SAFETY: passed on from the caller.
                    unsafe { take_rest::<V, S, BAND>(work, task, at, place, rest) }
                }

                unsafe fn mend<V: Vector, S: Stored>(
                    planes: &[*mut u8; MAX_PLANES],
                    count: usize,
                    lines: Lines,
                ) {
                    // SAFETY: passed on from the caller.
                    unsafe { mend::<V, S>(planes, count, lines) }
                }

                unsafe fn deliver_rest<V: Vector>(
                    target: &Target<'_>,
                    apply: Apply,
                    u: *const V::Scalar,
                    place: Place,
                ) {
                    // SAFETY: passed on from the caller.
                    unsafe { deliver_rest::<V>(target, apply, u, place) }
                }
            }

            $(#[$feature])?
            unsafe fn run<V: Vector, S: Stored, W, const BAND: usize, const BROKEN: bool>(
                work: &mut Workspace,
                task: Task<'_>,
            ) -> Squares
            where
                W: Window<V, BAND>,
            {
                // SAFETY: as for the other entries.
                unsafe { block::run::<V, Calls, S, W, BAND, BROKEN>(work, task) }
            }

            $(#[$feature])?
            #[inline(never)]
            unsafe fn steady<V: Vector, S: Stored, C: Case, W, const BAND: usize, const BROKEN: bool>(
                pass: &mut Pass<'_, '_, V, S, W, BAND, BROKEN>,
                work: &mut Workspace,
                task: &Task<'_>,
                stretch: &Stretch,
            ) where
                W: Window<V, BAND>,
            {
                // SAFETY: as for the other entries.
                unsafe { passes::steady::<V, Calls, S, C, W, BAND, BROKEN>(pass, work, task, stretch) }
            }

            $(#[$feature])?
            #[cold]
            #[inline(never)]
            unsafe fn take_rest<V: Vector, S: Stored, const BAND: usize>(
                work: &mut Workspace,
                task: &Task<'_>,
                at: usize,
                place: Place,
                rest: *mut V::Scalar,
            ) {
                // SAFETY: as for the other entries.
                unsafe { block::take_rest::<V, S, BAND>(work, task, at, place, rest) }
            }

            $(#[$feature])?
            #[cold]
            #[inline(never)]
            unsafe fn mend<V: Vector, S: Stored>(
                planes: &[*mut u8; MAX_PLANES],
                count: usize,
                lines: Lines,
            ) {
                // SAFETY: as for the other entries.
                unsafe { source::mend::<V, S>(planes, count, lines) }
            }

            $(#[$feature])?
            #[inline(never)]
            unsafe fn deliver_rest<V: Vector>(
                target: &Target<'_>,
                apply: Apply,
                u: *const V::Scalar,
                place: Place,
            ) {
                // SAFETY: as for the other entries.
                unsafe { block::deliver_rest::<V>(target, apply, u, place) }
            }
            tables!(@entry [$($feature)?]
                deliver(kept: &[u8], target: &Target<'_>, apply: Apply) -> () = sink::deliver);
        }
    };
    (@entry [$($feature:meta)?]
        $name:ident($($argument:ident: $type:ty),*) -> $result:ty = $($kernel:ident)::+) => {
        $(#[$feature])?
        unsafe fn $name<V: Vector>($($argument: $type),*) -> $result {
            // SAFETY: the table is reached only where the processor has the
            // instruction set.
            unsafe { $($kernel)::+::<V>($($argument),*) }
        }
    };
}

tables!(portable_tables, [], portable);
#[cfg(target_arch = "x86_64")]
tables!(avx2_tables, [target_feature(enable = "avx2,fma")], avx2);
#[cfg(target_arch = "x86_64")]
tables!(avx512_tables, [target_feature(enable = "avx512f")], avx512);
#[cfg(target_arch = "aarch64")]
tables!(neon_tables, [target_feature(enable = "neon")], neon);
