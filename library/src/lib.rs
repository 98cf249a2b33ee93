//! Has no code: it makes cargo build `libsonew.so` and `libsonew.a`, from this
//! repository, with an allocator of their own. A Rust program that depends on the crate
//! `sonew` keeps its allocator, because it does not depend on this one.
