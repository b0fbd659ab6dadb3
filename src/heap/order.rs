//! Whether windows empty as they come. Knows integers only.
//!
//! Packets that leave in order empty one window after the other, and the next window to be filled is an empty one.
//! Packets that leave in any order, or of which some stay, leave windows that are filled again between the blocks that
//! live in them. An average over the last few windows tells.

/// What the average is when all windows were empty.
const ALL: u32 = 1 << 16;
/// Base-2 logarithm of how many windows the average reaches back.
const REACH: u32 = 3;
/// The least that the average is while windows empty as they come.
const LEAST: u32 = ALL / 4 * 3;
/// The least from which on they do so again.
const AGAIN: u32 = ALL / 8 * 7;

/// What is known of the windows that were filled.
#[derive(Debug)]
pub(super) struct Order {
    /// The average.
    empty: u32,
    is_kept: bool,
}

impl Order {
    /// Windows empty as they come until they are seen not to.
    pub(super) const fn new() -> Self {
        Self { empty: ALL, is_kept: true }
    }

    /// A window begins to be filled that was empty, or was not.
    pub(super) fn filled(&mut self, was_empty: bool) {
        let found = if was_empty { ALL } else { 0 };
        self.empty = self.empty - (self.empty >> REACH) + (found >> REACH);
        self.is_kept = self.empty >= if self.is_kept { LEAST } else { AGAIN };
    }

    /// Whether windows empty as they come.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(order: &mut Order, windows: impl IntoIterator<Item = bool>) -> bool {
        windows.into_iter().for_each(|was_empty| order.filled(was_empty));
        order.is_kept()
    }

    #[test]
    fn order_ends_after_a_few_windows_with_blocks_and_not_after_two() {
        let mut order = Order::new();
        assert!(order.is_kept() && after(&mut order, [true; 100]));
        assert!(after(&mut order, [false; 2]), "a few survivors of a queue");
        assert!(!after(&mut order, [false; 1]));
    }

    #[test]
    fn one_window_in_eight_with_blocks_is_still_order_and_one_in_two_is_none() {
        let mut order = Order::new();
        assert!(after(&mut order, (0..400).map(|index| index % 8 > 0)));
        assert!(!after(&mut order, (0..400).map(|index| index % 2 == 0)));
    }

    #[test]
    fn order_comes_back_when_windows_have_been_empty_for_a_while() {
        let mut order = Order::new();
        after(&mut order, [false; 100]);
        assert!(!after(&mut order, [true; 15]));
        assert!(after(&mut order, [true; 1]));
    }
}
