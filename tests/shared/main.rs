//! Packets that other threads hold and free, and what the tests of them have in common.

mod contents;
mod frees;
mod misuse;
mod owners;
mod settings;
mod wandering;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use pktalloc::system::{Os, Role, System};
use pktalloc::workload::SplitMix64;
use pktalloc::{Config, SharedAllocator, SharedPacket};

/// The system's memory, with a count of the regions that are held.
#[derive(Clone, Default)]
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn regions(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

// SAFETY: the regions are those of `Os`.
unsafe impl System for Counted {
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: as the caller promises.
        unsafe { Os.free(region, layout, role) };
    }
}

type Allocator = SharedAllocator<64, 2048, Counted>;
type Packet = SharedPacket<64, 2048, Counted>;

fn counted(config: Config) -> (Allocator, Counted) {
    let system = Counted::default();
    let allocator = SharedAllocator::with_config_in(config, system.clone()).expect("the settings make sense");
    (allocator, system)
}

/// A thread that lives until this is dropped, and runs what it is given while the caller waits.
struct Worker {
    /// `None` once it has to end.
    jobs: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn new() -> Self {
        let (jobs, given) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (say, done) = mpsc::channel();
        let thread = thread::spawn(move || {
            for job in given {
                job();
                say.send(()).expect("the caller waits");
            }
        });
        Self { jobs: Some(jobs), done, thread: Some(thread) }
    }

    fn run(&self, job: impl FnOnce() + Send + 'static) {
        let jobs = self.jobs.as_ref().expect("it has not been told to end");
        jobs.send(Box::new(job)).expect("the thread waits for jobs");
        self.done.recv().expect("the job did not panic");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || thread::panicking());
    }
}

fn below(random: &mut SplitMix64, bound: usize) -> usize {
    random.below(bound as u64) as usize
}

/// Bytes that say which packet they belong to.
fn pattern(seed: usize, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |at| (seed.wrapping_mul(31) + at * 7) as u8)
}

fn verify(seed: usize, packet: &[u8]) {
    assert!(packet.iter().copied().eq(pattern(seed, packet.len())), "packet {seed} of {} bytes changed", packet.len());
}
