//! Secrets from files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use super::text;
use crate::checked::Secret;
use crate::context::Context;

/// Bytes of a secret file at most: no key or password is longer, and a mistaken path must not
/// pull a disk into memory.
const SECRET_BYTES_MAX: u64 = 4096;

/// Others may read the file.
const WORLD_READABLE: u32 = 0o004;

/// The file's content without its line end. Reported: a file that cannot be read, that is empty
/// or too long. Warned about: one that everyone may read.
pub(crate) fn read(context: &mut Context, at: &str, written: &str) -> Option<Secret> {
    let path = text::path(context, at, written)?;
    let mut content = Vec::new();
    let opened = File::open(&path).and_then(|file| {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut content)?;
        Ok(metadata.permissions().mode())
    });
    let mode = match opened {
        Ok(mode) => mode,
        Err(error) => {
            let what = format!("{} cannot be read: {error}", path.display());
            let remedy = "create the file, owned by root, group haflinger, mode 0640";
            context.refuse(at, &what, remedy);
            return None;
        }
    };
    if mode & WORLD_READABLE != 0 {
        let what = format!("everyone may read {} (mode {:04o})", path.display(), mode & 0o7777);
        context.warn(at, &what, &format!("chmod o-rwx {}", path.display()));
    }
    while content.last().is_some_and(|byte| *byte == b'\n' || *byte == b'\r') {
        content.pop();
    }
    if content.is_empty() {
        context.refuse(at, "the file is empty", "write the secret into it, on one line");
        return None;
    }
    if content.len() as u64 > SECRET_BYTES_MAX {
        let what = format!("the file holds more than {SECRET_BYTES_MAX} bytes");
        context.refuse(at, &what, "name a file that holds the secret alone");
        return None;
    }
    Some(Secret(content))
}
