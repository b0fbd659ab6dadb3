//! What threads share: the machine's atomics, or those of the model checker.

#[cfg(not(all(test, loom)))]
pub(super) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
#[cfg(all(test, loom))]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

/// Lets another thread go on that holds what this one waits for.
pub(super) fn wait_a_little() {
    #[cfg(not(all(test, loom)))]
    std::thread::yield_now();
    #[cfg(all(test, loom))]
    loom::thread::yield_now();
}
