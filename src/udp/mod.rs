//! Datagrams in batches: many for each system call, received into packets of their size.
//!
//! A system call for each datagram costs more than everything else that a program does with it. A [`Receiver`] fetches
//! as many as are there in one call, and a [`Sender`] hands as many over.
//!
//! ```
//! use std::net::UdpSocket;
//! use pktalloc::{Allocator, udp};
//!
//! let socket = UdpSocket::bind("127.0.0.1:0")?;
//! let client = UdpSocket::bind("127.0.0.1:0")?;
//! let allocator = Allocator::new();
//!
//! let to = socket.local_addr()?.into();
//! let mut sender = udp::Sender::new();
//! let sent = sender.send(&client, [b"one".as_slice(), b"two", b"three"].map(|bytes| (bytes, &to)))?;
//! assert_eq!(sent, 3);
//!
//! let mut receiver = udp::Receiver::new(64, 2048); // up to 64 datagrams, of up to 2048 bytes each
//! let mut queue = Vec::new();
//! while queue.len() < 3 {
//!     receiver.receive(&socket, &allocator, &mut queue)?; // waits for one, takes what else is there
//! }
//! assert_eq!(queue[2].packet, b"three");
//! assert_eq!(queue[2].source.inet(), Some(client.local_addr()?));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Memory
//!
//! Datagrams arrive in a scratch area that belongs to the receiver, and packets take a copy of what arrived, to the
//! byte. A packet of 60 bytes then holds 64, not 2048, and the copy costs less than to cut a large packet. Datagrams of
//! more than 9 KB are received straight into their packets, by receivers of up to 32 KB each.
//!
//! # Segment offload
//!
//! The kernel can join datagrams of one flow on their way in ([`Receiver::with_gro`]) and cut them on their way out
//! ([`Sender`] does that by itself). For the program nothing changes, except that it takes a tenth of the time.
//!
//! # Waiting
//!
//! Sockets behave as they do in plain calls: one in blocking mode waits for the first datagram, up to its read timeout;
//! one in non-blocking mode fails with [`WouldBlock`](std::io::ErrorKind::WouldBlock). A batch never waits to become
//! full. [`Receiver::try_receive`] and [`Sender::try_send`] never wait, for runtimes that know when a socket is ready.
//!
//! # Other systems
//!
//! Linux and Android have all of this. Elsewhere each call moves one datagram, UDP only, and nothing is said about it
//! but who sent it.

mod address;
mod handle;
pub(crate) mod item;
pub(crate) mod layout;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) mod linux;
mod options;
// Tested on Linux as well.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
mod portable;
mod receiver;
#[cfg(any(test, target_os = "linux", target_os = "android"))]
mod segments;
mod sender;
// The Python face keeps things on it; without that face only its tests do.
#[cfg(any(test, all(feature = "python", target_os = "linux")))]
pub(crate) mod shelf;

#[cfg(any(target_os = "linux", target_os = "android"))]
use linux as backend;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use portable as backend;

/// What the fuzz target `datagrams` runs.
#[cfg(all(fuzzing, any(target_os = "linux", target_os = "android")))]
#[doc(hidden)]
pub use linux::fuzz::run as fuzz;

pub use address::{Address, Info, LinkAddress};
pub use handle::AsHandle;
pub use options::{Counters, Options};
pub use receiver::{Datagram, Receiver};
pub use sender::Sender;
