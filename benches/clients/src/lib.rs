//! Programs on crates that others wrote, each once with the memory that it would have by itself and once with pktalloc.
//!
//! A program is generic over [`Memory`](memory::Memory): where its packets live. What its crates allocate inside stays
//! with the global allocator, which is the system's malloc, jemalloc or mimalloc, by the binary that runs. Every run is
//! a process of its own; runs of all variants are interleaved, and must give the same result.

mod fec;
mod jitter;
mod link;
mod memory;
mod process;
mod quic;
mod reliable;
mod table;

use std::process::ExitCode;

use crate::memory::{Own, Pktalloc};

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Reliable,
    Fec,
    Jitter,
    Quic,
}

impl Client {
    const ALL: [Self; 4] = [Self::Reliable, Self::Fec, Self::Jitter, Self::Quic];

    fn name(self) -> &'static str {
        match self {
            Self::Reliable => "reliable-udp",
            Self::Fec => "fec",
            Self::Jitter => "jitter-buffer",
            Self::Quic => "quic",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Reliable => "renet: 32 connections of one server over a lossy link, messages echoed",
            Self::Fec => "reed-solomon-simd: blocks of 32 packets and 8 for repair, 10 % lost",
            Self::Jitter => "rtp and webrtc-media: 4 video streams, reordered and lossy, put together to frames",
            Self::Quic => "quinn-proto: 16 streams of messages over one connection, lossy",
        }
    }

    fn run(self, pktalloc: bool) -> Outcome {
        if pktalloc { self.run_with(&Pktalloc::new()) } else { self.run_with(&Own) }
    }

    fn run_with(self, memory: &impl memory::Memory) -> Outcome {
        let baseline = process::resident_bytes();
        process::reset_peak();
        let program = match self {
            Self::Reliable => reliable::run,
            Self::Fec => fec::run,
            Self::Jitter => jitter::run,
            Self::Quic => quic::run,
        };
        let start = process::processor_time();
        let result = program(memory);
        let time = process::processor_time() - start;
        let grown = process::resident_peak().saturating_sub(baseline);
        Outcome { result, nanoseconds: time.as_nanos() as u64, grown }
    }
}

/// What a run came to.
struct Outcome {
    /// A checksum of all that was delivered.
    result: u64,
    nanoseconds: u64,
    /// The most by which the process grew.
    grown: u64,
}

/// Without arguments measures everything; `run CLIENT own|pktalloc` is one run, asked by the parent process.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["run", client, memory] => one(client, memory),
        [] => table::measure(&Client::ALL, table::ROUNDS),
        ["--quick"] => table::measure(&Client::ALL, 3),
        [name] => client(name).and_then(|client| table::measure(&[client], table::ROUNDS)),
        _ => Err(format!("arguments {arguments:?}: use none, --quick, or one of {}", names())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clients: {error}");
            ExitCode::FAILURE
        }
    }
}

fn names() -> String {
    Client::ALL.map(Client::name).join(", ")
}

fn client(name: &str) -> Result<Client, String> {
    let found = Client::ALL.into_iter().find(|client| client.name() == name);
    found.ok_or_else(|| format!("client {name:?}: use one of {}", names()))
}

fn one(name: &str, memory: &str) -> Result<(), String> {
    let pktalloc = match memory {
        "own" => false,
        "pktalloc" => true,
        _ => return Err(format!("memory {memory:?}: use own or pktalloc")),
    };
    let Outcome { result, nanoseconds, grown } = client(name)?.run(pktalloc);
    println!("{result:016x} {nanoseconds} {grown}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_gives_the_same_result_with_both() {
        for client in Client::ALL {
            let [own, ours, again] = [false, true, false].map(|pktalloc| client.run(pktalloc).result);
            assert_eq!(own, ours, "{}", client.name());
            assert_eq!(own, again, "{}", client.name());
        }
    }
}
