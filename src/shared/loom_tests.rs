//! The protocol of [`super::returns`] in every order that the memory model allows: `make loom`.
//!
//! A block here is a bundle and a cell that the model checker watches: the holder of a packet writes it, and so does
//! whoever gets the block back. What is missing between the two shows as a race.

use std::ptr::NonNull;
use std::sync::Arc as Counter;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::returns::{BUNDLE_BYTES, Bundle, Last, Returns};

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

/// The stack, its blocks, and how often they were taken down.
struct Model {
    returns: Returns,
    blocks: Vec<Block>,
    demolished: Counter<AtomicUsize>,
}

// SAFETY: what is shared without a lock is what the tests are about.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    fn new(blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            returns: Returns::new(),
            blocks: (0..blocks).map(|_| Block::new()).collect(),
            demolished: Counter::default(),
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
        if unsafe { self.returns.push(bundle, blocks.len()) } == Last::Yes {
            self.demolish();
        }
    }

    /// A thread for each bundle, which pushes it.
    fn workers(model: &Arc<Self>, bundles: [Vec<usize>; 2]) -> [thread::JoinHandle<()>; 2] {
        bundles.map(|blocks| {
            let model = model.clone();
            thread::spawn(move || model.push(&blocks))
        })
    }

    /// The owner's use of the blocks that came back; returns how many.
    fn reuse(&self, taken: impl Iterator<Item = NonNull<u8>>) -> usize {
        taken
            .map(|block| {
                let block = self.blocks.iter().find(|other| other.pointer() == block);
                block.expect("only blocks come back").touch();
            })
            .count()
    }

    /// What the owner does when it goes: `out` blocks did not come back so far.
    fn leave(&self, out: usize) {
        let back = self.reuse(self.returns.close());
        if self.returns.settle((out - back) as isize) == Last::Yes {
            self.demolish();
        }
    }

    /// Takes everything down, which nobody may touch any more.
    fn demolish(&self) {
        self.blocks.iter().for_each(Block::touch);
        self.demolished.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn loom_blocks_come_back_once_and_in_order() {
    loom::model(|| {
        let model = Model::new(3);
        let workers = Model::workers(&model, [vec![0, 1], vec![2]]);
        let mut back = if model.returns.is_empty() { 0 } else { model.reuse(model.returns.take()) };
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        back += model.reuse(model.returns.take());
        assert_eq!(back, 3);
        assert!(model.returns.is_empty());
        model.leave(0);
        assert_eq!(model.demolished.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_a_block_is_pushed_again_after_it_was_reused() {
    loom::model(|| {
        let model = Model::new(2);
        let workers = Model::workers(&model, [vec![0], vec![1]]);
        // What is back goes out again, and comes back by the stack a second time.
        let first: Vec<_> = model.returns.take().collect();
        for (at, block) in model.blocks.iter().enumerate() {
            if first.contains(&block.pointer()) {
                model.push(&[at]);
            }
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(model.reuse(model.returns.take()), 2);
    });
}

#[test]
fn loom_the_last_one_takes_the_memory_down() {
    loom::model(|| {
        let model = Model::new(3);
        let workers = Model::workers(&model, [vec![0, 1], vec![2]]);
        model.leave(3);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(model.demolished.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn loom_an_owner_that_took_some_back_leaves_the_rest() {
    loom::model(|| {
        let model = Model::new(2);
        let workers = Model::workers(&model, [vec![0], vec![1]]);
        let back = if model.returns.is_empty() { 0 } else { model.reuse(model.returns.take()) };
        model.leave(2 - back);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(model.demolished.load(Ordering::Relaxed), 1);
    });
}
