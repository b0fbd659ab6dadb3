//! A pool while the memory is refused that it needs beside that of its packets.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;
use std::thread;

use pktalloc::{AllocError, Pool};

/// The system's memory, of which a thread can be refused one block, or all.
struct Refusing;

std::thread_local! {
    /// How many blocks it gets before one is refused, and how many are refused then.
    static REFUSED: Cell<(usize, usize)> = const { Cell::new((usize::MAX, 0)) };
}

// SAFETY: all memory is the system's.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match REFUSED.get() {
            (0, 0) | (usize::MAX, _) => {}
            (0, refused) => {
                REFUSED.set((0, refused - 1));
                return ptr::null_mut();
            }
            (before, refused) => REFUSED.set((before - 1, refused)),
        }
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same contract.
        unsafe { System.dealloc(block, layout) };
    }
}

#[global_allocator]
static MEMORY: Refusing = Refusing;

/// A thread's first packet is refused, or made in another way; the pool goes on, and keeps nothing.
#[test]
fn a_refusal_anywhere_is_an_error_and_no_more() {
    for refused in [1, usize::MAX] {
        let mut errors = 0;
        for before in 0..12 {
            let pool = Pool::new();
            // The allocator of a thread that is gone waits for the next.
            let first = pool.clone();
            thread::spawn(move || first.packet(1400).map(drop)).join().unwrap().unwrap();
            for _ in 0..2 {
                let pool = pool.clone();
                let outcome = thread::spawn(move || {
                    // A second allocator, since the one that waits is taken already.
                    let held = pool.packet(1400).unwrap();
                    let other = Pool::new();
                    REFUSED.set((before, refused));
                    let outcome = (other.packet(1400).map(drop), pool.packet(100).map(drop));
                    REFUSED.set((usize::MAX, 0));
                    drop(held);
                    assert_eq!(other.packet(1400).map(drop), Ok(()));
                    outcome
                });
                let (other, same) = outcome.join().unwrap();
                assert_eq!(same, Ok(()));
                assert!(matches!(other, Ok(()) | Err(AllocError::OutOfMemory)), "{other:?}");
                errors += usize::from(other.is_err());
            }
        }
        // What is refused once is had in another way.
        assert_eq!(errors > 0, refused > 1);
    }
}

/// What a thread leaves to the next one goes when there is no memory to remember it.
#[test]
fn a_thread_that_ends_while_memory_is_refused_leaves_packets_behind() {
    let pool = Pool::new();
    let clone = pool.clone();
    let packet = thread::spawn(move || {
        let packet = clone.packet_from(&[7; 1400]).unwrap();
        REFUSED.set((0, usize::MAX));
        packet
    });
    let packet = packet.join().unwrap();
    assert_eq!(packet, [7; 1400]);
    drop(packet);
    assert!(pool.packet(1400).is_ok());
    pool.trim();
}
