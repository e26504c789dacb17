//! Kernels on slices of the host's memory, for CPU backends.
//!
//! Work is divided by rows into pieces of a fixed size and summed in a fixed
//! order, so that a result does not depend on the number of threads. Slices are
//! contiguous and row-major.

pub(super) mod attention;
pub(super) mod gated;
mod math;
pub(super) mod product;
pub(super) mod rms_norm;
pub(super) mod rope;
pub(super) mod token_scores;

pub(super) use math::{scale, softmax_cross_entropy};

/// Elements of a piece of work: small enough for a cache, large enough to be
/// worth a thread.
const PIECE: usize = 1 << 14;
