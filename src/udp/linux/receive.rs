//! Datagrams on their way in: a scratch area that is filled by one system call and emptied one datagram at a time.
//!
//! ```text
//! slots      ├ datagram 1 ┼┄┄ free ┄┄┤├ datagram 2 ┼┄┄ free ┄┄┤├ …           each of `size` bytes
//! joined     ├ a run of datagrams ┼ a run ┼┄┄┄┄┄┄┄┄ 64 KiB free ┄┄┄┄┄┄┄┄┤     each where the last one ended
//! ```
//!
//! Invariant: the headers before `received` describe what the kernel wrote; those before `touched` must be set anew
//! before the kernel gets them again. The pointers in them lead into the areas beside them, which never move.

use core::ptr::NonNull;
use std::io;
use std::os::fd::RawFd;

use super::control;
use super::sockaddr;
use super::system::Calls;
use crate::udp::layout::{Layout, Received};
use crate::udp::segments::{count_segments, segment_at};
use crate::udp::{Address, Counters, Info};

/// The most datagrams of one system call: the kernel's own limit.
pub(crate) const MOST: usize = 1024;
/// Bytes that the kernel may join.
const JOINED: usize = 1 << 16;
/// Bytes of the area for joined datagrams: room for one more while it is not half full.
const JOINED_AREA: usize = 2 * JOINED;
/// Receive calls for joined datagrams, at most, to fill that.
const JOINED_CALLS: usize = 64;
/// A cache line.
const LINE: usize = 64;

/// Room for an address, aligned as the kernel's structures are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; sockaddr::ROOM]);

/// Room for control messages, aligned as they are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; control::ROOM]);

/// A slice on the heap that is reached through a pointer only, since the kernel holds pointers into it.
struct Area<T>(NonNull<[T]>);

/// Types of which all bytes may be zero.
///
/// # Safety
/// They may.
unsafe trait Zero {}
// SAFETY: a number.
unsafe impl Zero for u8 {}
// SAFETY: pointers and numbers.
unsafe impl Zero for libc::mmsghdr {}
// SAFETY: a pointer and a number.
unsafe impl Zero for libc::iovec {}
// SAFETY: numbers.
unsafe impl Zero for Name {}
// SAFETY: numbers.
unsafe impl Zero for Control {}

impl<T: Zero> Area<T> {
    /// Elements that are all zero; `None` when there is no memory for them. Pages that nobody writes take none.
    fn zeroed(count: usize) -> Option<Self> {
        let layout = core::alloc::Layout::array::<T>(count).ok()?;
        if layout.size() == 0 {
            return Some(Self(NonNull::slice_from_raw_parts(NonNull::dangling(), 0)));
        }
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Self(NonNull::slice_from_raw_parts(start.cast(), count)))
    }
}

impl<T> Area<T> {
    fn len(&self) -> usize {
        self.0.len()
    }

    /// The place of an element.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    fn at(&self, index: usize) -> *mut T {
        assert!(index < self.len());
        // SAFETY: the element exists.
        unsafe { self.0.cast::<T>().as_ptr().add(index) }
    }
}

impl<T> Drop for Area<T> {
    fn drop(&mut self) {
        let layout = core::alloc::Layout::array::<T>(self.len()).expect("it was allocated with this layout");
        if layout.size() > 0 {
            // SAFETY: it was allocated with this layout, and nobody holds a reference into it.
            unsafe { std::alloc::dealloc(self.0.as_ptr().cast(), layout) };
        }
    }
}

/// The scratch area, and which of its datagrams were not handed out yet.
pub(crate) struct Incoming<C> {
    calls: C,
    layout: Layout,
    area: Area<u8>,
    headers: Area<libc::mmsghdr>,
    vectors: Area<libc::iovec>,
    names: Area<Name>,
    controls: Area<Control>,
    touched: usize,
    received: usize,
    /// The message that the next datagram is of, where that starts in it, and what was said about it.
    message: usize,
    start: usize,
    info: Info,
    /// Datagrams that were not handed out, each of the joined ones counted.
    remaining: usize,
    /// How many of the last calls that brought anything brought a single datagram, one after the other.
    #[cfg(feature = "python")]
    singles: u8,
    /// An error that came behind datagrams.
    deferred: Option<io::Error>,
    counters: Counters,
}

// SAFETY: the pointers lead into its own areas.
unsafe impl<C: Send> Send for Incoming<C> {}
// SAFETY: nothing is changed through a shared reference.
unsafe impl<C: Sync> Sync for Incoming<C> {}

impl<C: Calls> Incoming<C> {
    /// # Panics
    /// When there is no memory for the scratch area.
    pub(crate) fn new(calls: C, layout: Layout) -> Self {
        Self::try_new(calls, layout).unwrap_or_else(|| panic!("no memory for a batch of {layout:?}"))
    }

    /// `None` when there is no memory for the scratch area.
    pub(crate) fn try_new(calls: C, layout: Layout) -> Option<Self> {
        let layout = Layout { most: layout.most.clamp(1, MOST), ..layout };
        let (messages, bytes, stride) = if layout.joined {
            (JOINED_CALLS.min(layout.most), JOINED_AREA, 0)
        } else {
            // A line more than a power of two, so that small datagrams do not all fall into the same sets of the cache.
            let stride = layout.size.checked_next_multiple_of(LINE)?.checked_add(LINE)?;
            (layout.most, layout.most.checked_mul(stride)?, stride)
        };
        let this = Self {
            calls,
            layout,
            area: Area::zeroed(bytes)?,
            headers: Area::zeroed(messages)?,
            vectors: Area::zeroed(messages)?,
            names: Area::zeroed(messages)?,
            controls: Area::zeroed(messages)?,
            touched: messages,
            received: 0,
            message: 0,
            start: 0,
            info: Info::default(),
            remaining: 0,
            #[cfg(feature = "python")]
            singles: 0,
            deferred: None,
            counters: Counters::default(),
        };
        for index in 0..messages {
            // SAFETY: these are elements of the areas, which nobody else uses yet.
            unsafe {
                let base = if layout.joined { this.area.at(0) } else { this.area.at(index * stride) };
                let length = if layout.joined { JOINED } else { layout.size };
                *this.vectors.at(index) = libc::iovec { iov_base: base.cast(), iov_len: length };
                let header = &mut (*this.headers.at(index)).msg_hdr;
                header.msg_iov = this.vectors.at(index);
                header.msg_iovlen = 1;
                header.msg_name = this.names.at(index).cast();
                header.msg_control = this.controls.at(index).cast();
            }
        }
        Some(this)
    }

    pub(crate) fn calls(&self) -> &C {
        &self.calls
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// What was counted since the last time.
    #[cfg(feature = "python")]
    pub(crate) fn take_counters(&mut self) -> Counters {
        core::mem::take(&mut self.counters)
    }

    /// Makes `count` slots of `length` bytes, each `stride` behind the one before it, the place where datagrams arrive,
    /// instead of the scratch area.
    ///
    /// # Safety
    /// These bytes are valid for writes until this function is called again, or nothing is received any more and
    /// nothing that was received is looked at.
    #[cfg(feature = "python")]
    pub(crate) unsafe fn arrive_at(&mut self, start: *mut u8, stride: isize, length: usize, count: usize) {
        self.layout.size = length;
        self.layout.most = count.min(self.headers.len());
        for index in 0..self.layout.most {
            let base = start.wrapping_offset(stride * index as isize).cast();
            // SAFETY: an element of the area, which nobody else uses now.
            unsafe { *self.vectors.at(index) = libc::iovec { iov_base: base, iov_len: length } };
        }
    }

    /// Bytes of memory that it holds.
    #[cfg(feature = "python")]
    pub(crate) fn bytes(&self) -> usize {
        self.area.len() + self.headers.len() * (size_of::<libc::mmsghdr>() + size_of::<Name>() + size_of::<Control>())
    }

    /// Receives what is there, in one call (when the kernel joins, in one for each run of datagrams). Nothing is
    /// received while datagrams of the last call are left.
    ///
    /// With `wait` it blocks for the first datagram as a plain receive call does; only for one datagram, since a batch
    /// that is interrupted half-way fails the next call.
    pub(crate) fn fill(&mut self, socket: RawFd, wait: bool) -> io::Result<()> {
        self.fill_up_to(self.layout.most, socket, wait)
    }

    /// The same with a limit of its own, from 1 to that of the layout.
    pub(crate) fn fill_up_to(&mut self, most: usize, socket: RawFd, wait: bool) -> io::Result<()> {
        let most = most.clamp(1, self.layout.most);
        if self.peek().is_some() {
            return Ok(());
        }
        self.begin()?;
        let wait = wait && most == 1;
        if self.layout.joined {
            self.fill_joined(most, socket, wait)?;
        } else {
            let headers = core::ptr::slice_from_raw_parts_mut(self.headers.at(0), most);
            self.touched = most;
            self.counters.calls += 1;
            // SAFETY: the headers lead into the areas, which nobody else uses now.
            self.received = unsafe { self.receive(socket, headers, wait) }?.min(most);
            self.touched = self.received;
        }
        self.take_in();
        Ok(())
    }

    /// Receives as [`fill_up_to`](Self::fill_up_to) does, by plain calls: where a single datagram is there, that costs
    /// less. They say nothing about it but who sent it and whether it fitted. For sockets on which the kernel joins
    /// none: room for joined ones is laid out anew as each arrives, so that here it is good for one.
    ///
    /// A second call looks for a second datagram, unless `most` is 1. Where there is one, the others come in one call.
    /// With `wait` the first call blocks.
    pub(crate) fn fill_plainly(&mut self, most: usize, socket: RawFd, wait: bool) -> io::Result<()> {
        let most = most.clamp(1, self.layout.most);
        debug_assert!(most == 1 || !self.layout.joined);
        if self.peek().is_some() {
            return Ok(());
        }
        self.begin()?;
        for index in 0..most.min(2) {
            self.touched = index + 1;
            self.counters.calls += 1;
            let flags = if wait && index == 0 { 0 } else { libc::MSG_DONTWAIT };
            // SAFETY: the header leads into the areas, which nobody else uses now.
            match unsafe { self.calls.receive_plainly(socket, self.headers.at(index), flags) } {
                Ok(()) => self.received += 1,
                Err(error) if index == 0 => return Err(error),
                Err(error) => self.defer(error),
            }
        }
        if self.received == 2 && most > 2 {
            let others = core::ptr::slice_from_raw_parts_mut(self.headers.at(2), most - 2);
            self.touched = most;
            self.counters.calls += 1;
            // SAFETY: as in `fill_up_to`.
            match unsafe { self.receive(socket, others, false) } {
                Ok(more) => self.received += more.min(most - 2),
                Err(error) => self.defer(error),
            }
        }
        self.take_in();
        Ok(())
    }

    /// Whether the last two calls that brought anything brought a single datagram each: the next one may do the same.
    #[cfg(feature = "python")]
    pub(crate) fn expects_single(&self) -> bool {
        self.singles >= 2
    }

    /// Counts what a call has received, and reads what was said about the first.
    fn take_in(&mut self) {
        self.remaining = self.received;
        for index in 0..self.received {
            if control_length(self.header(index)) > 0 {
                self.remaining += self.count(index) - 1;
                // Nobody here asks for the descriptors that Unix peers pass along, and each would be leaked.
                control::descriptors(self.control(index)).for_each(drop);
            }
        }
        self.read_info();
        self.counters.datagrams += self.remaining as u64;
        #[cfg(feature = "python")]
        {
            self.singles = if self.remaining == 1 { self.singles.saturating_add(1) } else { 0 };
        }
    }

    /// Tells the error that an earlier call left to this one, or makes ready to receive.
    fn begin(&mut self) -> io::Result<()> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        self.forget();
        self.reset(self.touched);
        self.touched = 0;
        Ok(())
    }

    /// Nothing is there any more.
    fn forget(&mut self) {
        (self.received, self.message, self.start, self.remaining) = (0, 0, 0, 0);
        self.info = Info::default();
    }

    /// Datagrams that a message has.
    fn count(&self, index: usize) -> usize {
        match control_length(self.header(index)) {
            0 => 1,
            _ => count_segments(self.length(index), control::parse(self.control(index)).segment_size),
        }
    }

    fn fill_joined(&mut self, most: usize, socket: RawFd, wait: bool) -> io::Result<()> {
        let (mut at, mut datagrams) = (0, 0);
        while self.received < self.headers.len() && at + JOINED <= self.area.len() && datagrams < most {
            let index = self.received;
            // SAFETY: an element of the areas; the part from `at` on has the room of a joined datagram.
            unsafe { (*self.vectors.at(index)).iov_base = self.area.at(at).cast() };
            let header = core::ptr::slice_from_raw_parts_mut(self.headers.at(index), 1);
            self.touched = index + 1;
            self.counters.calls += 1;
            // SAFETY: as in `fill_up_to`.
            match unsafe { self.receive(socket, header, wait && index == 0) } {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if index == 0 => return Err(error),
                Err(error) => {
                    self.defer(error);
                    break;
                }
            }
            self.received += 1;
            let count = self.count(index);
            if count > 1 {
                self.counters.joined += count as u64;
            }
            datagrams += count;
            at += self.length(index).next_multiple_of(LINE);
        }
        Ok(())
    }

    /// Receives one datagram to `room`, outside of the scratch area, which is empty. Returns how many bytes it has
    /// there, and whether it did not fit. Who sent it is [`source`](Self::source), as long as nothing else is received.
    ///
    /// # Safety
    /// `room` is valid for writes.
    pub(crate) unsafe fn fill_room(&mut self, socket: RawFd, room: *mut [u8], wait: bool) -> io::Result<(usize, bool)> {
        debug_assert!(self.peek().is_none());
        self.begin()?;
        self.touched = 1;
        self.counters.calls += 1;
        // SAFETY: the first elements of the areas, which nobody else uses now, and the caller's room.
        let outcome = unsafe {
            let slot = *self.vectors.at(0);
            *self.vectors.at(0) = libc::iovec { iov_base: room.cast(), iov_len: room.len() };
            let headers = core::ptr::slice_from_raw_parts_mut(self.headers.at(0), 1);
            let outcome = self.receive(socket, headers, wait);
            *self.vectors.at(0) = slot;
            outcome
        };
        if outcome? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.counters.datagrams += 1;
        let header = self.header(0);
        if control_length(header) > 0 {
            control::descriptors(self.control(0)).for_each(drop);
        }
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        Ok(((header.msg_len as usize).min(room.len()), truncated))
    }

    /// Keeps an error that came behind datagrams for the next call. That there was nothing more is none.
    pub(crate) fn defer(&mut self, error: io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.deferred = Some(error);
        }
    }

    /// The error that the next call would return.
    #[cfg(feature = "python")]
    pub(crate) fn take_deferred(&mut self) -> Option<io::Error> {
        self.deferred.take()
    }

    /// What was said about the datagram that [`fill_room`](Self::fill_room) has received.
    pub(crate) fn info_of_room(&self) -> Info {
        control::parse(self.control(0))
    }

    /// The system call.
    ///
    /// # Safety
    /// As for [`Calls::receive`].
    unsafe fn receive(&self, socket: RawFd, headers: *mut [libc::mmsghdr], wait: bool) -> io::Result<usize> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        // SAFETY: the caller's promise.
        match unsafe { self.calls.receive(socket, headers, flags | libc::MSG_CMSG_CLOEXEC) } {
            // Packet sockets know no such flag, and pass no descriptors.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                // SAFETY: the caller's promise.
                unsafe { self.calls.receive(socket, headers, flags) }
            }
            outcome => outcome,
        }
    }

    /// Sets what the kernel has changed in the first `count` headers.
    fn reset(&mut self, count: usize) {
        for index in 0..count {
            // SAFETY: an element of the area, which nobody else uses now.
            let header = unsafe { &mut (*self.headers.at(index)).msg_hdr };
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_controllen = size_of::<Control>() as _;
            header.msg_flags = 0;
        }
    }

    fn header(&self, index: usize) -> &libc::mmsghdr {
        // SAFETY: an element of the area, which the kernel is done with.
        unsafe { &*self.headers.at(index) }
    }

    /// Bytes that message has, which are never more than there is room for.
    fn length(&self, index: usize) -> usize {
        let room = if self.layout.joined { JOINED } else { self.layout.size };
        (self.header(index).msg_len as usize).min(room)
    }

    fn control(&self, index: usize) -> &[u8] {
        let length = control_length(self.header(index));
        // SAFETY: an element of the area, which the kernel is done with.
        unsafe { &(&*self.controls.at(index)).0[..length.min(control::ROOM)] }
    }

    /// Reads what was said about the message that is next.
    fn read_info(&mut self) {
        self.info = if self.message < self.received && control_length(self.header(self.message)) > 0 {
            control::parse(self.control(self.message))
        } else {
            Info::default()
        };
    }

    /// The bytes of a message.
    fn message(&self, index: usize) -> &[u8] {
        // SAFETY: the header's bytes lie in the area, and the kernel, which is done with them, has written that many;
        // the rest was zero from the beginning.
        unsafe {
            let base = (*self.vectors.at(index)).iov_base.cast::<u8>();
            core::slice::from_raw_parts(base, self.length(index))
        }
    }

    /// Whether the next call answers from what is here: with datagrams or with an error that came behind some.
    #[cfg(feature = "python")]
    pub(crate) fn has_leftovers(&self) -> bool {
        self.deferred.is_some() || self.peek().is_some()
    }

    /// Datagrams that one call can bring.
    #[cfg(feature = "python")]
    pub(crate) fn slots(&self) -> usize {
        self.headers.len()
    }

    /// How many datagrams are left to be handed out.
    pub(crate) fn remaining(&self) -> usize {
        self.remaining
    }

    /// The next datagram.
    #[inline]
    pub(crate) fn peek(&self) -> Option<Received<'_>> {
        if self.message >= self.received {
            return None;
        }
        let header = &self.header(self.message).msg_hdr;
        let bytes = self.message(self.message);
        let part = segment_at(bytes.len(), self.info.segment_size, self.start)?;
        let bytes = &bytes[part];
        let fitting = &bytes[..bytes.len().min(self.layout.size)];
        Some(Received {
            bytes: fitting,
            truncated: header.msg_flags & libc::MSG_TRUNC != 0 || fitting.len() < bytes.len(),
            #[cfg(feature = "python")]
            whole: bytes.len(),
            info: &self.info,
        })
    }

    /// The run of joined datagrams that the next one starts, or what is left of it.
    #[cfg(any(test, feature = "python"))]
    pub(crate) fn peek_joined(&self) -> Option<Received<'_>> {
        let next = self.peek()?;
        Some(Received { bytes: &self.message(self.message)[self.start..], ..next })
    }

    /// Who sent the next datagram.
    pub(crate) fn source(&self) -> Address {
        sockaddr::decode(self.address())
    }

    /// The same as the system has it; empty when the sender has no address.
    pub(crate) fn address(&self) -> &[u8] {
        self.address_of(self.message)
    }

    /// Which message of the last call the next datagram came in.
    #[cfg(feature = "python")]
    pub(crate) fn message_number(&self) -> usize {
        self.message
    }

    /// Who sent a message of the last call, as the system has it.
    pub(crate) fn address_of(&self, message: usize) -> &[u8] {
        let length = self.header(message).msg_hdr.msg_namelen as usize;
        // SAFETY: an element of the area, which the kernel is done with.
        unsafe { &(&*self.names.at(message)).0[..length.min(sockaddr::ROOM)] }
    }

    /// Counts the next datagram as handed out.
    #[inline]
    pub(crate) fn consume(&mut self) {
        if let Some(segment) = self.info.segment_size {
            let end = self.start.saturating_add(segment);
            if end < self.length(self.message) {
                self.start = end;
                self.remaining -= 1;
                return;
            }
        }
        self.consume_joined();
    }

    /// Counts the next datagram and those that it was joined with as handed out.
    pub(crate) fn consume_joined(&mut self) {
        if self.message >= self.received {
            return;
        }
        self.remaining -= count_segments(self.length(self.message) - self.start, self.info.segment_size);
        self.message += 1;
        self.start = 0;
        self.read_info();
    }
}

/// Bytes of a header's control messages.
#[allow(clippy::unnecessary_cast, reason = "another type in musl")]
fn control_length(header: &libc::mmsghdr) -> usize {
    header.msg_hdr.msg_controllen as usize
}
