//! Datagrams on their way out: as many as go in one system call, joined where they are equal and the socket can cut
//! them.

use std::collections::TryReserveError;
use std::io;
use std::os::fd::RawFd;

use super::control::{self, SEGMENT_BYTES};
use super::sockaddr::RawAddress;
use super::system::Calls;
use crate::udp::Counters;
use crate::udp::item::Item;
use crate::udp::segments::joinable;

/// The most datagrams of one system call: the kernel's own limit.
const MOST: usize = 1024;

/// Room for the message that asks for segments, aligned as the kernel's structures are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Segments([u8; SEGMENT_BYTES]);

/// The headers of a call, used again by the next one.
pub(crate) struct Outgoing<C> {
    calls: C,
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    segments: Vec<Segments>,
    /// Datagrams of each header.
    counts: Vec<usize>,
    /// The socket, or the card behind it, has refused to cut joined datagrams.
    refused: bool,
    counters: Counters,
}

// SAFETY: the pointers in the headers are only of use during a call.
unsafe impl<C: Send> Send for Outgoing<C> {}
// SAFETY: nothing is changed through a shared reference.
unsafe impl<C: Sync> Sync for Outgoing<C> {}

impl<C: Calls> Outgoing<C> {
    pub(crate) fn new(calls: C) -> Self {
        let (headers, vectors, segments, counts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { calls, headers, vectors, segments, counts, refused: false, counters: Counters::default() }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn calls(&self) -> &C {
        &self.calls
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// What was counted since the last time.
    #[cfg(feature = "python")]
    pub(crate) fn take_counters(&mut self) -> Counters {
        core::mem::take(&mut self.counters)
    }

    /// Whether joined datagrams were refused for good since this was asked last.
    #[cfg(feature = "python")]
    pub(crate) fn take_refusal(&mut self) -> bool {
        core::mem::take(&mut self.refused)
    }

    /// Whether joined datagrams were refused for good.
    pub(crate) fn has_refused(&self) -> bool {
        self.refused
    }

    /// Sends as many of `items` as go without waiting: returns how many, and the error that the next one met.
    ///
    /// # Safety
    /// Every item is initialised memory of its length that nobody writes meanwhile, and its address exists.
    pub(crate) unsafe fn send(
        &mut self,
        socket: RawFd,
        items: &[Item],
        addresses: &[RawAddress],
        join: bool,
    ) -> (usize, Option<io::Error>) {
        let mut join = join && !self.refused && items.len() > 1 && self.can_cut(socket);
        let mut sent = 0;
        // Whether a call with joined datagrams failed in a way that may come from joining them, and for good.
        let mut suspected = false;
        while sent < items.len() {
            if let Err(error) = self.prepare(&items[sent..], addresses, join) {
                return (sent, Some(error));
            }
            let headers = &raw mut self.headers[..];
            self.counters.calls += 1;
            // SAFETY: the headers lead to the items and to the vectors and messages beside them, none of which moves
            // before the call returns.
            match unsafe { self.calls.send(socket, headers, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) } {
                // The error of the one that did not go was swallowed: the next call meets it again, if it lasts.
                Ok(went) if went > 0 => {
                    self.refused |= suspected;
                    for &count in self.counts.iter().take(went) {
                        sent += count;
                        self.counters.datagrams += count as u64;
                        if count > 1 {
                            self.counters.joined += count as u64;
                        }
                    }
                }
                Ok(_) => return (sent, Some(io::ErrorKind::WouldBlock.into())),
                Err(error) if self.counts[0] > 1 && is_about_joining(&error) => {
                    // Too long for this way is not too long for every way. What is refused unjoined as well is refused
                    // for another reason.
                    suspected = error.raw_os_error() != Some(libc::EMSGSIZE);
                    self.counters.refused += 1;
                    join = false;
                }
                Err(error) => return (sent, Some(error)),
            }
        }
        (sent, None)
    }

    /// Sends one datagram, and waits for room as long as the socket itself says.
    ///
    /// Only a plain call knows when a Unix peer has room again: the socket counts as writable all the time.
    ///
    /// # Safety
    /// As for [`send`](Self::send).
    pub(crate) unsafe fn send_waiting(
        &mut self,
        socket: RawFd,
        item: &Item,
        addresses: &[RawAddress],
    ) -> io::Result<()> {
        self.prepare(core::slice::from_ref(item), addresses, false)?;
        self.counters.calls += 1;
        // SAFETY: as in `send`.
        let went = unsafe { self.calls.send(socket, &raw mut self.headers[..], libc::MSG_NOSIGNAL) }?;
        self.counters.datagrams += went as u64;
        if went == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    /// Whether this is a socket that cuts joined datagrams: UDP, on a kernel that knows how, and not told to by its
    /// owner. Others would send them as one, so that it has to be asked.
    fn can_cut(&self, socket: RawFd) -> bool {
        matches!(self.calls.option(socket, libc::SOL_UDP, libc::UDP_SEGMENT), Ok(0))
    }

    /// Sets up the headers for the first items; an error when there is no memory for them.
    fn prepare(&mut self, items: &[Item], addresses: &[RawAddress], join: bool) -> io::Result<()> {
        let items = &items[..items.len().min(MOST)];
        self.headers.clear();
        self.vectors.clear();
        self.segments.clear();
        self.counts.clear();
        self.reserve(items.len(), join).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.vectors.extend(
            items.iter().map(|item| libc::iovec { iov_base: item.base.cast_mut().cast(), iov_len: item.length }),
        );
        let mut first = 0;
        while let Some(item) = items.get(first) {
            let alike = items[first..].iter().take_while(|other| other.to == item.to).map(|other| other.length);
            let count = if join { joinable(alike) } else { 1 };
            self.counts.push(count);
            if count > 1 {
                self.segments.push(Segments(control::segments_of(item.length as u16)));
            }
            first += count;
        }
        let (mut vectors, mut segments) = (self.vectors.as_mut_ptr(), self.segments.as_mut_ptr());
        let mut first = 0;
        for &count in &self.counts {
            // SAFETY: all zero is a header without anything.
            let mut header = unsafe { core::mem::zeroed::<libc::mmsghdr>() };
            if let Some(address) = addresses.get(items[first].to as usize) {
                header.msg_hdr.msg_name = address.bytes().as_ptr().cast_mut().cast();
                header.msg_hdr.msg_namelen = address.bytes().len() as libc::socklen_t;
            }
            header.msg_hdr.msg_iov = vectors;
            header.msg_hdr.msg_iovlen = count as _;
            if count > 1 {
                header.msg_hdr.msg_control = segments.cast();
                header.msg_hdr.msg_controllen = SEGMENT_BYTES as _;
                segments = segments.wrapping_add(1);
            }
            self.headers.push(header);
            vectors = vectors.wrapping_add(count);
            first += count;
        }
        Ok(())
    }

    /// Makes room for the headers of so many datagrams.
    fn reserve(&mut self, datagrams: usize, join: bool) -> Result<(), TryReserveError> {
        self.vectors.try_reserve(datagrams)?;
        self.headers.try_reserve(datagrams)?;
        self.counts.try_reserve(datagrams)?;
        // A message belongs to two datagrams at least.
        if join { self.segments.try_reserve(datagrams / 2) } else { Ok(()) }
    }
}

/// The errors by which a socket says that it cannot cut what it was given.
fn is_about_joining(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}
