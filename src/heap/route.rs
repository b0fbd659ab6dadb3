//! Which way calls take.

use crate::config::Settings;

/// Which way calls take: the hot path, or the slow one where something has to be done besides.
///
/// ```text
///  settings                     allocate    free      changes
///  ─────────────────────────────────────────────────────────────────────────────────────────────
///  any             Unused       slow        slow      → one of the others with the first window
///  plain           Direct       hot, cache  hot, cache → Scarce when memory is refused
///                  Scarce       hot         slow      → Direct when a window is to be had again
///  zero            Zeroing      slow        hot       → ZeroingScarce, and back, likewise
///                  ZeroingScarce slow       slow
///  check           Verified     slow        slow      → VerifiedScarce, and back, likewise
///                  VerifiedScarce slow      slow
///  passthrough     has no windows, and stays Unused
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// There is no window yet.
    Unused,
    /// Blocks come and go without anything being done to them.
    Direct,
    /// Memory was refused, so each free puts its window where the next allocation looks.
    Scarce,
    /// Blocks are zeroed when they are handed out.
    Zeroing,
    /// Both.
    ZeroingScarce,
    /// Every call verifies.
    Verified,
    /// Every call verifies, and memory was refused.
    VerifiedScarce,
}

impl Route {
    /// The route of an allocator with windows, while memory is scarce or not.
    pub(super) const fn new(settings: &Settings, scarce: bool) -> Self {
        match (settings.check, settings.zero, scarce) {
            (true, _, false) => Self::Verified,
            (true, _, true) => Self::VerifiedScarce,
            (false, false, false) => Self::Direct,
            (false, false, true) => Self::Scarce,
            (false, true, false) => Self::Zeroing,
            (false, true, true) => Self::ZeroingScarce,
        }
    }

    /// Whether an allocation may bump the cursor and do nothing else.
    pub(super) const fn allocates_hot(self) -> bool {
        matches!(self, Self::Direct | Self::Scarce)
    }

    /// Whether a free may clear the byte in the map, count, and do nothing else.
    pub(super) const fn frees_hot(self) -> bool {
        matches!(self, Self::Direct | Self::Zeroing)
    }

    /// Whether freed blocks may be cached: where they need nothing done to them, and nobody is short of memory.
    pub(super) const fn caches(self) -> bool {
        matches!(self, Self::Direct)
    }

    /// Whether memory was refused.
    pub(super) const fn is_scarce(self) -> bool {
        matches!(self, Self::Scarce | Self::ZeroingScarce | Self::VerifiedScarce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_takes_its_route() {
        let plain = Settings::new();
        let zero = Settings { zero: true, ..plain };
        let check = Settings { check: true, ..plain };
        let routes = |settings: &Settings| [false, true].map(|scarce| Route::new(settings, scarce));
        assert_eq!(routes(&plain), [Route::Direct, Route::Scarce]);
        assert_eq!(routes(&zero), [Route::Zeroing, Route::ZeroingScarce]);
        assert_eq!(routes(&check), [Route::Verified, Route::VerifiedScarce]);
        let hot = |route: Route| (route.allocates_hot(), route.frees_hot(), route.is_scarce());
        assert!([plain, zero, check].map(|settings| Route::new(&settings, false).caches()) == [true, false, false]);
        assert_eq!(hot(Route::Unused), (false, false, false));
        assert_eq!(hot(Route::Direct), (true, true, false));
        assert_eq!(hot(Route::Scarce), (true, false, true));
        assert_eq!(hot(Route::Zeroing), (false, true, false));
        assert_eq!(hot(Route::ZeroingScarce), (false, false, true));
        assert_eq!(hot(Route::Verified), (false, false, false));
        assert_eq!(hot(Route::VerifiedScarce), (false, false, true));
    }
}
