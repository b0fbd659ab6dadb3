//! How packets are made: the methods of those that packets come from, and what they do.

use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};

use super::owner::sealed::{Local, Plain};
use super::span::{self, Span};
use super::{Owner, Packet, Room, Source, Space};
use crate::allocator::Allocator;
use crate::error::AllocError;
use crate::system::System;

/// The methods that make packets, for a type a reference to which is a [`Source`].
macro_rules! packet_methods {
    // The owner of the packets, in the terms of a reference to `Self` of this lifetime.
    ($lifetime:lifetime, $owner:ty) => {
        /// A packet of zero bytes: as many as the number, or the [`Space`](crate::Space), says.
        ///
        /// A packet of 0 bytes is no error: it holds no memory.
        ///
        /// # Errors
        /// [`AllocError::TooLarge`](crate::AllocError::TooLarge) beyond 2 GiB less 4 KiB;
        /// [`AllocError::OutOfMemory`](crate::AllocError::OutOfMemory) and
        /// [`AllocError::MemoryLimit`](crate::AllocError::MemoryLimit), after which everything is as it was;
        /// [`AllocError::Damaged`](crate::AllocError::Damaged) with [`check`](crate::Config::check) on.
        #[inline]
        pub fn packet<$lifetime>(
            &$lifetime self,
            space: impl Into<$crate::Space>,
        ) -> Result<$crate::Packet<$owner>, $crate::AllocError> {
            $crate::Packet::zeroed(self, space.into())
        }

        /// A packet that contains `bytes`.
        ///
        /// # Errors
        /// As for [`packet`](Self::packet).
        #[inline]
        pub fn packet_from<$lifetime>(&$lifetime self, bytes: &[u8]) -> Result<$crate::Packet<$owner>, $crate::AllocError> {
            $crate::Packet::copied(self, bytes)
        }

        /// The receive pattern in one call: reserves what `most` says, lets `fill` write into it, keeps what it filled
        /// and gives the rest back. Returns the packet and what `fill` returned; [`Packet`](crate::Packet) has an
        /// example.
        ///
        /// `fill` may use the allocator. When it panics, the block is freed.
        ///
        /// # Errors
        /// What `fill` returns, with the block freed; and as for [`packet`](Self::packet), turned into the same type.
        #[inline]
        pub fn packet_with<$lifetime, T, E: From<$crate::AllocError>>(
            &$lifetime self,
            most: impl Into<$crate::Space>,
            fill: impl FnOnce(&mut $crate::Room<'_>) -> Result<T, E>,
        ) -> Result<($crate::Packet<$owner>, T), E> {
            $crate::Packet::filled(self, most.into(), fill)
        }

        /// Many packets in one call: reserves `count` rooms of what `most` says each, lets `fill` write into them, and
        /// appends a packet to `packets` for each of the first rooms that it says it used.
        ///
        /// A packet holds what was filled, rounded up to units, as if it had been received alone; what was reserved for
        /// it is gone when this returns. Rooms of up to 4096 bytes are copied for that, into blocks side by side, and
        /// serve the next call; longer ones become packets where they are, unless less than half of one was filled.
        ///
        /// `fill` may use the allocator. When it panics, all blocks are freed. The rooms go by their place: those that
        /// it puts into another order are the packets in that order.
        ///
        /// # Errors
        /// What `fill` returns; and as for [`packet`](Self::packet), turned into the same type. `packets` is as it was
        /// then.
        ///
        /// # Panics
        /// When `fill` says that it used more rooms than there are.
        #[cfg_attr(
            feature = "std",
            doc = "",
            doc = "```",
            doc = "use pktalloc::{AllocError, Allocator};",
            doc = "let allocator = Allocator::new();",
            doc = "let mut packets = Vec::new();",
            doc = "allocator.packets_with(64, 2048, &mut packets, |rooms| {",
            doc = "    for (room, datagram) in rooms.iter_mut().zip([&b\"one\"[..], b\"two\"]) {",
            doc = "        room.append(datagram);",
            doc = "    }",
            doc = "    Ok::<_, AllocError>(2)",
            doc = "})?;",
            doc = "assert_eq!(packets, [b\"one\", b\"two\"]);",
            doc = "assert_eq!(allocator.used_bytes(), 2 * 64);",
            doc = "# Ok::<(), AllocError>(())",
            doc = "```"
        )]
        pub fn packets_with<$lifetime, E: From<$crate::AllocError>>(
            &$lifetime self,
            count: usize,
            most: impl Into<$crate::Space>,
            packets: &mut alloc::vec::Vec<$crate::Packet<$owner>>,
            fill: impl FnOnce(&mut [$crate::Room<'_>]) -> Result<usize, E>,
        ) -> Result<(), E> {
            $crate::packet::make_batch(self, count, most.into(), packets, fill)
        }

        /// An empty packet with room for what the number, or the [`Space`](crate::Space), says.
        ///
        /// # Errors
        /// As for [`packet`](Self::packet).
        #[inline]
        pub fn packet_for<$lifetime>(
            &$lifetime self,
            space: impl Into<$crate::Space>,
        ) -> Result<$crate::Packet<$owner>, $crate::AllocError> {
            $crate::Packet::with_room(self, space.into())
        }
    };
}
pub(crate) use packet_methods;

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Allocator<UNIT, WINDOW_UNITS, S> {
    packet_methods!('a, &'a Self);
}

impl<O: Owner> Packet<O> {
    /// A packet without bytes and without memory.
    #[inline]
    pub fn empty(source: impl Source<Owner = O>) -> Self {
        Self { span: Span::EMPTY, owner: source.owner() }
    }

    #[inline]
    pub(crate) fn with_room(source: impl Source<Owner = O>, space: Space) -> Result<Self, AllocError> {
        let (start, size) = space.layout(O::UNIT);
        let span = match source.take_hot(size) {
            Some(span) => span,
            None if size == 0 => return Ok(Self::empty(source)),
            None if size > span::LONGEST => return Err(AllocError::TooLarge),
            None => source.take_slow(size)?,
        };
        // SAFETY: the block is new, and has the size that was asked for at least.
        Ok(Self { span: unsafe { span.behind(start) }, owner: source.owner() })
    }

    #[inline]
    pub(crate) fn zeroed(source: impl Source<Owner = O>, space: Space) -> Result<Self, AllocError> {
        let mut packet = Self::with_room(source, space)?;
        packet.append_zeros(space.bytes());
        Ok(packet)
    }

    #[inline]
    pub(crate) fn copied(source: impl Source<Owner = O>, bytes: &[u8]) -> Result<Self, AllocError> {
        let mut packet = Self::with_room(source, Space::new(bytes.len()))?;
        packet.append(bytes);
        Ok(packet)
    }

    #[inline]
    pub(crate) fn filled<T, E: From<AllocError>>(
        source: impl Source<Owner = O>,
        most: Space,
        fill: impl FnOnce(&mut Room<'_>) -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        let mut packet = Self::with_room(source, most)?;
        let value = packet.fill_spare(most.bytes(), fill)?;
        packet.shrink_to(most.behind());
        Ok((packet, value))
    }
}

impl<O: Owner + Local> Packet<O> {
    /// The packet that [`into_raw`](Self::into_raw) took apart, or a block that was allocated by hand.
    ///
    /// # Safety
    /// The block came from the allocator that `owner` leads to, is live, and is used by nobody else afterwards; all
    /// bytes of the slice, one at least and 2 GiB less 4 KiB at most, lie in the block and are initialised.
    #[inline]
    pub unsafe fn from_raw(owner: O, block: Option<NonNull<[u8]>>) -> Self {
        let span = block.map_or(Span::EMPTY, |bytes| {
            // SAFETY: the caller says so.
            let mut span = Span::new(unsafe { owner.block(bytes.cast()) });
            span.set_len(bytes.len());
            span
        });
        Self { span, owner }
    }

    /// Takes the packet apart into its owner and its block, which is no longer freed when the packet goes. The length
    /// of the slice is that of the packet; an empty packet has no block. Bytes behind headroom are moved to the front.
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
        let len = self.len();
        if len == 0 {
            self.release();
        }
        let start = self.span.start();
        if self.headroom() > 0 {
            // SAFETY: the packet's bytes lie in its block, behind the headroom.
            unsafe { start.copy_from(self.span.bytes(), len) };
        }
        let packet = ManuallyDrop::new(self);
        let block = (len > 0).then(|| NonNull::slice_from_raw_parts(start, len));
        // SAFETY: the packet is never used or dropped again, so that the owner is moved out once.
        (unsafe { ptr::read(&packet.owner) }, block)
    }
}
