//! The ordinary user that runs a server: PostgreSQL refuses root.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Who runs a server; `None` where we are an ordinary user ourselves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account(Option<(u32, u32)>);

impl Account {
    /// Ourselves, or where that is root the user `postgres`, or else `nobody`.
    pub(crate) fn choose() -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        let users = std::fs::read_to_string("/etc/passwd")?;
        let found = ["postgres", "nobody"].iter().find_map(|name| ids(&users, name));
        let missing = || io::Error::other("neither postgres nor nobody is a user of this machine");
        found.map(|ids| Self(Some(ids))).ok_or_else(missing)
    }

    /// Makes `command` run as it, with no other groups.
    pub(crate) fn run_as(self, command: &mut Command) {
        if let Some((user, group)) = self.0 {
            command.uid(user).gid(group);
        }
    }

    /// Gives it a file or folder.
    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        self.0
            .map_or(Ok(()), |(user, group)| std::os::unix::fs::chown(path, Some(user), Some(group)))
    }
}

/// A user's and its group's number in the text of `/etc/passwd`.
fn ids(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let mut numbers = fields.skip(1);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:103:x:/var/lib:/bin/sh\n";
        assert_eq!(ids(users, "postgres"), Some((101, 103)));
        assert_eq!(ids(users, "nobody"), None);
    }
}
