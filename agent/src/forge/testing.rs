//! What the tests of this crate share.

use std::sync::Arc;

use mirror_hook::event::{Announcement, EarlyData, Role, Transport};

use crate::event::{Binding, FlowId, FlowInfo, ProcessInfo, Tuple};

/// A plain flow of curl.
pub(crate) fn info(client: &str, server: &str) -> FlowInfo {
    FlowInfo {
        id: FlowId([7; 16]),
        tuple: Tuple {
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
        },
        binding: Binding::Socket,
        proof: None,
        process: Arc::new(ProcessInfo {
            pid: 4711,
            uid: 1000,
            name: "curl".into(),
            ..ProcessInfo::default()
        }),
        role: Role::Client,
        announcement: Announcement::New,
        transport: Transport::Tcp,
        sni: None,
        alpn: None,
        tls_version: None,
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
