//! Control messages as bytes: what the kernel says about a datagram, and what it is told about one. No system calls.
//!
//! ```text
//! ├─ length: usize ─┼─ level: i32 ─┼─ type: i32 ─┼─ data ─┼─ padding to a word ─┤ next message
//! └────────────── counted by length ─────────────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{FromRawFd, OwnedFd};

use crate::udp::Info;

/// Bytes in front of a message's data.
const HEAD: usize = size_of::<usize>() + 2 * size_of::<libc::c_int>();
/// Each message starts at a multiple of this.
const ALIGN: usize = size_of::<usize>();

/// Room for everything that a socket of ours is asked to tell, with some to spare for what its owner has asked for.
pub(super) const ROOM: usize = 256;

/// Bytes of the message that asks for segments.
pub(super) const SEGMENT_BYTES: usize = HEAD + ALIGN;

/// `SO_TIMESTAMPNS_NEW`: two 64-bit numbers on every platform. The sparc and parisc numbers differ; those use the old
/// one.
pub(super) const TIMESTAMPNS_NEW: libc::c_int = 64;

/// The messages in `bytes`, each as level, type and data. Ends at the first one that is not whole.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let (length, head) = rest.split_first_chunk::<{ size_of::<usize>() }>()?;
        let (level, head) = head.split_first_chunk()?;
        let (kind, _) = head.split_first_chunk()?;
        let data = rest.get(HEAD..usize::from_ne_bytes(*length))?;
        let next = usize::from_ne_bytes(*length).next_multiple_of(ALIGN).min(rest.len());
        rest = &rest[next..];
        Some((libc::c_int::from_ne_bytes(*level), libc::c_int::from_ne_bytes(*kind), data))
    })
}

/// What the control messages of a datagram say. Messages of other kinds, and ones of another length, are passed over.
pub(super) fn parse(bytes: &[u8]) -> Info {
    let mut info = Info::default();
    for (level, kind, data) in messages(bytes) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS | TIMESTAMPNS_NEW) => info.time_ns = time(data).or(info.time_ns),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => info.dropped = data.first_chunk().map(|n| u32::from_ne_bytes(*n)),
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some((interface, rest)) = data.split_first_chunk()
                    && let Some(destination) = rest.get(4..).and_then(|bytes| bytes.first_chunk::<4>())
                {
                    info.interface = Some(u32::from_ne_bytes(*interface));
                    info.destination = Some(IpAddr::V4(Ipv4Addr::from(*destination)));
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some((destination, rest)) = data.split_first_chunk::<16>()
                    && let Some(interface) = rest.first_chunk()
                {
                    info.interface = Some(u32::from_ne_bytes(*interface));
                    info.destination = Some(IpAddr::V6(Ipv6Addr::from(*destination)).to_canonical());
                }
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => info.traffic_class = data.first().copied().or(info.traffic_class),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                info.traffic_class = data.first_chunk().map(|class| libc::c_int::from_ne_bytes(*class) as u8);
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // A whole number; kernels before 5.0.8 say 16 bits.
                let size = match *data {
                    [a, b] => i32::from(u16::from_ne_bytes([a, b])),
                    [a, b, c, d, ..] => i32::from_ne_bytes([a, b, c, d]),
                    _ => 0,
                };
                info.segment_size = usize::try_from(size).ok().filter(|&size| size > 0);
            }
            _ => {}
        }
    }
    info
}

/// The descriptors that a Unix peer has passed along, which are this process's from now on.
///
/// Only for bytes that the kernel has just written: it says which descriptors it has opened.
pub(super) fn descriptors(bytes: &[u8]) -> impl Iterator<Item = OwnedFd> {
    let passed = messages(bytes).filter(|&(level, kind, _)| (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS));
    passed.flat_map(|(_, _, data)| data.chunks_exact(4)).map(|number| {
        let number = libc::c_int::from_ne_bytes([number[0], number[1], number[2], number[3]]);
        // SAFETY: the kernel has opened it for this process, and nobody else knows it.
        unsafe { OwnedFd::from_raw_fd(number) }
    })
}

/// Nanoseconds of a `timespec` of two 64-bit or two 32-bit numbers.
fn time(data: &[u8]) -> Option<i64> {
    let (seconds, nanoseconds) = match data.len() {
        16 => {
            let (seconds, nanoseconds) = data.split_first_chunk()?;
            (i64::from_ne_bytes(*seconds), i64::from_ne_bytes(*nanoseconds.first_chunk()?))
        }
        8 => {
            let (seconds, nanoseconds) = data.split_first_chunk()?;
            (i32::from_ne_bytes(*seconds).into(), i32::from_ne_bytes(*nanoseconds.first_chunk()?).into())
        }
        _ => return None,
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// The message that has a datagram sent as segments of `size` bytes.
pub(super) fn segments_of(size: u16) -> [u8; SEGMENT_BYTES] {
    let mut message = [0; SEGMENT_BYTES];
    let (head, data) = message.split_at_mut(HEAD);
    let (length, kind) = head.split_at_mut(size_of::<usize>());
    length.copy_from_slice(&(HEAD + size_of::<u16>()).to_ne_bytes());
    kind[..4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    kind[4..].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    data[..2].copy_from_slice(&size.to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEAD + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    #[test]
    fn the_layout_is_that_of_the_system() {
        assert_eq!(HEAD, size_of::<libc::cmsghdr>());
        // SAFETY: these compute lengths.
        unsafe {
            assert_eq!(HEAD, libc::CMSG_LEN(0) as usize);
            assert_eq!(SEGMENT_BYTES, libc::CMSG_SPACE(2) as usize);
        }
    }

    #[test]
    fn every_kind_of_message_is_understood() {
        let mut bytes =
            message(libc::SOL_SOCKET, TIMESTAMPNS_NEW, &[7_i64.to_ne_bytes(), 9_i64.to_ne_bytes()].concat());
        bytes.extend(message(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            &[&3_u32.to_ne_bytes()[..], &[9; 4], &[10, 0, 0, 1]].concat(),
        ));
        bytes.extend(message(libc::IPPROTO_IP, libc::IP_TOS, &[0b1011_0111]));
        bytes.extend(message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &77_u32.to_ne_bytes()));
        bytes.extend(message(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes()));
        let info = parse(&bytes);
        assert_eq!(info.time_ns, Some(7_000_000_009));
        assert_eq!((info.interface, info.destination), (Some(3), Some(IpAddr::from([10, 0, 0, 1]))));
        assert_eq!((info.traffic_class, info.ecn()), (Some(0b1011_0111), Some(3)));
        assert_eq!((info.dropped, info.segment_size), (Some(77), Some(1200)));
    }

    #[test]
    fn version_6_and_older_kernels_are_understood() {
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let mut bytes =
            message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&group.octets()[..], &2_u32.to_ne_bytes()].concat());
        bytes.extend(message(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &2_i32.to_ne_bytes()));
        bytes.extend(message(
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            &[1_i32.to_ne_bytes(), 5_i32.to_ne_bytes()].concat(),
        ));
        bytes.extend(message(libc::SOL_UDP, libc::UDP_GRO, &1400_u16.to_ne_bytes()));
        let info = parse(&bytes);
        assert_eq!((info.destination, info.interface), (Some(IpAddr::V6(group)), Some(2)));
        assert_eq!((info.ecn(), info.time_ns, info.segment_size), (Some(2), Some(1_000_000_005), Some(1400)));
    }

    #[test]
    fn messages_of_others_are_passed_over_and_a_torn_one_ends_the_list() {
        let mut bytes = message(libc::SOL_SOCKET, 2, &[1, 2, 3]);
        bytes.extend(message(libc::IPPROTO_IP, libc::IP_TOS, &[1]));
        assert_eq!(parse(&bytes).ecn(), Some(1));
        assert_eq!(parse(&bytes[..bytes.len() - ALIGN]), Info::default());
        assert_eq!(parse(&[0; 64]), Info::default());
    }

    #[test]
    fn a_request_for_segments_reads_as_one_message() {
        let request = segments_of(1200);
        let found: Vec<_> = messages(&request).collect();
        assert_eq!(found, [(libc::SOL_UDP, libc::UDP_SEGMENT, &1200_u16.to_ne_bytes()[..])]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
        }

        /// Lengths that are nearly right reach further than random ones.
        #[test]
        fn no_length_makes_it_panic(
            parts in proptest::collection::vec((0_usize..80, 0_i32..60, proptest::collection::vec(any::<u8>(), 0..40)), 0..6)
        ) {
            let mut bytes = Vec::new();
            for (length, kind, data) in parts {
                for level in [libc::SOL_SOCKET, libc::IPPROTO_IP, libc::IPPROTO_IPV6, libc::SOL_UDP] {
                    let mut torn = message(level, kind, &data);
                    torn[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
                    bytes.extend(torn);
                }
            }
            parse(&bytes);
        }
    }
}
