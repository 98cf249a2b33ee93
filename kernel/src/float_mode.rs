//! The floating-point mode of the calling thread.
//!
//! Hosts change it (XLA calls its handlers with subnormals flushed to zero);
//! results must not depend on it, and the host must find it as it was.

/// While this lives, the thread rounds to nearest, keeps subnormals and traps
/// nothing. Dropping it restores what was there.
pub struct FloatMode {
    saved: Register,
}

impl FloatMode {
    /// Saves the thread's mode and sets the default one.
    #[must_use]
    pub fn set_default() -> Self {
        let saved = read();
        // To set the register takes longer than to read it, and calls are nested.
        if saved != DEFAULT {
            write(DEFAULT);
        }
        FloatMode { saved }
    }
}

impl Drop for FloatMode {
    fn drop(&mut self) {
        write(self.saved);
    }
}

#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    pub(super) type Register = u32;
    /// MXCSR at reset: every exception masked, nearest, subnormals kept.
    pub(super) const DEFAULT: Register = 0x1f80;

    pub(super) fn read() -> Register {
        let mut value: Register = 0;
        // SAFETY: stores MXCSR to a local of the right size.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut value, options(nostack)) };
        value
    }

    pub(super) fn write(value: Register) {
        // SAFETY: `value` is the default or what `read` gave. The compiler
        // assumes the default mode, which is what this establishes for the
        // kernels; the host's own mode comes back before its code runs.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &value, options(nostack)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    pub(super) type Register = u64;
    /// FPCR: nearest, subnormals kept, NaN propagated, nothing trapped.
    pub(super) const DEFAULT: Register = 0;

    pub(super) fn read() -> Register {
        let value: Register;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nostack)) };
        value
    }

    pub(super) fn write(value: Register) {
        // SAFETY: as on x86-64: the default mode, or what the host had.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack)) };
    }
}

/// Elsewhere the mode is left alone: plain Rust promises the default one.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    pub(super) type Register = ();
    pub(super) const DEFAULT: Register = ();
    pub(super) fn read() -> Register {}
    pub(super) fn write((): Register) {}
}

use register::{read, write, Register, DEFAULT};
