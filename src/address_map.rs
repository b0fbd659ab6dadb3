//! A table of things that lie at addresses.
//!
//! The entries lie from the highest address to the lowest, because systems tend to hand out memory downwards: what is
//! new then comes last, and nothing has to move for it.

use alloc::vec::Vec;

/// Things at addresses. Lookup takes logarithmic time, insertion and removal move what lies below.
#[derive(Debug)]
pub(crate) struct AddressMap<T> {
    /// From the highest address to the lowest.
    entries: Vec<(usize, T)>,
}

/// The heap refused to let the table grow.
#[derive(Debug)]
pub(crate) struct TableFull;

impl<T: Copy> AddressMap<T> {
    /// A table without entries; takes no memory.
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Makes room for `more` insertions, so that they cannot fail.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), TableFull> {
        self.entries.try_reserve(more).map_err(|_| TableFull)
    }

    /// Enters a thing for which room was reserved and whose address is not in the table.
    pub(crate) fn insert(&mut self, address: usize, thing: T) {
        debug_assert!(self.entries.len() < self.entries.capacity(), "room must be reserved first");
        let at = self.entries.partition_point(|&(other, _)| other >= address);
        self.entries.insert(at, (address, thing));
    }

    /// Replaces the thing at `address`.
    pub(crate) fn replace(&mut self, address: usize, thing: T) {
        if let Some(at) = self.position(address) {
            self.entries[at].1 = thing;
        }
    }

    /// Takes out the thing at exactly `address`.
    pub(crate) fn remove(&mut self, address: usize) -> Option<T> {
        let at = self.position(address)?;
        Some(self.entries.remove(at).1)
    }

    /// The thing at exactly `address`.
    pub(crate) fn get(&self, address: usize) -> Option<T> {
        let at = self.position(address)?;
        Some(self.entries[at].1)
    }

    /// The thing with the highest address that is at most `address`.
    pub(crate) fn at_or_below(&self, address: usize) -> Option<(usize, T)> {
        self.entries.get(self.entries.partition_point(|&(other, _)| other > address)).copied()
    }

    /// The thing with the `index`th lowest address.
    pub(crate) fn nth(&self, index: usize) -> Option<T> {
        let from_top = self.entries.len().checked_sub(index + 1)?;
        self.entries.get(from_top).map(|&(_, thing)| thing)
    }

    /// Where the thing at exactly `address` is.
    fn position(&self, address: usize) -> Option<usize> {
        self.entries.binary_search_by(|(other, _)| address.cmp(other)).ok()
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entries in order of address.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, T)> {
        self.entries.iter().rev().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_table_agrees_with_an_ordered_map(steps in prop::collection::vec((0usize..40, 0u8..5), 1..80)) {
            let mut table = AddressMap::new();
            let mut model = BTreeMap::new();
            for ((address, step), thing) in steps.into_iter().zip(0..) {
                match step {
                    0 => prop_assert_eq!(table.remove(address), model.remove(&address)),
                    1 => {
                        table.replace(address, thing);
                        model.entry(address).and_modify(|old| *old = thing);
                    }
                    _ if !model.contains_key(&address) => {
                        table.reserve(1).unwrap();
                        table.insert(address, thing);
                        model.insert(address, thing);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.get(address), model.get(&address).copied());
                let below = model.range(..=address).next_back().map(|(&below, &thing)| (below, thing));
                prop_assert_eq!(table.at_or_below(address), below);
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.nth(address), model.values().nth(address).copied());
                let entries: Vec<_> = model.iter().map(|(&address, &thing)| (address, thing)).collect();
                prop_assert_eq!(table.iter().collect::<Vec<_>>(), entries);
            }
        }
    }
}
