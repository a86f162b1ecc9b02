//! A sensor and its hosts, each in a network namespace of its own, around one switch:
//!
//! ```text
//!   the test's thread: the sensor            host 1                  host 2 …
//!   switch0 10.8.0.254, fd08::fe  ───────── eth0 10.8.0.1, fd08::1   eth0 10.8.0.2, fd08::2
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::network::{Namespace, enter_new_namespace, ip};

/// The sensor's addresses.
pub const SENSOR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 8, 0, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 0xfe)),
];

/// The hosts; while this lives, they do.
#[derive(Debug)]
pub struct Fleet {
    /// Number 1 comes first.
    pub hosts: Vec<Host>,
}

/// A host at the switch.
#[derive(Debug)]
pub struct Host {
    /// From 1.
    pub number: u8,
    /// Where it is.
    pub namespace: Namespace,
}

impl Host {
    /// Its addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [
            Ipv4Addr::new(10, 8, 0, self.number).into(),
            Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, self.number.into()).into(),
        ]
    }

    /// What the sensor calls its cable.
    pub fn cable(&self) -> String {
        format!("host{}", self.number)
    }

    /// Pulls the cable: what is on its way is lost, and nobody is told.
    pub fn unplug(&self) {
        ip(&format!("link set {} nomaster", self.cable()));
    }

    /// Puts it back.
    pub fn plug(&self) {
        ip(&format!("link set {} master switch0", self.cable()));
    }
}

impl Fleet {
    /// Moves this thread into a namespace of its own, the sensor, and makes `count` hosts.
    ///
    /// # Panics
    /// If this isn't root, or `ip` isn't there.
    pub fn new(count: u8) -> Self {
        enter_new_namespace();
        ip("link add switch0 type bridge");
        ip("addr add 10.8.0.254/24 dev switch0");
        ip("addr add fd08::fe/64 dev switch0 nodad");
        ip("link set lo up");
        ip("link set switch0 up");
        let hosts = (1..=count).map(|number| {
            let host = Host {
                number,
                namespace: Namespace::new(),
            };
            let (cable, id) = (host.cable(), host.namespace.id());
            ip(&format!(
                "link add {cable} type veth peer name eth0 netns {id}"
            ));
            ip(&format!("link set {cable} master switch0 up"));
            for words in [
                format!("addr add 10.8.0.{number}/24 dev eth0"),
                format!("addr add fd08::{number:x}/64 dev eth0 nodad"),
                "link set eth0 up".to_owned(),
                "link set lo up".to_owned(),
            ] {
                host.namespace.ip(&words);
            }
            host
        });
        Self {
            hosts: hosts.collect(),
        }
    }
}
