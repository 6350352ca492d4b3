//! What root may do in a container, as a bit for each capability.

/// Capabilities by their numbers; see `capabilities(7)`.
const fn capabilities(numbers: &[u32]) -> u64 {
    let (mut set, mut at) = (0, 0);
    while at < numbers.len() {
        set |= 1 << numbers[at];
        at += 1;
    }
    set
}

/// What tests that run as root need: to change owners, users and modes of files, to bind low ports,
/// to signal processes. The same as on Docker.
pub(super) const SANDBOX: u64 = capabilities(&[0, 1, 3, 4, 5, 6, 7, 10]);

/// Docker's default set, but for device nodes.
pub(super) const DEFAULT: u64 = capabilities(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 29, 31]);
