//! What a configuration is read from.

use std::path::{Path, PathBuf};

use figment::value::Value;
use serde::Serialize;

use crate::layer::{self, Layer};
use crate::problem::{Place, Problem};

/// Variables of this prefix belong to the configuration; two underscores stand for a dot:
/// `HAFLINGER_BGP__LOCAL_AS` is `bgp.local_as`.
pub const ENVIRONMENT_PREFIX: &str = "HAFLINGER_";

/// Variables of that prefix that the command line reads itself.
pub const ENVIRONMENT_RESERVED: &[&str] = &["HAFLINGER_CONFIG"];

/// Bytes of a configuration file at most: a thousand times what a large site writes.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where the file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource {
    /// The shipped default.
    Embedded,
    /// A file.
    Path(PathBuf),
    /// A text at hand. Relative paths in it are relative to the working directory.
    Text {
        /// What messages call it.
        name: String,
        /// The text.
        text: String,
    },
}

/// A value from the command line. It is stronger than file and environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    flag: String,
    key: String,
    value: FlagValue,
}

#[derive(Clone, Debug, PartialEq)]
enum FlagValue {
    Typed(Result<Value, String>),
    Text(String),
}

impl Flag {
    /// The flag `flag` (such as `--admin-listen`) sets the key at the dotted path `key`.
    pub fn new(flag: &str, key: &str, value: impl Serialize) -> Self {
        let value = Value::serialize(value).map_err(|error| error.to_string());
        Self { flag: flag.into(), key: key.into(), value: FlagValue::Typed(value) }
    }

    /// A flag that was typed as text: `--set bgp.local_as=64512`.
    pub fn text(flag: &str, key: &str, value: &str) -> Self {
        Self { flag: flag.into(), key: key.into(), value: FlagValue::Text(value.into()) }
    }
}

/// Everything that a configuration is read from, weakest first: file, environment, flags.
#[derive(Clone, Debug, PartialEq)]
pub struct Sources {
    /// The file.
    pub file: FileSource,
    /// Variables with their values; those without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Flags, later ones stronger.
    pub flags: Vec<Flag>,
    /// The kernel's host name, the default of `host.name`.
    pub host_name: String,
}

impl Sources {
    /// The file with the environment and host name of this process, and no flag.
    pub fn system(file: FileSource) -> Self {
        let environment = std::env::vars_os()
            .map(|(name, value)| {
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })
            .collect();
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host_name = host_name.trim().to_owned();
        Self { file, environment, flags: Vec::new(), host_name }
    }

    /// Only a text, as on a host named `edge-1` without variables and flags.
    pub fn text(name: &str, text: &str) -> Self {
        Self {
            file: FileSource::Text { name: name.into(), text: text.into() },
            environment: Vec::new(),
            flags: Vec::new(),
            host_name: "edge-1".into(),
        }
    }

    /// The directory to which relative paths in the file are relative.
    pub(crate) fn directory(&self) -> PathBuf {
        match &self.file {
            FileSource::Path(path) => path.parent().unwrap_or(Path::new("")).to_path_buf(),
            _ => PathBuf::new(),
        }
    }

    /// The layers, weakest first.
    pub(crate) fn layers(&self, problems: &mut Vec<Problem>) -> Vec<Layer> {
        let mut layers = vec![self.file_layer(problems)];
        for (variable, raw) in &self.environment {
            let Some(key) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            if ENVIRONMENT_RESERVED.contains(&variable.as_str()) {
                continue;
            }
            let path: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
            let place = Place::Environment { variable: variable.clone() };
            if is_sound(&path, raw, place, problems) {
                layers.push(Layer::environment(variable, &path, raw));
            }
        }
        for flag in &self.flags {
            layers.extend(flag_layer(flag, problems));
        }
        layers.into_iter().enumerate().map(|(index, layer)| layer.at(index)).collect()
    }

    fn file_layer(&self, problems: &mut Vec<Problem>) -> Layer {
        match &self.file {
            FileSource::Embedded => Layer::file("the shipped default", crate::DEFAULT, problems),
            FileSource::Text { name, text } => Layer::file(name, text, problems),
            FileSource::Path(path) => {
                let name = path.display().to_string();
                let text = read(path).unwrap_or_else(|(what, remedy)| {
                    problems.push(Problem {
                        place: Place::File {
                            name: name.clone(),
                            line: 1,
                            column: 1,
                            text: None,
                            width: 1,
                        },
                        field: String::new(),
                        value: None,
                        what,
                        remedy,
                    });
                    String::new()
                });
                Layer::file(&name, &text, problems)
            }
        }
    }
}

fn flag_layer(flag: &Flag, problems: &mut Vec<Problem>) -> Option<Layer> {
    let path: Vec<String> = flag.key.split('.').map(str::to_owned).collect();
    let place = Place::Flag { flag: flag.flag.clone() };
    match &flag.value {
        FlagValue::Text(raw) => is_sound(&path, raw, place, problems)
            .then(|| Layer::flag(&flag.flag, &path, layer::parse_text(raw), Some(raw.clone()))),
        FlagValue::Typed(Ok(value)) => is_sound(&path, "", place, problems)
            .then(|| Layer::flag(&flag.flag, &path, value.clone(), None)),
        FlagValue::Typed(Err(error)) => {
            problems.push(Problem {
                place,
                field: flag.key.clone(),
                value: None,
                what: format!("the value cannot be used: {error}"),
                remedy: "give a plain value".into(),
            });
            None
        }
    }
}

/// Whether a variable or flag can be taken at all.
fn is_sound(path: &[String], raw: &str, place: Place, problems: &mut Vec<Problem>) -> bool {
    let (what, remedy) = if path.iter().any(String::is_empty) {
        ("it names no key", "write HAFLINGER_SECTION__KEY, or section.key in a flag".to_owned())
    } else if path.len() > layer::NESTING_MAX || layer::is_unreasonable(raw) {
        let remedy = format!("write at most {} bytes, or use the file", layer::TEXT_BYTES_MAX);
        ("it is too long or nested too deep", remedy)
    } else {
        return true;
    };
    problems.push(Problem { place, field: String::new(), value: None, what: what.into(), remedy });
    false
}

fn read(path: &Path) -> Result<String, (String, String)> {
    use std::io::Read;
    let wrong = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "name a file that exists (`haflinger config default` prints one to begin with)"
            }
            std::io::ErrorKind::PermissionDenied => "let this user read the file",
            std::io::ErrorKind::InvalidData => "save the file as UTF-8",
            _ => "name a regular file",
        };
        (format!("the file cannot be read: {error}"), remedy.to_owned())
    };
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("the file has more than {FILE_BYTES_MAX} bytes");
        return Err((what, "name a configuration file".into()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let what = format!("the file is not UTF-8 from line {line} on");
        (what, "save the file as UTF-8".to_owned())
    })
}
