//! Other people's programs, asked what they think of a capture.

mod suricata;
mod wireshark;

pub use suricata::{FileInfo, HttpEvent, Listening, Profile, Suricata, Verdict};
pub use wireshark::{
    complaints, exported_objects, follow, follow_with, http2_messages, in_time_order,
};
