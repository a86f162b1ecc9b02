//! The hook's types in messages: it has no dependencies itself, so their forms stand here.

use mirror_hook::event::{Announcement, EarlyData, Role, Transport};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(remote = "Role")]
pub(crate) enum RoleForm {
    Client,
    Server,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Announcement")]
pub(crate) enum AnnouncementForm {
    New,
    Midstream,
    Inherited,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Transport")]
pub(crate) enum TransportForm {
    Tcp,
    Dtls,
    Quic,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "EarlyData")]
pub(crate) enum EarlyDataForm {
    None,
    Pending,
    Accepted,
    Rejected,
}
