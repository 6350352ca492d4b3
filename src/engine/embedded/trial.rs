//! The smallest program, to try containers with before there is an image.

use std::fs;
use std::io;
use std::path::Path;

/// Where the program is in its layer.
pub(super) const PROGRAM: &str = "/trial";

/// Instructions of this machine that end a process with code 0.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x31, 0xff, // xor edi, edi
    0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, 60 (exit)
    0x0f, 0x05, // syscall
];
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, // mov x0, #0
    0xa8, 0x0b, 0x80, 0xd2, // mov x8, #93 (exit)
    0x01, 0x00, 0x00, 0xd4, // svc #0
];

/// The number of this machine in an ELF header.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// Where the program is loaded.
const ADDRESS: u64 = 0x40_0000;

/// Makes a layer that has the program.
pub(super) fn write(layer: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    fs::DirBuilder::new().mode(0o755).create(layer)?;
    let path = layer.join(PROGRAM.trim_start_matches('/'));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o755).open(path)?;
    io::Write::write_all(&mut file, &program())
}

/// Returns the program: an ELF header, one segment, the code; see `elf(5)`.
fn program() -> Vec<u8> {
    const HEADER: u16 = 64;
    const SEGMENT: u16 = 56;
    let start = u64::from(HEADER + SEGMENT);
    let size = start + CODE.len() as u64;
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    bytes.resize(16, 0);
    let short = |bytes: &mut Vec<u8>, value: u16| bytes.extend(value.to_le_bytes());
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: u64| bytes.extend(value.to_le_bytes());
    // An executable of version 1, its entry, its segments behind this header, no sections, no flags.
    short(&mut bytes, 2);
    short(&mut bytes, MACHINE);
    word(&mut bytes, 1);
    for value in [ADDRESS + start, u64::from(HEADER), 0] {
        long(&mut bytes, value);
    }
    word(&mut bytes, 0);
    for value in [HEADER, SEGMENT, 1, 0, 0, 0] {
        short(&mut bytes, value);
    }
    // A segment to load, readable and executable: the whole file, aligned to a large page.
    word(&mut bytes, 1);
    word(&mut bytes, 5);
    for value in [0, ADDRESS, ADDRESS, size, size, 0x1_0000] {
        long(&mut bytes, value);
    }
    bytes.extend(CODE);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_ends_well() {
        let directory = tempfile::tempdir().unwrap();
        let layer = directory.path().join("layer");
        write(&layer).unwrap();
        let status = std::process::Command::new(layer.join("trial")).status().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}
