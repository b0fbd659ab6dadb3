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

/// Fetching cache lines that are about to be written, which takes them away from other cores.
#[cfg(feature = "shared")]
#[derive(Clone, Copy)]
pub(crate) struct ToWrite(());

#[cfg(feature = "shared")]
impl ToWrite {
    /// If the processor can do it. It is asked once, since that may take a microsecond where it is virtual.
    pub(crate) fn if_known() -> Option<Self> {
        static KNOWN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        KNOWN.get_or_init(knows_prefetchw).then_some(Self(()))
    }

    /// Asks for the cache line at `address`, which may be any address.
    #[inline(always)]
    pub(crate) fn prefetch(self, address: *const u8) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: the processor knows the instruction, which changes nothing and never faults, whatever the address.
        unsafe {
            // The intrinsic asks for a line to be read, unless the program is compiled for newer processors only.
            core::arch::asm!("prefetchw [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = address;
    }
}

/// Whether there is the instruction PREFETCHW.
#[cfg(feature = "shared")]
fn knows_prefetchw() -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::__cpuid;

        /// Where a processor says which of its maker's leaves there are, and the leaf that says it.
        const LEAVES: u32 = 0x8000_0000;
        const LEAF: u32 = 0x8000_0001;
        /// The bit in ECX.
        const BIT: u32 = 1 << 8;
        #[allow(unused_unsafe, reason = "newer compilers have it as a safe function")]
        // SAFETY: every such processor has the instruction.
        unsafe {
            __cpuid(LEAVES).eax >= LEAF && __cpuid(LEAF).ecx & BIT != 0
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    false
}
