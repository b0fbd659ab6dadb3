//! The safe handle to a block: [`Packet`], who owns its memory, and how it is filled.
//!
//! ```text
//! block  ├──── len: initialised, what `Deref` shows ────┼──── up to capacity: uninitialised ────┤
//! ```
//!
//! Invariants, on which every `unsafe` block here leans: while `capacity` is above 0, `block` is a live block of the
//! owner's allocator with at least `capacity` bytes that no one else uses; the first `len` of them are initialised, and
//! `len <= capacity`. While `capacity` is 0 there is no block.

use alloc::rc::Rc;
use core::fmt;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};

use crate::allocator::Allocator;
use crate::error::AllocError;
use crate::heap::Realloc;
use crate::system::System;

/// Traits that cannot be named from outside.
mod sealed {
    use super::{AllocError, NonNull};

    /// Keeps [`Owner`](super::Owner) from being implemented elsewhere: its implementors must lead to the same allocator
    /// every time, also after they were moved.
    pub trait Sealed {}

    /// What packets ask of an allocator, whatever its shape and system.
    pub trait Blocks {
        fn take(&self, size: usize) -> Result<NonNull<[u8]>, AllocError>;

        fn take_zeroed(&self, size: usize) -> Result<NonNull<[u8]>, AllocError>;

        /// # Safety
        /// As for `Allocator::reallocate`, copying.
        unsafe fn grow(&self, block: NonNull<u8>, size: usize) -> Result<NonNull<[u8]>, AllocError>;

        /// Returns the capacity that is left.
        ///
        /// # Safety
        /// As for `Allocator::shrink`.
        unsafe fn cut(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError>;

        /// # Safety
        /// As for `Allocator::free`.
        unsafe fn give_back(&self, block: NonNull<u8>);
    }
}

use sealed::{Blocks, Sealed};

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Blocks for Allocator<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn take(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        self.allocate(size)
    }

    #[inline]
    fn take_zeroed(&self, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        self.allocate_zeroed(size)
    }

    #[inline]
    unsafe fn grow(&self, block: NonNull<u8>, size: usize) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.reallocate(block, size, Realloc::CopyExisting) }
    }

    #[inline]
    unsafe fn cut(&self, block: NonNull<u8>, size: usize) -> Result<usize, AllocError> {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.shrink_to(block, size) }
    }

    #[inline]
    unsafe fn give_back(&self, block: NonNull<u8>) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.free(block) }
    }
}

/// Who keeps the allocator of a [`Packet`] alive: `&Allocator`, or `Rc<Allocator>` for packets that lie in the same
/// structure as their allocator or outlive the function that made it. Cannot be implemented elsewhere.
pub trait Owner: Deref<Target: Blocks> + Sealed {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Sealed for &Allocator<UNIT, WINDOW_UNITS, S> {}
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Owner for &Allocator<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Sealed for Rc<Allocator<UNIT, WINDOW_UNITS, S>> {}
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Owner for Rc<Allocator<UNIT, WINDOW_UNITS, S>> {}

/// Owned bytes in a block of an [`Allocator`]: a slice that frees itself.
///
/// [`Allocator::packet`], [`packet_from`](Allocator::packet_from) and [`packet_with`](Allocator::packet_with) make
/// packets that borrow their allocator. The functions of the same purpose here, [`zeroed`](Self::zeroed),
/// [`copied`](Self::copied) and [`filled`](Self::filled), take any [`Owner`], so that a queue can sit beside its
/// allocator:
///
/// ```
/// use std::collections::VecDeque;
/// use std::rc::Rc;
/// use pktalloc::{AllocError, Allocator, Packet};
///
/// #[derive(Default)]
/// struct Receiver {
///     allocator: Rc<Allocator>,
///     queue: VecDeque<Packet<Rc<Allocator>>>,
/// }
///
/// impl Receiver {
///     fn push(&mut self, datagram: &[u8]) -> Result<(), AllocError> {
///         self.queue.push_back(Packet::copied(Rc::clone(&self.allocator), datagram)?);
///         Ok(())
///     }
/// }
///
/// let mut receiver = Receiver::default();
/// receiver.push(b"hello")?;
/// assert_eq!(receiver.queue[0], b"hello");
/// # Ok::<(), AllocError>(())
/// ```
///
/// A packet starts at a unit's boundary. Its length is counted in bytes; its [`capacity`](Self::capacity) is what
/// whole units hold. No safe function shows bytes that nobody has written. An empty packet holds no memory, unless some
/// was [reserved](Self::reserve).
///
/// A packet takes four words. It stays on the thread of its allocator:
///
/// ```compile_fail,E0277
/// let allocator = pktalloc::Allocator::new();
/// let packet = allocator.packet(1400).unwrap();
/// std::thread::scope(|scope| scope.spawn(move || drop(packet)));
/// ```
///
/// One that borrows its allocator cannot outlive it:
///
/// ```compile_fail,E0505
/// let allocator = pktalloc::Allocator::new();
/// let packet = allocator.packet(1400).unwrap();
/// drop(allocator);
/// assert_eq!(packet.len(), 1400);
/// ```
pub struct Packet<O: Owner> {
    block: NonNull<u8>,
    len: usize,
    capacity: usize,
    owner: O,
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Allocator<UNIT, WINDOW_UNITS, S> {
    /// A packet of `len` zero bytes.
    ///
    /// ```
    /// let allocator = pktalloc::Allocator::new();
    /// let mut packet = allocator.packet(1400)?;
    /// packet[..4].copy_from_slice(&[0x45, 0, 0x05, 0x78]);
    /// assert_eq!(packet[..6], [0x45, 0, 0x05, 0x78, 0, 0]);
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`allocate`](Self::allocate), except that a packet of 0 bytes is no error: it holds no memory.
    #[inline]
    pub fn packet(&self, len: usize) -> Result<Packet<&Self>, AllocError> {
        Packet::zeroed(self, len)
    }

    /// A packet with a copy of `bytes`.
    ///
    /// # Errors
    /// As for [`packet`](Self::packet).
    #[inline]
    pub fn packet_from(&self, bytes: &[u8]) -> Result<Packet<&Self>, AllocError> {
        Packet::copied(self, bytes)
    }

    /// The receive pattern in one call: reserves `most` bytes, lets `fill` write into them, keeps what it filled and
    /// gives the rest back. Returns the packet and what `fill` returned.
    ///
    /// ```
    /// use std::io;
    /// use std::net::UdpSocket;
    /// # let sender = UdpSocket::bind("127.0.0.1:0")?;
    /// # let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// # sender.send_to(b"hello", socket.local_addr()?)?;
    ///
    /// let allocator = pktalloc::Allocator::new();
    /// let (packet, from) = allocator.packet_with(2048, |room| {
    ///     let (received, from) = socket.recv_from(room.zeroed())?;
    ///     room.advance(received);
    ///     Ok::<_, io::Error>(from)
    /// })?;
    /// assert_eq!(packet, b"hello");
    /// assert_eq!(allocator.used_bytes(), 64); // of the 2048, the unit that holds the five bytes
    /// # assert_eq!(from, sender.local_addr()?);
    /// # Ok::<(), io::Error>(())
    /// ```
    ///
    /// `fill` may use the allocator. When it panics, the block is freed.
    ///
    /// # Errors
    /// What `fill` returns, with the block freed; and as for [`packet`](Self::packet), turned into the same type.
    #[inline]
    pub fn packet_with<T, E: From<AllocError>>(
        &self,
        most: usize,
        fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>,
    ) -> Result<(Packet<&Self>, T), E> {
        Packet::filled(self, most, fill)
    }
}

impl<O: Owner> Packet<O> {
    /// A packet without bytes and without memory, which [`extend_from_slice`](Self::extend_from_slice) and
    /// [`io::Write`](std::io::Write) fill.
    #[inline]
    pub const fn empty(owner: O) -> Self {
        Self { block: NonNull::dangling(), len: 0, capacity: 0, owner }
    }

    /// A packet of `len` zero bytes.
    ///
    /// # Errors
    /// As for [`Allocator::packet`].
    #[inline]
    pub fn zeroed(owner: O, len: usize) -> Result<Self, AllocError> {
        if len == 0 {
            return Ok(Self::empty(owner));
        }
        let block = owner.take_zeroed(len)?;
        Ok(Self { block: block.cast(), len, capacity: block.len(), owner })
    }

    /// A packet with a copy of `bytes`.
    ///
    /// # Errors
    /// As for [`Allocator::packet`].
    #[inline]
    pub fn copied(owner: O, bytes: &[u8]) -> Result<Self, AllocError> {
        let mut packet = Self::empty(owner);
        packet.ensure(bytes.len())?;
        packet.append(bytes);
        Ok(packet)
    }

    /// Reserves `most` bytes, lets `fill` write into them, keeps what it filled and gives the rest back; see
    /// [`Allocator::packet_with`].
    ///
    /// # Errors
    /// As for [`Allocator::packet_with`].
    #[inline]
    pub fn filled<T, E: From<AllocError>>(
        owner: O,
        most: usize,
        fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        let mut packet = Self::empty(owner);
        packet.ensure(most)?;
        let mut room = Room::over(&mut packet.spare()[..most]);
        let value = fill(&mut room)?;
        // These bytes are initialised, and they are this packet's: `fill` has to accept a room of every lifetime, so it
        // cannot have put another room, whose lifetime would be a different one, in the place of this.
        packet.len = room.filled;
        packet.shrink_to_fit();
        Ok((packet, value))
    }

    /// The packet that [`into_raw`](Self::into_raw) took apart, or a block that was allocated by hand. Its capacity is
    /// taken to be its length, until it is resized.
    ///
    /// # Safety
    /// The block came from the allocator that `owner` leads to, is live, and is used by nobody else afterwards; all
    /// bytes of the slice, one at least, lie in the block and are initialised.
    #[inline]
    pub unsafe fn from_raw(owner: O, block: Option<NonNull<[u8]>>) -> Self {
        match block {
            Some(block) => Self { block: block.cast(), len: block.len(), capacity: block.len(), owner },
            None => Self::empty(owner),
        }
    }

    /// Takes the packet apart into its owner and its block, which is no longer freed when the packet goes. The length
    /// of the slice is that of the packet; an empty packet has no block.
    ///
    /// ```
    /// use pktalloc::{Allocator, Packet};
    /// let allocator = Allocator::new();
    /// let (owner, block) = allocator.packet_from(b"hello")?.into_raw();
    /// assert_eq!(allocator.used_bytes(), 64);
    /// // SAFETY: both come from `into_raw`, and only the packet uses them from here on.
    /// let packet = unsafe { Packet::from_raw(owner, block) };
    /// assert_eq!(packet, b"hello");
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    #[inline]
    #[must_use = "the block is leaked when nobody frees it"]
    pub fn into_raw(mut self) -> (O, Option<NonNull<[u8]>>) {
        if self.len == 0 {
            self.release();
        }
        let packet = ManuallyDrop::new(self);
        let block = (packet.len > 0).then(|| NonNull::slice_from_raw_parts(packet.block, packet.len));
        // SAFETY: the packet is never used or dropped again, so that the owner is moved out once.
        (unsafe { ptr::read(&packet.owner) }, block)
    }

    /// Bytes that fit without asking the allocator.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What keeps the packet's allocator alive.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> &O {
        &self.owner
    }

    /// Cuts the packet after its first `len` bytes and gives the units behind them back at once. Never moves the
    /// packet; does nothing when it is not longer than `len`.
    ///
    /// ```
    /// let allocator = pktalloc::Allocator::new();
    /// let mut packet = allocator.packet(2048)?;
    /// packet.truncate(900);
    /// assert_eq!((packet.len(), allocator.used_bytes()), (900, 960));
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// A block over a quarter of a window keeps its memory until it is freed. So does one in an allocator whose
    /// self-check ([`check`](crate::Config::check)) finds damage, which is reported when the packet goes.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            self.shrink_to_fit();
        }
    }

    /// Gives back the units that the packet's bytes do not need, as [`truncate`](Self::truncate) does.
    #[inline]
    pub fn shrink_to_fit(&mut self) {
        if self.len == 0 {
            self.release();
        } else if self.len < self.capacity {
            // SAFETY: the block is live, and bytes behind the length are not used.
            if let Ok(capacity) = unsafe { self.owner.cut(self.block, self.len) } {
                self.capacity = capacity;
            }
        }
    }

    /// Makes the packet `len` bytes long: cuts it as [`truncate`](Self::truncate) does, or adds zero bytes. It grows in
    /// place when the units behind it are free, and moves otherwise.
    ///
    /// # Errors
    /// As for [`Allocator::packet`]. The packet is as it was then.
    pub fn resize(&mut self, len: usize) -> Result<(), AllocError> {
        self.ensure(len)?;
        if let Some(more) = len.checked_sub(self.len) {
            // SAFETY: the capacity is at least `len`, and the bytes from the old length on are the packet's.
            unsafe { self.block.add(self.len).write_bytes(0, more) };
            self.len = len;
        } else {
            self.truncate(len);
        }
        Ok(())
    }

    /// Makes room for `additional` bytes behind the packet's, and at least for half as many again as there was room for
    /// before, so that many small pieces cost linear time.
    ///
    /// # Errors
    /// As for [`Allocator::packet`]. The packet is as it was then.
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        let needed = self.len.checked_add(additional).ok_or(AllocError::TooLarge)?;
        if needed <= self.capacity {
            return Ok(());
        }
        self.ensure(needed.max(self.capacity.saturating_add(self.capacity / 2)))
    }

    /// Adds a copy of `bytes` behind the packet's.
    ///
    /// ```
    /// use pktalloc::{Allocator, Packet};
    /// let allocator = Allocator::new();
    /// let mut packet = Packet::empty(&allocator);
    /// packet.extend_from_slice(&[0x80, 96])?;
    /// packet.extend_from_slice(b"payload")?;
    /// assert_eq!(packet, b"\x80\x60payload");
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Allocator::packet`]. The packet is as it was then.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), AllocError> {
        self.reserve(bytes.len())?;
        self.append(bytes);
        Ok(())
    }

    /// Makes the capacity at least `bytes`.
    fn ensure(&mut self, bytes: usize) -> Result<(), AllocError> {
        if bytes <= self.capacity {
            return Ok(());
        }
        let block = if self.capacity == 0 {
            self.owner.take(bytes)?
        } else {
            // SAFETY: the block is live, and replaced by the one that it becomes.
            unsafe { self.owner.grow(self.block, bytes)? }
        };
        self.block = block.cast();
        self.capacity = block.len();
        Ok(())
    }

    /// Adds bytes for which there is room.
    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.capacity - self.len);
        // SAFETY: the callers have made room; the packet's own bytes cannot be borrowed as `bytes` at the same time.
        unsafe { self.block.add(self.len).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        self.len += bytes.len();
    }

    /// What lies between length and capacity.
    fn spare(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: these bytes are the packet's, and `MaybeUninit` may be anything.
        unsafe {
            let start = self.block.add(self.len).cast();
            NonNull::slice_from_raw_parts(start, self.capacity - self.len).as_mut()
        }
    }

    /// Frees the block, if there is one.
    #[inline]
    fn release(&mut self) {
        let block = self.block;
        self.len = 0;
        if core::mem::take(&mut self.capacity) > 0 {
            // SAFETY: the block was live, and with a capacity of 0 it is never used again.
            unsafe { self.owner.give_back(block) };
        }
    }
}

impl<O: Owner> Drop for Packet<O> {
    #[inline]
    fn drop(&mut self) {
        self.release();
    }
}

impl<O: Owner> Deref for Packet<O> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised and the packet's alone; without a block, `len` is 0.
        unsafe { NonNull::slice_from_raw_parts(self.block, self.len).as_ref() }
    }
}

impl<O: Owner> DerefMut for Packet<O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`.
        unsafe { NonNull::slice_from_raw_parts(self.block, self.len).as_mut() }
    }
}

impl<O: Owner> AsRef<[u8]> for Packet<O> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<O: Owner> AsMut<[u8]> for Packet<O> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Compares bytes, with slices, arrays and other packets.
impl<O: Owner, T: AsRef<[u8]> + ?Sized> PartialEq<T> for Packet<O> {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl<O: Owner> Eq for Packet<O> {}

/// Where and how long, not what it says: packets carry other people's data.
impl<O: Owner> fmt::Debug for Packet<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("at", &self.block)
            .finish_non_exhaustive()
    }
}

/// Adds behind the packet's bytes and makes room as needed.
#[cfg(feature = "std")]
impl<O: Owner> std::io::Write for Packet<O> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend_from_slice(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "std")]
impl From<AllocError> for std::io::Error {
    fn from(error: AllocError) -> Self {
        let kind = match error {
            AllocError::OutOfMemory | AllocError::MemoryLimit => std::io::ErrorKind::OutOfMemory,
            AllocError::Damaged => std::io::ErrorKind::Other,
            _ => std::io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// The memory that [`Allocator::packet_with`] lets its closure fill, from the front.
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
}

impl<'a> Room<'a> {
    /// All of `bytes`, none of them filled.
    #[inline]
    pub(crate) fn over(bytes: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { bytes, initialised: 0, filled: 0 }
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
