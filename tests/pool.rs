//! Packets of a pool on many threads, with and without a limit.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;

use pktalloc::system::{Os, System};
use pktalloc::workload::SplitMix64;
use pktalloc::{AllocError, Config, Pool, Room, SharedPacket, Space, flush_freed};

fn limited(bytes: u64) -> Pool {
    Pool::with_config(Config::new().memory_limit(bytes)).unwrap()
}

/// All packets of 1400 bytes that the pool has.
fn all(pool: &Pool) -> Vec<SharedPacket> {
    std::iter::from_fn(|| pool.packet(1400).ok()).collect()
}

#[test]
fn a_pool_is_cloned_sent_and_shared() {
    fn is_pool<T: Clone + Send + Sync + 'static>(_: &T) {}
    for pool in [Pool::new(), limited(64 << 20)] {
        is_pool(&pool);
        let packets = thread::scope(|scope| {
            let workers = [0, 1, 2, 3].map(|worker| {
                let pool = pool.clone();
                scope.spawn(move || {
                    let mut packet = pool.packet(Space::new(1000).headroom(20)).unwrap();
                    packet.fill(worker);
                    packet.prepend(&[9; 20]).unwrap();
                    packet
                })
            });
            workers.map(|worker| worker.join().unwrap())
        });
        drop(pool);
        for (worker, packet) in (0..).zip(packets) {
            assert!(packet[..20] == [9; 20] && packet[20..] == [worker; 1000]);
        }
    }
    assert_eq!(format!("{:?}", Pool::new()), "Pool { an allocator for each thread }");
    assert_eq!(format!("{:?}", limited(1 << 20)), "Pool { 1 shares of a limit }");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    assert!(Pool::with_config(Config::new().memory_limit(1)).is_err());
    assert!(Pool::with_config(Config::new().keep_empty_windows(0).memory_limit(0)).is_err());
    assert_eq!(Pool::new().packet(usize::MAX).unwrap_err(), AllocError::TooLarge);
    assert_eq!(limited(8 << 20).packet(usize::MAX).unwrap_err(), AllocError::TooLarge);
}

/// Everything that lives keeps to the limit, whatever threads it is made on, and all of it can be had by any of them.
#[test]
fn a_limit_is_one_for_all_threads() {
    let limit = 16 << 20;
    let pool = limited(limit);
    let here = all(&pool).len();
    assert!(here as u64 * 1408 <= limit && here as u64 * 1408 > limit * 9 / 10, "{here} packets");
    for _ in 0..3 {
        let packets: Vec<_> = thread::scope(|scope| {
            let workers = [(); 4].map(|()| scope.spawn(|| all(&pool)));
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert!(packets.len() <= here && packets.len() > here * 9 / 10, "{} of {here}", packets.len());
    }
}

/// What is received into a packet of a limited pool takes what arrived, on any thread.
#[test]
fn packets_of_a_limited_pool_are_cut() {
    let pool = limited(4 << 20);
    let receive = || {
        let fill = |room: &mut Room<'_>| {
            room.append(&[1; 100]);
            Ok::<_, AllocError>(())
        };
        pool.packet_with(9000, fill).unwrap().0
    };
    let packets: Vec<_> = std::iter::repeat_with(receive).take(20_000).collect();
    thread::scope(|scope| scope.spawn(|| drop(packets)).join().unwrap());
    let mut packet = pool.packet(1 << 20).unwrap();
    packet.truncate(100);
    assert_eq!(packet.capacity(), 120);
    assert!(all(&pool).len() > 2500);
}

/// A panic in the free of a packet leaves the pool to the others.
#[test]
fn an_overflow_in_a_limited_pool_is_a_panic_and_no_more() {
    let pool = Pool::with_config(Config::new().memory_limit(4 << 20).check(true)).unwrap();
    let mut packet = pool.packet(96).unwrap();
    // SAFETY: behind the packet's end and its tail, inside of its units, which is the point.
    unsafe { packet.as_mut_ptr().add(96 + 8).write(1) };
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(packet)));
    assert!(dropped.unwrap_err().downcast::<String>().unwrap().contains("past"));
    let refused = thread::scope(|scope| scope.spawn(|| pool.packet(96).err()).join().unwrap());
    assert_eq!(refused, Some(AllocError::Damaged));
}

/// The threads that had all the packets sleep, and nobody asks them for anything.
#[test]
fn a_limited_pool_never_stalls_while_its_blocks_wait_elsewhere() {
    for packets in [9000, 1400, 200] {
        let pool = limited(12 << 20);
        let (dropped, wait) = mpsc::channel();
        let sleepers: Vec<_> = (0..3)
            .map(|_| {
                let (pool, dropped) = (pool.clone(), dropped.clone());
                let (end, ends) = mpsc::channel::<()>();
                let sleeper = thread::spawn(move || {
                    let all: Vec<_> = std::iter::from_fn(|| pool.packet(packets).ok()).collect();
                    drop(all);
                    dropped.send(()).unwrap();
                    ends.recv().unwrap();
                });
                (end, sleeper)
            })
            .collect();
        sleepers.iter().for_each(|_| wait.recv().unwrap());
        // Of another size, so that nothing fits as it is.
        let here = all(&pool).len();
        assert!(here * 1408 > (12 << 20) * 9 / 10, "{here} packets are there");
        for (end, sleeper) in sleepers {
            end.send(()).unwrap();
            sleeper.join().unwrap();
        }
        assert!(pool.trim() > 8 << 20);
    }
}

#[test]
fn threads_that_end_leave_their_memory_to_those_that_come() {
    let pool = Pool::new();
    let mut addresses = Vec::new();
    for _ in 0..20 {
        let pool = pool.clone();
        let packet = thread::spawn(move || pool.packet(1400).unwrap()).join().unwrap();
        addresses.push(packet.as_ptr().addr() & !(Os::REGION_BYTES - 1));
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 1, "one allocator, one region");
}

#[test]
fn trim_gives_back_what_was_left_by_threads_that_are_gone_and_tells_how_much() {
    let pool = Pool::new();
    let all_are_there = Arc::new(Barrier::new(3));
    let threads = [0, 1, 2].map(|_| {
        let (pool, all_are_there) = (pool.clone(), Arc::clone(&all_are_there));
        thread::spawn(move || {
            let packets: Vec<_> = (0..2000).map(|_| pool.packet(1400).unwrap()).collect();
            all_are_there.wait();
            packets
        })
    });
    drop(threads.map(|thread| thread.join().unwrap()));
    flush_freed();
    let left = pool.trim();
    assert!((6_000_000..12_000_000).contains(&left), "{left} bytes of three threads");
    assert_eq!(pool.trim(), 0);
}

#[test]
fn packets_are_made_while_a_thread_is_taken_down() {
    struct Late(Pool, mpsc::Sender<SharedPacket>);
    impl Drop for Late {
        fn drop(&mut self) {
            self.1.send(self.0.packet_from(b"late").unwrap()).unwrap();
        }
    }
    thread_local! {
        static FIRST: RefCell<Option<Late>> = const { RefCell::new(None) };
        static LAST: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    for pool in [Pool::new(), limited(16 << 20)] {
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            // One of the two goes before the thread's allocator, the other after it.
            FIRST.set(Some(Late(pool.clone(), send.clone())));
            drop(pool.packet(1400).unwrap());
            LAST.set(Some(Late(pool, send)));
        })
        .join()
        .unwrap();
        assert!(receive.iter().map(|packet| assert_eq!(packet, b"late")).count() == 2);
    }
}

/// The current pool is forgotten when it goes: another one at the same address is another one.
#[test]
fn many_pools_come_and_go_on_a_thread() {
    let stays = Pool::new();
    for round in 0..200u32 {
        let pool = if round % 3 == 0 { limited(4 << 20) } else { Pool::new() };
        let mut packets = Vec::new();
        for _ in 0..10 {
            packets.push((pool.packet_from(&[round as u8; 500]).unwrap(), stays.packet_from(&[1; 500]).unwrap()));
        }
        if round % 2 == 0 {
            drop(pool);
            assert!(packets.iter().all(|(packet, other)| *packet == [round as u8; 500] && *other == [1; 500]));
        } else {
            drop(packets);
        }
    }
    stays.trim();
    assert_eq!(stays.packet_from(&[2; 500]).unwrap(), [2; 500]);
}

/// Workers make packets, hand them on, and drop what they get, for pools with and without a limit.
#[test]
fn packets_wander_between_threads_that_all_allocate() {
    const WORKERS: usize = 4;
    let rounds = if cfg!(debug_assertions) { 5000 } else { 50_000 };
    for pool in [Pool::new(), limited(16 << 20)] {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..WORKERS).map(|_| mpsc::sync_channel::<(u8, SharedPacket)>(64)).unzip();
        let workers: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(at, receiver)| {
                let (pool, next) = (pool.clone(), senders[(at + 1) % WORKERS].clone());
                thread::spawn(move || {
                    let mut random = SplitMix64::new(at as u64);
                    let mut held = VecDeque::new();
                    for round in 0..rounds {
                        let tag = round as u8;
                        let made = pool.packet_from(&vec![tag; 1 + random.below(2000) as usize]);
                        if let Ok(packet) = made
                            && let Err(mpsc::TrySendError::Full(packet)) = next.try_send((tag, packet))
                        {
                            held.push_back(packet);
                        }
                        held.extend(receiver.try_recv());
                        while held.len() > 50 {
                            let (tag, packet) = held.pop_front().unwrap();
                            assert!(packet.iter().all(|&byte| byte == tag));
                        }
                    }
                    flush_freed();
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        drop(senders);
        pool.trim();
        assert!(pool.packet(1400).is_ok());
    }
}
