//! A datagram on its way out, as every system's backend takes it.

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) base: *const u8,
    pub(crate) length: usize,
    /// Which of the addresses; [`NO_ADDRESS`] on a connected socket.
    pub(crate) to: u32,
}

// SAFETY: a pointer is only followed by `send`, whose caller vouches for it.
unsafe impl Send for Item {}
// SAFETY: as above.
unsafe impl Sync for Item {}

/// The address of a datagram that has none.
pub(crate) const NO_ADDRESS: u32 = u32::MAX;
