//! What the systems call a socket.

#[cfg(unix)]
mod of_system {
    pub use std::os::fd::AsFd as AsHandle;
    use std::os::fd::{AsRawFd, RawFd};

    /// A socket's number.
    pub(crate) type Handle = RawFd;

    pub(crate) fn handle(socket: &impl AsHandle) -> Handle {
        socket.as_fd().as_raw_fd()
    }
}

#[cfg(windows)]
mod of_system {
    pub use std::os::windows::io::AsSocket as AsHandle;
    use std::os::windows::io::{AsRawSocket, RawSocket};

    /// A socket's number.
    pub(crate) type Handle = RawSocket;

    pub(crate) fn handle(socket: &impl AsHandle) -> Handle {
        socket.as_socket().as_raw_socket()
    }
}

pub use of_system::AsHandle;
pub(crate) use of_system::{Handle, handle};
