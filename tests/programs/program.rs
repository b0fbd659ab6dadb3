//! Bytes as a program: a stream of small numbers that ends where the bytes end.

/// What is left of a program.
pub struct Program<'a> {
    bytes: &'a [u8],
}

impl<'a> Program<'a> {
    /// The program that `bytes` spell.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    /// A number of two bytes.
    pub fn short(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    /// A number of four bytes.
    pub fn long(&mut self) -> Option<usize> {
        Some(self.short()? | self.short()? << 16)
    }

    /// Any address.
    pub fn address(&mut self) -> Option<usize> {
        // Where addresses have four bytes the first four are left.
        let (low, high) = (self.long()? as u64, self.long()? as u64);
        Some((high << 32 | low) as usize)
    }

    /// A size: mostly a packet's, now and then an edge, a large block's, or one that no system can serve.
    pub fn size(&mut self) -> Option<usize> {
        let class = self.byte()?;
        let value = self.short()?;
        Some(match class {
            0..160 => 1 + value % 2000,
            // The edges of a unit.
            160..176 => (value % 65 * 64 + usize::from(class % 3)).saturating_sub(1),
            176..208 => 1 + value % 5000,
            208..232 => 1 + value,
            232..240 => 0,
            // Powers of two and their neighbours.
            240..248 => (1_usize << (value % usize::BITS as usize)).wrapping_add(value >> 6 & 127).wrapping_sub(64),
            248..252 => (isize::MAX as usize).wrapping_add(value).wrapping_sub(1 << 15),
            _ => usize::MAX - value,
        })
    }
}
