//! The instruction sets, and the choice among them.
//!
//! Each has a file with its token, its registers, and the function that carries
//! its target features. To add one: such a file, and a variant of [`Set`] with a
//! line in each of the functions below.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod token;

use super::element::Stored;
use super::simd::{Instructions, Kernel, Number};

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// Plain Rust.
    Portable(portable::Token),
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Token),
    /// AVX-512F for float32; AVX2 for float64, which has no specializations.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Token, avx2::Token),
    /// Advanced SIMD of 64-bit Arm.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Token),
}

impl Isa {
    /// The instruction sets that this processor has, the fastest last.
    pub fn available() -> impl Iterator<Item = Isa> {
        let sets = [
            Some(Set::Portable(portable::Token)),
            #[cfg(target_arch = "x86_64")]
            avx2::Token::detect().map(Set::Avx2),
            #[cfg(target_arch = "x86_64")]
            avx512::Token::detect()
                .zip(avx2::Token::detect())
                .map(|(wide, narrow)| Set::Avx512(wide, narrow)),
            #[cfg(target_arch = "aarch64")]
            neon::Token::detect().map(Set::Neon),
        ];
        sets.into_iter().flatten().map(Isa)
    }

    /// The fastest that this processor has.
    pub fn best() -> Isa {
        Isa::available()
            .last()
            .unwrap_or(Isa(Set::Portable(portable::Token)))
    }

    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(..) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => "neon",
        }
    }

    /// Whether it is any faster than plain Rust.
    pub(crate) fn is_fast(self) -> bool {
        !matches!(self.0, Set::Portable(_))
    }
}

/// A floating-point type that kernels compute in: it is also stored, and they run in it.
pub(crate) trait Scalar: Number + Stored + Runs {}

impl<T: Number + Stored + Runs> Scalar for T {}

/// A type of arithmetic that kernels run in.
pub(crate) trait Runs: Sized {
    /// Runs a kernel on an instruction set.
    fn run<K: Kernel<Self>>(isa: Isa, kernel: K) -> K::Output;
}

/// `$avx512` is the token that does what AVX-512 is to do.
macro_rules! runs {
    ($T:ident, $wide:ident, $narrow:ident, $avx512:ident) => {
        impl Runs for $T {
            fn run<K: Kernel<$T>>(isa: Isa, kernel: K) -> K::Output {
                match isa.0 {
                    Set::Portable(token) => match const { K::FOR_SPEED } {
                        true => unreachable!("plain Rust has the general loops only"),
                        false => token.run(kernel),
                    },
                    #[cfg(target_arch = "x86_64")]
                    Set::Avx2(token) => token.run(kernel),
                    #[cfg(target_arch = "x86_64")]
                    Set::Avx512($wide, $narrow) => $avx512.run(kernel),
                    #[cfg(target_arch = "aarch64")]
                    Set::Neon(token) => token.run(kernel),
                }
            }
        }
    };
}

runs!(f32, wide, _narrow, wide);
runs!(f64, _wide, narrow, narrow);

/// Asks for the memory so many bytes ahead, which will be read soon; it need not
/// be there.
#[inline(always)]
pub(crate) fn prefetch<T>(from: &T, ahead: usize) {
    let from = std::ptr::from_ref(from).wrapping_byte_add(ahead);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64 processor; a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// Orders stores past the caches before what other threads are told next.
pub fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64 processor.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
