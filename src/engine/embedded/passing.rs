//! File descriptors over the socket between engine and helper, each with one byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// What came over the socket.
pub(super) enum Received {
    /// A file descriptor.
    Descriptor(OwnedFd),
    /// Other bytes.
    Bytes(Vec<u8>),
    /// The end.
    End,
}

/// Sends a file descriptor.
pub(super) fn send(socket: impl AsFd, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    let pushed = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    debug_assert!(pushed, "the space is for one descriptor");
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives what comes next.
pub(super) fn receive(socket: impl AsFd) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; 4096];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    if let Some(descriptor) = descriptors.next().and_then(|mut descriptors| descriptors.next()) {
        return Ok(Received::Descriptor(descriptor));
    }
    bytes.truncate(received.bytes);
    Ok(if bytes.is_empty() { Received::End } else { Received::Bytes(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_between_bytes() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut read, write) = io::pipe().unwrap();
        ours.write_all(b"text").unwrap();
        send(&ours, write.as_fd()).unwrap();
        drop(write);
        ours.write_all(b"more").unwrap();
        drop(ours);
        theirs.read_exact(&mut [0; 4]).unwrap();
        let Received::Descriptor(write) = receive(&theirs).unwrap() else {
            panic!("no descriptor")
        };
        std::fs::File::from(write).write_all(b"through").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert!(matches!(receive(&theirs).unwrap(), Received::Bytes(bytes) if bytes == b"more"));
        assert!(matches!(receive(&theirs).unwrap(), Received::End));
    }
}
