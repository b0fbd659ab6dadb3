//! Bringing memory into the cache before it is needed, where the processor takes such requests.

/// Bytes that come together: a cache line.
pub(crate) const LINE_BYTES: usize = 64;

/// Asks for `lines` cache lines from `address` on, which may be any address.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8, lines: usize) {
    for line in 0..lines {
        let address = address.wrapping_add(line * LINE_BYTES);
        #[cfg(all(target_arch = "x86_64", target_feature = "sse", not(miri)))]
        // SAFETY: a prefetch reads nothing and never faults, whatever the address.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
        }
        #[cfg(not(all(target_arch = "x86_64", target_feature = "sse", not(miri))))]
        let _ = address;
    }
}
