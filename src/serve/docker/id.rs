//! Ids of containers, commands and networks.

/// Makes an id: 64 hexadecimal digits.
pub(super) fn new_id() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}
