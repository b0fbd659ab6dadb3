//! The handle to a block that any thread may hold.

use core::borrow::{Borrow, BorrowMut};
use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use super::batch;
use super::owner::{Owner, OwnerOf};
use super::queue::BUNDLE_BYTES;
use crate::geometry::{Fixed, UNIT_BYTES};
use crate::region::{OwnerPointer, Region};
use crate::system::{Os, System};

/// Bytes of the longest packet: a length and a capacity are half a word each, less a bit, and a capacity is whole units.
pub(super) const LONGEST: usize = i32::MAX as usize & !(UNIT_BYTES.end - 2);

/// The bit of a packet's lengths that says that its block is labelled.
const LABELLED: u64 = 1 << (u64::BITS - 1);

/// A packet of a [`SharedAllocator`](super::SharedAllocator): bytes that any thread may hold, write and drop.
///
/// Dropping it frees its block, and the memory stays valid until then, whatever became of the allocator. On the
/// allocator's thread that is an ordinary free; on any other the block is put aside, and goes back with others that the
/// same thread drops ([`flush_freed`](super::flush_freed) says when), unless a packet that the thread allocates takes it.
/// Blocks too large for a window, and all with [`passthrough`](crate::Config::passthrough), go back at once.
///
/// ```
/// use pktalloc::SharedAllocator;
///
/// let allocator = SharedAllocator::new();
/// let mut packet = allocator.packet_from(b"ping")?;
/// let worker = std::thread::spawn(move || {
///     packet.make_ascii_uppercase();
///     packet
/// });
/// let packet = worker.join().unwrap();
/// assert_eq!(&packet[..], b"PING");
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
pub struct SharedPacket<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = Os> {
    /// The first byte that the packet shows. It lies in a live block, which is this packet's alone: at its start, or behind
    /// its label.
    bytes: NonNull<u8>,
    /// From the top: whether the block is labelled, a bit; the packet's capacity, 31 bits; the bytes from the start that
    /// the packet shows, which are initialised and no more, 32 bits. One number, so that a packet moves in words.
    lengths: u64,
    owner: PhantomData<OwnerOf<UNIT, WINDOW_UNITS, S>>,
}

// SAFETY: the block is the packet's alone; nobody writes what leads to its owner; and what is reached through that is there
// for every thread. The last packet may take the heap and its system down, on whatever thread it is.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send> Send
    for SharedPacket<UNIT, WINDOW_UNITS, S>
{
}

// SAFETY: a shared reference shows bytes and numbers only, and nobody changes them meanwhile.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send> Sync
    for SharedPacket<UNIT, WINDOW_UNITS, S>
{
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> SharedPacket<UNIT, WINDOW_UNITS, S> {
    /// The packet in a block that lies in a region, of which it shows nothing.
    ///
    /// # Safety
    /// `block` is a live block in a region of an owner of this type, nobody else's, and has at least `BUNDLE_BYTES` and at
    /// most `LONGEST`.
    #[inline(always)]
    pub(super) unsafe fn new(block: NonNull<[u8]>) -> Self {
        debug_assert!((BUNDLE_BYTES..=LONGEST).contains(&block.len()));
        Self { bytes: block.cast(), lengths: (block.len() as u64) << u32::BITS, owner: PhantomData }
    }

    /// The packet in a block that is labelled, of which it shows nothing.
    ///
    /// # Safety
    /// `block` is a live block of an owner of this type, nobody else's, labelled with that, and has at least `BUNDLE_BYTES`
    /// and at most `LONGEST` behind the label.
    pub(super) unsafe fn labelled(block: NonNull<[u8]>) -> Self {
        let capacity = block.len() - UNIT;
        debug_assert!((BUNDLE_BYTES..=LONGEST).contains(&capacity));
        // SAFETY: a label takes a unit, and the block has more.
        let bytes = unsafe { block.cast().add(UNIT) };
        Self { bytes, lengths: LABELLED | (capacity as u64) << u32::BITS, owner: PhantomData }
    }

    #[inline(always)]
    fn is_labelled(&self) -> bool {
        self.lengths & LABELLED != 0
    }

    /// Bytes of the block in front of the packet's: of its label, if it has one.
    #[inline(always)]
    fn front(&self) -> usize {
        if self.is_labelled() { UNIT } else { 0 }
    }

    /// The packet's block.
    #[inline(always)]
    fn block(&self) -> NonNull<u8> {
        // SAFETY: a label lies in the packet's block.
        unsafe { self.bytes.sub(self.front()) }
    }

    /// What leads to the block's owner.
    #[inline(always)]
    fn owner_pointer(&self) -> NonNull<OwnerPointer> {
        if self.is_labelled() {
            return self.block().cast();
        }
        let geometry = Fixed::<UNIT, WINDOW_UNITS, S>::new();
        // SAFETY: the block lies in a region that is held, and its pointer may reach that (`region`, invariant 3).
        unsafe { Region::of_block(self.bytes, geometry) }.owner_pointer(geometry)
    }

    /// The block's owner.
    ///
    /// # Panics
    /// When stray bytes have made that impossible to find.
    fn owner(&self) -> OwnerOf<UNIT, WINDOW_UNITS, S> {
        // SAFETY: the block is live, in a heap of this type.
        unsafe { OwnerOf::at(self.owner_pointer()) }.unwrap_or_else(|| {
            let place = if self.is_labelled() { "packet's label" } else { "region's header" };
            panic!("cannot free: the {place} at {:p} was overwritten", self.owner_pointer())
        })
    }

    /// Shows the first `len` bytes.
    ///
    /// # Safety
    /// They are initialised, or the caller initialises them before they are read, and no more than there are.
    #[inline(always)]
    pub(super) unsafe fn show(&mut self, len: usize) {
        debug_assert!(len <= self.capacity());
        self.set(len, self.capacity());
    }

    /// Bytes that the packet shows.
    #[inline(always)]
    fn shown(&self) -> usize {
        self.lengths as u32 as usize
    }

    #[inline(always)]
    fn set(&mut self, shown: usize, capacity: usize) {
        self.lengths = self.lengths & LABELLED | (capacity as u64) << u32::BITS | shown as u64;
    }

    /// Frees the block of a packet whose owner is not at hand.
    ///
    /// # Safety
    /// These are the fields of a packet that is not used any more.
    ///
    /// # Panics
    /// As [`owner`](Self::owner).
    #[cold]
    #[inline(never)]
    unsafe fn free_elsewhere(bytes: NonNull<u8>, lengths: u64) {
        let packet = ManuallyDrop::new(Self { bytes, lengths, owner: PhantomData });
        let owner = packet.owner();
        // SAFETY: the block is live, the packet's alone, and not used afterwards; it is aligned to a unit and has room for
        // a bundle.
        unsafe {
            match owner.heap() {
                Some(heap) => heap.free(packet.block()),
                None if packet.is_labelled() || !Owner::takes_batches(owner.owner()) => {
                    Owner::push(owner.owner(), packet.block().cast(), 1);
                }
                None => batch::hand_in(owner.owner(), bytes, packet.capacity()),
            }
        }
    }

    /// The first `most` bytes of the block, whatever they contain; the block has as many.
    #[inline(always)]
    pub(super) fn room(&mut self, most: usize) -> &mut [MaybeUninit<u8>] {
        debug_assert!(most <= self.capacity());
        // SAFETY: the block is live, the packet's alone, and long enough.
        unsafe { core::slice::from_raw_parts_mut(self.bytes.cast().as_ptr(), most) }
    }

    /// Bytes that the packet has room for: at least its length.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        ((self.lengths & !LABELLED) >> u32::BITS) as usize
    }

    /// Keeps the first `len` bytes; does nothing when there are no more.
    ///
    /// On the thread of the allocator that the memory belongs to, what lies behind them is given back at once, in whole
    /// units. On any other thread it is given back when the packet is dropped.
    ///
    /// ```
    /// let allocator = pktalloc::SharedAllocator::new();
    /// let mut packet = allocator.packet(2048)?;
    /// packet.truncate(900); // as many as were received
    /// assert_eq!((packet.len(), packet.capacity()), (900, 960));
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.shown() {
            // SAFETY: these are fewer than before.
            unsafe { self.keep(len) };
        }
    }

    /// Shows the first `len` bytes of the block and gives the rest back.
    ///
    /// # Safety
    /// They are initialised, and no more than there are.
    #[inline]
    pub(super) unsafe fn keep(&mut self, len: usize) {
        // SAFETY: the caller says so.
        unsafe { self.show(len) };
        self.give_back();
    }

    /// Gives back what the packet does not show, where that can be done.
    #[inline]
    fn give_back(&mut self) {
        let kept = self.shown().max(BUNDLE_BYTES);
        // SAFETY: the block is live, and on its heap's thread a tail that the packet does not show may go.
        unsafe {
            let at_hand = OwnerOf::heap_at_hand(self.owner_pointer());
            if let Some(heap) = at_hand.or_else(|| self.owner().heap())
                && kept < self.capacity()
                && let Ok(whole) = heap.shrink(self.block(), self.front() + kept)
            {
                // A block with a check behind it has exactly as many bytes as it was asked to keep.
                self.set(self.shown(), whole - self.front());
            }
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Drop for SharedPacket<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the block is live, the packet's alone, and not used afterwards; without a label it starts with the packet.
        unsafe {
            if !self.is_labelled()
                && let Some(heap) = OwnerOf::<UNIT, WINDOW_UNITS, S>::heap_at_hand(self.owner_pointer())
            {
                heap.free(self.bytes);
            } else {
                Self::free_elsewhere(self.bytes, self.lengths);
            }
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Deref for SharedPacket<UNIT, WINDOW_UNITS, S> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the block is live, and its first `len` bytes are initialised.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr(), self.shown()) }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> DerefMut for SharedPacket<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the packet is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.shown()) }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> AsRef<[u8]> for SharedPacket<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> AsMut<[u8]> for SharedPacket<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Borrow<[u8]> for SharedPacket<UNIT, WINDOW_UNITS, S> {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> BorrowMut<[u8]> for SharedPacket<UNIT, WINDOW_UNITS, S> {
    fn borrow_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for SharedPacket<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedPacket {{ {} bytes of {} at {:p} }}", self.len(), self.capacity(), self.bytes)
    }
}
