//! The container that a process runs in, by the names that runtimes give their cgroups.
//!
//! ```text
//! /docker/ID   /system.slice/docker-ID.scope                                  Docker
//! …/cri-containerd-ID.scope   …:cri-containerd:ID   /k8s.io/ID  nerdctl-ID    containerd
//! …/crio-ID.scope                                                             CRI-O
//! …/libpod-ID.scope/container   /libpod_parent/libpod-ID                      Podman
//! /lxc/NAME   /lxc.payload.NAME   /lxc.payload/NAME                           LXC
//! /kubepods/…/podUID/ID                                                       any of them
//! ```
//!
//! ID is 64 hexadecimal digits. Of containers within containers the innermost counts. What isn't named like one of these
//! isn't found: it is better not to be told than to be told wrong.

/// A container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container<'a> {
    /// What runs it, if its cgroup's name says so: `docker`, `containerd`, `cri-o`, `podman`, `lxc`.
    pub runtime: Option<&'static str>,
    /// Its id of 64 hexadecimal digits; the name of LXC's.
    pub id: &'a str,
}

const ID_DIGITS: usize = 64;

impl<'a> Container<'a> {
    /// That of a process in this cgroup, the path in proc_pid_cgroup(5).
    pub fn of(cgroup: &'a str) -> Option<Self> {
        let segments: Vec<_> = cgroup.split('/').filter(|name| !name.is_empty()).collect();
        (0..segments.len())
            .rev()
            .find_map(|place| by_id(&segments, place).or_else(|| by_name(&segments, place)))
    }
}

/// A segment that has an id in it.
fn by_id<'a>(segments: &[&'a str], place: usize) -> Option<Container<'a>> {
    let segment = segments[place];
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (prefix, id) = match name.rsplit_once(['-', ':']) {
        Some((prefix, id)) => (prefix, id),
        None => ("", name),
    };
    if id.len() != ID_DIGITS || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    // With systemd's slice in front: `kubepods-pod….slice:cri-containerd:ID`.
    let prefix = prefix.rsplit(':').next().unwrap_or(prefix);
    let parent = place.checked_sub(1).map(|parent| segments[parent]);
    let runtime = match (prefix, parent) {
        ("docker", _) | ("", Some("docker")) => Some("docker"),
        ("cri-containerd" | "nerdctl", _) | ("", Some("k8s.io")) => Some("containerd"),
        ("crio", _) => Some("cri-o"),
        ("libpod", _) => Some("podman"),
        // Its monitor runs beside it.
        (prefix, _) if prefix.ends_with("conmon") => return None,
        _ => None,
    };
    Some(Container { runtime, id })
}

/// A segment that is LXC's, or stands below it.
fn by_name<'a>(segments: &[&'a str], place: usize) -> Option<Container<'a>> {
    let segment = segments[place];
    let parent = place.checked_sub(1).map(|parent| segments[parent]);
    let id = match parent {
        Some("lxc" | "lxc.payload") => segment,
        _ => segment.strip_prefix("lxc.payload.")?,
    };
    let runtime = Some("lxc");
    (!id.is_empty()).then_some(Container { runtime, id })
}

/// The path that says most of the lines of `/proc/PID/cgroup`: that of a container; else that in the unified hierarchy,
/// unless it says nothing; else systemd's; else any.
pub(crate) fn cgroup_path(text: &[u8]) -> Option<&[u8]> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        // A process that is ending may be in one that was removed.
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        Some((number, controllers, path))
    });
    let rank = |(number, controllers, path): &(&[u8], &[u8], &[u8])| {
        if std::str::from_utf8(path).is_ok_and(|path| Container::of(path).is_some()) {
            return 0;
        }
        match (*number, *controllers, *path) {
            (_, _, b"/") => 4,
            (b"0", b"", _) => 1,
            (_, b"name=systemd", _) => 2,
            _ => 3,
        }
    };
    lines.min_by_key(rank).map(|(_, _, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    /// Paths as the runtimes make them, `ID` and `OTHER` in place of their ids.
    const FOUND: &[(&str, Option<&str>, &str)] = &[
        ("/docker/ID", Some("docker"), ID),
        ("/system.slice/docker-ID.scope", Some("docker"), ID),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
            Some("docker"),
            ID,
        ),
        ("/../../docker-ID.scope", Some("docker"), ID),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2_3.slice/cri-containerd-ID.scope",
            Some("containerd"),
            ID,
        ),
        (
            "/system.slice/containerd.service/kubepods-besteffort-pod1_2.slice:cri-containerd:ID",
            Some("containerd"),
            ID,
        ),
        ("/k8s.io/ID", Some("containerd"), ID),
        ("/system.slice/nerdctl-ID.scope", Some("containerd"), ID),
        (
            "/kubepods.slice/kubepods-pod1.slice/crio-ID.scope/container",
            Some("cri-o"),
            ID,
        ),
        ("/kubepods/burstable/pod1-2-3/crio-ID", Some("cri-o"), ID),
        ("/kubepods/burstable/pod1-2-3/ID", None, ID),
        ("/machine.slice/libpod-ID.scope", Some("podman"), ID),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            Some("podman"),
            ID,
        ),
        ("/libpod_parent/libpod-ID", Some("podman"), ID),
        // As systemd runs within it.
        (
            "/machine.slice/libpod-ID.scope/init.scope",
            Some("podman"),
            ID,
        ),
        ("/lxc/web", Some("lxc"), "web"),
        (
            "/lxc.payload.web/system.slice/nginx.service",
            Some("lxc"),
            "web",
        ),
        ("/lxc.payload/web", Some("lxc"), "web"),
        // The inner one.
        (
            "/lxc.payload.web/system.slice/docker-ID.scope",
            Some("docker"),
            ID,
        ),
        ("/docker/OTHER/kubelet/kubepods/pod1/ID", None, ID),
        ("/docker/OTHER/docker/ID", Some("docker"), ID),
    ];

    const NONE: &[&str] = &[
        "/",
        "/system.slice/nginx.service",
        "/user.slice/user-1000.slice/session-3.scope",
        "/system.slice/docker.service",
        "/machine.slice/libpod-conmon-ID.scope",
        "/system.slice/crio-conmon-ID.scope",
        "/lxc.monitor.web",
        "/lxc.payload./x",
        "/docker/0123",
        "/docker/0123456789abcdefx123456789abcdef0123456789abcdef0123456789abcdef",
        "/docker/ID0",
    ];

    #[test]
    fn runtimes_are_known_by_their_cgroups() {
        for (path, runtime, id) in FOUND {
            let path = path.replace("OTHER", OTHER).replace("ID", ID);
            let found = Container::of(&path);
            let expected = Container {
                runtime: *runtime,
                id,
            };
            assert_eq!(found, Some(expected), "{path}");
        }
        for path in NONE {
            assert_eq!(Container::of(&path.replace("ID", ID)), None, "{path}");
        }
    }

    #[test]
    fn the_line_that_says_most_counts() {
        let path = |text: &str| {
            let text = text.replace("ID", ID);
            let path = cgroup_path(text.as_bytes()).map(<[u8]>::to_vec);
            path.map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(path("0::/user.slice\n"), Some("/user.slice".into()));
        assert_eq!(path("0::/\n"), Some("/".into()));
        assert_eq!(path("0::/a:b\n"), Some("/a:b".into()));
        assert_eq!(path("0::/gone (deleted)\n"), Some("/gone".into()));
        let both = "12:pids:/docker/ID\n1:name=systemd:/x\n0::/system.slice/docker.service\n";
        assert_eq!(path(both), Some(format!("/docker/{ID}")));
        let older = "3:cpu,cpuacct:/y\n1:name=systemd:/system.slice/a.service\n0::/\n";
        assert_eq!(path(older), Some("/system.slice/a.service".into()));
        assert_eq!(path(""), None);
        assert_eq!(path("x\n"), None);
    }
}
