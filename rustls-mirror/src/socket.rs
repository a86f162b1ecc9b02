#![allow(
    unsafe_code,
    reason = "a reference to a generic type is read as one of the type that it was found to be"
)]
//! The socket of a transport whose type is generic: found for the types that have one, by their type
//! id. What is found is borrowed, never kept.

use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// The socket of `transport`, if it is of a type that is known to have one.
pub(crate) fn of<T: ?Sized>(transport: &T) -> Option<BorrowedFd<'_>> {
    let found = of_either::<TcpStream, T>(transport);
    let found = found.or_else(|| of_either::<UnixStream, T>(transport));
    #[cfg(feature = "tokio")]
    let found = found
        .or_else(|| of_either::<tokio::net::TcpStream, T>(transport))
        .or_else(|| of_either::<tokio::net::UnixStream, T>(transport));
    found
}

/// The socket of an `S`, or of what borrows or boxes one.
fn of_either<S: AsFd + 'static, T: ?Sized>(transport: &T) -> Option<BorrowedFd<'_>> {
    seen_as::<S, T>(transport)
        .or_else(|| seen_as::<&S, T>(transport).copied())
        .or_else(|| seen_as::<&mut S, T>(transport).map(|socket| &**socket))
        .or_else(|| seen_as::<Box<S>, T>(transport).map(|socket| &**socket))
        .map(AsFd::as_fd)
}

/// `transport` as what it is, if that is a `Known`. Lifetimes within `Known` are the caller's choice;
/// what is given back lives no longer than `transport` is borrowed, which they all outlive.
fn seen_as<Known, T: ?Sized>(transport: &T) -> Option<&Known> {
    if typeid::of::<T>() != typeid::of::<Known>() {
        return None;
    }
    let pointer = std::ptr::from_ref(transport).cast::<Known>();
    // SAFETY: the ids say that T is Known but for its lifetimes, so the pointer is aligned, and what it
    // points to is a Known that lives and isn't changed as long as the transport is borrowed.
    Some(unsafe { &*pointer })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn whoever_has_a_socket_is_asked_for_it() {
        let (mut unix, _peer) = UnixStream::pair().unwrap();
        let number = unix.as_raw_fd();
        let found = |socket: Option<BorrowedFd<'_>>| socket.map(|socket| socket.as_raw_fd());
        assert_eq!(found(of(&unix)), Some(number));
        assert_eq!(found(of(&&unix)), Some(number));
        assert_eq!(found(of(&&mut unix)), Some(number));
        let boxed = Box::new(unix);
        assert_eq!(found(of(&boxed)), Some(number));
    }

    #[test]
    fn whoever_has_none_isnt() {
        assert!(of(&Cursor::new([0; 8])).is_none());
        assert!(of(&[0_u8; 64]).is_none());
        assert!(of("a transport whose size isn't known").is_none());
        let (unix, _peer) = UnixStream::pair().unwrap();
        let hidden: &dyn std::any::Any = &unix;
        assert!(of(hidden).is_none());
        assert!(of(&[&unix, &unix]).is_none());
    }
}
