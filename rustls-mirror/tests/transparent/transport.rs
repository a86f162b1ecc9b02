//! A transport in memory that takes and gives as much as its plan says, and writes down what it was
//! asked.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Result, Write};
use std::rc::Rc;

/// How many calls a conversation may take before it is reset.
const PATIENCE_CALLS: usize = 20_000;

/// What the transport does with a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    None,
    /// At most so many bytes.
    Short(usize),
    WouldBlock,
    Interrupted,
}

/// A call: which, by whom, the lengths of what it was given, and what it got.
pub(crate) type Logged = (
    &'static str,
    usize,
    Vec<usize>,
    std::result::Result<usize, ErrorKind>,
);

#[derive(Debug)]
struct Wire {
    /// Bytes on their way to the client and to the server.
    towards: [VecDeque<u8>; 2],
    /// Whether something on its way to the client, to the server was changed.
    corrupt: [bool; 2],
    /// Whether the client's, the server's transport sends no more.
    ended: [bool; 2],
    reset: bool,
    faults: Vec<Fault>,
    log: Vec<Logged>,
}

/// One end of it.
#[derive(Debug)]
pub(crate) struct Transport {
    wire: Rc<RefCell<Wire>>,
    /// 0: the client's.
    me: usize,
}

impl Transport {
    pub(crate) fn pair(faults: &[Fault]) -> (Self, Self) {
        let wire = Rc::new(RefCell::new(Wire {
            towards: Default::default(),
            corrupt: [false; 2],
            ended: [false; 2],
            reset: false,
            faults: faults.to_vec(),
            log: Vec::new(),
        }));
        let end = |me| Self {
            wire: Rc::clone(&wire),
            me,
        };
        (end(0), end(1))
    }

    pub(crate) fn log(&self) -> Vec<Logged> {
        self.wire.borrow().log.clone()
    }

    /// Changes the last byte on its way here.
    pub(crate) fn corrupt(&mut self) {
        let mut wire = self.wire.borrow_mut();
        if let Some(last) = wire.towards[self.me].back_mut() {
            *last ^= 1;
            wire.corrupt[self.me] = true;
        }
    }

    pub(crate) fn is_corrupt(&self) -> bool {
        self.wire.borrow().corrupt[self.me]
    }

    pub(crate) fn end(&mut self) {
        self.wire.borrow_mut().ended[self.me] = true;
    }

    pub(crate) fn reset(&mut self) {
        self.wire.borrow_mut().reset = true;
    }

    /// Does a call as its fault wants, and writes it down.
    fn call(
        &mut self,
        what: &'static str,
        lengths: Vec<usize>,
        run: impl FnOnce(&mut Wire, usize) -> Result<usize>,
    ) -> Result<usize> {
        let mut wire = self.wire.borrow_mut();
        // rustls may turn in circles in step with the faults.
        wire.reset |= wire.log.len() >= PATIENCE_CALLS;
        let fault = wire.faults[wire.log.len() % wire.faults.len()];
        let result = match fault {
            _ if wire.reset => Err(ErrorKind::ConnectionReset.into()),
            Fault::WouldBlock => Err(ErrorKind::WouldBlock.into()),
            Fault::Interrupted => Err(ErrorKind::Interrupted.into()),
            Fault::Short(most) => run(&mut wire, most),
            Fault::None => run(&mut wire, usize::MAX),
        };
        let logged = match &result {
            Ok(count) => Ok(*count),
            Err(error) => Err(error.kind()),
        };
        wire.log.push((what, self.me, lengths, logged));
        result
    }
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let me = self.me;
        self.call("read", vec![buf.len()], |wire, most| {
            let count = buf.len().min(most).min(wire.towards[me].len());
            if count == 0 && !buf.is_empty() && !wire.ended[1 - me] {
                return Err(ErrorKind::WouldBlock.into());
            }
            for (to, from) in buf.iter_mut().zip(wire.towards[me].drain(..count)) {
                *to = from;
            }
            Ok(count)
        })
    }
}

impl Write for Transport {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        let me = self.me;
        self.call("write", vec![buf.len()], |wire, most| {
            wire.take(me, most, &[IoSlice::new(buf)])
        })
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        let me = self.me;
        let lengths = bufs.iter().map(|buf| buf.len()).collect();
        self.call("write_vectored", lengths, |wire, most| {
            wire.take(me, most, bufs)
        })
    }

    fn flush(&mut self) -> Result<()> {
        self.call("flush", Vec::new(), |_, _| Ok(0)).map(|_| ())
    }
}

impl Wire {
    fn take(&mut self, from: usize, most: usize, bufs: &[IoSlice<'_>]) -> Result<usize> {
        if self.ended[from] {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let before = self.towards[1 - from].len();
        let bytes = bufs.iter().flat_map(|buf| buf.iter());
        self.towards[1 - from].extend(bytes.take(most));
        Ok(self.towards[1 - from].len() - before)
    }
}
