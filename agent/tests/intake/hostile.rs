//! Processes that hand in what no hook would.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::{Meta, Role};
use mirror_hook::layout::{BOOTSTRAP_BYTES, CONTROL_BYTES, MAGIC, kind};
use mirror_hook::ring::{Memory, Producer, Record};
use mirror_hook::shm::Mapping;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::IoSlice;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketType, connect, sendmsg, socket,
};

use crate::Agent;

fn attach(agent: &Agent) -> Mapping {
    attach_at(&agent.socket())
}

pub(crate) fn attach_at(agent: &Path) -> Mapping {
    let memfd = memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memfd, CONTROL_BYTES as u64 + BOOTSTRAP_BYTES).unwrap();
    rustix::io::pwrite(&memfd, &MAGIC.to_ne_bytes(), 0).unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memfd, seals).unwrap();
    let message = AttachMessage {
        data_bytes: BOOTSTRAP_BYTES,
        instance: 5,
        parent_instance: None,
        parent_fork: 0,
        silent_forks: 0,
        name: [0; 16],
    };
    send(agent, &message.encode(), &memfd);
    Mapping::of_sealed_memfd(memfd.as_fd(), BOOTSTRAP_BYTES).unwrap()
}

fn send(agent: &Path, message: &[u8], memfd: &OwnedFd) {
    let client = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&client, &SocketAddrUnix::new(agent).unwrap()).unwrap();
    let files = [memfd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(
        &client,
        &[IoSlice::new(message)],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
}

pub(crate) fn opened(mapping: &Mapping) -> Producer<&Mapping> {
    let producer = Producer::new(mapping, BOOTSTRAP_BYTES).unwrap();
    let record = Record {
        kind: kind::OPEN,
        flags: 0,
        connection: 1,
        at_ns: u64::MAX, // in a far future
    };
    let meta = Meta {
        handshake_done: true,
        ..Meta::new(Role::Client)
    };
    producer.write(record, &[&meta.encode_fixed()]).unwrap();
    producer
}

#[test]
fn a_ring_that_lies_is_left_and_the_others_go_on() {
    let mut agent = Agent::new("lies", |_| {});
    let (bad, good) = (attach(&agent), attach(&agent));
    let (bad, good) = (opened(&bad), opened(&good));
    let record = |connection| Record {
        kind: kind::DATA,
        flags: 0,
        connection,
        at_ns: 0,
    };
    let offset = |offset: u64| offset.to_ne_bytes();
    let bytes = crate::program::text(agent::event::Side::Client, 0, 8);
    bad.write(record(1), &[&offset(0), &bytes]).unwrap();
    bad.write(record(1), &[&offset(4), &bytes]).unwrap(); // back
    good.write(record(1), &[&offset(0), &bytes]).unwrap();
    agent.run_until(|stats| stats.quarantined == 1 && stats.text_bytes == 16);
    assert_eq!(agent.intake.stats().violations, 1);
    assert_eq!(agent.intake.stats().live, 1);
    // The one is told to write no more, the other goes on.
    assert!(bad.write(record(1), &[&offset(8), &bytes]).is_err());
    good.write(
        record(1),
        &[
            &offset(8),
            &crate::program::text(agent::event::Side::Client, 8, 8),
        ],
    )
    .unwrap();
    agent.run_until(|stats| stats.text_bytes == 24);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever stands in the shared memory, the agent goes on.
    #[test]
    fn rubbish_in_shared_memory_harms_nobody(
        rubbish in prop::collection::vec((0usize..CONTROL_BYTES + 4096, any::<u64>()), 1..200),
        sane_head in any::<bool>(),
    ) {
        let mut agent = Agent::new("rubbish", |config| config.max_rings = 2);
        let mapping = attach(&agent);
        opened(&mapping);
        agent.run_until(|stats| stats.connections == 1);
        for (at, word) in rubbish {
            mapping.write(at.min(CONTROL_BYTES + 4088), &word.to_ne_bytes());
            if sane_head {
                let head = (word % BOOTSTRAP_BYTES) & !7;
                let at = mirror_hook::layout::control::HEAD;
                mapping.write(at, &head.to_ne_bytes());
            }
            agent.turn();
        }
        // A good one is still served.
        let before = agent.intake.stats().connections;
        let other = attach(&agent);
        opened(&other);
        agent.run_until(|stats| stats.attached == 2 && stats.connections > before);
    }
}
