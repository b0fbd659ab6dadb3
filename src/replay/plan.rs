//! From packets in time to allocations and frees in order.

use core::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::workload::{Op, Stream};

use super::error::Error;
use super::link::Link;
use super::memory::{headroom, push, reserve};
use super::packet::{Lifetime, MAX_LIVE_BYTES, MAX_PACKETS, Packet};
use super::progress::{PROGRESS_STRIDE, Phase, Progress, report_progress};
use super::trace::Trace;

/// What there is no memory for when planning fails.
const PLAN: &str = "the plan of the replay";

/// For how many later packets one is held if neither the trace nor the caller says.
pub const DEFAULT_DEPTH: u32 = 1024;

/// When packets leave whose lifetime the trace does not record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// On departure: at once.
    Departure,
    /// When this many later packets have arrived.
    Depth(u32),
    /// This many nanoseconds after their arrival.
    Delay(u64),
    /// When a link carries them off. This holds for all packets, recorded lifetimes or not.
    Link(Link),
}

impl Rule {
    /// What suits a trace: [`Rule::Departure`] if it records the lifetimes of others, and [`DEFAULT_DEPTH`] later
    /// packets if it records none.
    fn suited_to(trace: &Trace) -> Self {
        if trace.packets().iter().all(|packet| packet.lifetime() == Lifetime::Unrecorded) {
            Self::Depth(DEFAULT_DEPTH)
        } else {
            Self::Departure
        }
    }
}

/// How to replay a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// When packets leave whose lifetime the trace does not record; `None`: what suits the trace, which is at once
    /// if it records the lifetimes of others, and after [`DEFAULT_DEPTH`] later packets if it records none.
    pub rule: Option<Rule>,
    /// How many copies of the trace run at once, evenly shifted against each other; at least 1.
    pub copies: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { rule: None, copies: 1 }
    }
}

/// How many packets are held by which rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As long as the trace records.
    pub recorded: u64,
    /// To the end, as the trace records.
    pub forever: u64,
    /// By the rule.
    pub ruled: u64,
}

/// A replay laid out: what to allocate and free, and what is known without running it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Allocations and frees; each packet has one of each, and the slots are all empty at the end.
    pub stream: Stream,
    /// When packets leave whose lifetime the trace does not record.
    pub rule: Rule,
    /// How many packets are held by which rule.
    pub counts: Counts,
    /// How many copies of the trace it overlays.
    pub copies: u32,
    /// Packets in all.
    pub packets: u64,
    /// Bytes of all packets.
    pub bytes: u64,
    /// The smallest packet.
    pub smallest: u32,
    /// The largest packet.
    pub largest: u32,
    /// The most packets held at once.
    pub peak_packets: u64,
    /// The most bytes held at once.
    pub peak_bytes: u64,
    /// After how many operations that is so for the first time.
    pub peak_op: usize,
}

impl Plan {
    /// Lays out the replay of a trace, in time that grows with n log n.
    ///
    /// Whatever leaves at the very moment of an arrival leaves after it, as a queue that is filled before it is served.
    ///
    /// # Errors
    /// [`Error::Option`] for a depth or a number of copies of 0; [`Error::TooManyPackets`] beyond [`MAX_PACKETS`];
    /// [`Error::TooManyBytes`] beyond [`MAX_LIVE_BYTES`]; [`Error::NoMemory`], [`Error::Interrupted`].
    pub fn new(trace: &Trace, options: &Options, progress: &mut Progress<'_>) -> Result<Self, Error> {
        if options.copies == 0 {
            return Err(Error::Option { name: "copies", allowed: "at least 1" });
        }
        if options.rule == Some(Rule::Depth(0)) {
            return Err(Error::Option { name: "depth", allowed: "at least 1" });
        }
        let packets = trace.packets().len() as u64 * u64::from(options.copies);
        if packets > MAX_PACKETS {
            return Err(Error::TooManyPackets { allowed: MAX_PACKETS });
        }
        let total = usize::try_from(packets).expect("within MAX_PACKETS");
        let rule = options.rule.clone().unwrap_or_else(|| Rule::suited_to(trace));
        let mut link = match &rule {
            Rule::Link(link) => Some(link.queue()),
            _ => None,
        };
        let mut counts = Counts::default();
        let mut queue = HeldPackets::new(total)?;
        for (index, (arrival, packet)) in Overlay::new(trace.packets(), options.copies)?.enumerate() {
            if index.is_multiple_of(PROGRESS_STRIDE) {
                report_progress(progress, Phase::Planning, index, total)?;
            }
            queue.free_until(arrival, index)?;
            let slot = queue.allocate(packet.size())?;
            if let Some(link) = &mut link {
                queue.leave_at(link.departure(arrival), slot)?;
                continue;
            }
            match (packet.lifetime(), &rule) {
                (Lifetime::Nanoseconds(life), _) => {
                    counts.recorded += 1;
                    queue.leave_at(arrival.saturating_add(life), slot)?;
                }
                (Lifetime::Forever, _) => {
                    counts.forever += 1;
                    push(&mut queue.stay, slot, PLAN)?;
                }
                (Lifetime::Unrecorded, Rule::Delay(delay)) => queue.leave_at(arrival.saturating_add(*delay), slot)?,
                (Lifetime::Unrecorded, Rule::Depth(depth)) => {
                    queue.leave_before(index.saturating_add(*depth as usize), slot)?;
                }
                (Lifetime::Unrecorded, _) => queue.free(slot)?,
            }
        }
        queue.free_all()?;
        counts.ruled = packets - counts.recorded - counts.forever;
        let sizes = || trace.packets().iter().map(Packet::size);
        Ok(Self {
            rule,
            counts,
            copies: options.copies,
            packets,
            bytes: sizes().map(u64::from).sum::<u64>() * u64::from(options.copies),
            smallest: sizes().min().unwrap_or(0),
            largest: sizes().max().unwrap_or(0),
            peak_packets: queue.sizes.len() as u64,
            peak_bytes: queue.peak_bytes,
            peak_op: queue.peak_op,
            stream: Stream { ops: queue.ops, slots: queue.sizes.len() },
        })
    }
}

impl Plan {
    /// What is known of it, without its operations.
    #[must_use]
    pub fn without_stream(&self) -> Self {
        let stream = Stream::default();
        Self { stream, rule: self.rule.clone(), ..*self }
    }
}

/// Packets that are held, by when they leave, and the program that comes of it.
struct HeldPackets {
    ops: Vec<Op>,
    /// The size of what each slot holds. A new slot is opened only when all are taken: their number is the peak.
    sizes: Vec<u32>,
    /// Slots that are empty.
    empty: Vec<u32>,
    live_bytes: u64,
    peak_bytes: u64,
    /// After how many operations the peak is reached for the first time.
    peak_op: usize,
    /// By the time of leaving, then in the order of arrival.
    by_time: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// By the arrival before which they leave, which is the order they came in.
    by_arrival: VecDeque<(usize, u32)>,
    /// To the end.
    stay: Vec<u32>,
}

impl HeldPackets {
    fn new(packets: usize) -> Result<Self, Error> {
        let mut ops = Vec::new();
        reserve(&mut ops, 2 * packets, PLAN)?;
        Ok(Self {
            ops,
            sizes: Vec::new(),
            empty: Vec::new(),
            live_bytes: 0,
            peak_bytes: 0,
            peak_op: 0,
            by_time: BinaryHeap::new(),
            by_arrival: VecDeque::new(),
            stay: Vec::new(),
        })
    }

    fn allocate(&mut self, size: u32) -> Result<u32, Error> {
        self.live_bytes += u64::from(size);
        if self.live_bytes > MAX_LIVE_BYTES {
            return Err(Error::TooManyBytes { allowed: MAX_LIVE_BYTES });
        }
        let slot = match self.empty.pop() {
            Some(slot) => {
                self.sizes[slot as usize] = size;
                slot
            }
            None => {
                push(&mut self.sizes, size, PLAN)?;
                u32::try_from(self.sizes.len() - 1).expect("no more slots than packets")
            }
        };
        // A packet of no bytes is an operation all the same: it takes the smallest block there is.
        self.ops.push(Op::allocate(slot, size.max(1)));
        if self.live_bytes > self.peak_bytes || self.peak_op == 0 {
            (self.peak_bytes, self.peak_op) = (self.live_bytes, self.ops.len());
        }
        Ok(slot)
    }

    fn free(&mut self, slot: u32) -> Result<(), Error> {
        self.live_bytes -= u64::from(self.sizes[slot as usize]);
        self.ops.push(Op::free(slot));
        push(&mut self.empty, slot, PLAN)
    }

    fn leave_at(&mut self, time: u64, slot: u32) -> Result<(), Error> {
        if self.by_time.len() == self.by_time.capacity() {
            self.by_time.try_reserve(1).map_err(|_| Error::NoMemory { what: PLAN })?;
            headroom(PLAN)?;
        }
        self.by_time.push(Reverse((time, self.ops.len() as u64, slot)));
        Ok(())
    }

    fn leave_before(&mut self, index: usize, slot: u32) -> Result<(), Error> {
        if self.by_arrival.len() == self.by_arrival.capacity() {
            self.by_arrival.try_reserve(1).map_err(|_| Error::NoMemory { what: PLAN })?;
            headroom(PLAN)?;
        }
        self.by_arrival.push_back((index, slot));
        Ok(())
    }

    /// Frees what has left by the time the packet with this index arrives.
    fn free_until(&mut self, arrival: u64, index: usize) -> Result<(), Error> {
        while let Some(&(before, slot)) = self.by_arrival.front()
            && before <= index
        {
            self.by_arrival.pop_front();
            self.free(slot)?;
        }
        while let Some(&Reverse((time, _, slot))) = self.by_time.peek()
            && time < arrival
        {
            self.by_time.pop();
            self.free(slot)?;
        }
        Ok(())
    }

    /// Frees the rest: first what leaves by time, then the queue, then what was to stay.
    fn free_all(&mut self) -> Result<(), Error> {
        while let Some(Reverse((_, _, slot))) = self.by_time.pop() {
            self.free(slot)?;
        }
        while let Some((_, slot)) = self.by_arrival.pop_front() {
            self.free(slot)?;
        }
        for slot in core::mem::take(&mut self.stay) {
            self.free(slot)?;
        }
        Ok(())
    }
}

/// Copies of a trace at once, in the order of time. Copy k of n is rotated by k/n of the trace's length, so that the
/// same number of them is busy from the first moment to the last.
struct Overlay<'a> {
    packets: &'a [Packet],
    copies: u32,
    /// The length of the trace: from its first packet to the first of its repetition.
    period: u128,
    /// The next packet of each copy: its time, the copy, its index, and how many of the copy are left, it included.
    next: BinaryHeap<Reverse<(u64, u32, usize, usize)>>,
}

impl<'a> Overlay<'a> {
    fn new(packets: &'a [Packet], copies: u32) -> Result<Self, Error> {
        let last = packets.last().map_or(0, |packet| u128::from(packet.arrival()));
        // The repetition would start as long after the last packet as packets are apart on average.
        let gap = last / (packets.len() as u128).saturating_sub(1).max(1);
        let mut overlay = Self { packets, copies, period: last + gap.max(1), next: BinaryHeap::new() };
        overlay.next.try_reserve(copies as usize).map_err(|_| Error::NoMemory { what: PLAN })?;
        headroom(PLAN)?;
        for copy in 0..copies {
            // What the rotation carries past the end comes first.
            let first = packets.partition_point(|packet| overlay.shifted(packet, copy) < overlay.period);
            overlay.push(copy, first % packets.len(), packets.len());
        }
        Ok(overlay)
    }

    fn shifted(&self, packet: &Packet, copy: u32) -> u128 {
        u128::from(packet.arrival()) + self.period * u128::from(copy) / u128::from(self.copies)
    }

    fn push(&mut self, copy: u32, index: usize, left: usize) {
        let time = self.shifted(&self.packets[index], copy) % self.period;
        self.next.push(Reverse((u64::try_from(time).unwrap_or(u64::MAX), copy, index, left)));
    }
}

impl<'a> Iterator for Overlay<'a> {
    type Item = (u64, &'a Packet);

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((time, copy, index, left)) = self.next.pop()?;
        if left > 1 {
            self.push(copy, (index + 1) % self.packets.len(), left - 1);
        }
        Some((time, &self.packets[index]))
    }
}
