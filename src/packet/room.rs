//! [`Room`]: memory that a closure or a reader fills from the front.

use core::fmt;
use core::mem::MaybeUninit;

/// The memory that [`Allocator::packet_with`](crate::Allocator::packet_with) and its like let a closure fill, from the
/// front.
///
/// ```text
/// ├──── filled ────┼──── written, not counted yet ────┼──── uninitialised ────┤
/// ```
///
/// Sources that read into `&mut [u8]`, as those of the standard library do, write into [`zeroed`](Self::zeroed) and
/// then [`advance`](Self::advance). Pieces at hand are [appended](Self::append). Sources that take uninitialised memory
/// write into [`uninit`](Self::uninit) and then [`assume_init`](Self::assume_init), which is `unsafe`.
pub struct Room<'a> {
    bytes: &'a mut [MaybeUninit<u8>],
    /// How many of the bytes are initialised; never fewer than `filled`.
    initialised: usize,
    /// How many of the bytes the packet will have.
    filled: usize,
    /// Which of several rooms it is.
    place: usize,
}

impl<'a> Room<'a> {
    /// All of `bytes`, none of them filled.
    #[inline]
    pub(crate) fn over(place: usize, bytes: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { bytes, initialised: 0, filled: 0, place }
    }

    /// Which of several rooms it is.
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// The bytes that the packet has so far.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        let filled = &raw const self.bytes[..self.filled];
        // SAFETY: these bytes are initialised.
        unsafe { &*(filled as *const [u8]) }
    }

    /// How many more bytes fit.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.filled
    }

    /// All that is not filled yet, to be written to and then [counted](Self::advance). It is zero where nothing was
    /// written.
    pub fn zeroed(&mut self) -> &mut [u8] {
        self.bytes[self.initialised..].fill(MaybeUninit::new(0));
        self.initialised = self.bytes.len();
        let unfilled = &raw mut self.bytes[self.filled..];
        // SAFETY: these bytes are initialised, and stay so.
        unsafe { &mut *(unfilled as *mut [u8]) }
    }

    /// Counts the next `bytes` bytes as filled.
    ///
    /// # Panics
    /// When they were not all written or [zeroed](Self::zeroed).
    pub fn advance(&mut self, bytes: usize) {
        let written = self.initialised - self.filled;
        assert!(bytes <= written, "cannot advance by {bytes} bytes where {written} are initialised");
        self.filled += bytes;
    }

    /// Fills the next bytes with a copy of `bytes`.
    ///
    /// # Panics
    /// When they do not fit: see [`remaining`](Self::remaining).
    pub fn append(&mut self, bytes: &[u8]) {
        let remaining = self.remaining();
        assert!(bytes.len() <= remaining, "cannot append {} bytes where {remaining} are left", bytes.len());
        let target = &raw mut self.bytes[self.filled..];
        // SAFETY: the target has that many bytes; it is borrowed mutably, so `bytes` lies elsewhere.
        unsafe { target.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.filled += bytes.len();
        self.initialised = self.initialised.max(self.filled);
    }

    /// All that is not filled yet, as it is.
    pub fn uninit(&mut self) -> &mut [MaybeUninit<u8>] {
        // The caller may write uninitialised bytes over what was initialised.
        self.initialised = self.filled;
        &mut self.bytes[self.filled..]
    }

    /// Counts the next `bytes` bytes as filled.
    ///
    /// ```
    /// use std::mem::MaybeUninit;
    /// fn receive(into: &mut [MaybeUninit<u8>]) -> usize {
    ///     into[..3].fill(MaybeUninit::new(7));
    ///     3
    /// }
    ///
    /// let allocator = pktalloc::Allocator::new();
    /// let (packet, ()) = allocator.packet_with(1500, |room| {
    ///     let received = receive(room.uninit());
    ///     // SAFETY: `receive` has written that many bytes.
    ///     unsafe { room.assume_init(received) };
    ///     Ok::<_, pktalloc::AllocError>(())
    /// })?;
    /// assert_eq!(packet, [7, 7, 7]);
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Panics
    /// When there are fewer.
    ///
    /// # Safety
    /// These bytes are initialised.
    pub unsafe fn assume_init(&mut self, bytes: usize) {
        let remaining = self.remaining();
        assert!(bytes <= remaining, "cannot fill {bytes} bytes where {remaining} are left");
        self.filled += bytes;
        self.initialised = self.initialised.max(self.filled);
    }
}

impl fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("filled", &self.filled).field("remaining", &self.remaining()).finish()
    }
}

/// Fills from the front, like a slice: what does not fit is not written.
#[cfg(feature = "std")]
impl std::io::Write for Room<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let fitting = bytes.len().min(self.remaining());
        self.append(&bytes[..fitting]);
        Ok(fitting)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
