//! Capabilities by their names.

/// Those that the root of a session has.
const GIVEN: [(&str, u32); 8] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("NET_BIND_SERVICE", 10),
];

fn plain(name: &str) -> String {
    let name = name.to_uppercase();
    name.strip_prefix("CAP_").unwrap_or(&name).to_owned()
}

/// Returns which of the asked-for capabilities the root of a session does not have.
pub(super) fn not_given(wanted: &[String]) -> Vec<&String> {
    let is_given = |name: &str| GIVEN.iter().any(|(known, _)| *known == name);
    wanted.iter().filter(|name| !is_given(&plain(name))).collect()
}

/// Returns the dropped capabilities as a bit for each; those that nobody has need no bit. What is
/// dropped with all and asked for by name stays.
pub(super) fn dropped(dropped: &[String], added: &[String]) -> u64 {
    let names = |list: &[String]| list.iter().map(|name| plain(name)).collect::<Vec<_>>();
    let (dropped, added) = (names(dropped), names(added));
    let all = dropped.iter().any(|name| name == "ALL");
    let is_dropped = |name: &&str| {
        let by_name = dropped.iter().any(|one| one == name);
        by_name || (all && !added.iter().any(|one| one == name))
    };
    let bits = GIVEN.iter().filter(|(name, _)| is_dropped(name)).map(|(_, bit)| 1 << bit);
    bits.fold(0, |set: u64, bit: u64| set | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn all_can_be_dropped_but_what_is_named() {
        assert_eq!(dropped(&list(&["ALL"]), &[]), 0b100_1111_1011);
        assert_eq!(dropped(&list(&["all"]), &list(&["CAP_CHOWN"])), 0b100_1111_1010);
        assert_eq!(dropped(&list(&["CAP_KILL", "NET_RAW"]), &[]), 1 << 5);
        assert_eq!(not_given(&list(&["SYS_ADMIN", "chown"])), [&"SYS_ADMIN".to_owned()]);
    }
}
