//! A memory allocator for packets: blocks of about 1000 bytes, freed in roughly the order in which they were allocated.
//!
//! Programs that queue packets allocate and free a block for each of them, millions of times a second, and nearly in
//! order. A general allocator does not know that. This one reuses the block of the same length that was freed last, or
//! moves a cursor through large *windows* of aligned memory, and reuses a window when its blocks are free. It has no
//! locks and, by default, no dependencies.
//!
//! # Packets
//!
//! A [`Packet`] owns its bytes and frees them when it is dropped. One call receives into a packet: it reserves room for
//! the largest, keeps what arrived, and frees the rest, so that the next packet starts right behind.
//!
//! ```
//! # #[cfg(not(feature = "std"))] fn main() {}
//! # #[cfg(feature = "std")] fn main() -> std::io::Result<()> {
//! use std::io;
//! use std::net::UdpSocket;
//! use pktalloc::Allocator;
//! # let sender = UdpSocket::bind("127.0.0.1:0")?;
//! # let socket = UdpSocket::bind("127.0.0.1:0")?;
//! # sender.send_to(b"ping", socket.local_addr()?)?;
//!
//! let allocator = Allocator::new();           // asks the system for nothing yet
//! let (mut packet, from) = allocator.packet_with(2048, |room| {
//!     let (received, from) = socket.recv_from(room.zeroed())?;
//!     room.advance(received);
//!     Ok::<_, io::Error>(from)
//! })?;
//! packet[1] = b'o';                           // a slice like any other
//! socket.send_to(&packet, from)?;
//! assert_eq!(packet, b"pong");
//! # Ok(()) }
//! ```
//!
//! [`packet`](Allocator::packet) makes a packet of zeros, [`packet_from`](Allocator::packet_from) copies bytes. Packets
//! [grow](Packet::resize), are written to with `io::Write`, and [cut](Packet::truncate). A packet borrows its
//! allocator, or shares an [`RcAllocator`], so that a struct can hold both. [`Space`] asks for room in front of a
//! packet and behind it, so that headers and tags need no copy. No safe function exposes uninitialised bytes.
//!
//! # Blocks
//!
//! Code that manages its memory itself uses plain blocks: whole units of 64 bytes, aligned to one, without a header in
//! front. They [move](Allocator::reallocate) only when they must, and [shrink](Allocator::shrink) at
//! once.
//!
//! ```
//! # #[cfg(not(feature = "std"))] fn main() {}
//! # #[cfg(feature = "std")] fn main() -> Result<(), pktalloc::AllocError> {
//! use pktalloc::{Allocator, FreeError};
//!
//! let allocator = Allocator::new();
//! let block = allocator.allocate(1400)?;
//! assert!(block.len() >= 1400 && block.cast::<u8>().addr().get() % 64 == 0);
//! // SAFETY: `block` is live and not used after it is freed; the second free is detected.
//! unsafe {
//!     allocator.free(block.cast());
//!     assert!(matches!(allocator.try_free(block.cast()), Err(FreeError::DoubleFree { .. })));
//! }
//! # Ok(()) }
//! ```
//!
//! # Objects and collections
//!
//! With the feature `allocator-api2`, `&Allocator` and `RcAllocator` implement that crate's `Allocator` trait, for
//! boxes, vectors and hashbrown's maps. Use it for typed objects as well:
//!
//! ```
//! # #[cfg(all(feature = "std", feature = "allocator-api2"))] {
//! use allocator_api2::boxed::Box;
//! use allocator_api2::vec::Vec;
//!
//! struct Frame { number: u64, lost: bool }
//!
//! let allocator = pktalloc::Allocator::new();
//! let frame = Box::new_in(Frame { number: 7, lost: false }, &allocator);
//! let mut window = Vec::new_in(&allocator);
//! window.push(frame);
//! assert!(window.iter().all(|frame| !frame.lost) && window[0].number == 7);
//! # }
//! ```
//!
//! # Threads
//!
//! An [`Allocator`] is for one thread at a time: it is `Send`, not `Sync`, and has no locks. If one thread allocates
//! and others free, use a `SharedAllocator` (feature `shared`), whose packets are `Send`; if all threads allocate, a
//! `Pool`. Such packets freeze into `FrozenPacket`s, which are cheap to clone and to slice, and become `bytes::Bytes`
//! without a copy (feature `bytes`).
//!
//! # Guides
//!
//! [Queues](guide::queues), [codecs](guide::codecs), [choosing parameters](guide::parameters), [where memory
//! goes](guide::memory), [without the standard library](guide::no_std), and, with the feature `shared`, packets as
//! buffers, and packets and threads: the module [`guide`] has them all.
//!
//! # How it works
//!
//! Memory has three levels:
//!
//! ```text
//! region: 8 MiB of address space, taken from the system at once
//! ┌───────┬─────────────┬─────────────┬─────────────┬───────────────────────────┬───
//! │ guard │ bookkeeping │ window      │ window      │ window        window      │ …
//! │ page  │ of all      │ [A][B] ·[C] │ (reserved)  │ [──── a span ────────] ·  │
//! │       │ windows     │ units: 64 B │ no pages    │ one block of 200 KiB      │
//! └───────┴─────────────┴─────────────┴─────────────┴───────────────────────────┴───
//!                         128 KiB each
//! ```
//!
//! The size decides which route a block takes, in units of 64 bytes:
//!
//! ```text
//! units           allocate                                      free
//! ──────────────────────────────────────────────────────────────────────────────────────────────
//! 1 to 32         cache: the block of that length freed last ◀─ into the cache, where there is room
//!                 otherwise as below                            otherwise as below
//! up to 127       the next units of the extent                  clear the byte in the map, count
//! up to a window  the same, out of line, and up to 1920 units   the same, out of line
//!                 in 32 steps from the cache as well
//! up to a region  a span of idle windows                        each window counts its part
//! beyond          mapped by itself                              back to the system
//! ```
//!
//! When the extent is used up, the next hole of the current window becomes the extent. When there is none, the window's
//! pass ends, and another window becomes the current one: the one that was emptied last; else, if enough is free
//! in all windows, the emptiest of a few that are worth another pass; else a reserved one.
//!
//! # Words
//!
//! - A **unit** is the granule and the alignment of every block: 64 bytes, unless `UNIT` says otherwise.
//! - A **window** is `WINDOW_UNITS` units, aligned to its own size: 128 KiB by default. Memory is claimed, reused and
//!   given back by windows.
//! - A **region** is address space for up to 64 windows, 8 MiB at most, reserved from the system at once. The
//!   bookkeeping of its windows lies in front of them, behind a guard page: a descriptor each, and a *map* with a byte
//!   for each unit. On a [`system::System`] that asks for nothing else, such as a [`system::Buffer`], a region is one
//!   window with its bookkeeping inside.
//! - A **block** is an allocation: a run of units. From 128 units on its length is rounded up by at most an eighth.
//! - A **span** is a block longer than a window: it takes idle windows side by side. It grows in place while those
//!   behind it are idle.
//! - A **large block** is one that fits no region. It is mapped by itself.
//! - An **extent** is a hole of the current window that is handed out from front to back.
//! - A **cached block** was freed and will be reused by the next allocation of its length: at most 512 blocks of each
//!   length up to 32 units; 16 of one up to 127 units that is freed often; and 64 of each up to 1920 units, of these an
//!   eighth of what lives at most.
//!
//! # What it costs
//!
//! With a cached block, an allocation and a free are a load and three stores each. Without one, an allocation is an
//! addition, a comparison and a stored byte; a free loads that byte, clears it and counts. All of that takes constant
//! time, for longer blocks of one window in three times as many instructions. The slow path runs when an extent is used
//! up, about once in ninety packets of 1400 bytes: it takes time linear in the units of a few windows, or a call to the
//! system. One free in 64 also does a bounded piece of upkeep. The handle of a [`Packet`] is three words.
//!
//! Memory beyond the packets is:
//!
//! - the rounding of sizes up to whole units;
//! - bookkeeping: 1.6 % of a window, and in an allocator's cache 2 or 6 KiB for each length, or 512 bytes
//!   over 8 KiB;
//! - cached blocks. Half of those of each length return to their windows every 33,000 frees or so;
//! - holes. Windows with holes are reused once more than two windows, and a sixteenth of all, is free;
//! - empty windows, kept for the next burst. One goes back, every 64 frees at most, when no burst of the last
//!   294,912 frees needed it ([`Config::keep_empty_windows`]).
//!
//! [`Allocator::trim`] gives back every page without a live byte, those between blocks that stay included, down to the
//! preallocated windows. A dropped allocator leaves up to 16 MiB of its regions, pages included, to later ones of the
//! same process (Linux; [`system::Os::set_kept_bytes`]).
//!
//! # When to use it, and when not
//!
//! It is for queues and windows of packets: receive queues, send buffers, jitter buffers, FEC and retransmission
//! windows, codecs. It is not the best for
//!
//! - blocks of which a few scattered ones live much longer than the rest: until `trim` is called, a window goes back to
//!   the system only when no block in it is live;
//! - blocks much smaller than a unit, which waste the rest of it;
//! - a whole program: it is no global allocator.
//!
//! # Safety
//!
//! [`Packet`] and the collections are safe. [`Allocator::free`] is unsafe, as C's `free` is, but panics on a double
//! free or an interior pointer in its own windows. [`Allocator::try_free`] takes any pointer value and returns an error
//! that says what is wrong with it. [`Config::check`] verifies every call and puts canaries behind every block;
//! [`Config::passthrough`] takes each block from the system, so that sanitizers know its bounds.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `std` (default) | the operating system as the source of memory, `io::Write` |
//! | `allocator-api2` | the allocator trait of that crate |
//! | `shared` | `SharedAllocator` and `Pool`, whose packets any thread may hold and free, and `FrozenPacket` |
//! | `bytes` | packets are `bytes::Buf` and `BufMut`; those of threads become `bytes::Bytes` without a copy |
//! | `udp` | datagrams received and sent in batches |
//! | `replay` | reading captures and traces, replaying them, and the streams of packets that tests and measurements use |
//! | `python` | the Python module; built by maturin |
//!
//! Without `std` the crate is `no_std`. It then needs `alloc` for a few tables, and takes its windows from memory that
//! you bring: a [`system::Buffer`], or a [`system::System`] of yours.
//!
//! The idea comes from Christopher A. Taylor's C++ PacketAllocator. Allocating from holes with a cursor follows Immix.

#![cfg_attr(not(any(feature = "std", test)), no_std)]
// The examples use the standard library: without it `cargo test` has none to run but those above.
#![cfg(not(all(doctest, not(feature = "std"))))]
// Marks what needs a feature; the documentation is built by a compiler that has it.
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;

mod address_map;
mod allocator;
#[cfg(feature = "allocator-api2")]
mod api2;
pub mod bitset;
mod config;
mod error;
mod geometry;
#[cfg(any(doc, doctest))]
pub mod guide;
mod heap;
mod list;
mod map;
mod packet;
mod poison;
#[cfg(feature = "shared")]
mod prefetch;
#[cfg(feature = "python")]
mod python;
mod rc_allocator;
mod region;
#[cfg(feature = "replay")]
pub mod replay;
#[cfg(feature = "shared")]
mod shared;
mod stats;
pub mod system;
#[cfg(feature = "udp")]
pub mod udp;
// Streams of packets for tests and measurements: documented with `replay`, which measures.
#[cfg(feature = "std")]
#[cfg_attr(not(feature = "replay"), doc(hidden))]
pub mod workload;

pub use allocator::Allocator;
pub use config::{Config, ConfigError};
pub use error::{AllocError, FreeError, IntegrityError, Overflow, Total, WriteAfterFree};
pub use heap::Realloc;
pub use packet::{Owner, Packet, Room, Source, Space};
pub use rc_allocator::RcAllocator;
#[cfg(feature = "shared")]
pub use shared::{AnyThread, FrozenPacket, Pool, SharedAllocator, SharedPacket, Unbound, flush_freed};
pub use stats::{Occupancy, Stats, WindowState};

/// The examples of the README are tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// So is that of the page on datagrams.
#[cfg(all(doctest, feature = "udp"))]
#[doc = include_str!("../docs/datagrams.md")]
struct Datagrams;

/// So are those of the pages of the site that are not guides.
#[cfg(all(doctest, feature = "shared", feature = "bytes"))]
mod pages {
    #[doc = include_str!("../docs/index.md")]
    struct Index;
    #[doc = include_str!("../docs/start.md")]
    struct Start;
}
