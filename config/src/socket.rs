//! Where the command line finds the daemon when the file has been refused.

use std::path::{Path, PathBuf};

/// The name of the socket in `host.run_dir`.
pub(crate) const SOCKET_NAME: &str = "admin.sock";

/// What the file says of the administrative socket, whatever else is wrong with it: `admin.socket`,
/// or `host.run_dir` with the default name. `None` when it says neither, or is no TOML at all.
/// Environment and flags are not looked at.
pub fn socket_of(file: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(file).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let text_at = |section: &str, key: &str| Some(table.get(section)?.get(key)?.as_str()?.into());
    let beside = file.parent().unwrap_or(Path::new(""));
    let in_run_dir = || text_at("host", "run_dir").map(|d: PathBuf| d.join(SOCKET_NAME));
    text_at("admin", "socket").or_else(in_run_dir).map(|path| beside.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_other_mistakes_still_names_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bad.toml");
        let cases = [
            ("[admin]\nsocket = \"/run/a.sock\"\n[bgp]\nlocal_as = 0\n", Some("/run/a.sock")),
            ("[host]\nrun_dir = \"/run/h\"\nnonsense = 1\n", Some("/run/h/admin.sock")),
            ("[bgp]\nlocal_as = 0\n", None),
            ("[admin\n", None),
        ];
        for (text, socket) in cases {
            std::fs::write(&file, text).unwrap();
            assert_eq!(socket_of(&file).as_deref(), socket.map(Path::new), "{text}");
        }
    }
}
