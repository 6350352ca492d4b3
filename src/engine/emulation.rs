//! Programs of another platform: whether an engine runs them, and what the kernel has registered
//! for that (<https://docs.kernel.org/admin-guide/binfmt-misc.html>).
//!
//! What is registered is only a promise: an interpreter that containers do not find is registered,
//! too. So a small program is run in a container, on every engine in the same way.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Engine, EngineError, Image, ImageConfig, LayerFile, LayerRequest, NoLog, label};
use crate::key::Digest;
use crate::platform::Platform;

/// Where the kernel shows its handlers.
pub(crate) const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// The exit code of the program that is run.
const CODE: i64 = 42;

/// A handler for programs of another platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handler {
    /// Its name, such as `qemu-aarch64`.
    pub name: String,
    /// The program that runs the others.
    pub interpreter: String,
    /// Whether the kernel holds the interpreter open (`F`): containers do not have its file.
    pub held: bool,
}

/// Returns the program of a platform that does nothing but end with [`CODE`]; `None` where it is not
/// known how that is written.
fn program(platform: &Platform) -> Option<Vec<u8>> {
    let (machine, code): (u16, &[u8]) = match platform.architecture() {
        // mov eax, 60; mov edi, 42; syscall
        "amd64" => (0x3e, &[0xb8, 60, 0, 0, 0, 0xbf, CODE as u8, 0, 0, 0, 0x0f, 0x05]),
        // mov x0, #42; mov x8, #93; svc #0
        "arm64" => {
            (0xb7, &[0x40, 0x05, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4])
        }
        _ => return None,
    };
    const ADDRESS: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend(2_u16.to_le_bytes());
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    elf.extend((ADDRESS + HEADERS).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend(0_u64.to_le_bytes());
    elf.extend(0_u32.to_le_bytes());
    for field in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(field.to_le_bytes());
    }
    // One segment, read and run, aligned for the largest pages.
    elf.extend(1_u32.to_le_bytes());
    elf.extend(5_u32.to_le_bytes());
    for field in [0, ADDRESS, ADDRESS, size, size, 0x1_0000] {
        elf.extend(u64::to_le_bytes(field));
    }
    elf.extend(code);
    Some(elf)
}

/// Lists the handlers of a directory that are switched on and take programs of a platform.
pub(crate) fn handlers(directory: &Path, platform: &Platform) -> Vec<Handler> {
    let Some(program) = program(platform) else { return Vec::new() };
    let on = std::fs::read_to_string(directory.join("status"));
    if on.is_ok_and(|status| status.trim() == "disabled") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(text) = std::fs::read_to_string(entry.path())
            && let Some(handler) = handler(&name, &text, &program)
        {
            found.push(handler);
        }
    }
    found.sort_by(|one, two| one.name.cmp(&two.name));
    found
}

/// Reads what the kernel shows of a handler, if it is switched on and takes the program.
fn handler(name: &str, text: &str, program: &[u8]) -> Option<Handler> {
    let mut lines = text.lines();
    if lines.next()? != "enabled" {
        return None;
    }
    let fields: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(' ')).collect();
    let interpreter = (*fields.get("interpreter")?).to_owned();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("");
    let offset: usize = fields.get("offset")?.parse().ok()?;
    let magic = hex::decode(fields.get("magic")?).ok()?;
    let mask = match fields.get("mask") {
        Some(mask) => hex::decode(mask).ok()?,
        None => vec![0xff; magic.len()],
    };
    let start = program.get(offset..offset + magic.len())?;
    let takes = start
        .iter()
        .zip(&magic)
        .zip(&mask)
        .all(|((byte, magic), mask)| byte & mask == magic & mask);
    takes.then(|| Handler { name: name.to_owned(), interpreter, held: flags.contains('F') })
}

/// Tells whether programs of a platform run on this very machine.
pub(crate) fn runs_here(platform: &Platform, directory: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(program) = program(platform) else { return Ok(false) };
    let path = directory.join("probe");
    std::fs::write(&path, program)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    let status = std::process::Command::new(&path).status();
    std::fs::remove_file(&path)?;
    Ok(status.is_ok_and(|status| status.code() == Some(CODE as i32)))
}

/// Tells whether an engine runs programs of a platform, by running one. `owner` marks the image of
/// it, see [`label::SCRATCH`]; `directory` is for its layer.
pub(crate) async fn runs(
    engine: &dyn Engine,
    platform: &Platform,
    owner: &str,
    directory: &Path,
) -> super::Result<bool> {
    let Some(program) = program(platform) else { return Ok(false) };
    let path = directory.join("probe.tar");
    let layer = write_layer(&path, &program)
        .map_err(|source| EngineError::File { path: path.clone(), source })?;
    let tag = format!("imgforge/scratch:probe-{:016x}", rand::random::<u64>());
    let request = LayerRequest {
        parent: Image { platform: platform.clone(), ..Image::default() },
        layers: vec![layer],
        config: ImageConfig {
            labels: [(label::SCRATCH.to_owned(), owner.to_owned())].into(),
            ..ImageConfig::default()
        },
        tags: vec![tag.clone()],
    };
    engine.load(&request).await?;
    let ran = engine.run(&tag, &["/bin/sh".to_owned()], &NoLog).await;
    engine.remove(&tag).await?;
    match ran {
        Ok(code) => Ok(code == CODE),
        Err(error) if error.is_transient() => Err(error),
        // That a container does not start is the answer.
        Err(_) => Ok(false),
    }
}

/// Writes a layer that has the program where engines look for a shell.
fn write_layer(path: &Path, program: &[u8]) -> std::io::Result<LayerFile> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, bytes) in
        [("bin/", tar::EntryType::Directory, &[][..]), ("bin/sh", tar::EntryType::Regular, program)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes)?;
    }
    let bytes = archive.into_inner()?;
    std::fs::write(path, &bytes)?;
    Ok(LayerFile { path: path.to_owned(), diff_id: Digest::of(&bytes), size: bytes.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux shows of the handlers of Debian's `qemu-user-binfmt`.
    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\n\
                         flags: POCF\noffset 0\n\
                         magic 7f454c460201010000000000000000000200b700\n\
                         mask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_handler_is_found_by_what_it_takes_and_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let found = |text: &str| -> Vec<(String, bool)> {
            let found = handlers(dir.path(), &platform(text));
            found.into_iter().map(|one| (one.name, one.held)).collect()
        };
        write("register", "");
        write("status", "enabled\n");
        write("qemu-riscv64", &ARM64.replace("b700", "f300"));
        write(
            "python3.11",
            "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n",
        );
        write("jar", "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n");
        assert_eq!(found("linux/arm64"), []);
        write("other", ARM64);
        assert_eq!(found("linux/arm64"), [("other".to_owned(), true)]);
        assert_eq!(found("linux/amd64"), []);
        write("other", &ARM64.replace("POCF", "OC"));
        assert_eq!(found("linux/arm64"), [("other".to_owned(), false)]);
        write("other", &ARM64.replace("enabled", "disabled"));
        assert_eq!(found("linux/arm64"), []);
        write("other", ARM64);
        write("status", "disabled\n");
        assert_eq!(found("linux/arm64"), []);
        assert_eq!(handlers(&dir.path().join("absent"), &platform("linux/arm64")), []);
    }

    #[test]
    fn a_program_of_this_machine_runs_here() {
        let dir = tempfile::tempdir().unwrap();
        assert!(runs_here(&Platform::host(), dir.path()).unwrap());
        assert!(!runs_here(&platform("linux/mips"), dir.path()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
