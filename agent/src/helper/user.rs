//! The user that the agent becomes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The one that packages make for it.
const OWN: &str = "sslcollector";
/// The one that every system has.
const NOBODY: &str = "nobody";
/// Its number where there is no table of users at all.
const NOBODY_ID: u32 = 65534;

/// A user and its group, by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As the table of users has it, or the number.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl User {
    /// The user of this name in /etc/passwd; or `UID`, or `UID:GID`.
    pub fn find(name: &str) -> Option<Self> {
        let table = fs::read_to_string("/etc/passwd").unwrap_or_default();
        in_table(&table, name).or_else(|| by_numbers(&table, name))
    }

    /// `sslcollector` where there is such a user, else `nobody`.
    pub fn unprivileged() -> Self {
        let nobody = || Self {
            name: NOBODY.to_owned(),
            uid: NOBODY_ID,
            gid: NOBODY_ID,
        };
        let found = Self::find(OWN).or_else(|| Self::find(NOBODY));
        found.filter(|user| !user.is_root()).unwrap_or_else(nobody)
    }

    /// Whether it may pass through all directories above `path`.
    pub fn may_pass_to(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else {
            return false;
        };
        path.ancestors().skip(1).all(|above| {
            let wanted = |found: &fs::Metadata| match () {
                () if found.uid() == self.uid => 0o100,
                () if found.gid() == self.gid => 0o010,
                () => 0o001,
            };
            fs::metadata(above).is_ok_and(|found| found.mode() & wanted(&found) != 0)
        })
    }

    /// Whether becoming this one gives up nothing.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// `name:password:uid:gid:…`, a line each, passwd(5).
fn in_table(table: &str, name: &str) -> Option<User> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name && !name.is_empty();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then(|| User {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

fn by_numbers(table: &str, text: &str) -> Option<User> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid.parse().ok()?, gid.parse().ok()?),
        None => {
            let uid: u32 = text.parse().ok()?;
            let ids = table.lines().filter_map(|line| {
                let mut fields = line.split(':').skip(2);
                let uid: u32 = fields.next()?.parse().ok()?;
                Some((uid, fields.next()?.parse().ok()?))
            });
            let group = ids.into_iter().find(|(known, _)| *known == uid);
            (uid, group.map_or(uid, |(_, gid)| gid))
        }
    };
    // setresuid(2) takes the last one for "leave it as it is".
    (uid != u32::MAX && gid != u32::MAX).then(|| User {
        name: text.to_owned(),
        uid,
        gid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n:x:1:1::/:\n\
                         nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";

    #[test]
    fn who_may_pass() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("state");
        fs::create_dir(&path).unwrap();
        let owner = fs::metadata(&path).unwrap();
        let of = |uid, gid| User {
            name: String::new(),
            uid,
            gid,
        };
        let (stranger, mate) = (of(4242, 4242), of(4242, owner.gid()));
        let itself = of(owner.uid(), owner.gid());
        for (mode, passes) in [
            (0o700, [true, false, false]),
            (0o710, [true, true, false]),
            (0o711, [true, true, true]),
        ] {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(above.path(), permissions).unwrap();
            let found = [&itself, &mate, &stranger].map(|user| user.may_pass_to(&path));
            assert_eq!(found, passes, "{mode:o}");
        }
        assert!(!itself.may_pass_to(&above.path().join("nothing")));
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let ids = |name: &str| {
            let user = in_table(TABLE, name).or_else(|| by_numbers(TABLE, name));
            user.map(|user| (user.uid, user.gid))
        };
        assert_eq!(ids("nobody"), Some((65534, 65533)));
        assert_eq!(ids("65534"), Some((65534, 65533)));
        assert_eq!(ids("70000"), Some((70000, 70000)));
        assert_eq!(ids("70000:7"), Some((70000, 7)));
        assert_eq!(ids("root"), Some((0, 0)));
        for none in ["", "nob", "broken", "4294967295", "1:", "-1"] {
            assert_eq!(ids(none), None, "{none}");
        }
    }
}
