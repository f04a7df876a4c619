//! The archive format of an initramfs: cpio, "newc" (Linux, Documentation/driver-api/early-
//! userspace/buffer-format.rst). Never compressed: the machine that reads it is next door.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// Every header and every body begins at a multiple of this many bytes.
const ALIGNMENT: usize = 4;
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TRAILER: &str = "TRAILER!!!";

/// Writes entries one after the other; [`finish`](Self::finish) makes the archive whole.
pub(crate) struct Archive<W> {
    out: W,
    entries: u32,
    written: usize,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0, written: 0, directories: BTreeSet::new() }
    }

    /// A file that may be executed, with the directories above it.
    pub(crate) fn file(&mut self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        for above in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let name = above.display().to_string();
            if !name.is_empty() && self.directories.insert(name.clone()) {
                self.entry(&name, DIRECTORY, &[])?;
            }
        }
        self.entry(&path.display().to_string(), PROGRAM, contents)
    }

    /// The end mark.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry(TRAILER, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let too_large = |_| io::Error::other(format!("{name} is larger than an archive can hold"));
        let size = u32::try_from(contents.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        let (inode, links, nothing) = (self.entries, 1, 0);
        let fields = [
            inode, mode, nothing, nothing, links, nothing, size, nothing, nothing, nothing,
            nothing, name_size, nothing,
        ];
        let header: String = std::iter::once("070701".to_owned())
            .chain(fields.map(|f| format!("{f:08x}")))
            .collect();
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(contents)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let over = self.written % ALIGNMENT;
        if over > 0 {
            self.put(&[0; ALIGNMENT][over..])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_directories_before_files_and_ends_with_a_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/a/b/program"), b"seven..").unwrap();
        archive.file(Path::new("/a/b/other"), b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let text = String::from_utf8(bytes).unwrap();
        let names: Vec<_> = text
            .match_indices("070701")
            .map(|(at, _)| text[at + 110..].split('\0').next().unwrap())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/program", "a/b/other", TRAILER]);
        assert!(text.contains("seven..\0"));
        // Field seven is the size, field twelve the length of the name with its end.
        assert_eq!(&text[text.find("a/b/program").unwrap() - 110 + 54..][..8], "00000007");
    }
}
