//! A flow, for targets that need one.

use std::sync::Arc;

use agent::event::{Binding, FlowId, FlowInfo, ProcessInfo, Tuple};
use mirror_hook::event::{Announcement, EarlyData, Role, Transport};

pub(crate) fn flow() -> FlowInfo {
    FlowInfo {
        id: FlowId([3; 16]),
        tuple: Tuple {
            client: ([10, 0, 0, 1], 40_000).into(),
            server: ([10, 0, 0, 2], 443).into(),
        },
        binding: Binding::Socket,
        proof: None,
        process: Arc::new(ProcessInfo {
            pid: 7,
            uid: 33,
            name: "nginx".into(),
            ..ProcessInfo::default()
        }),
        role: Role::Server,
        announcement: Announcement::New,
        transport: Transport::Tcp,
        sni: Some("www.example".into()),
        alpn: None,
        tls_version: Some(0x0304),
        cipher: None,
        resumed: false,
        early: EarlyData::None,
        clear_prefix: None,
        continued: None,
        ja4: None,
        agent: None,
        real_client: None,
        left_out: None,
        http1: None,
    }
}
