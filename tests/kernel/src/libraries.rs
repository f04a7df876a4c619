//! What a program needs beside itself: its shared libraries, or a module's modules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// The shared libraries of a program, with the loader; none for a static one.
pub(crate) fn of_program(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd cannot be run")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(library).collect())
}

/// The path in a line of ldd: `name => path (address)`, or for the loader `path (address)`.
fn library(line: &str) -> Option<PathBuf> {
    let (path, _) = line.trim().split_once(" (0x")?;
    let path = path.rsplit(" => ").next()?;
    path.starts_with('/').then(|| path.into())
}

/// Module files by name, `-` and `_` being the same.
pub(crate) struct Modules(BTreeMap<String, PathBuf>);

impl Modules {
    /// Those anywhere below a folder.
    pub(crate) fn find(folder: &Path) -> std::io::Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)?.flatten() {
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko")
                    && let Some(stem) = path.file_stem()
                {
                    files.insert(stem.to_string_lossy().replace('-', "_"), path);
                }
            }
        }
        Ok(Self(files))
    }

    /// The files of the named modules, each after those that it depends on.
    pub(crate) fn with_dependencies(&self, names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in names {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        let name = name.replace('-', "_");
        let file = self.0.get(&name).with_context(|| format!("the kernel has no module {name}"))?;
        if order.contains(file) {
            return Ok(());
        }
        for dependency in depends(&std::fs::read(file)?) {
            self.add(&dependency, order)?;
        }
        order.push(file.clone());
        Ok(())
    }
}

/// The modules that a module's information section names: `depends=a,b`, ended by a zero.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let names = String::from_utf8_lossy(&value[..end]).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_ldd_name_files_but_for_the_page_of_the_kernel() {
        let lines = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibz.so.1 => /lib/libz.so.1 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f7)\n\tnot a dynamic executable\n";
        let found: Vec<_> = lines.lines().filter_map(library).collect();
        assert_eq!(found, ["/lib/libz.so.1", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
    }

    #[test]
    fn modules_come_after_those_that_they_depend_on() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("kernel/net");
        std::fs::create_dir_all(&below).unwrap();
        let modules =
            [("ipip", "ip_tunnel,tunnel4"), ("ip-tunnel", ""), ("tunnel4", ""), ("veth", "")];
        for (name, needs) in modules {
            let contents = format!("code\0license=GPL\0depends={needs}\0name=x\0");
            std::fs::write(below.join(format!("{name}.ko")), contents).unwrap();
        }
        let modules = Modules::find(folder.path()).unwrap();
        let order = modules.with_dependencies(&["veth", "ipip", "tunnel4"]).unwrap();
        let names: Vec<_> =
            order.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["veth", "ip-tunnel", "tunnel4", "ipip"]);
        assert!(modules.with_dependencies(&["bonding"]).is_err());
    }
}
