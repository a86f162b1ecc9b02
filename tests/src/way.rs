//! A way between two programs that can be cut: what comes in at its address goes to another one, until it is
//! reset, or swallowed as by a network that has lost its route.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// How long a copying thread reads before it looks whether it has been cut.
const LOOK: Duration = Duration::from_millis(20);

/// The way. When it is dropped, its connections are closed and no others are taken.
#[derive(Debug)]
pub struct Way {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Connections that are forwarded.
    live: Mutex<Vec<Arc<Link>>>,
    /// Whether new ones are swallowed from the beginning.
    swallows: AtomicBool,
    /// What comes in stays where it is.
    holds: AtomicBool,
    /// No more.
    over: AtomicBool,
    bytes: AtomicU64,
}

#[derive(Debug)]
struct Link {
    ends: [TcpStream; 2],
    /// Nothing is forwarded any more, and neither end learns of it.
    swallowed: AtomicBool,
}

impl Way {
    /// A way to `target`, from a port of 127.0.0.1.
    ///
    /// # Panics
    /// If there is no port.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let shared = Arc::new(Shared {
            target,
            live: Mutex::default(),
            swallows: AtomicBool::new(false),
            holds: AtomicBool::new(false),
            over: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        });
        let address = listener.local_addr().expect("an address");
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that have passed, both ways.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Resets all connections, at both ends (RST). What was on its way is lost. Returns how many there were.
    pub fn reset(&self) -> usize {
        let links = std::mem::take(&mut *self.shared.live());
        for link in &links {
            link.swallowed.store(true, Ordering::Relaxed);
            for end in &link.ends {
                let _ = set_socket_linger(end, Some(Duration::ZERO));
            }
        }
        links.len()
    }

    /// From now on nothing passes, on these connections never again; nobody is told. New ones work. Returns how
    /// many there were.
    pub fn swallow(&self) -> usize {
        let live = self.shared.live();
        let fresh = live
            .iter()
            .filter(|link| !link.swallowed.swap(true, Ordering::Relaxed));
        fresh.count()
    }

    /// Whether what comes in waits, as behind packets that are lost and sent again.
    pub fn hold(&self, holds: bool) {
        self.shared.holds.store(holds, Ordering::Relaxed);
    }

    /// Whether new connections, too, are swallowed: taken, and never heard of again.
    pub fn swallow_new(&self, swallows: bool) {
        self.shared.swallows.store(swallows, Ordering::Relaxed);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        self.reset();
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.live.lock().expect("nobody panics with it")
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((near, _)) = listener.accept() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            // Nobody is there: the one who came is told so.
            let Ok(far) = TcpStream::connect(self.target) else {
                let _ = set_socket_linger(&near, Some(Duration::ZERO));
                continue;
            };
            for end in [&near, &far] {
                let _ = end.set_nodelay(true);
                let _ = end.set_read_timeout(Some(LOOK));
                let _ = end.set_write_timeout(Some(LOOK));
            }
            let link = Arc::new(Link {
                ends: [near, far],
                swallowed: AtomicBool::new(self.swallows.load(Ordering::Relaxed)),
            });
            self.live().push(Arc::clone(&link));
            for from in [0, 1] {
                let (shared, link) = (Arc::clone(self), Arc::clone(&link));
                thread::spawn(move || shared.forward(&link, from));
            }
        }
    }

    /// Copies one direction until it ends, or is cut.
    fn forward(&self, link: &Link, from: usize) {
        let (mut source, mut sink) = (&link.ends[from], &link.ends[1 - from]);
        let mut buffer = vec![0; 64 * 1024];
        while !self.over.load(Ordering::Relaxed) {
            if self.holds.load(Ordering::Relaxed) && !link.swallowed.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
                continue;
            }
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if is_a_look(error.kind()) => {
                    if link.swallowed.load(Ordering::Relaxed) {
                        return;
                    }
                    continue;
                }
                Err(_) => break,
            };
            if link.swallowed.load(Ordering::Relaxed) {
                // Held open by the list of the living, or not at all.
                return;
            }
            self.bytes.fetch_add(count as u64, Ordering::Relaxed);
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                match sink.write(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(error) if is_a_look(error.kind()) => {
                        if link.swallowed.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    Err(_) => return self.end(link),
                }
            }
        }
        let _ = sink.shutdown(Shutdown::Write);
        if source.take_error().is_ok_and(|error| error.is_some()) {
            self.end(link);
        }
    }

    /// One end is gone: so is the other.
    fn end(&self, link: &Link) {
        for end in &link.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        self.live()
            .retain(|other| !std::ptr::eq(&raw const **other, link));
    }
}

fn is_a_look(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().take(3) {
                let mut stream = stream.unwrap();
                thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        address
    }

    fn says(stream: &mut TcpStream, text: &[u8]) -> Result<Vec<u8>, ErrorKind> {
        stream.write_all(text).map_err(|error| error.kind())?;
        let mut answer = vec![0; text.len()];
        stream
            .read_exact(&mut answer)
            .map_err(|error| error.kind())?;
        Ok(answer)
    }

    #[test]
    fn it_passes_resets_and_swallows() {
        let way = Way::to(echo());
        let connect = || {
            let stream = TcpStream::connect(way.address()).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            stream
        };
        let mut first = connect();
        assert_eq!(says(&mut first, b"one"), Ok(b"one".to_vec()));
        assert_eq!(way.reset(), 1);
        let error = says(&mut first, b"two").and_then(|_| says(&mut first, b"three"));
        assert!(
            matches!(
                error,
                Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
            ),
            "{error:?}"
        );
        let mut second = connect();
        assert_eq!(says(&mut second, b"one"), Ok(b"one".to_vec()));
        assert_eq!(way.swallow(), 1);
        second.write_all(b"unheard").unwrap();
        second
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let error = second.read(&mut [0; 8]).unwrap_err();
        assert!(is_a_look(error.kind()), "{error}");
        assert_eq!(says(&mut connect(), b"three"), Ok(b"three".to_vec()));
        assert_eq!(way.bytes(), 2 * (3 + 3 + 5));
    }
}
