//! `user[:group]` against a container's `/etc/passwd` and `/etc/group`: bytes of strangers, bounded and never trusted.
//!
//! A name is looked up; a number is a number. A number is *not* also looked up as a name: an image could otherwise
//! name root `1000`, or have a number that is out of range resolve to root (CVE-2024-40635, CVE-2026-46680). Home and groups
//! of a numeric user come from the line with that number.

use crate::options::User;
use crated_types::{Error, Fault, Result};

/// Longest passwd or group file that is taken, in bytes; readers stop one byte behind it.
pub const FILE_MAX: usize = 4 << 20;
/// Longest line that is looked at; longer ones are passed over.
const LINE_MAX: usize = 64 << 10;
/// Largest id: the highest bit is refused, for programs that hold ids in signed numbers (moby's and containerd's bound).
const ID_MAX: u32 = i32::MAX as u32;
/// Most supplementary groups (Linux, NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// Whether resolving `spec` and `group_add` needs the container's files at all. For a number the files only give home and
/// supplementary groups, for which a caller wants them, too.
#[must_use]
pub fn needs_files(spec: &str, group_add: &[String]) -> bool {
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    !(user.is_empty() || is_number(user))
        || !(group.is_empty() || is_number(group))
        || group_add.iter().any(|group| !is_number(group))
}

/// Resolves `user`, `user:group`, `:group`, the empty text (root), each a name or number; `group_add` are further groups.
/// A file that does not exist is empty.
///
/// # Errors
/// [`Fault::Invalid`] for names that are not there and numbers out of range; [`Fault::Malformed`] for files over [`FILE_MAX`].
pub fn resolve(spec: &str, passwd: &[u8], group: &[u8], group_add: &[String]) -> Result<User> {
    for (name, bytes) in [("/etc/passwd", passwd), ("/etc/group", group)] {
        if bytes.len() > FILE_MAX {
            return Err(Error::new(
                Fault::Malformed,
                format!("{name} of the container is longer than {FILE_MAX} bytes"),
            ));
        }
    }
    if spec.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Error::invalid("user", format_args!("{spec:?} has control characters")));
    }
    let (user_text, group_text) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let account = account(user_text, passwd)?;
    let mut user = User { uid: account.uid, gid: account.gid, home: account.home, ..User::default() };
    match group_text {
        Some(text) => user.gid = group_id(text, group)?,
        // Memberships count only where the group is not chosen (docker's rule).
        None => {
            if let Some(name) = &account.name {
                user.additional_gids = memberships(name, group);
            }
        }
    }
    for text in group_add {
        let gid = group_id(text, group)?;
        if !user.additional_gids.contains(&gid) {
            user.additional_gids.push(gid);
        }
    }
    if user.additional_gids.len() > GROUPS_MAX {
        return Err(Error::invalid("group-add", format_args!("more than {GROUPS_MAX} groups")));
    }
    Ok(user)
}

struct Account {
    name: Option<String>,
    uid: u32,
    gid: u32,
    home: Option<String>,
}

fn account(text: &str, passwd: &[u8]) -> Result<Account> {
    let number = if text.is_empty() {
        Some(0)
    } else if is_number(text) {
        Some(id("user", text)?)
    } else {
        None
    };
    for line in lines(passwd) {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(uid), Some(gid)) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // A line with ids that are none is as good as absent.
        let (Ok(uid), Ok(gid)) = (id("user", uid), id("group", gid)) else { continue };
        let hit = match number {
            Some(number) => uid == number,
            None => name == text,
        };
        if hit {
            let home = fields.nth(1).filter(|home| is_home(home)).map(Into::into);
            let home = home.or_else(|| Some("/".into()));
            return Ok(Account { name: Some(name.into()), uid, gid, home });
        }
    }
    match number {
        Some(uid) => Ok(Account { name: None, uid, gid: 0, home: Some(if uid == 0 { "/root" } else { "/" }.into()) }),
        None => Err(Error::invalid("user", format_args!("no user {text:?} in the container's /etc/passwd"))),
    }
}

fn is_home(home: &str) -> bool {
    home.starts_with('/') && !home.chars().any(char::is_control)
}

fn group_id(text: &str, group: &[u8]) -> Result<u32> {
    if is_number(text) {
        return id("group", text);
    }
    groups(group)
        .find(|(name, ..)| !text.is_empty() && *name == text)
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| Error::invalid("group", format_args!("no group {text:?} in the container's /etc/group")))
}

fn memberships(user: &str, group: &[u8]) -> Vec<u32> {
    let mut gids = Vec::new();
    for (_, gid, members) in groups(group) {
        if gids.len() < GROUPS_MAX && members.split(',').any(|member| member == user) && !gids.contains(&gid) {
            gids.push(gid);
        }
    }
    gids
}

fn groups(bytes: &[u8]) -> impl Iterator<Item = (&str, u32, &str)> {
    lines(bytes).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, id("group", gid).ok()?, fields.next().unwrap_or_default()))
    })
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| line.len() <= LINE_MAX)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Digits, with a sign or without: all that a person would take for a number.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn id(what: &'static str, text: &str) -> Result<u32> {
    let number = if text.starts_with('+') { None } else { text.parse::<u32>().ok() };
    number
        .filter(|number| *number <= ID_MAX)
        .ok_or_else(|| Error::invalid(what, format_args!("id {text:?} is not 0..={ID_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # comment\n\
        web:x:1000:1001:,,,:/home/web:/bin/sh\n\
        4294967296:x:0:0::/root:/bin/sh\n\
        1234:x:0:0::/root:/bin/sh\n\
        wide:x:4294967296:0::/:/bin/sh\n\
        minus:x:-1:0::/:/bin/sh\n\
        odd:x:5:5::relative:/bin/sh\n\
        short:x:7\n\
        nohome:x:8:8\n";
    const GROUP: &[u8] = b"root:x:0:\nwww:x:33:web,other\naudio:x:29:web\nwide:x:4294967297:web\nbad\nempty:x:44\n";

    fn who(spec: &str) -> Result<User> {
        resolve(spec, PASSWD, GROUP, &[])
    }

    fn ids(spec: &str) -> (u32, u32, Vec<u32>) {
        let user = who(spec).unwrap();
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn names_and_numbers_are_resolved() {
        assert_eq!(ids(""), (0, 0, vec![]));
        assert_eq!(ids("web"), (1000, 1001, vec![33, 29]));
        assert_eq!(ids("1000"), (1000, 1001, vec![33, 29]));
        assert_eq!(ids("web:audio"), (1000, 29, vec![]));
        assert_eq!(ids("web:7"), (1000, 7, vec![]));
        assert_eq!(ids("2000"), (2000, 0, vec![]));
        assert_eq!(ids("2000:3000"), (2000, 3000, vec![]));
        assert_eq!(ids(":33"), (0, 33, vec![]));
        assert_eq!(ids("web:"), (1000, 1001, vec![33, 29]));
        assert_eq!(ids("1"), (1, 0, vec![]));
        assert_eq!(who("web").unwrap().home.as_deref(), Some("/home/web"));
        assert_eq!(who("2000").unwrap().home.as_deref(), Some("/"));
        assert_eq!(who("odd").unwrap().home.as_deref(), Some("/"));
        assert_eq!(who("nohome").unwrap().home.as_deref(), Some("/"));
        assert_eq!(resolve("", b"", b"", &[]).unwrap().home.as_deref(), Some("/root"));
    }

    #[test]
    fn a_number_is_never_taken_for_a_name() {
        assert_eq!(ids("1234"), (1234, 0, vec![]), "the image calls root 1234");
        for spec in
            ["4294967296", "4294967295", "2147483648", "-1", "+1", "99999999999999999999", "web:4294967296", "0:-1"]
        {
            assert_eq!(who(spec).unwrap_err().fault(), Fault::Invalid, "{spec}");
        }
        assert_eq!(ids("2147483647"), (2_147_483_647, 0, vec![]));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for spec in ["nobody", "web:none", "wide", "minus", "short", "web\n", "#", "1000x", "0x0", " 0", "web:x:y"] {
            assert_eq!(who(spec).unwrap_err().fault(), Fault::Invalid, "{spec:?}");
        }
        let add = |name: &str| resolve("web", PASSWD, GROUP, &[name.into()]);
        assert_eq!(add("0").unwrap().additional_gids, [33, 29, 0]);
        assert_eq!(add("audio").unwrap().additional_gids, [33, 29]);
        assert!(add("none").is_err() && add("wide").is_err() && add("").is_err());
    }

    #[test]
    fn large_files_are_refused_and_long_lines_passed_over() {
        assert_eq!(resolve("x", &vec![b'a'; FILE_MAX + 1], b"", &[]).unwrap_err().fault(), Fault::Malformed);
        let mut file = vec![b'a'; LINE_MAX + 1];
        file.extend(b"\nweb:x:9:9::/:\n");
        assert_eq!(resolve("web", &file, b"", &[]).unwrap().uid, 9);
        assert!(needs_files("web", &[]) && needs_files("1:www", &[]) && needs_files("", &["x".into()]));
        assert!(!needs_files("1:2", &["3".into()]) && !needs_files("", &[]));
    }

    proptest! {
        #[test]
        fn strangers_bytes_do_no_harm(spec in "\\PC{0,12}", passwd in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(user) = resolve(&spec, &passwd, &passwd, &[]) {
                prop_assert!(user.uid <= ID_MAX && user.gid <= ID_MAX);
            }
        }

        #[test]
        fn a_numeric_user_is_itself(uid in 0_u32..=ID_MAX, name in "[0-9]{1,10}") {
            let passwd = format!("{name}:x:0:0::/root:\n");
            prop_assert_eq!(resolve(&uid.to_string(), passwd.as_bytes(), b"", &[]).unwrap().uid, uid);
        }
    }
}
