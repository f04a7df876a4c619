//! The inventory file: services and sites whose backends are in no cluster.
//!
//! The file is read whole, checked whole, and used whole: a file with one mistake changes
//! nothing. Its text becomes the same updates as a cluster's objects.

mod check;
mod file;
mod l4;
mod reader;
#[cfg(test)]
mod tests;
mod wishes;

use std::path::{Path, PathBuf};

use haflinger_core::SourceUpdate;

pub(crate) use reader::Reader;

use crate::ledger::Watched;

/// The kinds that an inventory consists of.
pub(crate) const KINDS: [Watched; 4] =
    [Watched::Services, Watched::Slices, Watched::Ingresses, Watched::Certificates];

/// A larger file is refused: 50,000 services of 300 bytes, and as much for their backends.
const INVENTORY_BYTES_MAX: u64 = 64 << 20;

/// A larger certificate or key file is refused.
const PEM_BYTES_MAX: u64 = 256 << 10;

/// Longest OCSP response that is read: those with the responder's certificates are below 4 KiB.
const OCSP_BYTES_MAX: u64 = 16 << 10;

/// Why an inventory file is not used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The file, or a certificate file that it names, cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The text is no TOML, has an unknown key, or a value of the wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value cannot be used.
    #[error("{}:{line}: {field} = {value}: {remedy}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key, with the object that it is of.
        field: String,
        /// What is written there.
        value: String,
        /// What to write.
        remedy: String,
    },
}

/// What an inventory file says, and which files it consists of.
#[derive(Debug)]
pub(crate) struct Inventory {
    pub(crate) updates: Vec<SourceUpdate>,
    /// Certificate and key files.
    pub(crate) files: Vec<PathBuf>,
}

/// Checks an inventory file and the files that it names, and does nothing else.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(path: &Path) -> Result<(), InventoryError> {
    load(path).map(|_| ())
}

/// Reads and checks the file and the certificates that it names.
pub(crate) fn load(path: &Path) -> Result<Inventory, InventoryError> {
    let text = String::from_utf8(read(path, INVENTORY_BYTES_MAX)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        InventoryError::Syntax {
            path: path.to_owned(),
            line: line_of(error.as_bytes(), at),
            message: "not UTF-8; save the file as UTF-8".to_owned(),
        }
    })?;
    let file: file::File = toml::from_str(&text).map_err(|error| InventoryError::Syntax {
        path: path.to_owned(),
        line: line_of(text.as_bytes(), error.span().map_or(0, |span| span.start)),
        message: error.message().trim().replace('\n', ", "),
    })?;
    check::Check::new(path, &text).file(&file)
}

/// Reads a regular file of at most `limit` bytes; anything else could keep the reader waiting.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, InventoryError> {
    use std::io::Read as _;
    let mut content = Vec::new();
    let regular = std::fs::metadata(path).and_then(|metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(std::io::Error::other("not a regular file")),
    });
    let result = regular
        .and_then(|()| std::fs::File::open(path))
        .and_then(|file| file.take(limit + 1).read_to_end(&mut content))
        .and_then(|bytes| {
            if bytes as u64 > limit {
                let message = format!("larger than the limit of {limit} bytes");
                return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, message));
            }
            Ok(())
        });
    match result {
        Ok(()) => Ok(content),
        Err(source) => Err(InventoryError::Read { path: path.to_owned(), source }),
    }
}

fn line_of(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|byte| **byte == b'\n').count()
}
