//! What the system does seldom, done on purpose: a shim in front of the system calls.

#![allow(clippy::unnecessary_cast, reason = "the libraries do not agree on the types of lengths")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::arrival::Arrival;
use super::receive::Incoming;
use super::send::Outgoing;
use super::system::{Calls, Kernel};
use super::{RawAddress, encode, wait_to_receive};
use crate::udp::Options;
use crate::udp::item::{Item, NO_ADDRESS};
use crate::udp::layout::Layout;

fn arrival(bytes: &[u8]) -> Arrival {
    Arrival { bytes: bytes.to_vec(), ..Arrival::default() }
}

/// A control message.
fn control(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Vec<u8> {
    let head = size_of::<libc::cmsghdr>();
    let mut bytes = (head + data.len()).to_ne_bytes().to_vec();
    bytes.extend([level.to_ne_bytes(), kind.to_ne_bytes()].concat());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The system, as a test wants it.
#[derive(Default)]
struct Shim {
    /// What each receive call brings.
    arrivals: RefCell<VecDeque<Result<Vec<Arrival>, i32>>>,
    /// What each send call does: takes up to so many headers, or fails. Takes everything afterwards.
    takes: RefCell<VecDeque<Result<usize, i32>>>,
    /// The datagrams that went, by call and header.
    sent: RefCell<Vec<Vec<Vec<u8>>>>,
    /// Lengths of names and control messages that receive calls were given.
    lengths: RefCell<Vec<(usize, usize)>>,
    flags: RefCell<Vec<libc::c_int>>,
    can_cut: Cell<bool>,
    /// The family of the socket, and what becomes of options that are set: they are there, or fail.
    family: Cell<libc::c_int>,
    options: RefCell<VecDeque<Result<(), i32>>>,
    options_set: RefCell<Vec<(libc::c_int, libc::c_int)>>,
    nonblocking: Cell<bool>,
    polls: RefCell<VecDeque<Result<bool, i32>>>,
}

impl Calls for Shim {
    unsafe fn receive(&self, _: RawFd, headers: *mut [libc::mmsghdr], flags: libc::c_int) -> io::Result<usize> {
        self.flags.borrow_mut().push(flags);
        // SAFETY: the caller's promise.
        let headers = unsafe { &mut *headers };
        assert!(flags & libc::MSG_DONTWAIT != 0 || headers.len() == 1, "only a single datagram may be waited for");
        let arrivals = match self.arrivals.borrow_mut().pop_front() {
            None => return Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            Some(Err(error)) => return Err(io::Error::from_raw_os_error(error)),
            Some(Ok(arrivals)) => arrivals,
        };
        for header in headers.iter() {
            self.lengths
                .borrow_mut()
                .push((header.msg_hdr.msg_namelen as usize, header.msg_hdr.msg_controllen as usize));
        }
        assert!(arrivals.len() <= headers.len());
        let count = arrivals.len();
        for (arrival, header) in arrivals.into_iter().zip(headers) {
            // SAFETY: the caller's promise.
            unsafe { arrival.deliver(header) };
        }
        Ok(count)
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

    unsafe fn send(&self, _: RawFd, headers: *mut [libc::mmsghdr], flags: libc::c_int) -> io::Result<usize> {
        assert!(flags & libc::MSG_NOSIGNAL != 0);
        // SAFETY: the caller's promise.
        let headers = unsafe { &mut *headers };
        assert!(flags & libc::MSG_DONTWAIT != 0 || headers.len() == 1, "only a single datagram may be waited for");
        let most = match self.takes.borrow_mut().pop_front() {
            Some(Err(error)) => return Err(io::Error::from_raw_os_error(error)),
            Some(Ok(most)) => most,
            None => usize::MAX,
        };
        let took = headers.len().min(most);
        let bytes = |header: &libc::mmsghdr| {
            // SAFETY: the pointers of a header are to memory of the lengths beside them.
            unsafe {
                let vectors = std::slice::from_raw_parts(header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen as usize);
                assert_eq!(vectors.len() > 1, header.msg_hdr.msg_controllen as usize > 0);
                vectors
                    .iter()
                    .flat_map(|vector| {
                        std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len).to_vec()
                    })
                    .collect()
            }
        };
        self.sent.borrow_mut().push(headers[..took].iter().map(bytes).collect());
        Ok(took)
    }

    fn poll(&self, _: RawFd, _: libc::c_short, _: Option<Duration>) -> io::Result<bool> {
        self.polls.borrow_mut().pop_front().expect("a poll is expected").map_err(io::Error::from_raw_os_error)
    }

    fn is_nonblocking(&self, _: RawFd) -> io::Result<bool> {
        Ok(self.nonblocking.get())
    }

    fn timeout(&self, _: RawFd, _: libc::c_int) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    fn set_option(&self, _: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        assert_eq!(value, 1);
        self.options_set.borrow_mut().push((level, option));
        self.options.borrow_mut().pop_front().unwrap_or(Ok(())).map_err(io::Error::from_raw_os_error)
    }

    fn option(&self, _: RawFd, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
        if (level, option) == (libc::SOL_SOCKET, libc::SO_DOMAIN) {
            return match self.family.get() {
                0 => Err(io::Error::from_raw_os_error(libc::EBADF)),
                family => Ok(family),
            };
        }
        assert_eq!((level, option), (libc::SOL_UDP, libc::UDP_SEGMENT));
        if self.can_cut.get() { Ok(0) } else { Err(io::Error::from_raw_os_error(libc::ENOPROTOOPT)) }
    }
}

fn incoming(layout: Layout, arrivals: impl IntoIterator<Item = Result<Vec<Arrival>, i32>>) -> Incoming<Shim> {
    let shim = Shim::default();
    shim.arrivals.borrow_mut().extend(arrivals);
    Incoming::new(shim, layout)
}

const PLAIN: Layout = Layout { most: 8, size: 100, joined: false };
const JOINED: Layout = Layout { most: 8, size: 100, joined: true };

fn drain(incoming: &mut Incoming<Shim>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let expected = incoming.remaining();
    while let Some(next) = incoming.peek() {
        all.push(next.bytes.to_vec());
        incoming.consume();
    }
    assert_eq!(all.len(), expected);
    all
}

fn error(outcome: io::Result<()>) -> Option<i32> {
    outcome.unwrap_err().raw_os_error()
}

#[test]
fn headers_are_set_anew_for_every_call() {
    let named = Arrival { name: vec![1; 16], control: control(0, 1, &[3]), ..arrival(b"named") };
    let mut incoming = incoming(PLAIN, [Ok(vec![named]), Ok(vec![arrival(b"unnamed")])]);
    incoming.fill(0, false).unwrap();
    assert_eq!(incoming.address(), [1; 16]);
    assert_eq!(incoming.peek().unwrap().info.ecn(), Some(3));
    assert_eq!(drain(&mut incoming), [b"named"]);
    incoming.fill(0, false).unwrap();
    assert!(incoming.address().is_empty(), "the last peer's address would be taken for this one's");
    assert_eq!(incoming.peek().unwrap().info.ecn(), None);
    let lengths = incoming.calls().lengths.borrow();
    assert!(lengths.iter().all(|&lengths| lengths == (128, 256)), "{lengths:?}");
}

#[test]
fn what_was_not_handed_out_comes_before_the_next_call() {
    let mut incoming =
        incoming(PLAIN, [Ok(vec![arrival(b"1"), arrival(b"2")]), Err(libc::ECONNREFUSED), Ok(vec![arrival(b"3")])]);
    incoming.fill(0, false).unwrap();
    incoming.consume();
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [b"2"]);
    assert_eq!(error(incoming.fill(0, false)), Some(libc::ECONNREFUSED));
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [b"3"]);
    assert_eq!(error(incoming.fill(0, false)), Some(libc::EAGAIN));
    assert!(incoming.peek().is_none());
    incoming.consume();
}

#[test]
fn what_did_not_fit_is_marked_and_an_empty_datagram_is_one() {
    let mut incoming = incoming(PLAIN, [Ok(vec![arrival(&[7; 101]), arrival(&[8; 100]), arrival(b"")])]);
    incoming.fill(0, false).unwrap();
    let mut found = Vec::new();
    while let Some(next) = incoming.peek() {
        found.push((next.bytes.len(), next.truncated));
        incoming.consume();
    }
    assert_eq!(found, [(100, true), (100, false), (0, false)]);
}

fn run(bytes: &[u8], segment: i32) -> Arrival {
    Arrival { control: control(libc::SOL_UDP, libc::UDP_GRO, &segment.to_ne_bytes()), ..arrival(bytes) }
}

#[test]
fn joined_datagrams_come_out_one_by_one() {
    let mut incoming =
        incoming(JOINED, [Ok(vec![run(b"aabbc", 2)]), Ok(vec![arrival(b"alone")]), Ok(vec![arrival(b"")])]);
    incoming.fill(0, false).unwrap();
    assert_eq!(incoming.peek_joined().unwrap().bytes, b"aabbc");
    assert_eq!(drain(&mut incoming), [&b"aa"[..], b"bb", b"c", b"alone", b""]);
    assert_eq!((incoming.counters().datagrams, incoming.counters().joined, incoming.counters().calls), (5, 3, 4));
}

#[test]
fn a_run_ends_the_call_when_there_are_enough() {
    let runs = [Ok(vec![run(&[1; 90], 10)]), Ok(vec![run(&[2; 20], 10)])];
    let mut incoming = incoming(JOINED, runs);
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming).len(), 9);
    incoming.fill(0, false).unwrap();
    incoming.consume_joined();
    assert_eq!(incoming.remaining(), 0);
}

#[test]
fn long_runs_never_lie_over_each_other() {
    let long = |byte| Ok(vec![run(&[byte; 60_000], 60_000)]);
    let mut incoming = incoming(Layout { size: 60_000, ..JOINED }, [long(1), long(2), long(3)]);
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [vec![1; 60_000], vec![2; 60_000]]);
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [vec![3; 60_000]]);
}

#[test]
fn an_error_behind_joined_datagrams_is_the_next_calls() {
    let mut incoming = incoming(JOINED, [Ok(vec![run(b"aab", 2)]), Err(libc::ECONNREFUSED), Ok(vec![arrival(b"x")])]);
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [&b"aa"[..], b"b"]);
    assert_eq!(error(incoming.fill(0, false)), Some(libc::ECONNREFUSED));
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [b"x"]);
}

#[test]
fn a_joined_datagram_in_a_receiver_of_single_ones_is_cut_as_well() {
    let mut incoming = incoming(PLAIN, [Ok(vec![run(b"aabb", 2), arrival(b"c")])]);
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [&b"aa"[..], b"bb", b"c"]);
}

#[test]
fn joined_datagrams_behind_a_single_one_are_counted() {
    let mut incoming = incoming(PLAIN, [Ok(vec![arrival(b"a"), run(b"bbccd", 2), arrival(b"e")])]);
    incoming.fill(0, false).unwrap();
    for left in (1..=5).rev() {
        assert_eq!(incoming.remaining(), left);
        incoming.consume();
    }
    assert_eq!((incoming.remaining(), incoming.counters().datagrams), (0, 5));
}

#[test]
fn a_limit_of_its_own_leaves_the_rest_to_the_next_call() {
    for layout in [PLAIN, JOINED] {
        let calls = [Ok(vec![arrival(b"1")]), Ok(vec![arrival(b"2")]), Ok(vec![arrival(b"3")])];
        let mut incoming = incoming(layout, calls);
        incoming.fill_up_to(0, 0, false).unwrap();
        assert_eq!(drain(&mut incoming), [b"1"]);
        incoming.fill_up_to(usize::MAX, 0, false).unwrap();
        assert!(drain(&mut incoming).starts_with(&[b"2".to_vec()]));
    }
}

#[test]
fn descriptors_that_come_along_are_closed() {
    let passed: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let number = passed.into_raw_fd();
    let message = control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &number.to_ne_bytes());
    let mut incoming = incoming(PLAIN, [Ok(vec![Arrival { control: message, ..arrival(b"x") }])]);
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [b"x"]);
    // SAFETY: asks only.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // Another test's thread may have opened one of the same number since.
    let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
    assert!(flags == -1 || link.is_ok_and(|link| link.as_os_str() != "/dev/null"), "the descriptor was leaked");
}

#[test]
fn to_a_room_of_the_callers() {
    let named = Arrival { name: vec![1; 16], ..arrival(&[5; 30]) };
    let mut incoming =
        incoming(PLAIN, [Ok(vec![named]), Err(libc::EINTR), Ok(vec![arrival(b"next"), arrival(b"last")])]);
    let mut room = [0; 20];
    // SAFETY: the room is this test's.
    let mut fill = |incoming: &mut Incoming<Shim>| unsafe { incoming.fill_room(0, &raw mut room[..], false) };
    assert_eq!(fill(&mut incoming).unwrap(), (20, true));
    assert_eq!(incoming.source(), super::sockaddr::decode(&[1; 16]));
    assert_eq!(fill(&mut incoming).unwrap_err().kind(), io::ErrorKind::Interrupted);
    incoming.defer(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    assert_eq!(error(incoming.fill(0, false)), Some(libc::ECONNREFUSED));
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [b"next", b"last"]);
}

#[test]
fn one_datagram_may_be_waited_for_and_no_more() {
    for (most, waits) in [(1, true), (2, false)] {
        let mut incoming = incoming(Layout { most, ..PLAIN }, [Ok(vec![arrival(b"x")])]);
        incoming.fill(0, true).unwrap();
        assert_eq!(incoming.layout().most == 1, waits);
    }
}

#[test]
fn to_wait_is_what_the_socket_says() {
    let shim = Shim::default();
    shim.polls.borrow_mut().extend([Ok(true), Ok(false), Err(libc::EINTR)]);
    assert!(wait_to_receive(&shim, 0).is_ok());
    assert_eq!(wait_to_receive(&shim, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(wait_to_receive(&shim, 0).unwrap_err().kind(), io::ErrorKind::Interrupted);
    shim.nonblocking.set(true);
    assert_eq!(wait_to_receive(&shim, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

fn outgoing(can_cut: bool, takes: impl IntoIterator<Item = Result<usize, i32>>) -> Outgoing<Shim> {
    let shim = Shim::default();
    shim.can_cut.set(can_cut);
    shim.takes.borrow_mut().extend(takes);
    Outgoing::new(shim)
}

fn send(outgoing: &mut Outgoing<Shim>, datagrams: &[&[u8]]) -> (usize, Option<i32>) {
    let item = |bytes: &&[u8]| Item { base: bytes.as_ptr(), length: bytes.len(), to: NO_ADDRESS };
    let items: Vec<Item> = datagrams.iter().map(item).collect();
    // SAFETY: the datagrams outlive the call.
    let (sent, error) = unsafe { outgoing.send(0, &items, &[], true) };
    (sent, error.map(|error| error.raw_os_error().unwrap_or_default()))
}

#[test]
fn a_call_that_takes_a_part_is_followed_by_one_for_the_rest() {
    let mut outgoing = outgoing(false, [Ok(1), Ok(2)]);
    assert_eq!(send(&mut outgoing, &[b"1", b"2", b"3", b"4"]), (4, None));
    let calls: Vec<usize> = outgoing.calls().sent.borrow().iter().map(Vec::len).collect();
    assert_eq!(calls, [1, 2, 1]);
}

#[test]
fn an_error_says_how_many_went_before_it() {
    let mut first = outgoing(false, [Ok(2), Err(libc::EPERM)]);
    assert_eq!(send(&mut first, &[b"1", b"2", b"3"]), (2, Some(libc::EPERM)));
    assert_eq!(send(&mut first, &[b"3"]), (1, None));
    let mut second = outgoing(false, [Err(libc::EAGAIN)]);
    assert_eq!(send(&mut second, &[b"1"]), (0, Some(libc::EAGAIN)));
}

#[test]
fn equal_datagrams_go_as_one() {
    let mut outgoing = outgoing(true, []);
    assert_eq!(send(&mut outgoing, &[b"aa", b"bb", b"c", b"dddd"]), (4, None));
    assert_eq!(*outgoing.calls().sent.borrow(), [vec![b"aabbc".to_vec(), b"dddd".to_vec()]]);
    assert_eq!((outgoing.counters().joined, outgoing.counters().datagrams), (3, 4));
}

#[test]
fn a_partial_send_of_runs_counts_datagrams() {
    let mut outgoing = outgoing(true, [Ok(1), Err(libc::EAGAIN)]);
    assert_eq!(send(&mut outgoing, &[b"aa", b"bb", b"c", b"ddd", b"eee"]), (3, Some(libc::EAGAIN)));
}

#[test]
fn sockets_that_cannot_cut_never_get_joined_ones() {
    let mut outgoing = outgoing(false, []);
    assert_eq!(send(&mut outgoing, &[b"aa", b"bb"]), (2, None));
    assert_eq!(*outgoing.calls().sent.borrow(), [[b"aa", b"bb"]]);
}

#[test]
fn a_card_that_cannot_cut_is_asked_once() {
    for refusal in [libc::EIO, libc::EINVAL] {
        let mut outgoing = outgoing(true, [Err(refusal)]);
        assert_eq!(send(&mut outgoing, &[b"aa", b"bb"]), (2, None));
        assert!(outgoing.has_refused());
        assert_eq!(send(&mut outgoing, &[b"cc", b"dd"]), (2, None));
        assert_eq!(*outgoing.calls().sent.borrow(), [[b"aa", b"bb"], [b"cc", b"dd"]]);
        assert_eq!((outgoing.counters().refused, outgoing.counters().joined), (1, 0));
    }
}

#[test]
fn too_long_as_one_is_not_too_long_for_good() {
    let mut outgoing = outgoing(true, [Err(libc::EMSGSIZE)]);
    assert_eq!(send(&mut outgoing, &[b"aa", b"bb"]), (2, None));
    assert!(!outgoing.has_refused());
    assert_eq!(send(&mut outgoing, &[b"cc", b"dd"]), (2, None));
    assert_eq!(outgoing.counters().joined, 2);
}

#[test]
fn an_error_that_stays_is_not_about_joining() {
    let mut outgoing = outgoing(true, [Err(libc::EINVAL), Err(libc::EINVAL)]);
    assert_eq!(send(&mut outgoing, &[b"aa", b"bb"]), (0, Some(libc::EINVAL)));
    assert!(!outgoing.has_refused(), "one bad address would switch it off for all");
}

#[test]
fn thousands_go_in_calls_of_1024() {
    let mut outgoing = outgoing(false, []);
    let datagrams = vec![&b"x"[..]; 2500];
    assert_eq!(send(&mut outgoing, &datagrams), (2500, None));
    let calls: Vec<usize> = outgoing.calls().sent.borrow().iter().map(Vec::len).collect();
    assert_eq!(calls, [1024, 1024, 452]);
}

#[test]
fn runs_end_where_the_address_changes() {
    let mut outgoing = outgoing(true, []);
    let addresses: Vec<RawAddress> = ["127.0.0.1:1", "127.0.0.1:2"]
        .map(|address| encode(&address.parse::<std::net::SocketAddr>().unwrap().into()).unwrap())
        .into();
    let items = [0, 0, 1, 1, 0].map(|to| Item { base: b"ab".as_ptr(), length: 2, to });
    // SAFETY: the datagrams are constants.
    let (sent, error) = unsafe { outgoing.send(0, &items, &addresses, true) };
    assert!(sent == 5 && error.is_none());
    assert_eq!(*outgoing.calls().sent.borrow(), [vec![b"abab".to_vec(), b"abab".to_vec(), b"ab".to_vec()]]);
}

#[test]
fn a_closed_descriptor_is_an_error_of_its_own() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let number = socket.as_raw_fd();
    assert!(!Kernel.poll(number, libc::POLLIN, Some(Duration::ZERO)).unwrap());
    // A number that no descriptor of this process has.
    let error = Kernel.poll(libc::c_int::MAX, libc::POLLIN, None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    let mut incoming = Incoming::new(Kernel, PLAIN);
    assert_eq!(incoming.fill(libc::c_int::MAX, false).unwrap_err().raw_os_error(), Some(libc::EBADF));
}

#[test]
fn one_datagram_is_waited_with() {
    let mut outgoing = outgoing(true, [Err(libc::EINTR), Err(libc::EAGAIN)]);
    let item = Item { base: b"ab".as_ptr(), length: 2, to: NO_ADDRESS };
    // SAFETY: the datagram is a constant.
    let mut send = || unsafe { outgoing.send_waiting(0, &item, &[]) };
    assert_eq!(send().unwrap_err().kind(), io::ErrorKind::Interrupted);
    assert_eq!(send().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    send().unwrap();
    assert_eq!(outgoing.counters().datagrams, 1);
}

#[test]
fn descriptors_are_not_inherited_and_packet_sockets_know_no_such_flag() {
    let arrivals =
        [Ok(vec![arrival(b"1")]), Err(libc::EINVAL), Ok(vec![arrival(b"2")]), Err(libc::EINVAL), Err(libc::EINVAL)];
    let mut incoming = incoming(PLAIN, arrivals);
    incoming.fill(0, false).unwrap();
    incoming.consume();
    incoming.fill(0, false).unwrap();
    assert_eq!(drain(&mut incoming), [b"2"]);
    assert_eq!(error(incoming.fill(0, false)), Some(libc::EINVAL));
    let cloexec: Vec<bool> =
        incoming.calls().flags.borrow().iter().map(|flags| flags & libc::MSG_CMSG_CLOEXEC != 0).collect();
    assert_eq!(cloexec, [true, true, false, true, false]);
}

/// What a system call can fail with: interrupted, a pending error of the network, no memory, a descriptor that was
/// closed or is another's now, a firewall, a number that no header names.
const FAILURES: [i32; 13] = [
    libc::EINTR,
    libc::ECONNREFUSED,
    libc::ENOMEM,
    libc::ENOBUFS,
    libc::EBADF,
    libc::ENOTSOCK,
    libc::EPERM,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EFAULT,
    libc::EMSGSIZE,
    512,
];

#[test]
fn every_failure_of_a_receive_call_is_told_once_and_loses_nothing() {
    for failure in FAILURES {
        for layout in [PLAIN, JOINED] {
            // At first, and behind datagrams.
            let arrivals =
                [Err(failure), Ok(vec![arrival(b"1")]), Err(failure), Ok(vec![arrival(b"2")]), Ok(vec![arrival(b"3")])];
            let mut incoming = incoming(layout, arrivals);
            assert_eq!(error(incoming.fill(0, false)), Some(failure));
            assert!(incoming.peek().is_none() && incoming.remaining() == 0);
            let (mut received, mut errors) = (Vec::new(), Vec::new());
            loop {
                match incoming.fill(0, false) {
                    Ok(()) => received.extend(drain(&mut incoming)),
                    Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => break,
                    Err(error) => errors.push(error.raw_os_error()),
                }
            }
            assert_eq!((&received[..], &errors[..]), (&[b"1", b"2", b"3"].map(Vec::from)[..], &[Some(failure)][..]));
            assert_eq!(incoming.counters().datagrams, 3);
        }
        let mut incoming = incoming(PLAIN, [Err(failure), Ok(vec![arrival(b"1")]), Err(failure)]);
        let mut room = [0; 9];
        for expected in [Err(Some(failure)), Ok((1, false)), Err(Some(failure)), Err(Some(libc::EAGAIN))] {
            // SAFETY: the room is this test's.
            let outcome = unsafe { incoming.fill_room(0, &raw mut room[..], false) };
            assert_eq!(outcome.map_err(|error| error.raw_os_error()), expected);
        }
    }
}

#[test]
fn every_failure_of_a_send_call_says_how_many_went() {
    let datagrams: [&[u8]; 4] = [b"1", b"22", b"333", b"4444"];
    for failure in FAILURES.into_iter().chain([libc::EAGAIN, libc::EIO, libc::EINVAL]) {
        for before in 0..4 {
            let first = if before == 0 { None } else { Some(Ok(before)) };
            let mut outgoing = outgoing(true, first.into_iter().chain([Err(failure)]));
            assert_eq!(send(&mut outgoing, &datagrams), (before, Some(failure)));
            // What is left goes with the next call.
            assert_eq!(send(&mut outgoing, &datagrams[before..]), (4 - before, None));
            assert_eq!(outgoing.calls().sent.borrow().concat(), datagrams);
            assert_eq!(outgoing.counters().datagrams, 4);
        }
        let mut outgoing = outgoing(true, [Err(failure)]);
        let item = Item { base: b"ab".as_ptr(), length: 2, to: NO_ADDRESS };
        // SAFETY: the datagram is a constant.
        let outcome = unsafe { outgoing.send_waiting(0, &item, &[]) };
        assert_eq!(error(outcome), Some(failure));
    }
    // A system that takes nothing and says nothing is asked again later, not at once and for ever.
    let mut outgoing = outgoing(false, [Ok(0)]);
    // SAFETY: there are no datagrams to be read.
    let (sent, error) = unsafe {
        let item = Item { base: b"ab".as_ptr(), length: 2, to: NO_ADDRESS };
        outgoing.send(0, &[item], &[], false)
    };
    assert_eq!((sent, error.map(|error| error.kind())), (0, Some(io::ErrorKind::WouldBlock)));
}

#[test]
fn a_failure_of_joined_datagrams_falls_back_only_where_joining_is_the_reason() {
    for (failure, falls_back, for_good) in [
        (libc::EIO, true, true),
        (libc::EINVAL, true, true),
        (libc::ENOPROTOOPT, true, true),
        (libc::EOPNOTSUPP, true, true),
        (libc::EMSGSIZE, true, false),
        (libc::EPERM, false, false),
        (libc::ENOBUFS, false, false),
        (libc::ECONNREFUSED, false, false),
        (libc::EAGAIN, false, false),
        (libc::EINTR, false, false),
    ] {
        let mut outgoing = outgoing(true, [Err(failure)]);
        let outcome = send(&mut outgoing, &[b"aa", b"bb", b"cc"]);
        assert_eq!(outcome, if falls_back { (3, None) } else { (0, Some(failure)) }, "{failure}");
        let sent = outgoing.calls().sent.borrow().concat();
        assert_eq!(sent, if falls_back { vec![b"aa".to_vec(), b"bb".to_vec(), b"cc".to_vec()] } else { vec![] });
        assert_eq!((outgoing.has_refused(), outgoing.counters().refused), (for_good, u64::from(falls_back)));
    }
}

#[test]
fn every_failure_of_waiting_is_told() {
    for failure in FAILURES {
        let shim = Shim::default();
        shim.polls.borrow_mut().push_back(Err(failure));
        assert_eq!(error(wait_to_receive(&shim, 0)), Some(failure));
    }
}

#[test]
fn sockets_on_which_a_plain_call_does_not_say_how_long_a_datagram_was_are_known() {
    let tells = |family| {
        let shim = Shim::default();
        shim.family.set(family);
        super::tells_length(&shim, 0)
    };
    assert!([libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK].into_iter().all(tells));
    assert!(![libc::AF_CAN, libc::AF_TIPC, 0].into_iter().any(tells));
}

#[test]
fn options_that_a_socket_does_not_have_are_none_and_other_failures_are_told() {
    let all = Options { gro: true, time: true, destination: true, traffic_class: true, dropped: true };
    let ask = |family, options: &[Result<(), i32>]| {
        let shim = Shim::default();
        shim.family.set(family);
        shim.options.borrow_mut().extend(options);
        let told = super::enable(&shim, 0, all).map_err(|error| error.raw_os_error());
        (told, shim.options_set.borrow().len())
    };
    assert_eq!(ask(libc::AF_INET, &[]), (Ok(all), 5));
    assert_eq!(ask(libc::AF_INET6, &[]), (Ok(all), 6));
    // Unix sockets have no such protocols: they are not even asked.
    let local = Options { gro: false, destination: false, traffic_class: false, ..all };
    assert_eq!(ask(libc::AF_UNIX, &[]), (Ok(local), 2));
    for absent in [libc::ENOPROTOOPT, libc::EOPNOTSUPP, libc::EINVAL] {
        // Of timestamps there are two kinds.
        assert_eq!(ask(libc::AF_INET, &[Err(absent)]).0, Ok(all));
        assert_eq!(ask(libc::AF_INET, &[Err(absent); 20]), (Ok(Options::default()), 6));
    }
    for failure in [libc::EBADF, libc::ENOTSOCK, libc::ENOMEM, libc::EPERM] {
        for before in 0..5 {
            let options: Vec<_> = (0..before).map(|_| Ok(())).chain([Err(failure)]).collect();
            assert_eq!(ask(libc::AF_INET, &options), (Err(Some(failure)), before + 1));
        }
    }
    assert_eq!(ask(0, &[]).0, Err(Some(libc::EBADF)));
}

#[test]
fn a_plain_call_brings_one_datagram_and_says_whether_it_fitted() {
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let mut incoming = Incoming::new(Kernel, PLAIN);
    let number = receiver.as_raw_fd();
    assert_eq!(error(incoming.fill_plainly(1, number, false)), Some(libc::EAGAIN));
    for length in [100, 101, 0, 3000, 7] {
        sender.send(&vec![length as u8; length]).unwrap();
        incoming.fill_plainly(1, number, false).unwrap();
        // Nothing more is received while there is one.
        incoming.fill_plainly(1, number, false).unwrap();
        assert_eq!(incoming.remaining(), 1);
        let next = incoming.peek().unwrap();
        assert_eq!((next.bytes, next.truncated), (&vec![length as u8; length.min(100)][..], length > 100));
        assert_eq!(incoming.source().inet(), Some(sender.local_addr().unwrap()));
        incoming.consume();
        assert_eq!((incoming.remaining(), incoming.peek().is_none()), (0, true));
    }
    assert_eq!((incoming.counters().datagrams, incoming.counters().calls), (5, 6));
    incoming.defer(io::Error::from_raw_os_error(libc::ECONNREFUSED));
    assert_eq!(error(incoming.fill_plainly(1, number, false)), Some(libc::ECONNREFUSED));
    assert_eq!(error(incoming.fill_plainly(1, libc::c_int::MAX, false)), Some(libc::EBADF));
}

#[test]
fn plain_calls_look_for_a_second_datagram_and_fetch_the_others_at_once() {
    let one = |bytes: &[u8]| Ok(vec![arrival(bytes)]);
    let outcome = |most, calls: Vec<Result<Vec<Arrival>, i32>>| {
        let mut incoming = incoming(PLAIN, calls);
        incoming.fill_plainly(most, 0, true).unwrap();
        let left = incoming.remaining();
        let received = drain(&mut incoming);
        assert_eq!((left, incoming.counters().datagrams as usize), (received.len(), received.len()));
        // Only the first may be waited for.
        let waited = |flags: &i32| flags & libc::MSG_DONTWAIT == 0;
        let waits: Vec<bool> = incoming.calls().flags.borrow().iter().map(waited).collect();
        assert!(waits[0] && !waits[1..].contains(&true));
        assert_eq!(waits.len() as u64, incoming.counters().calls);
        let next = incoming.fill(0, false).err();
        (received.concat(), waits.len(), next.and_then(|error| error.raw_os_error()))
    };
    let again = Some(libc::EAGAIN);
    assert_eq!(outcome(1, vec![one(b"1"), one(b"2")]), (b"1".to_vec(), 1, None));
    assert_eq!(outcome(8, vec![one(b"1")]), (b"1".to_vec(), 2, again));
    assert_eq!(outcome(2, vec![one(b"1"), one(b"2"), one(b"3")]), (b"12".to_vec(), 2, None));
    assert_eq!(outcome(8, vec![one(b"1"), one(b"2")]), (b"12".to_vec(), 3, again));
    let more = Ok(vec![arrival(b"3"), arrival(b"4")]);
    assert_eq!(outcome(8, vec![one(b"1"), one(b"2"), more]), (b"1234".to_vec(), 3, again));
    // An error behind datagrams is the next call's.
    let refused = Some(libc::ECONNREFUSED);
    assert_eq!(outcome(8, vec![one(b"1"), Err(libc::ECONNREFUSED), one(b"2")]), (b"1".to_vec(), 2, refused));
    assert_eq!(outcome(8, vec![one(b"1"), one(b"2"), Err(libc::ECONNREFUSED)]), (b"12".to_vec(), 3, refused));
}

#[cfg(feature = "python")]
#[test]
fn two_single_datagrams_make_a_third_expected_and_several_end_that() {
    let one = || Ok(vec![arrival(b"1")]);
    let calls = [one(), Err(libc::EAGAIN), one(), Err(libc::EAGAIN), Ok(vec![arrival(b"2"), arrival(b"3")]), one()];
    let mut incoming = incoming(PLAIN, calls);
    for (failed, expected) in
        [(false, false), (true, false), (false, true), (true, true), (false, false), (false, false)]
    {
        assert_eq!(incoming.fill(0, false).is_err(), failed);
        drain(&mut incoming);
        assert_eq!(incoming.expects_single(), expected);
    }
}
