//! Datagrams in batches, on the sockets that the user made.
//!
//! - `receive`, `send`: the calls;
//! - `receiver`: the same for event loops, bound to one socket;
//! - `batch`: what a receive call returns;
//! - `socket`: waiting, signals and errors as the `socket` module has them; `address`: addresses likewise;
//! - `pool`: scratch areas that are used again, and datagrams that an allocator had no room for;
//! - `packets`: what all of that needs from the rest of the Python face.

mod address;
mod batch;
mod docs;
mod packets;
mod pool;
mod receive;
mod receiver;
mod send;
mod socket;

use pyo3::prelude::*;

pub(super) use docs::RECV_MANY;
pub(super) use packets::recv_many;

use super::class;
use crate::udp::shelf;

/// Enters functions and classes into the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<batch::DatagramBatch>()?;
    module.add_class::<receiver::Receiver>()?;
    class::add(module, c"recv_many_into", &wrap_pyfunction!(receive::recv_many_into, module)?)?;
    class::add(module, c"send_many", &wrap_pyfunction!(send::send_many, module)?)?;
    class::add(module, c"datagram_counters", &wrap_pyfunction!(pool::datagram_counters, module)?)
}
