//! The state of one source on disk, so that the daemon boots without the API.
//!
//! An append-only file: a header, then one checked frame for each change, the last frame of
//! an object being what holds. So a change costs what the change is, not what the world is.
//! When more than half of the file is outdated it is written anew beside and renamed. Only the
//! blocking pool touches it. The file holds private keys: it is readable by its owner alone.
//!
//! ```text
//! header   "HFLSTATE" | u32 version | frame('S' source name)
//! frame    u32 length of payload | u32 CRC-32 of payload | payload
//! payload  'U' JSON of a SourceUpdate | 'W' every kind has been listed once
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use haflinger_core::{SourceId, SourceUpdate};

use crate::ledger::{Key, is_gone};

const MAGIC: &[u8; 8] = b"HFLSTATE";

/// Rises when a frame's meaning changes, or a [`SourceUpdate`] that older releases cannot read.
const VERSION: u32 = 3;

/// The oldest version whose frames are still read. Frames of version 1 know no forwarding mode,
/// algorithm, limit, timeout or backup: services that ask for none. Those of version 2 know no
/// namespace, no sharing and no objects of pod networks.
const VERSION_MIN: u32 = 1;

/// A larger file is refused: four times 50,000 services with 250,000 backends.
const STATE_BYTES_MAX: u64 = 1 << 30;

/// Outdated bytes below which rewriting is not worth it.
const COMPACTION_FLOOR_BYTES: u64 = 1 << 20;

const FRAME_HEADER_BYTES: usize = 8;
const SOURCE_TAG: u8 = b'S';
const UPDATE_TAG: u8 = b'U';
const WHOLE_TAG: u8 = b'W';

/// Why a state file is not used. The daemon then waits for the first list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("state file cannot be read")]
    Read(#[source] io::Error),
    #[error("state file of {0} bytes is larger than the limit of {STATE_BYTES_MAX}")]
    TooLarge(u64),
    #[error("not a state file of this product")]
    Foreign,
    #[error("state file has version {0}, this release reads up to version {VERSION}")]
    Version(u32),
    #[error("state file belongs to source {0:?}")]
    OtherSource(String),
    #[error("state file is damaged at byte {0}")]
    Damaged(usize),
}

/// What an earlier run knew.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Each object's last update and its written form.
    pub(crate) updates: Vec<(SourceUpdate, Vec<u8>)>,
    /// Every kind had been listed once.
    pub(crate) whole: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    bytes: u32,
}

/// Changes that wait for the disk. Keyed, so that it never exceeds the number of objects,
/// however long the disk refuses.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) changes: HashMap<Key, (Vec<u8>, bool)>,
    /// Bytes of these changes.
    bytes: usize,
    /// Every kind has been listed once.
    pub(crate) whole: bool,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.whole
    }

    /// Remembers the newest written form of an object.
    pub(crate) fn add(&mut self, key: Key, written: Vec<u8>, gone: bool) {
        self.bytes += written.len();
        if let Some((former, _)) = self.changes.insert(key, (written, gone)) {
            self.bytes -= former.len();
        }
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts back what could not be written; newer changes win.
    pub(crate) fn put_back(&mut self, older: Self) {
        for (key, change) in older.changes {
            if let Entry::Vacant(vacant) = self.changes.entry(key) {
                self.bytes += change.0.len();
                vacant.insert(change);
            }
        }
        self.whole |= older.whole;
    }
}

/// An open state file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    source: SourceId,
    file: Option<File>,
    /// Bytes that are known to be good.
    length: u64,
    live_bytes: u64,
    places: HashMap<Key, Place>,
    whole: bool,
    /// The header tells an older version than what is written from now on.
    outdated: bool,
}

impl Store {
    /// The state file of a source in `directory`.
    pub(crate) fn path(directory: &Path, source: &SourceId) -> PathBuf {
        // Names of clusters are checked by the configuration; this keeps the path flat anyway.
        let name: String = source
            .as_str()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .collect();
        directory.join(format!("discovery-{name}.state"))
    }

    /// Reads what is there, and opens it for further changes. A file that cannot be used is
    /// set aside under the extension `refused` and a new one is begun.
    pub(crate) fn open(
        directory: &Path,
        source: &SourceId,
    ) -> (Self, Restored, Option<RestoreError>) {
        let path = Self::path(directory, source);
        let mut store = Self {
            path,
            source: source.clone(),
            file: None,
            length: 0,
            live_bytes: 0,
            places: HashMap::new(),
            whole: false,
            outdated: false,
        };
        match store.restore() {
            Ok(restored) => (store, restored, None),
            Err(error) => {
                store.places.clear();
                store.outdated = false;
                (store.length, store.live_bytes, store.whole, store.file) = (0, 0, false, None);
                // Best effort: if it cannot be moved, the first write replaces it.
                let _ = std::fs::rename(&store.path, store.path.with_extension("refused"));
                (store, Restored::default(), Some(error))
            }
        }
    }

    fn restore(&mut self) -> Result<Restored, RestoreError> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Restored::default()),
            Err(error) => return Err(RestoreError::Read(error)),
        };
        let size = file.metadata().map_err(RestoreError::Read)?.len();
        if size > STATE_BYTES_MAX {
            return Err(RestoreError::TooLarge(size));
        }
        let content = std::fs::read(&self.path).map_err(RestoreError::Read)?;
        let frames = self.check_header(&content)?;
        let mut latest: HashMap<Key, (SourceUpdate, Vec<u8>)> = HashMap::new();
        let mut at = frames;
        while let Some(payload) = frame(&content, at)? {
            match payload.split_first() {
                Some((&UPDATE_TAG, json)) => {
                    let update: SourceUpdate =
                        serde_json::from_slice(json).map_err(|_| RestoreError::Damaged(at))?;
                    let key = Key::of(&update);
                    self.place(key.clone(), at, payload.len(), is_gone(&update));
                    if is_gone(&update) {
                        latest.remove(&key);
                    } else {
                        latest.insert(key, (update, json.to_vec()));
                    }
                }
                Some((&WHOLE_TAG, [])) => self.whole = true,
                _ => return Err(RestoreError::Damaged(at)),
            }
            at += FRAME_HEADER_BYTES + payload.len();
        }
        self.length = at as u64;
        self.file = Some(file);
        Ok(Restored { updates: latest.into_values().collect(), whole: self.whole })
    }

    fn check_header(&mut self, content: &[u8]) -> Result<usize, RestoreError> {
        let rest = content.strip_prefix(MAGIC).ok_or(RestoreError::Foreign)?;
        let version = rest.first_chunk::<4>().ok_or(RestoreError::Foreign)?;
        let version = u32::from_le_bytes(*version);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(RestoreError::Version(version));
        }
        self.outdated = version != VERSION;
        let at = MAGIC.len() + 4;
        let payload = frame(content, at)?.ok_or(RestoreError::Damaged(at))?;
        match payload.split_first() {
            Some((&SOURCE_TAG, name)) if name == self.source.as_str().as_bytes() => {
                Ok(at + FRAME_HEADER_BYTES + payload.len())
            }
            Some((&SOURCE_TAG, name)) => {
                Err(RestoreError::OtherSource(String::from_utf8_lossy(name).into_owned()))
            }
            _ => Err(RestoreError::Damaged(at)),
        }
    }

    fn place(&mut self, key: Key, at: usize, payload: usize, gone: bool) {
        let bytes = FRAME_HEADER_BYTES + payload;
        let former = if gone {
            self.places.remove(&key)
        } else {
            // Bounded by STATE_BYTES_MAX.
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.live_bytes += u64::from(bytes);
            self.places.insert(key, Place { at: at as u64, bytes })
        };
        self.live_bytes -= former.map_or(0, |place| u64::from(place.bytes));
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.length
    }

    /// Writes a batch and waits for the disk. After an error the file holds what it held.
    ///
    /// # Errors
    /// What the file system said. The caller keeps the batch and tries again later.
    pub(crate) fn append(&mut self, batch: &Batch) -> io::Result<()> {
        if self.file.is_none() {
            self.begin()?;
        }
        let mut bytes = Vec::new();
        let mut placed = Vec::with_capacity(batch.changes.len());
        for (key, (written, gone)) in &batch.changes {
            placed.push((key, bytes.len(), written.len() + 1, *gone));
            push_frame(&mut bytes, UPDATE_TAG, written)?;
        }
        if batch.whole && !self.whole {
            push_frame(&mut bytes, WHOLE_TAG, &[])?;
        }
        if let Some(file) = &self.file {
            if self.outdated {
                // First, so that no release meets a frame that it cannot read under a version
                // that it can. Four bytes within a sector are written whole.
                file.write_all_at(&VERSION.to_le_bytes(), MAGIC.len() as u64)?;
                file.sync_data()?;
                self.outdated = false;
            }
            // Cuts off what an earlier, failed attempt may have left.
            file.set_len(self.length)?;
            file.write_all_at(&bytes, self.length)?;
            file.sync_data()?;
        }
        let start = usize::try_from(self.length).map_err(io::Error::other)?;
        for (key, at, payload, gone) in placed {
            self.place(key.clone(), start + at, payload, gone);
        }
        self.length += bytes.len() as u64;
        self.whole |= batch.whole;
        let outdated = self.length.saturating_sub(self.live_bytes);
        if outdated > self.live_bytes && outdated > COMPACTION_FLOOR_BYTES {
            self.compact()?;
        }
        Ok(())
    }

    fn header(&self) -> io::Result<Vec<u8>> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        push_frame(&mut header, SOURCE_TAG, self.source.as_str().as_bytes())?;
        Ok(header)
    }

    fn begin(&mut self) -> io::Result<()> {
        let header = self.header()?;
        self.file = Some(replace(&self.path, |file| file.write_all(&header))?);
        self.length = header.len() as u64;
        Ok(())
    }

    /// Writes the live frames into a new file and renames it over the old one.
    fn compact(&mut self) -> io::Result<()> {
        let Some(old) = &self.file else { return Ok(()) };
        let mut content = self.header()?;
        let mut order: Vec<(&Key, Place)> =
            self.places.iter().map(|(key, place)| (key, *place)).collect();
        order.sort_unstable_by_key(|(_, place)| place.at);
        let mut places = HashMap::with_capacity(order.len());
        let mut length = content.len() as u64;
        let mut whole = Vec::new();
        if self.whole {
            push_frame(&mut whole, WHOLE_TAG, &[])?;
        }
        let file = replace(&self.path, |file| {
            let mut out = io::BufWriter::new(file);
            out.write_all(&content)?;
            for (key, place) in order {
                content.resize(place.bytes as usize, 0);
                old.read_exact_at(&mut content, place.at)?;
                out.write_all(&content)?;
                places.insert(key.clone(), Place { at: length, bytes: place.bytes });
                length += u64::from(place.bytes);
            }
            out.write_all(&whole)?;
            length += whole.len() as u64;
            out.flush()
        })?;
        (self.file, self.places, self.length) = (Some(file), places, length);
        Ok(())
    }
}

/// Writes a file beside `path`, waits for the disk, and renames it over `path`.
fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<File> {
    let temporary = path.with_extension("tmp");
    // One left by a crash may have another mode.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
    write(&mut file)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

fn push_frame(bytes: &mut Vec<u8>, tag: u8, content: &[u8]) -> io::Result<()> {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&[tag]);
    checksum.update(content);
    let length = u32::try_from(content.len() + 1).map_err(io::Error::other)?;
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum.finalize().to_le_bytes());
    bytes.push(tag);
    bytes.extend(content);
    Ok(())
}

/// The payload of the frame at `at`; `None` at the end. A frame that a crash cut short, or
/// whose bytes never reached the disk and read as zeros, is the end too: all before it stands.
fn frame(content: &[u8], at: usize) -> Result<Option<&[u8]>, RestoreError> {
    let rest = content.get(at..).unwrap_or_default();
    let Some((header, rest)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length == 0 {
        let untouched = rest.iter().all(|byte| *byte == 0);
        return if untouched { Ok(None) } else { Err(RestoreError::Damaged(at)) };
    }
    let Some(payload) = rest.get(..length) else {
        // A length that was flipped looks like a cut too; but then something whole comes after.
        return if frame_follows(rest) { Err(RestoreError::Damaged(at)) } else { Ok(None) };
    };
    if crc32fast::hash(payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(RestoreError::Damaged(at));
    }
    Ok(Some(payload))
}

/// Whether a whole frame begins anywhere in these bytes. Text is never taken for a length: four of
/// its characters make one beyond any file's end.
fn frame_follows(bytes: &[u8]) -> bool {
    bytes.windows(FRAME_HEADER_BYTES + 1).enumerate().any(|(at, window)| {
        let [l0, l1, l2, l3, c0, c1, c2, c3, tag] = *window else { return false };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let payload = at + FRAME_HEADER_BYTES;
        matches!(tag, UPDATE_TAG | WHOLE_TAG)
            && bytes.get(payload..payload.saturating_add(length)).is_some_and(|payload| {
                !payload.is_empty()
                    && crc32fast::hash(payload) == u32::from_le_bytes([c0, c1, c2, c3])
            })
    })
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
