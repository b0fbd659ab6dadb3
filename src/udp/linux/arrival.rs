//! What a system of the tests delivers.

#![allow(clippy::unnecessary_cast, reason = "the libraries do not agree on the types of lengths")]

/// A datagram, or a run of joined ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrival {
    pub(super) bytes: Vec<u8>,
    pub(super) name: Vec<u8>,
    pub(super) control: Vec<u8>,
    pub(super) flags: libc::c_int,
}

impl Arrival {
    /// Writes what a receive call would: as many of the bytes as fit, the name and the control messages.
    ///
    /// # Safety
    /// The pointers of the header are to memory of the lengths beside them, of which the name and the control messages
    /// have enough.
    pub(super) unsafe fn deliver(&self, header: &mut libc::mmsghdr) {
        let message = &mut header.msg_hdr;
        // SAFETY: the caller says so.
        unsafe {
            let vector = *message.msg_iov;
            let fitting = self.bytes.len().min(vector.iov_len);
            vector.iov_base.cast::<u8>().copy_from(self.bytes.as_ptr(), fitting);
            message.msg_name.cast::<u8>().copy_from(self.name.as_ptr(), self.name.len());
            message.msg_control.cast::<u8>().copy_from(self.control.as_ptr(), self.control.len());
            message.msg_flags = self.flags | if fitting < self.bytes.len() { libc::MSG_TRUNC } else { 0 };
            header.msg_len = fitting as u32;
        }
        message.msg_namelen = self.name.len() as u32;
        message.msg_controllen = self.control.len() as _;
    }
}
