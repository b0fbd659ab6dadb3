//! The atomics of the way back: the machine's, or those of the model checker.

#[cfg(not(all(test, loom)))]
pub(super) use core::sync::atomic::{AtomicIsize, AtomicPtr, Ordering};
#[cfg(all(test, loom))]
pub(super) use loom::sync::atomic::{AtomicIsize, AtomicPtr, Ordering};
