//! Lists of windows, linked through their descriptors: joining one never needs memory, so it never fails.

use crate::region::Window;

/// A doubly linked list. A window is in at most one.
#[derive(Debug)]
pub(crate) struct List {
    first: Option<Window>,
    last: Option<Window>,
    len: usize,
}

impl List {
    /// A list without windows.
    pub(crate) const fn new() -> Self {
        Self { first: None, last: None, len: 0 }
    }

    /// How many windows are in the list.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts a window that is in no list in front.
    pub(crate) fn push_front(&mut self, window: Window) {
        window.previous.set(None);
        window.next.set(self.first);
        match self.first {
            Some(first) => first.previous.set(Some(window)),
            None => self.last = Some(window),
        }
        self.first = Some(window);
        self.len += 1;
    }

    /// Puts a window that is in no list at the end.
    pub(crate) fn push_back(&mut self, window: Window) {
        window.next.set(None);
        window.previous.set(self.last);
        match self.last {
            Some(last) => last.next.set(Some(window)),
            None => self.first = Some(window),
        }
        self.last = Some(window);
        self.len += 1;
    }

    /// Takes the window in front.
    pub(crate) fn pop_front(&mut self) -> Option<Window> {
        let first = self.first?;
        self.remove(first);
        Some(first)
    }

    /// Takes a window of this list out of it.
    pub(crate) fn remove(&mut self, window: Window) {
        match window.previous.get() {
            Some(previous) => previous.next.set(window.next.get()),
            None => self.first = window.next.get(),
        }
        match window.next.get() {
            Some(next) => next.previous.set(window.previous.get()),
            None => self.last = window.previous.get(),
        }
        window.previous.set(None);
        window.next.set(None);
        self.len -= 1;
    }

    /// The windows from the front to the end.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Window> + use<> {
        core::iter::successors(self.first, |window| window.next.get())
    }

    /// The window in front.
    pub(crate) fn first(&self) -> Option<Window> {
        self.first
    }

    /// The window at the end.
    pub(crate) fn last(&self) -> Option<Window> {
        self.last
    }
}
