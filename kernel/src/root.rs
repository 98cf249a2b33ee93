//! Inverse square roots without a division.

use super::simd::SingleRegister;

/// `1 / sqrt(x)` of normal float32 numbers, with a relative error below `1.5 2^-23`. Of other
/// numbers the result means nothing.
///
/// A root and a division keep a processor's divider busy for long, which Adam's direction
/// needs, too; these are multiplications, which run beside it. An integer operation halves the
/// exponent; then come a step of Newton's, with J. Kadlec's constants for the least error, and
/// one of Halley's. Each operation rounds once, so that the bits are the same everywhere.
#[inline(always)]
pub(crate) fn inverse_root<R: SingleRegister>(isa: R::Isa, x: R) -> R {
    let negative_half = x.shr_bits::<1>().xor_bits(R::splat_bits(isa, u32::MAX));
    let y = negative_half.add_bits(R::splat_bits(isa, 0x5f1f_fff9 + 1));
    // Their relative error is below 6.5e-4.
    let residue = x.mul(y).neg_mul_add(y, R::splat(isa, 2.389_244_6));
    let y = y.mul(R::splat(isa, 0.703_952_25)).mul(residue);
    // Then it is that of rounding.
    let residue = x.mul(y).neg_mul_add(y, R::splat(isa, 1.0));
    let factor = residue.mul_add(R::splat(isa, 0.375), R::splat(isa, 0.5));
    y.mul(residue).mul_add(factor, y)
}

#[cfg(test)]
mod tests {
    use crate::simd::{Kernel, Number, Vector, LANES};
    use crate::{Dtype, Isa, Kernels};

    struct Roots<'a>(&'a mut [[f32; LANES]]);

    impl Kernel<f32> for Roots<'_> {
        type Output = ();

        #[inline(always)]
        fn run<V: Vector<Scalar = f32>>(self, isa: V::Isa) {
            for x in self.0 {
                V::load(isa, x).inverse_root(isa).store(x);
            }
        }
    }

    fn roots(isa: Isa, of: &[f32]) -> Vec<f32> {
        let mut vectors: Vec<[f32; LANES]> = of.as_chunks().0.to_vec();
        Kernels::new(isa, Dtype::F32).call(Roots(&mut vectors));
        vectors.concat()
    }

    /// All fractions that matter, at odd and even exponents, and all exponents.
    fn numbers() -> Vec<f32> {
        let fractions = (0..1 << 24)
            .step_by(37)
            .map(|bits| f32::from_bits((126 << 23) + bits));
        let exponents = (1..255_u32).flat_map(|e| {
            [0, 1, 0x2a_aaaa, 0x7f_ffff].map(|fraction| f32::from_bits((e << 23) + fraction))
        });
        let mut all: Vec<f32> = fractions.chain(exponents).collect();
        all.resize(all.len().next_multiple_of(LANES), 1.0);
        all
    }

    #[test]
    fn inverse_roots_are_right_to_the_last_bits() {
        let of = numbers();
        let mut worst: f64 = 0.0;
        for (x, y) in of.iter().zip(roots(Isa::best(), &of)) {
            let exact = 1.0 / x.to_f64().sqrt();
            worst = worst.max((y.to_f64() - exact).abs() / exact);
        }
        assert!(worst < 1.5 / f64::from(1 << 23), "{worst}");
    }

    #[test]
    fn they_have_the_same_bits_on_every_instruction_set() {
        let of = numbers();
        let best = roots(Isa::best(), &of);
        for isa in Isa::available() {
            let same = roots(isa, &of)
                .iter()
                .zip(&best)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}", isa.name());
        }
    }
}
