//! A few things that are kept for later, in the order in which they came. It has its room from the start: what could
//! not be delivered for want of memory must not need memory to be kept.

/// Room for `N` things.
pub(crate) struct Shelf<T, const N: usize> {
    /// The first `count` places are taken, the oldest thing in the first one.
    places: [Option<T>; N],
    count: usize,
}

impl<T, const N: usize> Shelf<T, N> {
    pub(crate) const fn new() -> Self {
        Self { places: [const { None }; N], count: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn holds(&self, wanted: impl Fn(&T) -> bool) -> bool {
        self.places[..self.count].iter().flatten().any(wanted)
    }

    /// Keeps one more thing. Where there is no room left it takes the place of the oldest one, which is returned.
    pub(crate) fn put(&mut self, thing: T) -> Option<T> {
        let oldest = if self.count == N { self.remove(0) } else { None };
        self.places[self.count] = Some(thing);
        self.count += 1;
        oldest
    }

    /// The oldest thing that is wanted.
    #[inline]
    pub(crate) fn take(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        let index = self.places[..self.count].iter().flatten().position(wanted)?;
        self.remove(index)
    }

    fn remove(&mut self, index: usize) -> Option<T> {
        self.places[index..self.count].rotate_left(1);
        self.count -= 1;
        self.places[self.count].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_thing_makes_room_and_the_oldest_that_is_wanted_is_taken() {
        let mut shelf = Shelf::<_, 3>::new();
        assert!(shelf.is_empty());
        assert_eq!([1, 2, 3].map(|thing| shelf.put(thing)), [None; 3]);
        assert_eq!(shelf.put(4), Some(1));
        assert!(shelf.holds(|thing| *thing == 4) && !shelf.holds(|thing| *thing == 1));
        assert_eq!(shelf.take(|thing| thing % 2 == 0), Some(2));
        assert_eq!(shelf.take(|thing| *thing == 7), None);
        assert_eq!([5, 6].map(|thing| shelf.put(thing)), [None, Some(3)]);
        assert_eq!([(); 4].map(|()| shelf.take(|_| true)), [Some(4), Some(5), Some(6), None]);
        assert!(shelf.is_empty());
    }
}
