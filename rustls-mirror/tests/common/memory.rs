//! Both ends of a connection in memory.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection};

use super::tls::name;

/// A client and its server, and what is on the way between them.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
}

impl Wire {
    /// A connection to `NAME.mirror.test` that has not begun.
    pub(crate) fn new(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, to: &str) -> Self {
        Self {
            client: ClientConnection::new(Arc::clone(client), name(to)).unwrap(),
            server: ServerConnection::new(Arc::clone(server)).unwrap(),
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
        }
    }

    /// The same with its handshake behind it.
    pub(crate) fn connected(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
        to: &str,
    ) -> Self {
        let mut wire = Self::new(client, server, to);
        wire.settle().unwrap();
        assert!(!wire.client.is_handshaking() && !wire.server.is_handshaking());
        wire
    }

    /// Carries everything to and fro until nobody has anything left to say.
    pub(crate) fn settle(&mut self) -> Result<(), rustls::Error> {
        while self.step()? {}
        Ok(())
    }

    /// Carries what both have to say now, once. `false`: it was nothing.
    pub(crate) fn step(&mut self) -> Result<bool, rustls::Error> {
        let from_client = carry(&mut self.client, &mut self.to_server);
        let took = take(&mut self.server, &mut self.to_server)?;
        let from_server = carry(&mut self.server, &mut self.to_client);
        let gave = take(&mut self.client, &mut self.to_client)?;
        Ok(from_client | took | from_server | gave)
    }

    /// The first `count` quarters of what [`Wire::settle`] would do: the client speaks, the server hears,
    /// it speaks, the client hears. `false`: nothing was left to do.
    pub(crate) fn quarters(&mut self, count: usize) -> bool {
        let mut any = false;
        for quarter in 0..count {
            match quarter % 4 {
                0 => any |= carry(&mut self.client, &mut self.to_server),
                1 => any |= take(&mut self.server, &mut self.to_server).unwrap(),
                2 => any |= carry(&mut self.server, &mut self.to_client),
                _ => any |= take(&mut self.client, &mut self.to_client).unwrap(),
            }
        }
        any
    }

    /// What the client has to say, without telling the server.
    pub(crate) fn client_bytes(&mut self) -> Vec<u8> {
        carry(&mut self.client, &mut self.to_server);
        self.to_server.drain(..).collect()
    }
}

/// Writes all of it, however little is taken at a time.
pub(crate) fn write_all<T>(connection: &mut ConnectionCommon<T>, text: &[u8]) {
    connection.writer().write_all(text).unwrap();
}

/// Everything that has arrived.
pub(crate) fn read_all<T>(connection: &mut ConnectionCommon<T>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 5000];
    while let Ok(count @ 1..) = connection.reader().read(&mut part) {
        all.extend_from_slice(&part[..count]);
    }
    all
}

fn carry<T>(from: &mut ConnectionCommon<T>, to: &mut VecDeque<u8>) -> bool {
    let mut any = false;
    while from.wants_write() {
        any |= from.write_tls(to).unwrap() != 0;
    }
    any
}

fn take<T>(into: &mut ConnectionCommon<T>, from: &mut VecDeque<u8>) -> Result<bool, rustls::Error> {
    let mut any = false;
    while !from.is_empty() && into.wants_read() {
        any |= into.read_tls(from).unwrap() != 0;
        into.process_new_packets()?;
    }
    Ok(any)
}
