//! Operations with a backward pass of their own.
//!
//! Each is written once over Burn's backend trait, so that every backend runs
//! it; a backend may override it with a kernel.

#[allow(deprecated)] // Burn deprecates ndarray; it stays available here by name.
mod cross_entropy;

pub use cross_entropy::linear_cross_entropy;
