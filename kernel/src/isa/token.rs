//! What the files of instruction sets have in common: macros for their tokens and registers.

/// The token of an instruction set, and the functions that carry its target features: all
/// of a kernel is inlined into one of them. `$T => $vector` are the types of arithmetic
/// that it is used for.
macro_rules! token {
    ($features:literal, $detect:ident($($feature:tt),*), $($T:ident => $vector:ty),*) => {
        /// Proves that the processor has the instruction set.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct Token(());

        impl Token {
            pub(crate) fn detect() -> Option<Token> {
                ($(std::arch::$detect!($feature))&&*).then_some(Token(()))
            }
        }

        $(impl Instructions<$T> for Token {
            fn run<K: Kernel<$T>>(self, kernel: K) -> K::Output {
                #[target_feature(enable = $features)]
                fn inside<K: Kernel<$T>>(isa: Token, kernel: K) -> K::Output {
                    let line = crate::isa::token::AlignedLine;
                    std::hint::black_box(&line);
                    kernel.run::<$vector>(isa)
                }
                // SAFETY: there is a token, so the processor has the features.
                unsafe { inside(self, kernel) }
            }
        })*
    };
}

/// A place on the stack where a line of the nearest cache begins. The compiler aligns the stack of
/// a function for its variables, but it is too late for that when it finds out that registers have
/// to be kept there: half of these would cross a line, if the caller's stack begins within one.
#[repr(align(64))]
pub(crate) struct AlignedLine;

/// Operations of a register, one line each where that is enough.
macro_rules! operations {
    ($($(#[$attribute:meta])* fn $name:ident $(<const $n:ident: u32>)? ($($argument:tt)*)
        $(-> $result:ty)? = $body:expr;)*) => {$(
        $(#[$attribute])*
        #[inline(always)]
        #[allow(unused_unsafe)] // Plain Rust is safe.
        fn $name $(<const $n: u32>)? ($($argument)*) $(-> $result)? {
            // SAFETY: a token or a register, which comes from one, proves that the
            // processor has the instructions; slices are as long as a register.
            unsafe { $body }
        }
    )*};
}

pub(super) use {operations, token};
