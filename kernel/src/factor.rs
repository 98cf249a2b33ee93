//! Factors of whole tensors, over more than the range of the arithmetic's type.

use super::simd::Vector;
use crate::Dtype;

/// What multiplies every element of a tensor: `number lift^2`.
///
/// A factor may be outside of the range of the type although the products are
/// inside: that of a norm is, where all directions are tiny. Then `lift` is a power
/// of two that elements are multiplied with first, twice. Otherwise it is 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factor {
    pub(crate) number: f64,
    lift: f64,
}

impl Factor {
    /// 1.
    pub const ONE: Factor = Factor {
        number: 1.0,
        lift: 1.0,
    };

    /// `fraction 2^exponent`, for this arithmetic. The fraction is in `[1, 2)`, but for
    /// its sign, or no factor that could be split: zero, infinite or NaN.
    pub fn new(fraction: f64, exponent: i32, arithmetic: Dtype) -> Self {
        // What is rounded stays within these. From the smallest number that there is, the
        // most brings any product out of the range, which then need not be exact.
        let (least, largest, most) = match arithmetic {
            Dtype::F64 => (f64::MIN_EXP - 1, f64::MAX_EXP - 2, 600),
            _ => (f32::MIN_EXP - 1, f32::MAX_EXP - 2, 100),
        };
        let is_split = !(least..=largest).contains(&exponent);
        if !is_split || fraction == 0.0 || !fraction.is_finite() {
            let exponent = if is_split { 0 } else { exponent };
            return Factor {
                number: fraction * power_of_two(exponent),
                lift: 1.0,
            };
        }
        let beyond = exponent - exponent.clamp(least, largest);
        let half = (beyond + beyond.signum()) / 2;
        let half = half.clamp(-most, most);
        let exponent = (exponent - 2 * half).clamp(least, largest);
        Factor {
            number: fraction * power_of_two(exponent),
            lift: power_of_two(half),
        }
    }

    /// Whether it is but a number of the type.
    pub fn is_plain(&self) -> bool {
        self.lift == 1.0
    }
}

/// `2^exponent`, which is a normal number.
pub fn power_of_two(exponent: i32) -> f64 {
    let biased = exponent + f64::MAX_EXP - 1;
    debug_assert!((1..2 * f64::MAX_EXP - 1).contains(&biased));
    f64::from_bits((biased as u64) << (f64::MANTISSA_DIGITS - 1))
}

/// A factor in every lane.
#[derive(Clone, Copy)]
pub(crate) struct Times<V> {
    pub(crate) number: V,
    lift: V,
}

impl<V: Vector> Times<V> {
    #[inline(always)]
    pub(crate) fn new(isa: V::Isa, factor: Factor) -> Self {
        Times {
            number: V::number(isa, factor.number),
            lift: V::number(isa, factor.lift),
        }
    }

    /// What is to be multiplied by the number. A lift of 1 is multiplied with, too: that
    /// costs less than a loop for each case.
    #[inline(always)]
    pub(crate) fn lifted(self, x: V) -> V {
        x * self.lift * self.lift
    }

    /// The product.
    #[inline(always)]
    pub(crate) fn of(self, x: V) -> V {
        self.lifted(x) * self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In float32, element by element.
    fn product(x: f32, exponent: i32) -> f32 {
        let factor = Factor::new(1.5, exponent, Dtype::F32);
        let (number, lift) = (factor.number as f32, factor.lift as f32);
        assert!(number.is_normal() && lift.is_normal());
        x * lift * lift * number
    }

    #[test]
    fn products_are_right_where_the_type_holds_them() {
        for from in -149..128 {
            let x = 2f64.powi(from) as f32;
            for exponent in -400..400 {
                let exact = 1.5 * 2f64.powi(from + exponent);
                let found = product(x, exponent);
                let normal = f64::from(f32::MIN_POSITIVE)..f64::from(f32::MAX);
                if normal.contains(&exact) {
                    assert_eq!(f64::from(found), exact, "2^{from} 1.5 2^{exponent}");
                } else if exact > 1.0 {
                    assert_eq!(found, f32::INFINITY, "2^{from} 1.5 2^{exponent}");
                } else {
                    assert!(found <= 1.01 * f32::MIN_POSITIVE);
                }
            }
        }
    }

    #[test]
    fn what_the_type_holds_is_not_split() {
        for exponent in -126..127 {
            assert!(Factor::new(-1.25, exponent, Dtype::F32).is_plain());
        }
        for special in [0.0, f64::INFINITY] {
            assert!(Factor::new(special, 0, Dtype::F32).is_plain());
        }
        assert!(Factor::new(1.0, 1022, Dtype::F64).is_plain());
        assert!(!Factor::new(1.0, -1023, Dtype::F64).is_plain());
    }
}
