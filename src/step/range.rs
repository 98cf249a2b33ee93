//! Numbers of whole tensors beyond the range of float64, and directions beyond the
//! range of their type.
//!
//! Norms are sums of squares, and factors quotients of norms. Neither need be in the
//! range of float64 where the elements are, and a factor that is need not be in the
//! range of float32 where what it multiplies is.

use std::ops::{Div, Mul};

use sonew_kernel::{power_of_two, Factor};

use crate::dtype::Dtype;

/// A number of float64's precision and any size: `fraction 2^exponent`, the fraction in
/// `[1, 2)` but for its sign. Zero, infinity and NaN have the exponent 0. Results are
/// those of float64, to the bit, wherever it holds them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wide {
    fraction: f64,
    exponent: i32,
}

/// The bits of a float64 without sign and fraction, and those of 1.
const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
const ONE: u64 = 0x3ff0_0000_0000_0000;
/// The bits of a fraction.
const DIGITS: u32 = f64::MANTISSA_DIGITS - 1;

impl From<f64> for Wide {
    fn from(x: f64) -> Self {
        Wide::new(x, 0)
    }
}

impl Mul for Wide {
    type Output = Wide;
    fn mul(self, b: Wide) -> Wide {
        Wide::new(self.fraction * b.fraction, self.exponent + b.exponent)
    }
}

impl Div for Wide {
    type Output = Wide;
    fn div(self, b: Wide) -> Wide {
        Wide::new(self.fraction / b.fraction, self.exponent - b.exponent)
    }
}

impl Wide {
    pub(super) const ZERO: Wide = Wide {
        fraction: 0.0,
        exponent: 0,
    };

    /// `x 2^exponent`.
    #[inline]
    fn new(x: f64, exponent: i32) -> Self {
        let bits = x.to_bits();
        let biased = (bits & EXPONENT) >> DIGITS;
        // Almost all are normal, and a step makes dozens of them.
        if !(1..EXPONENT >> DIGITS).contains(&biased) {
            return Wide::of_not_normal(x, exponent);
        }
        Wide {
            fraction: f64::from_bits(bits & !EXPONENT | ONE),
            exponent: exponent + (biased as i32 - (f64::MAX_EXP - 1)),
        }
    }

    #[cold]
    fn of_not_normal(x: f64, exponent: i32) -> Self {
        match x == 0.0 || !x.is_finite() {
            false => Wide::new(x * power_of_two(64), exponent - 64),
            true => Wide {
                fraction: x,
                exponent: 0,
            },
        }
    }

    /// Times `2^exponent`.
    pub(super) fn shifted(self, exponent: i32) -> Self {
        let has_exponent = self.fraction.to_bits() & EXPONENT == ONE;
        Wide {
            fraction: self.fraction,
            exponent: self.exponent + if has_exponent { exponent } else { 0 },
        }
    }

    pub(super) fn is_finite(self) -> bool {
        self.fraction.is_finite()
    }

    pub(super) fn is_nan(self) -> bool {
        self.fraction.is_nan()
    }

    pub(super) fn is_positive(self) -> bool {
        self.fraction > 0.0
    }

    pub(super) fn sqrt(self) -> Self {
        let odd = self.exponent.rem_euclid(2);
        let root = (self.fraction * f64::from(1 + odd)).sqrt();
        Wide::new(root, (self.exponent - odd) / 2)
    }

    /// The sum of numbers that are not negative, in their order.
    pub(super) fn sum(numbers: impl Iterator<Item = Wide> + Clone) -> Self {
        let positive = numbers.clone().filter(|x| x.is_positive());
        let unit = positive.map(|x| x.exponent).max().unwrap_or(0);
        Wide::new(numbers.map(|x| x.shifted(-unit).to_f64()).sum(), unit)
    }

    /// Rounded to float64: infinite, subnormal or zero where that does not hold it.
    pub(super) fn to_f64(self) -> f64 {
        let (least, largest) = (f64::MIN_EXP - 1, f64::MAX_EXP - 1);
        if (least..=largest).contains(&self.exponent) {
            // The fraction has the exponent 0, or is no number that has one.
            let exponent = (i64::from(self.exponent) << DIGITS) as u64;
            return f64::from_bits(self.fraction.to_bits().wrapping_add(exponent));
        }
        if self.exponent > largest {
            return self.fraction * f64::INFINITY;
        }
        let below = (self.exponent - least).clamp(-100, 0);
        self.fraction * power_of_two(self.exponent.max(least)) * power_of_two(below)
    }

    /// As a factor in this arithmetic.
    pub(super) fn factor(self, arithmetic: Dtype) -> Factor {
        Factor::new(self.fraction, self.exponent, arithmetic)
    }
}

/// The power of two that multiplies a tensor's momentum before directions are computed
/// from it again, after a sum of their squares that is not of use: it was not finite,
/// or so small that directions had too few bits. `None` if the sum is of use, or
/// nothing more can be done. `lift` is the power that it was computed with.
pub(super) fn next_lift(arithmetic: Dtype, squares: Wide, lift: i32) -> Option<i32> {
    // Where a direction is too small after one lift, its momentum is so small that the
    // next does not bring it out of the range, since the diagonal is in the range.
    let (least, largest, lifts): (_, _, &[i32]) = match arithmetic {
        Dtype::F64 => (-900, f64::MAX_EXP, &[440, 880, 1020]),
        _ => (-200, 2 * f32::MAX_EXP, &[64, 126]),
    };
    let next = |size: i32| lifts.iter().copied().find(|&lift| lift > size);
    let too_large = !squares.is_finite() || squares.exponent >= largest;
    match () {
        () if too_large && lift <= 0 => next(-lift).map(|lift| -lift),
        () if too_large || lift < 0 => None,
        () if squares.fraction == 0.0 || squares.exponent < least => next(lift),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of all sizes.
    fn numbers() -> impl Iterator<Item = f64> + Clone {
        let powers = (-1074..1024).step_by(37).map(|e| 1.1 * 2f64.powi(e));
        powers.chain([0.0, 5e-324, f64::MIN_POSITIVE, f64::MAX, f64::INFINITY])
    }

    #[test]
    fn numbers_are_what_they_were() {
        for x in numbers().chain(numbers().map(|x| -x)) {
            assert_eq!(Wide::from(x).to_f64().to_bits(), x.to_bits(), "{x:e}");
        }
        assert!(Wide::from(f64::NAN).to_f64().is_nan());
    }

    #[test]
    fn results_are_those_of_float64_where_it_holds_them() {
        let same = |wide: Wide, plain: f64, what: &str| {
            let holds = plain.is_normal() || !wide.is_finite() || wide.fraction == 0.0;
            if holds && plain.is_finite() {
                assert_eq!(wide.to_f64().to_bits(), plain.to_bits(), "{what}");
            }
        };
        for a in numbers() {
            let wide = Wide::from(a);
            same(wide.sqrt(), a.sqrt(), &format!("the root of {a:e}"));
            for b in numbers() {
                let both = format!("{a:e} and {b:e}");
                same(wide * Wide::from(b), a * b, &both);
                same(wide / Wide::from(b), a / b, &both);
                same(Wide::sum([a, b].map(Wide::from).into_iter()), a + b, &both);
            }
        }
    }

    #[test]
    fn results_beyond_float64_come_back() {
        let (small, large) = (Wide::from(3e-300), Wide::from(7e300));
        assert_eq!((small * small / small).to_f64(), 3e-300);
        assert_eq!((large * large).sqrt().to_f64(), 7e300);
        assert_eq!((large * large).to_f64(), f64::INFINITY);
        assert_eq!((small * small).to_f64(), 0.0);
        let sum = Wide::sum([large * large, large * large].into_iter());
        assert_eq!((sum / large).to_f64(), 1.4e301);
    }

    #[test]
    fn momentum_is_lifted_until_directions_are_of_use() {
        let after = |squares: f64, lift| next_lift(Dtype::F32, squares.into(), lift);
        assert_eq!(after(1.0, 0), None);
        assert_eq!(after(0.0, 0), Some(64));
        assert_eq!(after(1e-70, 64), Some(126));
        assert_eq!(after(0.0, 126), None);
        assert_eq!(after(f64::INFINITY, 0), Some(-64));
        assert_eq!(after(f64::NAN, -64), Some(-126));
        assert_eq!(after(f64::INFINITY, 64), None);
        assert_eq!(after(0.0, -64), None);
    }
}
