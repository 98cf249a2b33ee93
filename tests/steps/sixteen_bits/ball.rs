//! Numbers with a bound on how far off a computation may be.

use std::ops::{Add, Div, Mul, Sub};

use crate::common::ULP32;

/// Bound on the relative error of one operation in float32, including the error of
/// constants among its operands.
const ARITHMETIC: f64 = 4.0 * ULP32;

/// An exact number, and a bound on the error of a computed one.
#[derive(Debug, Clone, Copy)]
pub struct Ball {
    pub exact: f64,
    pub error: f64,
}

impl Ball {
    pub fn exact(exact: f64) -> Ball {
        Ball { exact, error: 0.0 }
    }

    /// The largest magnitude.
    fn most(self) -> f64 {
        self.exact.abs() + self.error
    }

    /// The smallest value.
    pub fn least(self) -> f64 {
        self.exact - self.error
    }

    /// Adds the error of a rounding, relative to the result's magnitude.
    pub fn rounded(self, unit: f64) -> Ball {
        let error = self.error + unit * self.most();
        Ball { error, ..self }
    }

    fn new(exact: f64, error: f64) -> Ball {
        Ball { exact, error }.rounded(ARITHMETIC)
    }

    pub fn sqrt(self) -> Ball {
        let exact = self.exact.sqrt();
        let least = self.least().max(0.0).sqrt();
        Ball::new(exact, (exact - least).max(self.most().sqrt() - exact))
    }

    /// The norm of a vector.
    pub fn length(all: &[Ball]) -> Ball {
        let length = |of: fn(&Ball) -> f64| all.iter().map(|x| of(x).powi(2)).sum::<f64>().sqrt();
        Ball::new(length(|x| x.exact), length(|x| x.error))
    }
}

impl Add for Ball {
    type Output = Ball;
    fn add(self, b: Ball) -> Ball {
        Ball::new(self.exact + b.exact, self.error + b.error)
    }
}

impl Sub for Ball {
    type Output = Ball;
    fn sub(self, b: Ball) -> Ball {
        Ball::new(self.exact - b.exact, self.error + b.error)
    }
}

impl Mul for Ball {
    type Output = Ball;
    fn mul(self, b: Ball) -> Ball {
        let error = self.error * b.most() + self.exact.abs() * b.error;
        Ball::new(self.exact * b.exact, error)
    }
}

impl Div for Ball {
    type Output = Ball;
    fn div(self, b: Ball) -> Ball {
        let exact = self.exact / b.exact;
        let least = b.exact.abs() - b.error;
        assert!(least > 0.0, "the divisor may be zero");
        Ball::new(exact, (self.error + exact.abs() * b.error) / least)
    }
}

impl Mul<Ball> for f64 {
    type Output = Ball;
    fn mul(self, b: Ball) -> Ball {
        Ball::exact(self) * b
    }
}
