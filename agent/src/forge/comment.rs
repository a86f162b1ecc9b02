//! What the first packet of a flow tells its reader: `key=value` pairs on one line.
//!
//! ```text
//! flow=00112233445566778899aabbccddeeff process=curl pid=4711 uid=1000 role=client bound=socket
//! community_id=1:wCb3OG7yAFWelaUydu0D+125CLM= exe=/usr/bin/curl cgroup=/user.slice netns=4026531840
//! sni=www.example.com alpn=http/1.1 tls=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384
//! ```
//!
//! Present only where they are known, or say something: `claim=proven|unproven|contradicted`, what the kernel says of the
//! addresses that the process named as its socket's; `agent` (at a collector), `process`, `exe`, `cgroup`,
//! `container` with `runtime`, `netns` with `netns_name`, `ja4`, `sni`, `alpn`, `tls`, `cipher`, `resumed=yes`,
//! `early=pending|accepted|rejected`, `announced=midstream|inherited`, `unshown_client=N unshown_server=N` where the
//! beginning wasn't seen, and so many bytes were before this flow begins; and `clear_prefix=N`: STARTTLS or a PROXY header,
//! the flow begins behind N clear bytes of the client. A conversation forged again has `restarted=N`, with the
//! offsets in the flow at which its two streams begin. A flow that another one began, of an agent before or under
//! addresses that were another's, has `continued=yes`, with the offsets in the session at which it goes on here. A flow
//! behind a trusted proxy has
//! `xff=CLIENT<-PROXY xff_by=xff|forwarded|proxy-protocol`, or `xff=unknown<-PROXY` where it keeps the proxy's address, and
//! `proxy_header=N` where so many bytes of a PROXY header were taken out in front of it. A flow that was made of a session
//! of HTTP/2 has `session`, the same in all of them, with `http1=lane:N`, `http1=push:N` (what the server pushed), or
//! `http1=raw:REASON http2_from=N,M`: the session's frames as they are, behind so many bytes of client and server.

use std::fmt::{self, Display};

use mirror_hook::event::{Announcement, EarlyData};

use crate::cipher::{CipherName, VersionName};
use crate::community::CommunityId;
use crate::container::Container;
use crate::escape::Word;
use crate::event::{FlowInfo, LeftOut, ProcessInfo, RealClient};
use crate::transform::{Http1Part, PartKind};

/// Shows what is known of a flow.
pub(super) struct Metadata<'a>(pub(super) &'a FlowInfo);

impl Display for Metadata<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        write!(f, "flow={}", info.id)?;
        if !info.process.name.is_empty() {
            write!(f, " process={}", Word(&info.process.name))?;
        }
        write!(f, " pid={} uid={}", info.process.pid, info.process.uid)?;
        write!(
            f,
            " role={} bound={}",
            info.role_word(),
            info.binding.word()
        )?;
        if let Some(proof) = info.proof {
            write!(f, " claim={}", proof.word())?;
        }
        write!(f, " community_id={}", CommunityId(info.tuple))?;
        if let Some(agent) = &info.agent {
            write!(f, " agent={}", Word(agent))?;
        }
        write_place(f, &info.process)?;
        if let Some(sni) = &info.sni {
            write!(f, " sni={}", Word(sni))?;
        }
        if let Some(alpn) = &info.alpn {
            write!(f, " alpn={}", Word(alpn))?;
        }
        if let Some(version) = info.tls_version {
            write!(f, " tls={}", VersionName(version))?;
        }
        if let Some(cipher) = info.cipher {
            write!(f, " cipher={}", CipherName(cipher))?;
        }
        if let Some(ja4) = &info.ja4 {
            write!(f, " ja4={}", Word(ja4))?;
        }
        if info.resumed {
            f.write_str(" resumed=yes")?;
        }
        if info.early != EarlyData::None {
            write!(f, " early={}", info.early_word())?;
        }
        if info.announcement != Announcement::New {
            write!(f, " announced={}", info.announcement_word())?;
        }
        if let Some(LeftOut { bytes, .. }) = info.left_out {
            let [client, server] = bytes;
            write!(f, " unshown_client={client} unshown_server={server}")?;
        }
        if let Some(bytes) = info.clear_prefix.filter(|bytes| *bytes > 0) {
            write!(f, " clear_prefix={bytes}")?;
        }
        if let Some((client, server)) = info.continued {
            write!(
                f,
                " continued=yes client_offset={client} server_offset={server}"
            )?;
        }
        write_real_client(f, info.real_client.as_ref())?;
        write_http1(f, info.http1.as_ref())
    }
}

/// Who is behind the proxy.
fn write_real_client(f: &mut fmt::Formatter<'_>, real: Option<&RealClient>) -> fmt::Result {
    let Some(real) = real else {
        return Ok(());
    };
    write!(f, " xff={real}")?;
    if let Some((_, way)) = real.told {
        write!(f, " xff_by={}", way.word())?;
    }
    if real.header_bytes > 0 {
        write!(f, " proxy_header={}", real.header_bytes)?;
    }
    Ok(())
}

/// Which part of a session of HTTP/2 it is.
fn write_http1(f: &mut fmt::Formatter<'_>, part: Option<&Http1Part>) -> fmt::Result {
    let Some(part) = part else {
        return Ok(());
    };
    match part.kind {
        PartKind::Lane(number) => write!(f, " http1=lane:{number}")?,
        PartKind::Push(number) => write!(f, " http1=push:{number}")?,
        PartKind::Raw {
            client,
            server,
            why,
        } => write!(f, " http1=raw:{} http2_from={client},{server}", why.word())?,
    }
    write!(f, " session={}", part.session)
}

/// Which program it is, and where that runs.
fn write_place(f: &mut fmt::Formatter<'_>, process: &ProcessInfo) -> fmt::Result {
    if let Some(path) = &process.executable {
        write!(f, " exe={}", Word(path))?;
    }
    if let Some(path) = &process.cgroup {
        write!(f, " cgroup={}", Word(path))?;
    }
    if let Some(container) = process.cgroup.as_deref().and_then(Container::of) {
        write!(f, " container={}", Word(container.id))?;
        if let Some(runtime) = container.runtime {
            write!(f, " runtime={runtime}")?;
        }
    }
    if let Some(inode) = process.network_namespace {
        write!(f, " netns={inode}")?;
    }
    if let Some(name) = &process.network_name {
        write!(f, " netns_name={}", Word(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Proof, RealClientWay, ToldAddress};
    use crate::forge::testing;
    use crate::transform::Stop;

    #[test]
    fn says_what_is_known() {
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        assert_eq!(
            Metadata(&info).to_string(),
            "flow=07070707070707070707070707070707 process=curl pid=4711 uid=1000 role=client bound=socket \
             community_id=1:PdyKC+nLv5plb25nxNX77823Fj0="
        );
        info.proof = Some(Proof::Contradicted);
        let told = Metadata(&info).to_string();
        assert!(told.contains(" bound=socket claim=contradicted community_id="));
        info.sni = Some("a.example".into());
        info.alpn = Some("h2".into());
        info.tls_version = Some(0x0304);
        info.cipher = Some(0x1302);
        info.resumed = true;
        info.early = EarlyData::Accepted;
        info.announcement = Announcement::Midstream;
        info.clear_prefix = Some(42);
        info.continued = Some((7, 8));
        info.agent = Some("web1".into());
        info.ja4 = Some("t13d".into());
        let id = "0123456789abcdef".repeat(4);
        info.process = Arc::new(ProcessInfo {
            executable: Some("/usr/bin/curl".into()),
            cgroup: Some(format!("/docker/{id}")),
            network_namespace: Some(4_026_531_840),
            network_name: Some("blue".into()),
            ..ProcessInfo::clone(&info.process)
        });
        let place = format!(
            " agent=web1 exe=/usr/bin/curl cgroup=/docker/{id} container={id} runtime=docker netns=4026531840 \
             netns_name=blue sni="
        );
        assert!(Metadata(&info).to_string().contains(&place));
        assert!(Metadata(&info).to_string().ends_with(
            " sni=a.example alpn=h2 tls=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 ja4=t13d resumed=yes \
             early=accepted announced=midstream clear_prefix=42 continued=yes client_offset=7 server_offset=8"
        ));
        info.left_out = Some(LeftOut {
            bytes: [9, 10],
            ..LeftOut::default()
        });
        let place = " announced=midstream unshown_client=9 unshown_server=10 clear_prefix=42 ";
        assert!(Metadata(&info).to_string().contains(place));
    }

    #[test]
    fn says_who_is_behind_a_proxy() {
        let mut info = testing::info("203.0.113.7:50000", "198.51.100.1:443");
        let told = |ip: &str, port, way| {
            let ip = ip.parse().unwrap();
            Some((ToldAddress { ip, port }, way))
        };
        for (told, header_bytes, end) in [
            (
                told("203.0.113.7", None, RealClientWay::XForwardedFor),
                0,
                " xff=203.0.113.7<-10.0.0.5:34567 xff_by=xff",
            ),
            (
                told("2001:db8::1", Some(9), RealClientWay::Forwarded),
                0,
                " xff=[2001:db8::1]:9<-10.0.0.5:34567 xff_by=forwarded",
            ),
            (
                told("203.0.113.7", Some(9), RealClientWay::ProxyProtocol),
                28,
                " xff=203.0.113.7:9<-10.0.0.5:34567 xff_by=proxy-protocol proxy_header=28",
            ),
            (None, 0, " xff=unknown<-10.0.0.5:34567"),
        ] {
            info.real_client = Some(RealClient {
                proxy: "10.0.0.5:34567".parse().unwrap(),
                told,
                header_bytes,
            });
            let text = Metadata(&info).to_string();
            assert!(text.ends_with(end), "{text}");
        }
    }

    #[test]
    fn says_which_part_of_a_session_it_is() {
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        let session = info.id;
        let raw = PartKind::Raw {
            client: 7,
            server: 8,
            why: Stop::Hole,
        };
        for (kind, words) in [
            (PartKind::Lane(2), "http1=lane:2"),
            (PartKind::Push(3), "http1=push:3"),
            (raw, "http1=raw:hole http2_from=7,8"),
        ] {
            info.http1 = Some(Http1Part { session, kind });
            let text = Metadata(&info).to_string();
            let end = format!(" {words} session=07070707070707070707070707070707");
            assert!(text.ends_with(&end), "{text}");
        }
    }

    #[test]
    fn strangers_add_no_field_and_no_line() {
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        let bad = "x pid=1\n\u{1b}[31m\"\u{fffd}";
        info.sni = Some(bad.into());
        let process = Arc::make_mut(&mut info.process);
        process.executable = Some(bad.into());
        process.cgroup = Some(format!("/lxc/{bad}"));
        process.network_name = Some(bad.into());
        let text = Metadata(&info).to_string();
        let word = "x\\u{20}pid=1\\u{a}\\u{1b}[31m\"\\u{fffd}";
        for key in ["exe=", "cgroup=/lxc/", "container=", "netns_name=", "sni="] {
            assert!(text.contains(&format!(" {key}{word}")), "{key} in {text}");
        }
        assert!(
            text.chars()
                .all(|character| character == ' ' || character.is_ascii_graphic())
        );
    }
}
