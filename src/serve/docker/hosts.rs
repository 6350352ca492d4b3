//! The names by which containers of a network know each other. All of them lead to loopback, which the
//! members share.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::container::Container;
use super::networks::Networks;

/// Tells whether a text can be a name in `/etc/hosts`.
pub(super) fn is_name(text: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    !text.is_empty() && text.chars().all(is_letter)
}

/// Returns the names that a container knows beside its own.
fn known_to(
    container: &Container,
    networks: &Networks,
    all: &[Arc<Container>],
) -> Vec<(String, String)> {
    let mut names = BTreeSet::new();
    for (id, aliases) in networks.neighbours(container.in_networks_as()) {
        if let Some(member) = all.iter().find(|one| one.id == id) {
            names.insert(member.name());
            names.insert(member.id[..12].to_owned());
            names.extend(member.body.hostname.clone());
        }
        names.extend(aliases);
    }
    // Its host name leads to loopback anyway.
    names.remove(&container.hostname());
    let names = names.into_iter().filter(|name| is_name(name));
    let loopback = names.map(|name| (name, "127.0.0.1".to_owned()));
    container.extra_hosts.iter().cloned().chain(loopback).collect()
}

/// Tells the containers of some networks, by their ids, who is in them now.
pub(super) async fn refresh(networks: &Networks, all: &[Arc<Container>], touched: &[String]) {
    if touched.is_empty() {
        return;
    }
    // The last to write is the last to have looked.
    let _turn = networks.hosts.lock().await;
    let is_in = |one: &&Arc<Container>| {
        touched.iter().any(|network| networks.is_in(one.in_networks_as(), network))
    };
    for container in all.iter().filter(is_in) {
        // One whose session has ended needs no names.
        let _ = container.session.set_hosts(&known_to(container, networks, all)).await;
    }
}
