//! The programs that run in the guest.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// Whose tests need a kernel.
const PACKAGE: &str = "haflinger-xdp";

/// Our own program that proves the machine itself; beside this one.
pub(crate) fn smoke() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("guest");
    ensure!(path.exists(), "{} is missing: build this package", path.display());
    Ok(path)
}

/// The test programs of the data path. Asks cargo about the whole workspace, as the step before
/// has built it: a package by itself would be built again with other features.
pub(crate) fn built_by_cargo(checkout: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--workspace", "--all-targets", "--no-run", "--locked"])
        .arg("--message-format=json")
        .current_dir(checkout)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    ensure!(output.status.success(), "the tests cannot be built");
    let text = String::from_utf8_lossy(&output.stdout);
    let programs: Vec<PathBuf> = text.lines().filter_map(test_program).collect();
    if programs.is_empty() {
        bail!("{PACKAGE} has no test program in appliance/xdp/tests");
    }
    Ok(programs)
}

/// The executable of a message about an integration test of the package.
fn test_program(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let is_test = target.get("kind")?.as_array()?.iter().any(|kind| kind == "test");
    let source = target.get("src_path")?.as_str()?;
    let is_ours = is_test && source.contains("/appliance/xdp/tests/");
    message.get("executable")?.as_str().filter(|_| is_ours).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, source: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","executable":"/t/deps/load-1",
               "target":{{"kind":["{kind}"],"src_path":"{source}"}}}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn the_integration_tests_of_the_data_path_are_run() {
        let ours = "/c/appliance/xdp/tests/load.rs";
        assert_eq!(test_program(&message("test", ours)), Some("/t/deps/load-1".into()));
        assert_eq!(test_program(&message("lib", "/c/appliance/xdp/src/lib.rs")), None);
        assert_eq!(test_program(&message("test", "/c/dns/tests/bind.rs")), None);
        assert_eq!(test_program("warning: text"), None);
    }
}
