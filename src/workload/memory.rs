//! Workloads that ask what is left in memory: they run once.

use std::collections::VecDeque;

use super::{Op, Sizes, Stream};

/// A queue in which some packets stay for ever.
///
/// Packets enter, numbered from 0. When more than `depth` are in the queue the oldest leaves it: packet n stays for
/// ever if n mod `of` is less than `stay`, and is freed otherwise. The stream ends when `until` packets stay. Sizes are
/// drawn from a generator with state `seed`, in the order of arrival; slots are taken in that order too, the one that
/// was freed last first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The sizes of the packets.
    pub sizes: Sizes,
    /// How many packets are in the queue.
    pub depth: usize,
    /// Of `of` packets in a row, so many stay: the first ones.
    pub stay: u32,
    /// See `stay`; at least 1.
    pub of: u32,
    /// How many packets stay in the end.
    pub until: usize,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Pinned {
    /// 1400 bytes, 1024 deep; of every 45 packets 12 stay, until 20,000 do.
    pub const QUARTER: Self = Self { sizes: Sizes::Fixed(1400), depth: 1024, stay: 12, of: 45, until: 20_000, seed: 1 };
    /// The same with 1 % that stay.
    pub const ONE_PERCENT: Self = Self { stay: 1, of: 100, ..Self::QUARTER };

    /// The operations of this workload.
    ///
    /// # Panics
    ///
    /// If `stay` or `of` is 0, or there are more than `u32::MAX` packets at once.
    #[must_use]
    pub fn stream(&self) -> Stream {
        assert!(self.stay > 0 && self.of > 0, "packets never stay: {} of {}", self.stay, self.of);
        let mut sizes = self.sizes.draw(self.seed);
        let mut ops = Vec::new();
        let mut queue = VecDeque::with_capacity(self.depth + 1);
        let mut free_slots = Vec::new();
        let (mut slots, mut staying, mut number) = (0_u32, 0, 0_u32);
        while staying < self.until {
            let slot = free_slots.pop().unwrap_or_else(|| {
                slots = slots.checked_add(1).expect("at most u32::MAX packets at once");
                slots - 1
            });
            ops.push(Op::allocate(slot, sizes.next_size()));
            queue.push_back((slot, number % self.of < self.stay));
            number = (number + 1) % self.of;
            if queue.len() > self.depth {
                match queue.pop_front() {
                    Some((_, true)) => staying += 1,
                    Some((slot, false)) => {
                        ops.push(Op::free(slot));
                        free_slots.push(slot);
                    }
                    None => unreachable!("the queue holds more than its depth"),
                }
            }
        }
        Stream { ops, slots: slots as usize }
    }
}

/// `packets` packets enter, then all leave in order: 100,000 of them are the burst after which memory must come back.
///
/// Sizes are drawn from a generator with state `seed`; packet n has slot n.
#[must_use]
pub fn drained_burst(sizes: &Sizes, packets: u32, seed: u64) -> Stream {
    let mut sizes = sizes.draw(seed);
    let enter = (0..packets).map(|slot| Op::allocate(slot, sizes.next_size()));
    let ops = enter.chain((0..packets).map(Op::free)).collect();
    Stream { ops, slots: packets as usize }
}

#[cfg(test)]
mod tests {
    use super::{Pinned, drained_burst};
    use crate::workload::{Op, Sizes, Stream};

    fn live(stream: &Stream) -> usize {
        let frees = stream.ops.iter().filter(|op| op.is_free()).count();
        stream.ops.len() - 2 * frees
    }

    #[test]
    fn the_pinned_stay_beside_the_queue() {
        for (pinned, share) in [(Pinned::QUARTER, 12.0 / 45.0), (Pinned::ONE_PERCENT, 0.01)] {
            let stream = pinned.stream();
            assert_eq!(stream.check(), Ok(()));
            assert_eq!(live(&stream), 20_000 + 1024);
            let arrivals = stream.ops.iter().filter(|op| !op.is_free()).count();
            let expected = 20_000.0 / share;
            assert!((u32::try_from(arrivals).map(f64::from).unwrap() - expected - 1024.0).abs() < 100.0, "{arrivals}");
        }
    }

    #[test]
    fn the_first_of_each_group_stay() {
        let pinned = Pinned { depth: 1, stay: 2, of: 3, until: 3, ..Pinned::QUARTER };
        let enter = |slot| Op::allocate(slot, 1400);
        assert_eq!(pinned.stream().ops, [enter(0), enter(1), enter(2), enter(3), Op::free(2), enter(2)],);
    }

    #[test]
    fn a_burst_drains_in_order() {
        let stream = drained_burst(&Sizes::Fixed(7), 2, 1);
        assert_eq!(stream.ops, [Op::allocate(0, 7), Op::allocate(1, 7), Op::free(0), Op::free(1)]);
        assert_eq!(stream.check(), Ok(()));
    }
}
