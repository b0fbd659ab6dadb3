//! What the fuzz target `datagrams` runs, and a test on the inputs in `tests/corpus/datagrams`: any bytes are what a
//! system says, and the answers of this module are compared with ones that are worked out in another way.

#![allow(clippy::unnecessary_cast, reason = "the libraries do not agree on the types of lengths")]

use core::cell::RefCell;
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::arrival::Arrival;
use super::receive::Incoming;
use super::send::Outgoing;
use super::sockaddr::{self, RawAddress};
use super::system::Calls;
use super::{control, decode, encode};
use crate::udp::Address;
use crate::udp::item::{Item, NO_ADDRESS};
use crate::udp::layout::Layout;

/// Datagrams of one program.
const MOST: usize = 40;

/// Runs a program: its first byte says which part of the module is tried.
#[allow(unreachable_pub, reason = "public where it is fuzzed")]
pub fn run(bytes: &[u8]) {
    let mut program = Program(bytes);
    match program.byte() % 4 {
        0 => read_control(program.0),
        1 => read_address(program.0),
        2 => receive(&mut program),
        _ => send(&mut program),
    }
}

/// Bytes as numbers; zeros behind the end.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn short(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// A buffer as the kernel fills them, aligned for its structures.
#[repr(C, align(8))]
struct Aligned([u8; control::ROOM]);

/// The messages in `bytes` as the system's own macros find them: level, type and data.
fn messages(bytes: &[u8]) -> Vec<(libc::c_int, libc::c_int, Vec<u8>)> {
    let mut room = Aligned([0; control::ROOM]);
    let length = bytes.len().min(control::ROOM);
    room.0[..length].copy_from_slice(&bytes[..length]);
    let mut found = Vec::new();
    // SAFETY: the header is of the room, and the macros read only where its length says that there is a message.
    unsafe {
        let mut header: libc::msghdr = core::mem::zeroed();
        header.msg_control = (&raw mut room.0).cast();
        header.msg_controllen = length as _;
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            let (whole, head) = ((*message).cmsg_len as usize, libc::CMSG_LEN(0) as usize);
            let at = message.addr() - (&raw const room.0).addr();
            if whole < head || whole > length - at {
                break;
            }
            let data = core::slice::from_raw_parts(libc::CMSG_DATA(message), whole - head);
            found.push(((*message).cmsg_level, (*message).cmsg_type, data.to_vec()));
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    found
}

/// The last message of a kind that has as many bytes as that kind has.
fn last<const N: usize>(
    messages: &[(libc::c_int, libc::c_int, Vec<u8>)],
    level: libc::c_int,
    kinds: &[libc::c_int],
) -> Option<[u8; N]> {
    let of_kind = |(of, kind, data): &&(_, _, Vec<u8>)| *of == level && kinds.contains(kind) && data.len() >= N;
    messages.iter().rfind(of_kind).map(|(.., data)| core::array::from_fn(|index| data[index]))
}

fn read_control(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(control::ROOM)];
    let (info, messages) = (control::parse(bytes), messages(bytes));
    let has = |level, kind| messages.iter().any(|(of, is, _)| (*of, *is) == (level, kind));
    let interface = last::<12>(&messages, libc::IPPROTO_IP, &[libc::IP_PKTINFO]);
    if !has(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
        assert_eq!(info.interface, interface.map(|data| u32::from_ne_bytes([data[0], data[1], data[2], data[3]])));
        let destination = interface.map(|data| std::net::IpAddr::from([data[8], data[9], data[10], data[11]]));
        assert_eq!(info.destination, destination);
    }
    if !has(libc::IPPROTO_IPV6, libc::IPV6_TCLASS) {
        assert_eq!(info.traffic_class, last::<1>(&messages, libc::IPPROTO_IP, &[libc::IP_TOS]).map(|data| data[0]));
    }
    let short = |(.., data): &(_, _, Vec<u8>)| data.len() < 4;
    if !messages.iter().any(short) {
        let dropped = last::<4>(&messages, libc::SOL_SOCKET, &[libc::SO_RXQ_OVFL]).map(u32::from_ne_bytes);
        assert_eq!(info.dropped, dropped);
        let segment = last::<4>(&messages, libc::SOL_UDP, &[libc::UDP_GRO]).map(i32::from_ne_bytes);
        assert_eq!(info.segment_size, segment.filter(|&size| size > 0).map(|size| size as usize));
    }
    if !has(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) && !has(libc::SOL_SOCKET, control::TIMESTAMPNS_NEW) {
        assert_eq!(info.time_ns, None);
    }
}

fn read_address(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(sockaddr::ROOM)];
    let address = decode(bytes);
    assert!(!address.to_string().is_empty());
    let Some(raw) = encode(&address) else {
        // A name that fills more than the field of one has.
        assert!(matches!(&address, Address::Unix(name) if name.len() > sockaddr::UNIX_NAME));
        return;
    };
    assert_eq!(decode(raw.bytes()), address, "{bytes:?}");
    if let Address::Other(kept) = &address {
        assert_eq!(**kept, *bytes);
    }
    if let Some(inet) = address.inet() {
        let family = if inet.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        assert_eq!(bytes[..2], (family as u16).to_ne_bytes());
        assert_eq!(bytes[2..4], inet.port().to_be_bytes());
    }
}

/// A system that does what the program says.
#[derive(Default)]
struct Shim {
    arrivals: RefCell<VecDeque<Arrival>>,
    /// How many of them each call brings, or the error that it meets.
    receives: RefCell<VecDeque<Result<usize, i32>>>,
    sends: RefCell<VecDeque<Result<usize, i32>>>,
    /// The datagrams that went, and where to.
    sent: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Calls for Shim {
    unsafe fn receive(&self, _: RawFd, headers: *mut [libc::mmsghdr], _: libc::c_int) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        let headers = unsafe { &mut *headers };
        let mut arrivals = self.arrivals.borrow_mut();
        let most = match self.receives.borrow_mut().pop_front().unwrap_or(Ok(usize::MAX)) {
            Ok(most) => most.max(1).min(headers.len()).min(arrivals.len()),
            Err(error) => return Err(io::Error::from_raw_os_error(error)),
        };
        if most == 0 {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        for (header, arrival) in headers.iter_mut().zip(arrivals.drain(..most)) {
            let message = &header.msg_hdr;
            assert!(message.msg_namelen as usize == sockaddr::ROOM && message.msg_controllen as usize == control::ROOM);
            // SAFETY: the caller's promise.
            unsafe { arrival.deliver(header) };
        }
        Ok(most)
    }

    unsafe fn receive_plainly(&self, socket: RawFd, header: *mut libc::mmsghdr, flags: libc::c_int) -> io::Result<()> {
        let single = core::ptr::slice_from_raw_parts_mut(header, 1);
        // SAFETY: the caller's promise.
        unsafe {
            self.receive(socket, single, flags)?;
            (*header).msg_hdr.msg_controllen = 0;
        }
        Ok(())
    }

    unsafe fn send(&self, _: RawFd, headers: *mut [libc::mmsghdr], _: libc::c_int) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        let headers = unsafe { &mut *headers };
        let took = match self.sends.borrow_mut().pop_front().unwrap_or(Ok(usize::MAX)) {
            Ok(most) => most.min(headers.len()),
            Err(error) => return Err(io::Error::from_raw_os_error(error)),
        };
        for header in &headers[..took] {
            let message = &header.msg_hdr;
            // SAFETY: the pointers of a header are to memory of the lengths beside them.
            let (vectors, name, control) = unsafe {
                let bytes = |start: *mut libc::c_void, length: usize| match length {
                    0 => Vec::new(),
                    _ => core::slice::from_raw_parts(start.cast::<u8>(), length).to_vec(),
                };
                let vectors = core::slice::from_raw_parts(message.msg_iov, message.msg_iovlen as usize);
                let all: Vec<Vec<u8>> = vectors.iter().map(|vector| bytes(vector.iov_base, vector.iov_len)).collect();
                let control = bytes(message.msg_control, message.msg_controllen as usize);
                (all, bytes(message.msg_name, message.msg_namelen as usize), control)
            };
            // What the kernel does with joined ones: it cuts them by their number of bytes alone.
            let whole = vectors.concat();
            let segment = match messages(&control)[..] {
                [] => whole.len().max(1),
                [(libc::SOL_UDP, libc::UDP_SEGMENT, ref size)] => usize::from(u16::from_ne_bytes([size[0], size[1]])),
                ref others => panic!("{others:?}"),
            };
            assert!(
                segment > 0 && whole.len().div_ceil(segment) <= 64 && (vectors.len() == 1 || whole.len() <= 65_507)
            );
            let mut sent = self.sent.borrow_mut();
            if whole.is_empty() {
                sent.push((Vec::new(), name.clone()));
            }
            sent.extend(whole.chunks(segment).map(|part| (part.to_vec(), name.clone())));
        }
        Ok(took)
    }

    fn poll(&self, _: RawFd, _: libc::c_short, _: Option<Duration>) -> io::Result<bool> {
        Ok(true)
    }

    fn is_nonblocking(&self, _: RawFd) -> io::Result<bool> {
        Ok(true)
    }

    fn timeout(&self, _: RawFd, _: libc::c_int) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    fn set_option(&self, _: RawFd, _: libc::c_int, _: libc::c_int, _: libc::c_int) -> io::Result<()> {
        Ok(())
    }

    fn option(&self, _: RawFd, _: libc::c_int, _: libc::c_int) -> io::Result<libc::c_int> {
        Ok(0)
    }
}

/// A control message of the system's.
fn message(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Vec<u8> {
    let mut bytes = (size_of::<libc::cmsghdr>() + data.len()).to_ne_bytes().to_vec();
    bytes.extend([level.to_ne_bytes(), kind.to_ne_bytes()].concat());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
    bytes
}

/// Datagrams arrive in calls of any size, with errors in between: each comes out once, in order and cut where it was
/// joined.
fn receive(program: &mut Program<'_>) {
    let most = 1 + usize::from(program.byte() % 12);
    let size = 1 + program.short() % 1500;
    let joined = program.byte() % 2 == 1;
    let shim = Shim::default();
    let mut expected = VecDeque::new();
    for index in 0..usize::from(program.byte()) % MOST {
        let segment = match program.byte() {
            0..64 => None,
            byte @ 64..160 => Some(1 + usize::from(byte % 5) * 300),
            _ => Some(program.short() % 1600),
        };
        // Often whole segments.
        let length = match program.byte() {
            byte @ 0..128 => segment.unwrap_or(700) * usize::from(byte % 8),
            _ => program.short() % 3000,
        };
        let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + index) as u8).collect();
        let count = usize::from(program.byte() % 32).max(usize::from(program.byte() / 240 * 64) * 2);
        let name = program.take(count);
        // Messages that the kernel never sends but for passed descriptors, which nobody has opened here.
        let count = usize::from(program.byte() / 2).saturating_sub(64);
        let mut control = program.take(count);
        if messages(&control).iter().any(|(level, kind, _)| (*level, *kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)) {
            control.clear();
        }
        // A message that is not whole hides those behind it, a whole one may end within its padding.
        control.resize(control.len().next_multiple_of(size_of::<usize>()), 0);
        if let Some(segment) = segment {
            let gro = message(libc::SOL_UDP, libc::UDP_GRO, &(segment as libc::c_int).to_ne_bytes());
            control.splice(0..0, gro);
        }
        // The last one counts.
        let gro = messages(&control).into_iter().rfind(|m| (m.0, m.1) == (libc::SOL_UDP, libc::UDP_GRO));
        let segment = gro.and_then(|(.., data)| match *data {
            [a, b] => Some(i32::from(u16::from_ne_bytes([a, b]))),
            [a, b, c, d, ..] => Some(i32::from_ne_bytes([a, b, c, d])),
            _ => None,
        });
        let segment = segment.and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
        // Without joined datagrams the slot is as long as a datagram may be.
        let arrived = if joined { &bytes[..] } else { &bytes[..length.min(size)] };
        let lost = arrived.len() < length;
        let parts: Vec<&[u8]> = match segment {
            _ if arrived.is_empty() => vec![arrived],
            Some(segment) => arrived.chunks(segment).collect(),
            None => vec![arrived],
        };
        for part in parts {
            let fitting = &part[..part.len().min(size)];
            expected.push_back((fitting.to_vec(), lost || fitting.len() < part.len(), decode(&name)));
        }
        shim.arrivals.borrow_mut().push_back(Arrival { bytes, name, control, flags: 0 });
    }
    let calls = usize::from(program.byte() % 16);
    for _ in 0..calls {
        let call = match program.byte() {
            call @ 0..200 => Ok(usize::from(call % 9)),
            200..220 => Err(libc::EINTR),
            220..240 => Err(libc::ECONNREFUSED),
            _ => Err(libc::EAGAIN),
        };
        shim.receives.borrow_mut().push_back(call);
    }
    // Plain calls pass on what the system says about none of them, and are for sockets where none are joined.
    let plainly = !joined && shim.arrivals.borrow().iter().all(|arrival| arrival.control.is_empty());
    let mut incoming = Incoming::new(shim, Layout { most, size, joined });
    let mut errors = 0;
    while !expected.is_empty() {
        let most = usize::from(program.byte()) % 16;
        let outcome = match plainly {
            true if program.byte() % 2 == 1 => incoming.fill_plainly(most, 0, false),
            _ => incoming.fill_up_to(most, 0, false),
        };
        if outcome.is_err() {
            // No more than the calls that are to fail.
            errors += 1;
            assert!(errors <= calls);
            continue;
        }
        let mut left = incoming.remaining();
        assert!(left > 0, "a call that brings nothing is an error");
        while let Some(next) = incoming.peek() {
            let (bytes, truncated, source) = expected.pop_front().expect("nothing comes twice");
            assert_eq!((next.bytes, next.truncated), (&bytes[..], truncated));
            assert_eq!(incoming.source(), source);
            incoming.consume();
            left -= 1;
            assert_eq!(incoming.remaining(), left);
            if program.byte() % 8 == 1 {
                // What is left of the batch comes before anything else.
                break;
            }
        }
    }
    assert_eq!(incoming.remaining(), 0);
}

/// Datagrams go out joined or not, against a system that takes some and refuses others: those that went are the first
/// ones, as they were, and each to its address.
fn send(program: &mut Program<'_>) {
    let addresses: Vec<RawAddress> = (0..3_u16)
        .map(|port| encode(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("it fits"))
        .collect();
    let mut length = 0;
    let datagrams: Vec<(Vec<u8>, u32)> = (0..usize::from(program.byte()) % MOST)
        .map(|index| {
            // Runs of equal ones are what can be joined.
            if program.byte().is_multiple_of(3) {
                length = program.short() % 3000;
            }
            let to = u32::from(program.byte() / 64).min(3);
            ((0..length).map(|at| (at * 5 + index) as u8).collect(), if to == 3 { NO_ADDRESS } else { to })
        })
        .collect();
    let shim = Shim::default();
    for _ in 0..program.byte() % 16 {
        let errors =
            [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::EAGAIN, libc::EINTR, libc::EPERM, libc::ECONNREFUSED];
        let call = program.byte();
        let call = if call < 128 { Ok(usize::from(call % 8)) } else { Err(errors[usize::from(call) % errors.len()]) };
        shim.sends.borrow_mut().push_back(call);
    }
    let join = !program.byte().is_multiple_of(4);
    let items: Vec<Item> =
        datagrams.iter().map(|(bytes, to)| Item { base: bytes.as_ptr(), length: bytes.len(), to: *to }).collect();
    let mut outgoing = Outgoing::new(shim);
    let mut sent = 0;
    let mut rounds = 0;
    while sent < items.len() {
        // SAFETY: the datagrams outlive the call.
        let (went, error) = unsafe { outgoing.send(0, &items[sent..], &addresses, join) };
        sent += went;
        assert!(sent == items.len() || error.is_some());
        rounds += 1;
        assert!(rounds < 20, "every failure is one of those in the program");
    }
    let arrived = outgoing.calls().sent.borrow();
    let expected = datagrams.iter().map(|(bytes, to)| {
        let name = addresses.get(*to as usize).map_or(&[][..], RawAddress::bytes);
        (bytes.clone(), name.to_vec())
    });
    assert!(arrived.iter().cloned().eq(expected));
    assert_eq!(outgoing.counters().datagrams, items.len() as u64);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn inputs_that_fuzzing_has_found() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/datagrams");
        let mut inputs = 0;
        for input in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = input.unwrap().path();
            println!("{}", path.display());
            super::run(&std::fs::read(&path).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 4, "{} holds {inputs} inputs", folder.display());
    }

    proptest! {
        #[test]
        fn any_program(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            super::run(&bytes);
        }
    }
}
