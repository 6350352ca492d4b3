//! Which process owns something: its id together with its start time, since ids are used again.

use std::sync::OnceLock;

fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in field 2 may hold spaces and parentheses; the start time is field 22.
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(19).map(str::to_owned)
}

/// Returns the name of this process, `<pid>-<start time>`.
pub fn owner() -> &'static str {
    static OWNER: OnceLock<String> = OnceLock::new();
    OWNER.get_or_init(|| {
        let pid = std::process::id();
        format!("{pid}-{}", start_time(pid).unwrap_or_else(|| "0".to_owned()))
    })
}

/// Tells whether the process of that name is alive on this host. A process may have several names,
/// which begin with [`owner`] and a dash.
pub fn is_alive(owner: &str) -> bool {
    let mut parts = owner.split('-');
    let (Some(pid), Some(start)) = (parts.next(), parts.next()) else { return false };
    let Ok(pid) = pid.parse() else { return false };
    start_time(pid).is_some_and(|found| found == start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_its_namesake_is_not() {
        assert!(is_alive(owner()));
        assert!(is_alive(&format!("{}-part", owner())));
        assert!(!is_alive(&format!("{}-1", std::process::id())));
        assert!(!is_alive("nonsense"));
    }
}
