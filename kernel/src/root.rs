//! Inverse square roots without a division.

use super::simd::SingleRegister;

/// `1 / sqrt(x)` of normal float32 numbers, with a relative error below `1.5 2^-23`; of others
/// something that is no NaN, unless they are.
///
/// A root and a division keep a processor's divider busy for longer than all else takes that
/// is done to a coordinate. These are multiplications, which run beside it. Half the exponent
/// is an integer operation (see Walczyk, Moroz, Cieslinski, "Improving the accuracy of the
/// fast inverse square root by modifying Newton-Raphson corrections", Entropy 2021); then come
/// a step of Newton's with constants that leave the least error, and one of Halley's. Each
/// operation rounds once, so that the bits are the same everywhere.
#[inline(always)]
pub(crate) fn inverse_root<R: SingleRegister>(isa: R::Isa, x: R) -> R {
    let number = |x: f32| R::splat(isa, x);
    let negative_half = x.shr_bits::<1>().xor_bits(R::splat_bits(isa, u32::MAX));
    let y = negative_half.add_bits(R::splat_bits(isa, 0x5f1f_ffff_u32.wrapping_sub(6) + 1));
    // Relative error 3.5e-2 becomes 6.5e-4.
    let residue = x.mul(y).neg_mul_add(y, number(2.389_244_6));
    let y = y.mul(number(0.703_952_25)).mul(residue);
    // Then it is that of rounding.
    let residue = x.mul(y).neg_mul_add(y, number(1.0));
    let factor = residue.mul_add(number(0.375), number(0.5));
    y.mul(residue).mul_add(factor, y)
}

#[cfg(test)]
mod tests {
    use crate::simd::{Kernel, Scalar, Vector, LANES};
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
        assert!(worst < 1.5 / (1 << 23) as f64, "{worst}");
    }
}
