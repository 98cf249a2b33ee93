//! Element types of buffers.

/// The type of one element of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
}

impl Dtype {
    /// Size of one element in bytes; also its alignment.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
        }
    }

    /// The name that safetensors files use.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
        }
    }
}
