//! Memory that a trace or a plan grows into: what there is none of becomes an error.

use super::error::Error;

/// What must be left beside a table that grows: room for everything small (buffers of the readers, messages), which
/// is allocated without asking.
const HEADROOM_BYTES: usize = 1 << 20;

/// Appends a value.
///
/// # Errors
/// [`Error::NoMemory`] with `what` is to be held.
#[inline]
pub(super) fn push<T>(table: &mut Vec<T>, value: T, what: &'static str) -> Result<(), Error> {
    if table.len() == table.capacity() {
        reserve(table, table.len().max(64), what)?;
    }
    table.push(value);
    Ok(())
}

/// Makes room for `additional` values.
///
/// # Errors
/// [`Error::NoMemory`] with `what` is to be held.
#[cold]
pub(super) fn reserve<T>(table: &mut Vec<T>, additional: usize, what: &'static str) -> Result<(), Error> {
    let no_memory = |_| Error::NoMemory { what };
    table.try_reserve_exact(additional).map_err(no_memory)?;
    headroom(what)
}

/// A table of `length` times the same value.
///
/// # Errors
/// [`Error::NoMemory`] with `what` is to be held.
pub(super) fn filled<T: Clone>(value: T, length: usize, what: &'static str) -> Result<Vec<T>, Error> {
    let mut table = Vec::new();
    reserve(&mut table, length, what)?;
    table.resize(length, value);
    Ok(table)
}

/// Checks that there is memory left for everything small.
///
/// # Errors
/// [`Error::NoMemory`] with `what` is to be held.
pub(super) fn headroom(what: &'static str) -> Result<(), Error> {
    Vec::<u8>::new().try_reserve_exact(HEADROOM_BYTES).map_err(|_| Error::NoMemory { what })
}
