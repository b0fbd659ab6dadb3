//! The protocol of [`super::queue`] and [`super::owner`] in every order that the memory model allows: `make loom`.
//!
//! A block here is a bundle and a cell that the model checker watches: the holder of a packet writes it, and so does
//! the thread that gets the block back. What is missing between the two shows as a race.

use std::ptr::NonNull;
use std::sync::Arc as Counter;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::owner::Lock;
use super::queue::{BUNDLE_BYTES, Bundle, Queue, Taken};
use super::references::References;

/// A block that has room for a bundle of two.
#[repr(C)]
struct Block {
    bundle: std::cell::UnsafeCell<[usize; BUNDLE_BYTES / size_of::<usize>() + 1]>,
    content: UnsafeCell<u32>,
}

impl Block {
    fn new() -> Self {
        Self { bundle: std::cell::UnsafeCell::default(), content: UnsafeCell::new(0) }
    }

    fn pointer(&self) -> NonNull<u8> {
        NonNull::from(self).cast()
    }

    /// What a packet's holder does, and what the owner does once the block is back.
    fn touch(&self) {
        // SAFETY: the model checker watches.
        self.content.with_mut(|content| unsafe { *content += 1 });
    }
}

/// The queue, the lock, the blocks, and what stands for the heap: how many blocks live, which its holder alone may
/// know.
struct Model {
    queue: Queue,
    lock: Lock,
    live: UnsafeCell<usize>,
    blocks: Vec<Block>,
    taken_down: Counter<AtomicUsize>,
}

// SAFETY: what is shared without a lock is what the tests are about.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    fn new(blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            queue: Queue::new(),
            lock: Lock::held(),
            live: UnsafeCell::new(blocks),
            blocks: (0..blocks).map(|_| Block::new()).collect(),
            taken_down: Counter::default(),
        })
    }

    /// A thread's end of blocks that come back in one bundle.
    fn push(&self, blocks: &[usize]) {
        for &block in blocks {
            self.blocks[block].touch();
        }
        let bundle = self.blocks[blocks[0]].pointer().cast::<Bundle>();
        for (index, &block) in blocks.iter().enumerate().skip(1) {
            // SAFETY: a block has room for two.
            unsafe { Bundle::name(bundle, index, self.blocks[block].pointer()) };
        }
        // SAFETY: nobody else has these blocks.
        unsafe {
            if self.queue.push(bundle, blocks.len()).is_err() {
                self.lock.lock();
                self.free(Taken::one(bundle, blocks.len()));
                self.leave();
            }
        }
    }

    /// A thread for each bundle, which pushes it.
    fn workers(model: &Arc<Self>, bundles: [Vec<usize>; 2]) -> [thread::JoinHandle<()>; 2] {
        bundles.map(|blocks| {
            let model = model.clone();
            thread::spawn(move || model.push(&blocks))
        })
    }

    /// One thread that pushes these bundles one after the other. The lock spins, and two threads that wait for it with
    /// nobody to let them go on have more orders than can be gone through.
    fn worker(model: &Arc<Self>, bundles: [Vec<usize>; 2]) -> thread::JoinHandle<()> {
        let model = model.clone();
        thread::spawn(move || bundles.iter().for_each(|blocks| model.push(blocks)))
    }

    /// The free of blocks by the holder of the lock; returns how many.
    fn free(&self, taken: impl Iterator<Item = NonNull<u8>>) -> usize {
        let mut count = 0;
        for block in taken {
            let block = self.blocks.iter().find(|other| other.pointer() == block);
            block.expect("only blocks come back").touch();
            count += 1;
        }
        // SAFETY: the model checker watches.
        self.live.with_mut(|live| unsafe { *live -= count });
        count
    }

    /// What the owner takes from the queue.
    fn take(&self) -> Taken {
        let mut taken = Taken::none();
        self.queue.take(&mut taken);
        taken
    }

    /// The end of a holder of the lock once the queue is closed.
    fn leave(&self) {
        // SAFETY: the model checker watches.
        if self.live.with(|live| unsafe { *live }) == 0 {
            self.blocks.iter().for_each(Block::touch);
            self.taken_down.fetch_add(1, Ordering::Relaxed);
        } else {
            self.lock.unlock();
        }
    }

    /// The end of the owner.
    fn close(&self) {
        self.free(self.queue.close());
        self.leave();
    }
}

#[test]
fn loom_blocks_come_back_once_and_in_order() {
    loom::model(|| {
        let model = Model::new(3);
        let workers = Model::workers(&model, [vec![0, 1], vec![2]]);
        let mut back = if model.queue.is_empty() { 0 } else { model.free(model.take()) };
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        back += model.free(model.take());
        assert_eq!(back, 3);
        assert!(model.queue.is_empty());
        model.close();
        assert_eq!(model.taken_down.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_a_block_is_pushed_again_after_it_was_reused() {
    loom::model(|| {
        let model = Model::new(4);
        let workers = Model::workers(&model, [vec![0], vec![1]]);
        // What is back goes out again, and comes back by the queue a second time.
        let first: Vec<_> = model.take().collect();
        for (at, block) in model.blocks.iter().enumerate() {
            if first.contains(&block.pointer()) {
                model.push(&[at]);
            }
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(model.free(model.take()), 2);
    });
}

#[test]
fn loom_the_last_one_takes_the_memory_down() {
    loom::model(|| {
        let model = Model::new(3);
        let worker = Model::worker(&model, [vec![0, 1], vec![2]]);
        model.close();
        worker.join().unwrap();
        assert_eq!(model.taken_down.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_an_owner_that_took_some_back_leaves_the_rest() {
    loom::model(|| {
        let model = Model::new(2);
        let worker = Model::worker(&model, [vec![0], vec![1]]);
        if !model.queue.is_empty() {
            model.free(model.take());
        }
        model.close();
        worker.join().unwrap();
        assert_eq!(model.taken_down.load(Ordering::Relaxed), 1);
    });
}

/// The free of a block of a pool's share: with the lock, if nobody has it, and otherwise by the queue.
fn free_into_share(model: &Model, block: usize) {
    if model.lock.try_lock() {
        model.blocks[block].touch();
        model.free(core::iter::once(model.blocks[block].pointer()));
        if model.queue.is_closed() { model.leave() } else { model.lock.unlock() }
    } else {
        model.push(&[block]);
    }
}

#[test]
fn loom_the_share_of_a_pool_gets_every_block_back() {
    loom::model(|| {
        let model = Model::new(2);
        model.lock.unlock();
        let worker = {
            let model = model.clone();
            thread::spawn(move || (0..2).for_each(|block| free_into_share(&model, block)))
        };
        // Another thread allocates.
        if model.lock.try_lock() {
            if !model.queue.is_empty() {
                model.free(model.take());
            }
            model.lock.unlock();
        }
        worker.join().unwrap();
        assert!(model.lock.try_lock());
        model.close();
        assert_eq!(model.taken_down.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_a_pool_goes_while_a_block_of_its_share_is_freed() {
    loom::model(|| {
        let model = Model::new(1);
        model.lock.unlock();
        let worker = {
            let model = model.clone();
            thread::spawn(move || free_into_share(&model, 0))
        };
        model.lock.lock();
        model.close();
        worker.join().unwrap();
        assert_eq!(model.taken_down.load(Ordering::Relaxed), 1);
    });
}

/// Handles to one packet: what they read, and what the last one, or the only one, does to it.
struct Frozen {
    references: References,
    content: UnsafeCell<u32>,
}

// SAFETY: what is shared without a lock is what the tests are about.
unsafe impl Send for Frozen {}
// SAFETY: as above.
unsafe impl Sync for Frozen {}

impl Frozen {
    fn new() -> Arc<Self> {
        Arc::new(Self { references: References::one(), content: UnsafeCell::new(0) })
    }

    fn read(&self) {
        // SAFETY: the model checker watches.
        self.content.with(|content| unsafe { content.read() });
    }

    /// The end of a handle; the last one frees the block, after which another packet writes to it.
    fn drop_handle(&self) -> usize {
        self.read();
        let last = self.references.remove();
        if last {
            // SAFETY: the model checker watches.
            self.content.with_mut(|content| unsafe { *content += 1 });
        }
        usize::from(last)
    }
}

#[test]
fn loom_the_last_handle_frees_the_block_and_nobody_reads_it_then() {
    loom::model(|| {
        let packet = Frozen::new();
        packet.references.add();
        packet.references.add();
        let workers = [0; 2].map(|_| {
            let packet = packet.clone();
            thread::spawn(move || packet.drop_handle())
        });
        let here = packet.drop_handle();
        let freed = workers.into_iter().fold(here, |freed, worker| freed + worker.join().unwrap());
        assert_eq!(freed, 1);
    });
}

#[test]
fn loom_a_handle_is_cloned_while_others_go() {
    loom::model(|| {
        let packet = Frozen::new();
        packet.references.add();
        let worker = {
            let packet = packet.clone();
            thread::spawn(move || {
                packet.references.add();
                packet.drop_handle() + packet.drop_handle()
            })
        };
        let here = packet.drop_handle();
        assert_eq!(here + worker.join().unwrap(), 1);
    });
}

#[test]
fn loom_the_only_handle_writes_after_the_others_have_read() {
    loom::model(|| {
        let packet = Frozen::new();
        packet.references.add();
        let worker = {
            let packet = packet.clone();
            thread::spawn(move || packet.drop_handle())
        };
        let thawed = packet.references.is_one();
        if thawed {
            // SAFETY: the model checker watches.
            packet.content.with_mut(|content| unsafe { *content += 1 });
        }
        let here = packet.drop_handle();
        assert_eq!(here + worker.join().unwrap(), 1);
    });
}
