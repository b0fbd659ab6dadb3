//! A link in memory that loses and delays, numbers that are the same in every run, and a checksum.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Random numbers, the same in every run (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether something with this probability, in thousandths, happens.
    pub(crate) fn happens(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}

/// Packets on their way: some are lost, each takes its time, so that some overtake others.
pub(crate) struct Link<T> {
    random: Random,
    lost: u64,
    delay: (u64, u64),
    sent: u64,
    under_way: BinaryHeap<Reverse<UnderWay<T>>>,
}

struct UnderWay<T> {
    arrives: u64,
    number: u64,
    packet: T,
}

impl<T> PartialEq for UnderWay<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for UnderWay<T> {}

impl<T> PartialOrd for UnderWay<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for UnderWay<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.arrives, self.number).cmp(&(other.arrives, other.number))
    }
}

impl<T> Link<T> {
    /// So many of a thousand are lost, the others take from `delay.0` to `delay.1` ticks.
    pub(crate) fn new(seed: u64, lost: u64, delay: (u64, u64)) -> Self {
        Self { random: Random::new(seed), lost, delay, sent: 0, under_way: BinaryHeap::new() }
    }

    pub(crate) fn send(&mut self, now: u64, packet: T) {
        let (least, most) = self.delay;
        let arrives = now + least + self.random.below(most - least + 1);
        self.sent += 1;
        if !self.random.happens(self.lost) {
            self.under_way.push(Reverse(UnderWay { arrives, number: self.sent, packet }));
        }
    }

    /// The next packet that has arrived by now.
    pub(crate) fn receive(&mut self, now: u64) -> Option<T> {
        if self.under_way.peek()?.0.arrives > now {
            return None;
        }
        self.under_way.pop().map(|Reverse(arrived)| arrived.packet)
    }

    /// When the next packet arrives.
    pub(crate) fn next_arrival(&self) -> Option<u64> {
        self.under_way.peek().map(|next| next.0.arrives)
    }
}

/// Writes bytes that depend on a number; every byte is written.
pub(crate) fn fill(bytes: &mut [u8], number: u64) {
    let mut value = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for chunk in bytes.chunks_mut(8) {
        let word = value.to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
        value = value.rotate_left(13).wrapping_add(number);
    }
}

/// A checksum of bytes, eight at a time.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("a chunk of eight"));
        sum = (sum.rotate_left(5) ^ word).wrapping_mul(0x51_7C_C1_B7_27_22_0A_95);
    }
    for &byte in words.remainder() {
        sum = (sum.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x51_7C_C1_B7_27_22_0A_95);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_delays_and_loses() {
        let mut link = Link::new(1, 100, (5, 9));
        (0..10_000).for_each(|packet| link.send(0, packet));
        assert_eq!(link.receive(4), None);
        let received: Vec<u32> = std::iter::from_fn(|| link.receive(9)).collect();
        assert!((8800..9200).contains(&received.len()), "{}", received.len());
        assert!(!received.is_sorted());
        assert_eq!(link.next_arrival(), None);
    }

    #[test]
    fn a_checksum_sees_every_byte() {
        let mut bytes = [0; 21];
        fill(&mut bytes, 7);
        let whole = checksum(&bytes);
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            assert_ne!(checksum(&bytes), whole, "{index}");
            bytes[index] ^= 1;
        }
    }
}
