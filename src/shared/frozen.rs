//! [`FrozenPacket`]: a packet that many hold.
//!
//! ```text
//!        bytes ├── len ──┤     handles: a part of the packet each, and where its tail is
//! block ├───────────────────────────────────────┼ seal │ references ┤
//!                                               tail
//! ```
//!
//! The tail lies in the last bytes of the packet's block, which a [`SharedPacket`] leaves alone, so that freezing takes
//! no memory. Invariant: a handle with a tail counts in its references; the block is live and nobody writes to what
//! lies in front of the tail while there is one.

use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Bound, Deref, RangeBounds};
use core::ptr::NonNull;

use super::packet::{AnyThread, SharedPacket, TAIL_BYTES};
use super::references::References;
use crate::packet::bytes_like::bytes_like;
use crate::packet::cannot_advance;
use crate::packet::owner::sealed::Blocks;
use crate::packet::span::{Block, Span};
use crate::system::{Os, System};

/// The end of a frozen packet's block.
#[repr(C)]
struct Tail {
    /// Distinguishes a tail from anything else that may lie here. In front, where what overflows comes from.
    seal: u32,
    references: References,
}

// The model checker's atomics are larger, and count no packets.
const _: () = assert!(cfg!(all(test, loom)) || size_of::<Tail>() == TAIL_BYTES && align_of::<Tail>() <= TAIL_BYTES);

/// The bit of a handle's size that says that the block is long.
const LONG: u32 = 1 << (u32::BITS - 1);

/// A number that packet bytes are unlikely to contain.
#[inline(always)]
fn seal_of(tail: NonNull<Tail>) -> u32 {
    tail.addr().get() as u32 ^ 0x9E37_79B9
}

/// Bytes of a packet that many hold and nobody changes: cheap to clone, slice, split and advance.
///
/// [`SharedPacket::freeze`] makes it. Its references are counted in the packet's own block, so that nothing is
/// allocated, and the last one, on whatever thread, frees that. The [only one](Self::try_into_packet) is writable
/// again.
///
/// ```
/// use pktalloc::{FrozenPacket, SharedAllocator};
///
/// let allocator = SharedAllocator::new();
/// let sent: FrozenPacket = allocator.packet_from(b"header|payload")?.freeze();
/// let mut kept = sent.clone();
/// kept.advance(7);
/// std::thread::spawn(move || assert_eq!(sent, b"header|payload")).join().unwrap();
/// assert_eq!(kept, b"payload");
///
/// let mut packet = kept.try_into_packet().expect("the other one is gone");
/// packet.make_ascii_uppercase();
/// packet.prepend(b"again|")?; // what was stripped off is headroom
/// assert_eq!(packet, b"again|PAYLOAD");
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
///
/// Nobody can write while others read:
///
/// ```compile_fail,E0594
/// let allocator = pktalloc::SharedAllocator::new();
/// let mut packet = allocator.packet(100).unwrap().freeze();
/// packet[0] = 1;
/// ```
pub struct FrozenPacket<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = Os> {
    bytes: NonNull<u8>,
    len: u32,
    /// Bytes of the block in front of its tail; on top whether it is long. Not in the tail, which stray bytes may
    /// reach.
    size: u32,
    /// `None` where there is no block, and no byte.
    tail: Option<NonNull<Tail>>,
    owner: PhantomData<AnyThread<UNIT, WINDOW_UNITS, S>>,
}

// SAFETY: what all handles reach is read only; their number is atomic; and the last of them may free the block on
// whatever thread it is, as a packet's drop may, which it takes the heap's system along for.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send> Send
    for FrozenPacket<UNIT, WINDOW_UNITS, S>
{
}
// SAFETY: as above; a shared reference makes handles.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send> Sync
    for FrozenPacket<UNIT, WINDOW_UNITS, S>
{
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> SharedPacket<UNIT, WINDOW_UNITS, S> {
    /// Makes it a packet that many hold, and nobody changes. Allocates nothing; the packet keeps its room.
    #[inline]
    #[must_use]
    pub fn freeze(self) -> FrozenPacket<UNIT, WINDOW_UNITS, S> {
        let packet = ManuallyDrop::new(self);
        let (span, Block { start, size, is_long }) = (packet.span(), packet.block());
        let tail = (size > 0).then(|| {
            // SAFETY: a block of this owner has a tail behind what its packet may use, which nobody else writes to; its
            // pointer may reach that.
            unsafe {
                let tail: NonNull<Tail> = start.add(size).cast();
                tail.write(Tail { seal: seal_of(tail), references: References::one() });
                tail
            }
        });
        // Both are below 2 GiB.
        let (len, size) = (span.len() as u32, size as u32 | if is_long { LONG } else { 0 });
        FrozenPacket { bytes: span.bytes(), len, size, tail, owner: PhantomData }
    }
}

impl FrozenPacket {
    /// A packet of the default shape without bytes. For another shape: `FrozenPacket::<32, 1024>::default()`.
    #[must_use]
    pub const fn new() -> Self {
        Self::EMPTY
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> FrozenPacket<UNIT, WINDOW_UNITS, S> {
    const EMPTY: Self = Self { bytes: NonNull::dangling(), len: 0, size: 0, tail: None, owner: PhantomData };

    /// A part of the packet, which holds all of it.
    ///
    /// ```
    /// let allocator = pktalloc::SharedAllocator::new();
    /// let packet = allocator.packet_from(b"header|payload")?.freeze();
    /// assert_eq!(packet.slice(7..), b"payload");
    /// assert_eq!(packet.slice(..6), b"header");
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    ///
    /// # Panics
    /// When the range is out of bounds, as that of a slice.
    #[inline]
    #[track_caller]
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        if start > end || end > self.len() {
            cannot_slice(start, end, self.len());
        }
        let mut part = self.clone();
        // SAFETY: inside of the packet, or at its end.
        part.bytes = unsafe { part.bytes.add(start) };
        part.len = (end - start) as u32;
        part
    }

    /// Splits the packet in two: returns the first `at` bytes, and keeps what follows.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[must_use = "use `advance` to strip bytes off"]
    pub fn split_to(&mut self, at: usize) -> Self {
        let front = self.slice(..at);
        self.advance(at);
        front
    }

    /// Splits the packet in two: returns what follows the first `at` bytes, and keeps those.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[must_use = "use `truncate` to cut bytes off"]
    pub fn split_off(&mut self, at: usize) -> Self {
        let back = self.slice(at..);
        self.truncate(at);
        back
    }

    /// Strips the first `bytes` bytes off.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[track_caller]
    pub fn advance(&mut self, bytes: usize) {
        if bytes > self.len() {
            cannot_advance(bytes, self.len());
        }
        // SAFETY: inside of the packet, or at its end.
        self.bytes = unsafe { self.bytes.add(bytes) };
        self.len -= bytes as u32;
    }

    /// Keeps the first `len` bytes; does nothing when there are no more.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len().min(len) as u32;
    }

    /// Whether this is the only handle to its block.
    #[inline]
    #[must_use]
    pub fn is_unique(&self) -> bool {
        // SAFETY: the tail is there as long as this handle.
        self.tail.is_none_or(|tail| unsafe { tail.as_ref() }.references.is_one())
    }

    /// A packet that can be written to, if this is the only handle to its block. It shows what the handle does; the
    /// rest of the block is headroom and tailroom.
    ///
    /// # Errors
    /// The handle, if there are others.
    #[inline]
    pub fn try_into_packet(self) -> Result<SharedPacket<UNIT, WINDOW_UNITS, S>, Self> {
        if !self.is_unique() {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        let span = this.tail.map_or(Span::EMPTY, |tail| {
            // SAFETY: the block is live, and was this handle's alone; its bytes lie in front of its tail.
            unsafe {
                let block = Self::block(tail, this.size).unwrap_or_else(|| overwritten(tail.addr().get()));
                let headroom = this.bytes.offset_from_unsigned(block.start);
                let mut span = Span::new(block).behind(headroom);
                span.set_len(this.len());
                span
            }
        });
        // SAFETY: as above, and its bytes are initialised.
        Ok(unsafe { SharedPacket::from_span(span, AnyThread::HERE) })
    }

    /// Takes a handle off; the last one frees the block. Not a part of the caller: see the free of a packet of an
    /// allocator.
    ///
    /// # Safety
    /// The tail and the size are those of a handle, which is not used any more.
    #[inline(never)]
    unsafe fn remove(tail: NonNull<Tail>, size: u32) {
        // SAFETY: the tail is there as long as the handle; no reference to it is left when the block is freed, which is
        // live until then and nobody else's.
        unsafe {
            if (*tail.as_ptr()).references.remove() {
                match Self::block(tail, size) {
                    Some(block) => AnyThread::<UNIT, WINDOW_UNITS, S>::HERE.free(block),
                    // A second panic would end the process.
                    None if std::thread::panicking() => {}
                    None => overwritten(tail.addr().get()),
                }
            }
        }
    }

    /// The block of a handle; `None` when somebody has written to its tail, whose references say nothing then.
    ///
    /// # Safety
    /// The tail and the size are those of a handle to a block that is live.
    #[inline(always)]
    unsafe fn block(tail: NonNull<Tail>, size: u32) -> Option<Block> {
        // SAFETY: the caller says so.
        let seal = unsafe { (*tail.as_ptr()).seal };
        let (bytes, is_long) = ((size & !LONG) as usize, size & LONG != 0);
        // SAFETY: so far the block reaches in front of its tail, whose pointer is derived from the block's.
        (seal == seal_of(tail)).then(|| Block { start: unsafe { tail.cast().sub(bytes) }, size: bytes, is_long })
    }
}

/// Ends a call that needs the tail of a packet's block.
#[cold]
#[inline(never)]
fn overwritten(tail: usize) -> ! {
    panic!("cannot free: the end of the packet's block at {tail:#x} was overwritten")
}

/// Ends a call for a part that is not there. Takes numbers, so that a handle can stay in registers.
#[cold]
#[inline(never)]
#[track_caller]
fn cannot_slice(start: usize, end: usize, len: usize) -> ! {
    panic!("cannot slice {start}..{end} of a packet of {len} bytes")
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Clone for FrozenPacket<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn clone(&self) -> Self {
        if let Some(tail) = self.tail {
            // SAFETY: the tail is there as long as this handle.
            unsafe { tail.as_ref() }.references.add();
        }
        Self { bytes: self.bytes, len: self.len, size: self.size, tail: self.tail, owner: PhantomData }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Drop for FrozenPacket<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn drop(&mut self) {
        if let Some(tail) = self.tail {
            // SAFETY: this handle counts, and is not used any more.
            unsafe { Self::remove(tail, self.size) };
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Deref for FrozenPacket<UNIT, WINDOW_UNITS, S> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: these bytes are initialised, lie in a block that lives as long as this handle, and nobody writes to
        // them.
        unsafe { NonNull::slice_from_raw_parts(self.bytes, self.len as usize).as_ref() }
    }
}

bytes_like!([const UNIT: usize, const WINDOW_UNITS: usize, S: System] FrozenPacket<UNIT, WINDOW_UNITS, S>);

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Default for FrozenPacket<UNIT, WINDOW_UNITS, S> {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// The packet, [frozen](SharedPacket::freeze).
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> From<SharedPacket<UNIT, WINDOW_UNITS, S>>
    for FrozenPacket<UNIT, WINDOW_UNITS, S>
{
    #[inline]
    fn from(packet: SharedPacket<UNIT, WINDOW_UNITS, S>) -> Self {
        packet.freeze()
    }
}

/// Where and how long, not what it says: packets carry other people's data.
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for FrozenPacket<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenPacket").field("len", &self.len()).field("at", &self.bytes).finish_non_exhaustive()
    }
}
