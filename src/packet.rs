//! The safe handle to a block: [`Packet`], who owns its memory, and how it is filled.
//!
//! - [`span`] is where a packet's bytes lie in its block;
//! - [`space`] is what is asked for when a packet is made;
//! - [`owner`] is where packets come from, and where their blocks go back to;
//! - [`room`] is what a closure fills;
//! - [`make`] makes packets, and [`batch`] many at once;
//! - [`traits`] has the traits of the standard library, those of [things that are bytes](bytes_like) among them, and
//!   [`buf`] those of the crate `bytes`.
//!
//! Invariants, on which every `unsafe` block here leans: where a packet's span has a block, that is a live one of its
//! owner's which no one else uses, the span lies in it, and the span's first `len` bytes are initialised.

mod batch;
#[cfg(feature = "bytes")]
mod buf;
pub(crate) mod bytes_like;
mod make;
pub(crate) mod owner;
mod room;
mod space;
pub(crate) mod span;
mod traits;

use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

#[cfg(doc)]
use crate::allocator::Allocator;
use crate::error::AllocError;

pub(crate) use batch::make_batch;
pub(crate) use make::packet_methods;
pub use owner::{Owner, Source};
pub use room::Room;
pub use space::Space;
use span::{Block, Span};

/// Owned bytes in a block of an allocator: a slice that frees itself, with room on both sides.
///
/// ```text
/// block ├──── headroom ────┼──── len ────┼── tailroom ──┤
///                          ├──────── capacity ──────────┤
/// ```
///
/// Packets are made by the methods of the same names of [`Allocator`], [`RcAllocator`](crate::RcAllocator) and, with
/// the feature `shared`, `SharedAllocator` and `Pool`. What those differ in is the packet's [`Owner`]: who keeps the
/// memory alive, and which threads may hold the packet.
///
/// | method | the packet |
/// |---|---|
/// | [`packet`](Allocator::packet) | of so many zero bytes |
/// | [`packet_from`](Allocator::packet_from) | a copy of some bytes |
/// | [`packet_with`](Allocator::packet_with) | what a closure has filled, such as a receive |
/// | [`packets_with`](Allocator::packets_with) | many of those |
/// | [`packet_for`](Allocator::packet_for) | empty, with room |
///
/// ```
/// let allocator = pktalloc::Allocator::new();
/// let mut packet = allocator.packet(1400)?;
/// packet[..4].copy_from_slice(&[0x45, 0, 0x05, 0x78]);
/// assert_eq!(packet[..6], [0x45, 0, 0x05, 0x78, 0, 0]);
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
///
/// The receive pattern is one call, which reserves the most that can arrive, keeps what did, and gives the rest back:
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
/// # Headers and trailers
///
/// [`Space`] asks for room in front and behind. [`prepend`](Self::prepend) puts a header into the headroom,
/// [`advance`](Self::advance) strips one off, which becomes headroom; [`extend_from_slice`](Self::extend_from_slice)
/// adds behind. None of them moves the payload.
///
/// ```
/// use pktalloc::{Allocator, Space};
/// let allocator = Allocator::new();
/// let mut packet = allocator.packet_for(Space::new(1400).headroom(28))?;
/// packet.extend_from_slice(b"payload")?;
/// packet.prepend(b"udp|")?;
/// packet.prepend(b"ip|")?;
/// assert_eq!(packet, b"ip|udp|payload");
/// packet.advance(7);
/// assert_eq!(packet, b"payload");
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
///
/// # What holds
///
/// The first byte lies at a unit's boundary unless a header or `advance` says otherwise. The length is counted in
/// bytes; what a packet holds is whole units. No safe function shows bytes that nobody has written. An empty packet
/// without headroom holds no memory, unless some was [reserved](Self::reserve). A packet has at most 2 GiB less 4 KiB.
///
/// A packet takes two words and its owner. That of an [`Allocator`] stays on that one's thread:
///
/// ```compile_fail,E0277
/// let allocator = pktalloc::Allocator::new();
/// let packet = allocator.packet(1400).unwrap();
/// std::thread::scope(|scope| scope.spawn(move || drop(packet)));
/// ```
///
/// and cannot outlive it:
///
/// ```compile_fail,E0505
/// let allocator = pktalloc::Allocator::new();
/// let packet = allocator.packet(1400).unwrap();
/// drop(allocator);
/// assert_eq!(packet.len(), 1400);
/// ```
pub struct Packet<O: Owner> {
    span: Span,
    owner: O,
}

// SAFETY: the block is the packet's alone. An owner that may go to another thread vouches for what it leads to there:
// references to allocators and `RcAllocator`s are not `Send`.
unsafe impl<O: Owner + Send> Send for Packet<O> {}
// SAFETY: a shared reference shows bytes, numbers and the owner, and nobody changes them meanwhile.
unsafe impl<O: Owner + Send + Sync> Sync for Packet<O> {}

impl<O: Owner> Packet<O> {
    /// Bytes that the packet can have without asking the allocator: its length and its tailroom.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.len() + self.tailroom()
    }

    /// Bytes in front of the packet that [`prepend`](Self::prepend) can use.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.span.headroom()
    }

    /// Bytes behind the packet that [`extend_from_slice`](Self::extend_from_slice) can use without asking the
    /// allocator.
    #[inline]
    #[must_use]
    pub fn tailroom(&self) -> usize {
        match self.span.short_tailroom() {
            Some(tailroom) => tailroom,
            None => self.block().size - self.headroom() - self.len(),
        }
    }

    /// What leads to the packet's allocator.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> &O {
        &self.owner
    }

    /// Puts a copy of `bytes` in front of the packet's, into the headroom. Moves nothing.
    ///
    /// ```
    /// use pktalloc::{AllocError, Allocator, Space};
    /// let allocator = Allocator::new();
    /// let mut packet = allocator.packet(Space::new(100).headroom(4))?;
    /// packet.prepend(&[0, 0, 0, 42])?; // a VXLAN header, say
    /// assert_eq!((packet.len(), packet[3]), (104, 42));
    /// assert_eq!(packet.prepend(&[0; 100]), Err(AllocError::NoHeadroom));
    /// # Ok::<(), AllocError>(())
    /// ```
    ///
    /// # Errors
    /// [`AllocError::NoHeadroom`] when they do not fit. The packet is as it was then.
    #[inline]
    pub fn prepend(&mut self, bytes: &[u8]) -> Result<(), AllocError> {
        if bytes.len() > self.headroom() {
            return Err(AllocError::NoHeadroom);
        }
        self.span.retreat(bytes.len());
        // SAFETY: the bytes that the packet has gained are its own; they cannot be borrowed as `bytes` at the same
        // time.
        unsafe { self.span.bytes().copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(())
    }

    /// Strips the first `bytes` bytes off, which become headroom. Moves nothing.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[track_caller]
    pub fn advance(&mut self, bytes: usize) {
        if bytes > self.len() {
            cannot_advance(bytes, self.len());
        }
        self.span.advance(bytes);
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
    /// A block that lies in no region keeps its memory until it is freed. So does one in an allocator whose
    /// self-check ([`check`](crate::Config::check)) finds damage, which is reported when the packet goes, and a
    /// `SharedPacket` on a thread that is not its allocator's.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.span.set_len(len);
            self.shrink_to_fit();
        }
    }

    /// Makes the packet empty and keeps its room, to be filled again.
    #[inline]
    pub fn clear(&mut self) {
        self.span.set_len(0);
    }

    /// Gives back the units that the headroom and the packet's bytes do not need, as [`truncate`](Self::truncate) does.
    #[inline]
    pub fn shrink_to_fit(&mut self) {
        self.shrink_to(0);
    }

    /// Gives back the units behind the packet beyond `tailroom` bytes, as [`truncate`](Self::truncate) does.
    #[inline]
    pub fn shrink_to(&mut self, tailroom: usize) {
        let cut = self.tailroom().saturating_sub(tailroom);
        if cut > 0 {
            let block = self.block();
            let kept = block.size - cut;
            // SAFETY: the block is live, and nothing behind what is kept is used.
            let left = unsafe { self.owner.cut(block, kept) };
            if kept == 0 {
                self.span = Span::EMPTY;
            } else if left.size < block.size {
                // SAFETY: what is left of the block has headroom and bytes of the packet.
                unsafe { self.span.set_block(left) };
            }
        }
    }

    /// Makes the packet `len` bytes long: cuts it as [`truncate`](Self::truncate) does, or adds zero bytes. It grows in
    /// place when the units behind it are free, and moves otherwise.
    ///
    /// # Errors
    /// As for [`reserve`](Self::reserve).
    pub fn resize(&mut self, len: usize) -> Result<(), AllocError> {
        if let Some(more) = len.checked_sub(self.len()) {
            self.make_room(more, false)?;
            self.append_zeros(more);
        } else {
            self.truncate(len);
        }
        Ok(())
    }

    /// Makes room for `additional` bytes behind the packet's, and at least for half as many again as there was room for
    /// before, so that many small pieces cost linear time.
    ///
    /// # Errors
    /// As for [`Allocator::packet`]. For a `SharedPacket`, which grows into its own block only,
    /// [`AllocError::NoTailroom`]. The packet is as it was then.
    #[inline]
    pub fn reserve(&mut self, additional: usize) -> Result<(), AllocError> {
        self.make_room(additional, true)
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
    /// As for [`reserve`](Self::reserve).
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), AllocError> {
        if !self.span.has_tailroom(bytes.len()) {
            self.make_room(bytes.len(), true)?;
            self.append(bytes);
            return Ok(());
        }
        // The usual case by itself, so that little is done in it.
        // SAFETY: there is room behind the packet's bytes; they cannot be borrowed as `bytes` at the same time.
        unsafe {
            let end = self.span.bytes().add(self.len());
            end.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        self.span = self.span.extended(bytes.len());
        Ok(())
    }

    /// Reserves `most` bytes behind the packet's, lets `fill` write into them, and adds what it filled. The rest stays
    /// tailroom. Returns what `fill` returned.
    ///
    /// ```
    /// use std::io::{self, Read};
    /// use pktalloc::{Allocator, Space};
    /// # let mut stream = &b"payload"[..];
    /// let allocator = Allocator::new();
    /// let mut packet = allocator.packet_for(Space::new(1500).headroom(8))?;
    /// packet.extend_with(1500, |room| {
    ///     let received = stream.read(room.zeroed())?;
    ///     room.advance(received);
    ///     Ok::<_, io::Error>(())
    /// })?;
    /// assert_eq!(packet, b"payload");
    /// # Ok::<(), io::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `fill` returns, and as for [`reserve`](Self::reserve), turned into the same type. The packet has the bytes
    /// that it had then.
    #[inline]
    pub fn extend_with<T, E: From<AllocError>>(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.reserve(most)?;
        self.fill_spare(most, fill)
    }

    /// The tailroom, to be written to and then counted by [`set_len`](Self::set_len).
    #[inline]
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: these bytes are the packet's, and `MaybeUninit` may be anything.
        unsafe {
            let start = self.span.bytes().add(self.len()).cast();
            NonNull::slice_from_raw_parts(start, self.tailroom()).as_mut()
        }
    }

    /// Makes the packet `len` bytes long, and nothing else.
    ///
    /// # Safety
    /// `len` is at most the capacity, and the first `len` bytes are initialised.
    #[inline]
    pub unsafe fn set_len(&mut self, len: usize) {
        self.span.set_len(len);
    }

    /// The block, of size 0 where there is none. A part of the caller, so that a packet can stay in registers.
    #[inline(always)]
    pub(crate) fn block(&self) -> Block {
        match self.span.short_block() {
            Some(block) => block,
            // SAFETY: the span is this packet's, and long.
            None => unsafe { self.owner.long_block(self.span) },
        }
    }

    /// The packet's bytes in its block.
    #[inline]
    #[cfg_attr(not(feature = "shared"), allow(dead_code))]
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// The packet with this span.
    ///
    /// # Safety
    /// The invariants hold, and nobody else frees the block.
    #[inline]
    #[cfg_attr(not(feature = "shared"), allow(dead_code))]
    pub(crate) unsafe fn from_span(span: Span, owner: O) -> Self {
        Self { span, owner }
    }

    /// Adds what `fill` fills of the first `most` bytes of the tailroom.
    #[inline]
    fn fill_spare<T, E>(&mut self, most: usize, fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>) -> Result<T, E> {
        let len = self.len();
        let mut room = Room::over(0, &mut self.spare_capacity_mut()[..most]);
        let value = fill(&mut room)?;
        // These bytes are initialised, and they are this packet's: `fill` has to accept a room of every lifetime, so it
        // cannot have put another room, whose lifetime would be a different one, in the place of this.
        let filled = room.filled().len();
        self.span.set_len(len + filled);
        Ok(value)
    }

    /// Makes room for `additional` bytes behind the packet's. A part of the caller, so that a packet can stay in
    /// registers.
    #[inline(always)]
    fn make_room(&mut self, additional: usize, grows: bool) -> Result<(), AllocError> {
        if !self.span.has_tailroom(additional) {
            // SAFETY: the span is replaced by the one that it becomes.
            self.span = unsafe { self.owner.make_room(self.span, additional, grows)? };
        }
        Ok(())
    }

    /// Adds bytes for which there is room.
    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.tailroom());
        let len = self.len();
        // SAFETY: the callers have made room; the packet's own bytes cannot be borrowed as `bytes` at the same time.
        unsafe {
            let end = self.span.bytes().add(len);
            end.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        }
        self.span.set_len(len + bytes.len());
    }

    /// Adds zero bytes for which there is room.
    #[inline]
    fn append_zeros(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.tailroom());
        let len = self.len();
        // SAFETY: the callers have made room.
        unsafe { self.span.bytes().add(len).write_bytes(0, bytes) };
        self.span.set_len(len + bytes);
    }

    /// Frees the block, if there is one.
    #[inline]
    fn release(&mut self) {
        let span = core::mem::replace(&mut self.span, Span::EMPTY);
        // SAFETY: the block, if there was one, is never used again.
        unsafe { self.owner.end(span) };
    }
}

/// Ends a call that would strip off more than there is. Takes numbers, so that a packet can stay in registers.
#[cold]
#[inline(never)]
#[track_caller]
pub(crate) fn cannot_advance(bytes: usize, len: usize) -> ! {
    panic!("cannot advance by {bytes} bytes in a packet of {len}")
}

impl<O: Owner> Drop for Packet<O> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the block, if there is one, is live, and never used again.
        unsafe { self.owner.end(self.span) };
    }
}

impl<O: Owner> Deref for Packet<O> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the first `len` bytes are initialised and the packet's alone; without a block, `len` is 0.
        unsafe { NonNull::slice_from_raw_parts(self.span.bytes(), self.span.len()).as_ref() }
    }
}

impl<O: Owner> DerefMut for Packet<O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`.
        unsafe { NonNull::slice_from_raw_parts(self.span.bytes(), self.span.len()).as_mut() }
    }
}
