//! What steps compute: against independent implementations, in every layout, type, number of
//! threads and instruction set. One program, since what they share is compiled once then.

#[path = "../common/mod.rs"]
mod common;

mod bits;
mod blocks;
mod empty;
mod extremes;
mod fading;
mod golden;
mod gradients;
mod lagged;
mod master;
mod oracle;
mod plan;
mod pooled;
mod properties;
mod regret;
mod sixteen_bits;
mod smooth;
mod stages;
mod step_counts;
mod threads;
