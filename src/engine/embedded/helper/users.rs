//! Users and groups as the files of an image name them.

use super::super::protocol::Identity;
use super::failure::{Context as _, Failure};

/// Whom a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// The user id.
    pub(super) uid: u32,
    /// The group id.
    pub(super) gid: u32,
    /// Further groups.
    pub(super) groups: Vec<u32>,
    /// The home directory.
    pub(super) home: String,
}

/// Resolves `user`, `user:group`, by name or number, in `/etc/passwd` and `/etc/group`. Where there
/// is but one owner, everybody is root.
pub(super) fn resolve(text: &str, identity: &Identity) -> Result<User, Failure> {
    let read = |path: &str| match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    };
    let passwd = read("/etc/passwd").at("read", "/etc/passwd")?;
    let group = read("/etc/group").at("read", "/etc/group")?;
    let user = look_up(text, &passwd, &group)
        .map_err(|reason| Failure::new(format!("find the user `{text}`"), reason))?;
    if identity.one_owner() {
        return Ok(User { uid: 0, gid: 0, groups: Vec::new(), ..user });
    }
    Ok(user)
}

/// Resolves a user as [`resolve`] does, with more groups.
pub(super) fn resolve_with(
    text: &str,
    groups: &[String],
    identity: &Identity,
) -> Result<User, Failure> {
    let mut user = resolve(text, identity)?;
    if identity.one_owner() || groups.is_empty() {
        return Ok(user);
    }
    let known = std::fs::read_to_string("/etc/group").unwrap_or_default();
    for group in groups {
        let named = known.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let number = group.parse().ok().or_else(|| {
            let found = named.clone().find(|fields| fields.len() >= 3 && fields[0] == group)?;
            found[2].parse().ok()
        });
        let number = number.ok_or_else(|| {
            let reason = format!("`/etc/group` does not have `{group}`");
            Failure::new(format!("find the groups of `{text}`"), reason)
        })?;
        user.groups.push(number);
    }
    Ok(user)
}

/// Finds the numbers of an owner, as `--chown` names it.
pub(super) fn owner(text: &str, passwd: &str, group: &str) -> Result<(u32, u32), String> {
    let user = look_up(text, passwd, group)?;
    // Without a group it is the user's number that is taken, as Docker does.
    let gid = match (text.contains(':'), text.parse::<u32>()) {
        (false, Ok(uid)) => uid,
        _ => user.gid,
    };
    Ok((user.uid, gid))
}

fn look_up(text: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, group_name) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6
            && (fields[0] == name || number.is_some_and(|uid| fields[2].parse() == Ok(uid)))
    });
    let (uid, own_gid, home, login) = match (&entry, number) {
        (Some(fields), _) => {
            let number = |text: &str| {
                text.parse::<u32>().map_err(|_| format!("`/etc/passwd` has no number for `{name}`"))
            };
            (number(fields[2])?, number(fields[3])?, fields[5].to_owned(), fields[0])
        }
        (None, Some(uid)) => (uid, 0, "/".to_owned(), ""),
        (None, None) => return Err("`/etc/passwd` does not have it".to_owned()),
    };
    let home = if home.is_empty() { "/".to_owned() } else { home };
    let lines: Vec<Vec<&str>> = group.lines().map(|line| line.split(':').collect()).collect();
    let gid = match group_name {
        None => own_gid,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => lines
                .iter()
                .find(|fields| fields.len() >= 3 && fields[0] == group)
                .and_then(|fields| fields[2].parse().ok())
                .ok_or_else(|| format!("`/etc/group` does not have `{group}`"))?,
        },
    };
    let member = |fields: &&Vec<&str>| {
        fields.len() >= 4 && !login.is_empty() && fields[3].split(',').any(|name| name == login)
    };
    let groups = match group_name {
        None => lines.iter().filter(member).filter_map(|fields| fields[2].parse().ok()).collect(),
        Some(_) => Vec::new(),
    };
    Ok(User { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\napp:x:1000:1001:App:/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nstaff:x:50:app,other\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let find = |text| look_up(text, PASSWD, GROUP);
        assert_eq!(find("").unwrap(), user(0, 0, &[], "/root"));
        assert_eq!(find("app").unwrap(), user(1000, 1001, &[50], "/home/app"));
        assert_eq!(find("1000").unwrap(), user(1000, 1001, &[50], "/home/app"));
        assert_eq!(find("app:staff").unwrap(), user(1000, 50, &[], "/home/app"));
        assert_eq!(find("7:8").unwrap(), user(7, 8, &[], "/"));
        assert!(find("nobody").unwrap_err().contains("/etc/passwd"));
        assert!(find("app:none").unwrap_err().contains("`none`"));
    }

    #[test]
    fn an_owner_without_a_group_has_that_of_its_number() {
        assert_eq!(owner("7", PASSWD, GROUP).unwrap(), (7, 7));
        assert_eq!(owner("app", PASSWD, GROUP).unwrap(), (1000, 1001));
        assert_eq!(owner("app:0", PASSWD, GROUP).unwrap(), (1000, 0));
    }
}
