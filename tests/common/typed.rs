//! Numbers of a type that is chosen at run time.

use sonew::dtype::{bf16, f16, Dtype, Element, Elements, ElementsMut};

pub enum Numbers {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl Numbers {
    /// Rounds to nearest.
    pub fn new(dtype: Dtype, x: &[f64]) -> Numbers {
        let x = x.iter().copied();
        match dtype {
            Dtype::F32 => Numbers::F32(x.map(|x| x as f32).collect()),
            Dtype::F64 => Numbers::F64(x.collect()),
            Dtype::Bf16 => Numbers::Bf16(x.map(bf16::from_f64).collect()),
            Dtype::F16 => Numbers::F16(x.map(f16::from_f64).collect()),
        }
    }

    pub fn elements(&self) -> Elements<'_> {
        match self {
            Numbers::F32(x) => Elements::new(x),
            Numbers::F64(x) => Elements::new(x),
            Numbers::Bf16(x) => Elements::new(x),
            Numbers::F16(x) => Elements::new(x),
        }
    }

    pub fn elements_mut(&mut self) -> ElementsMut<'_> {
        match self {
            Numbers::F32(x) => ElementsMut::new(x),
            Numbers::F64(x) => ElementsMut::new(x),
            Numbers::Bf16(x) => ElementsMut::new(x),
            Numbers::F16(x) => ElementsMut::new(x),
        }
    }

    pub fn to_f64(&self) -> Vec<f64> {
        widen(self.elements())
    }
}

/// The same numbers in float64.
pub fn widen(x: Elements<'_>) -> Vec<f64> {
    fn widened<T: Element + Copy + Into<f64>>(x: Elements<'_>) -> Vec<f64> {
        let x = x.as_slice::<T>().expect("it is of this type");
        x.iter().map(|&x| x.into()).collect()
    }
    match x.dtype() {
        Dtype::F32 => widened::<f32>(x),
        Dtype::F64 => widened::<f64>(x),
        Dtype::Bf16 => widened::<bf16>(x),
        Dtype::F16 => widened::<f16>(x),
    }
}
