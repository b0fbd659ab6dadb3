//! The order in which packets leave a queue, and the streams that come of it.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use super::{Cycle, Op, Sizes, SplitMix64};

/// Which packet leaves the queue when one enters.
///
/// D is the depth. "Slot n mod R" means that the packet with arrival number n lives in that slot; the steady part then
/// has the least multiple of R pairs that is at least [`Queue::PAIRS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The oldest. Slot n mod D. Draws nothing.
    Fifo,
    /// Any of the 32 oldest, by age: the one at `below(min(32, D))`. Slot n mod (D + 512). A packet that was passed
    /// over until the slot of the one that enters is its own leaves at once, whatever was drawn; nothing is drawn for
    /// the last 32 pairs of the steady part, in which the oldest leaves.
    Reorder,
    /// One of a hundred packets lives about 100 times as long. The queue is two queues, each D / 2 deep: one of
    /// ordinary packets, one of stragglers. A packet that enters one pushes out the oldest of the same, and takes its
    /// slot. Slots 0 to D / 2 - 1 are those of the ordinary packets, the others those of the stragglers, each used in
    /// turn.
    ///
    /// The fill holds D / 2 stragglers, the steady part exactly one of a hundred: with `s` stragglers among the `n`
    /// arrivals to come, the next one is a straggler if `below(n)` is less than `s`. The steady part has the least
    /// multiple of 50 D pairs that is at least [`Queue::PAIRS`].
    Straggler,
    /// Acknowledged in bursts. A round frees, in order of age, first what the round before the last held back, then the
    /// `2 + below(63)` oldest (or all, if they are fewer), except that each of these is held back if `below(50)` is 0.
    /// Then as many enter as left. Slot n mod (D + 256). With fewer than 512 pairs to come nothing is drawn for holding
    /// back, nothing is held back, and the burst is cut so that the pairs come out even.
    Sack,
    /// D packets enter, then D packets leave in order; the fill is empty. Slot n mod D. Draws nothing.
    Burst,
    /// Any of D: the one in slot `below(D)`; the one that enters takes its slot.
    Random,
    /// Packets are passed on: each leaves when the next one has entered, but one in `one_in` stays until D more have
    /// come to stay, that is for D × `one_in` arrivals. Draws nothing.
    ///
    /// The fill holds the D that stay. In the steady part the packets whose number from 0 is a multiple of `one_in` stay:
    /// one enters, what entered before it leaves, and then the oldest of those that stay. These use slots 0 to D in turn,
    /// the others slots D + 1 and D + 2, even numbers the first. The steady part has the least multiple of
    /// (D + 1) × `one_in` pairs that is at least [`Queue::PAIRS`].
    Relay {
        /// Of this many packets, one stays; at least 2.
        one_in: u32,
    },
    /// Many queues in one allocator, as the connections of a server: 32 of them (D if that is less), and slot n belongs
    /// to queue n mod 32. A queue is served with `1 + below(16)` packets (all it holds, if they are fewer): its so many
    /// oldest leave, then as many enter, and take their slots.
    ///
    /// Each queue is served for the same multiple of its packets, the least with which all have at least
    /// [`Queue::PAIRS`] pairs. The one that is served next is the one into which `below(pairs to come)` falls when all
    /// pairs to come are ordered by queue; its burst has at most the pairs that it has to come.
    Interleaved,
}

impl Pattern {
    /// All patterns, queues first; of relays, the one in which one of 50 packets stays.
    pub const ALL: [Self; 8] = [
        Self::Fifo,
        Self::Reorder,
        Self::Straggler,
        Self::Sack,
        Self::Burst,
        Self::Random,
        Self::Relay { one_in: 50 },
        Self::Interleaved,
    ];

    /// The pattern's name, without the number that a relay has.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Reorder => "reorder",
            Self::Straggler => "straggler",
            Self::Sack => "sack",
            Self::Burst => "burst",
            Self::Random => "random",
            Self::Relay { .. } => RELAY,
            Self::Interleaved => "interleaved",
        }
    }
}

const RELAY: &str = "relay";

/// The pattern as it is written in commands and tables: its name, and for a relay `relay-50`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay { one_in } => f.pad(&format!("{RELAY}-{one_in}")),
            _ => f.pad(self.name()),
        }
    }
}

/// A name that is no pattern's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsePatternError(String);

impl fmt::Display for ParsePatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pattern {:?}: use one of {}", self.0, Pattern::ALL.map(|pattern| pattern.to_string()).join(", "))
    }
}

impl std::error::Error for ParsePatternError {}

impl FromStr for Pattern {
    type Err = ParsePatternError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let relay = || {
            let one_in = name.strip_prefix(RELAY)?.strip_prefix('-')?.parse().ok()?;
            (2..=Queue::MAX_ONE_IN).contains(&one_in).then_some(Self::Relay { one_in })
        };
        let named = Self::ALL.into_iter().find(|pattern| pattern.to_string() == name);
        named.or_else(relay).ok_or_else(|| ParsePatternError(name.to_owned()))
    }
}

/// A workload on a queue: what enters, what leaves, and how much is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The sizes of the packets.
    pub sizes: Sizes,
    /// Which packet leaves.
    pub pattern: Pattern,
    /// How many packets are in the queue: even, at least 2.
    pub depth: u32,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Queue {
    /// The least number of pairs of a steady part.
    pub const PAIRS: u32 = 1 << 18;
    /// The greatest depth.
    pub const MAX_DEPTH: u32 = 1 << 24;
    /// Of at most this many packets of a relay, one stays.
    pub const MAX_ONE_IN: u32 = 200;

    /// The operations of this workload.
    ///
    /// # Panics
    ///
    /// If the depth is odd, 0, or over [`MAX_DEPTH`](Self::MAX_DEPTH), the sizes are [none](Sizes::draw), or of a relay
    /// one packet of less than 2 or more than [`MAX_ONE_IN`](Self::MAX_ONE_IN) stays.
    #[must_use]
    pub fn cycle(&self) -> Cycle {
        let depth = self.depth;
        assert!(
            depth.is_multiple_of(2) && (2..=Self::MAX_DEPTH).contains(&depth),
            "a queue's depth is an even number from 2 to {}, not {depth}",
            Self::MAX_DEPTH,
        );
        match self.pattern {
            Pattern::Fifo => self.fifo(),
            Pattern::Reorder => self.reorder(),
            Pattern::Straggler => self.straggler(),
            Pattern::Sack => self.sack(),
            Pattern::Burst => self.burst(),
            Pattern::Random => self.random(),
            Pattern::Relay { one_in } => self.relay(one_in),
            Pattern::Interleaved => self.interleaved(),
        }
    }

    fn fifo(&self) -> Cycle {
        let mut arrivals = Arrivals::new(self, self.depth);
        let pairs = arrivals.pairs();
        let mut cycle = arrivals.fill(pairs);
        for oldest in 0..pairs {
            cycle.steady.push(arrivals.leave(oldest));
            cycle.steady.push(arrivals.enter());
        }
        cycle
    }

    fn reorder(&self) -> Cycle {
        /// How far a packet may be passed over: more than 512 times happens to one packet in ten million.
        const SLACK: u32 = 512;
        let slots = self.depth + SLACK;
        let mut arrivals = Arrivals::new(self, slots);
        let mut random = SplitMix64::new(!self.seed);
        let pairs = arrivals.pairs();
        let mut cycle = arrivals.fill(pairs);

        let window = self.depth.min(32);
        let mut oldest: Vec<u32> = (0..window).collect();
        for pair in 0..pairs {
            let drawn = if pairs - pair > 32 { random.below(window.into()) } else { 0 };
            let expired = arrivals.next == oldest[0] + slots;
            let leaves = oldest.remove(if expired { 0 } else { to_usize(drawn) });
            // The first packet that is not among the oldest: no packet beyond them has left yet.
            let aged = oldest.last().map_or(leaves + 1, |&last| last.max(leaves) + 1);
            cycle.steady.push(arrivals.leave(leaves));
            cycle.steady.push(arrivals.enter());
            oldest.push(aged);
        }
        cycle
    }

    fn straggler(&self) -> Cycle {
        /// Of this many packets, one is a straggler.
        const ONE_OF: u32 = 100;
        let half = self.depth / 2;
        let mut sizes = self.sizes.draw(self.seed);
        let mut random = SplitMix64::new(!self.seed);
        let rounds = Self::PAIRS.div_ceil(ONE_OF * half);
        let pairs = rounds * ONE_OF * half;

        let mut fill = Vec::with_capacity(self.depth as usize);
        // How many entered each of the two queues; the one in turn is this modulo `half`.
        let (mut ordinary, mut stragglers) = (0, 0);
        for filled in 0..self.depth {
            let straggles = random.below((self.depth - filled).into()) < u64::from(half - stragglers);
            let slot = if straggles { half + stragglers } else { ordinary };
            *(if straggles { &mut stragglers } else { &mut ordinary }) += 1;
            fill.push(Op::allocate(slot, sizes.next_size()));
        }

        let mut steady = Vec::with_capacity(2 * pairs as usize);
        (ordinary, stragglers) = (0, 0);
        for pair in 0..pairs {
            let straggles = random.below((pairs - pair).into()) < u64::from(rounds * half - stragglers);
            let slot = if straggles { half + stragglers % half } else { ordinary % half };
            *(if straggles { &mut stragglers } else { &mut ordinary }) += 1;
            steady.push(Op::free(slot));
            steady.push(Op::allocate(slot, sizes.next_size()));
        }
        Cycle { fill, steady, slots: self.depth as usize }
    }

    fn sack(&self) -> Cycle {
        /// A packet that is held back for two rounds of up to 128 leaving packets still has its slot to itself.
        const SLACK: u32 = 256;
        /// With this many pairs to come the rounds begin to close the cycle.
        const CLOSING: u32 = 512;
        let mut arrivals = Arrivals::new(self, self.depth + SLACK);
        let mut random = SplitMix64::new(!self.seed);
        let pairs = arrivals.pairs();
        let mut cycle = arrivals.fill(pairs);

        let mut queue: VecDeque<u32> = (0..self.depth).collect();
        let (mut held_before_last, mut held_last) = (Vec::new(), Vec::new());
        let mut left = pairs;
        while left > 0 {
            let closing = left < CLOSING;
            let mut burst = (2 + random.below(63)).min(queue.len() as u64);
            if closing {
                burst = burst.min(u64::from(left) - (held_before_last.len() + held_last.len()) as u64);
            }
            let mut leaving = held_before_last;
            let mut held = Vec::new();
            for packet in queue.drain(..to_usize(burst)) {
                if !closing && random.below(50) == 0 { &mut held } else { &mut leaving }.push(packet);
            }
            for &packet in &leaving {
                cycle.steady.push(arrivals.leave(packet));
            }
            for _ in &leaving {
                queue.push_back(arrivals.next);
                cycle.steady.push(arrivals.enter());
                left -= 1;
            }
            (held_before_last, held_last) = (held_last, held);
        }
        cycle
    }

    fn burst(&self) -> Cycle {
        let mut arrivals = Arrivals::new(self, self.depth);
        let pairs = arrivals.pairs();
        let mut cycle = arrivals.empty(pairs);
        for first in (0..pairs).step_by(self.depth as usize) {
            for _ in 0..self.depth {
                cycle.steady.push(arrivals.enter());
            }
            for packet in first..first + self.depth {
                cycle.steady.push(arrivals.leave(packet));
            }
        }
        cycle
    }

    fn random(&self) -> Cycle {
        let mut arrivals = Arrivals::new(self, self.depth);
        let mut random = SplitMix64::new(!self.seed);
        let pairs = arrivals.pairs();
        let mut cycle = arrivals.fill(pairs);
        for _ in 0..pairs {
            let slot = u32::try_from(random.below(self.depth.into())).expect("a number below a depth fits u32");
            cycle.steady.push(Op::free(slot));
            cycle.steady.push(Op::allocate(slot, arrivals.sizes.next_size()));
        }
        cycle
    }

    fn relay(&self, one_in: u32) -> Cycle {
        assert!(
            (2..=Self::MAX_ONE_IN).contains(&one_in),
            "of a relay one packet of 2 to {} stays, not of {one_in}",
            Self::MAX_ONE_IN,
        );
        // Those that stay have one slot more than there are of them: a packet enters before one leaves.
        let staying = self.depth + 1;
        let mut arrivals = Arrivals::new(self, staying);
        let pairs = Self::PAIRS.next_multiple_of(staying * one_in);
        let mut cycle = arrivals.fill(pairs);
        cycle.slots += 2;
        let mut passing = None;
        for number in 0..pairs {
            let stays = number.is_multiple_of(one_in);
            let oldest = number / one_in % staying;
            let slot = if stays { (oldest + self.depth) % staying } else { staying + number % 2 };
            cycle.steady.push(Op::allocate(slot, arrivals.sizes.next_size()));
            cycle.steady.extend(passing.take().map(Op::free));
            if stays {
                cycle.steady.push(Op::free(oldest));
            } else {
                passing = Some(slot);
            }
        }
        cycle.steady.extend(passing.map(Op::free));
        cycle
    }

    fn interleaved(&self) -> Cycle {
        const QUEUES: u32 = 32;
        const LONGEST_BURST: u64 = 16;
        let depth = self.depth;
        let queues = depth.min(QUEUES);
        let mut arrivals = Arrivals::new(self, depth);
        let mut random = SplitMix64::new(!self.seed);
        let pairs = arrivals.pairs();
        let mut cycle = arrivals.fill(pairs);

        /// A queue: how many packets it holds, how many pairs it has to come, and which of its packets is the oldest.
        struct Served {
            holds: u32,
            to_come: u32,
            oldest: u32,
        }
        let mut served: Vec<Served> = (0..queues)
            .map(|queue| {
                let holds = (depth - queue).div_ceil(queues);
                Served { holds, to_come: pairs / depth * holds, oldest: 0 }
            })
            .collect();
        let mut to_come = u64::from(pairs);
        while to_come > 0 {
            let mut place = random.below(to_come);
            let (queue, next) = (0..)
                .zip(&mut served)
                .find(|(_, queue)| {
                    let here = place < u64::from(queue.to_come);
                    place = place.wrapping_sub(if here { 0 } else { queue.to_come.into() });
                    here
                })
                .expect("the place is below the pairs to come");
            let drawn = u32::try_from(1 + random.below(LONGEST_BURST)).expect("a burst is short");
            let burst = drawn.min(next.holds).min(next.to_come);
            let slots = (0..burst).map(|packet| (next.oldest + packet) % next.holds * queues + queue);
            cycle.steady.extend(slots.clone().map(Op::free));
            cycle.steady.extend(slots.map(|slot| Op::allocate(slot, arrivals.sizes.next_size())));
            next.oldest = (next.oldest + burst) % next.holds;
            next.to_come -= burst;
            to_come -= u64::from(burst);
        }
        cycle
    }
}

/// Packets that enter one after the other, each into the slot of its number modulo the number of slots.
struct Arrivals<'a> {
    sizes: super::Draw<'a>,
    /// The number of the next one.
    next: u32,
    depth: u32,
    slots: u32,
}

impl<'a> Arrivals<'a> {
    fn new(queue: &'a Queue, slots: u32) -> Self {
        Self { sizes: queue.sizes.draw(queue.seed), next: 0, depth: queue.depth, slots }
    }

    /// The pairs of the steady part: whole turns of the slots, so that it ends at the slot at which it began.
    fn pairs(&self) -> u32 {
        Queue::PAIRS.next_multiple_of(self.slots)
    }

    fn empty(&self, pairs: u32) -> Cycle {
        Cycle { fill: Vec::new(), steady: Vec::with_capacity(2 * pairs as usize), slots: self.slots as usize }
    }

    fn fill(&mut self, pairs: u32) -> Cycle {
        let fill = (0..self.depth).map(|_| self.enter()).collect();
        Cycle { fill, ..self.empty(pairs) }
    }

    fn enter(&mut self) -> Op {
        let op = Op::allocate(self.next % self.slots, self.sizes.next_size());
        self.next += 1;
        op
    }

    fn leave(&self, packet: u32) -> Op {
        Op::free(packet % self.slots)
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("a number below a queue's depth fits usize")
}

#[cfg(test)]
mod tests;
