//! What a pod's container runs: the program that stands for its image, with the arguments, the
//! environment and the mounted files that the pod's specification asks for.
//!
//! There is no mount namespace: where an argument or a variable names a file below a mount path,
//! the program is told where the lab keeps that file instead.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::place::binaries;
use super::{Api, Namespace, Place, Process};

/// The image of the lab's own echo server.
const ECHO: &str = "echo";

/// Programs that stand for images other than the lab's own.
#[derive(Clone, Debug, Default)]
pub struct Images(Vec<(String, PathBuf)>);

impl Images {
    /// Lets `program` stand for every image whose name holds `part`, such as `/echo-basic:`.
    pub fn with(mut self, part: &str, program: PathBuf) -> Self {
        self.0.push((part.to_owned(), program));
        self
    }

    fn program(&self, image: &str) -> Option<&Path> {
        self.0.iter().find(|(part, _)| image.contains(part)).map(|(_, program)| program.as_path())
    }
}

/// How it is known whether a container is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It answers on the port of the lab's echo server.
    Probed,
    /// It runs, as for every container without a probe.
    Running,
}

/// A program with all that it is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    own: Vec<IpAddr>,
    /// How its readiness is known.
    pub(super) readiness: Readiness,
}

impl Program {
    /// The lab's echo server for the pod `name`, which takes the VIPs `own` for its own.
    pub(super) fn echo(name: &str, own: &[IpAddr]) -> Result<Self> {
        let mut arguments = vec!["--name".to_owned(), name.to_owned()];
        for vip in own {
            arguments.extend(["--vip".to_owned(), vip.to_string()]);
        }
        let binary = binaries()?.join("echo");
        let readiness = Readiness::Probed;
        let own = own.to_vec();
        Ok(Self { binary, arguments, environment: Vec::new(), own, readiness })
    }

    /// VIPs that its namespace is to have on the loopback device.
    pub(super) fn own(&self) -> &[IpAddr] {
        &self.own
    }

    /// What the only container of `pod` runs; `None` while an object that it mounts is missing.
    pub(super) async fn of(
        pod: &Value,
        images: &Images,
        api: &Api,
        place: &Place,
    ) -> Result<Option<Self>> {
        let container = match pod["spec"]["containers"].as_array().map(Vec::as_slice) {
            Some([container]) => container,
            _ => bail!("the lab runs pods of one container"),
        };
        let image = container["image"].as_str().context("a container without an image")?;
        let Some(binary) = images.program(image) else {
            let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
            return match image {
                ECHO => Self::echo(name, &[]).map(Some),
                _ => bail!("no program stands for the image {image}"),
            };
        };
        let Some(mounts) = mounted(pod, container, api, place).await? else { return Ok(None) };
        Ok(Some(Self {
            binary: binary.to_owned(),
            arguments: texts(&container["args"]).map(|text| rebased(text, &mounts)).collect(),
            environment: environment(pod, container, &mounts)?,
            own: Vec::new(),
            readiness: Readiness::Running,
        }))
    }

    /// Starts it in a pod's namespace.
    pub(super) fn spawn(&self, place: &Place, namespace: &Namespace, log: &str) -> Result<Process> {
        let mut command = namespace.command(&self.binary.display().to_string())?;
        if self.readiness == Readiness::Running {
            // A container knows nothing of the machine's variables.
            command.env_clear();
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        Process::spawn(place, log, command)
    }
}

/// Mount paths and where their files are.
type Mounts = BTreeMap<String, PathBuf>;

fn rebased(text: &str, mounts: &Mounts) -> String {
    for (path, directory) in mounts {
        if let Some(rest) = text.strip_prefix(path.as_str())
            && (rest.is_empty() || rest.starts_with('/'))
        {
            return format!("{}{rest}", directory.display());
        }
    }
    text.to_owned()
}

fn environment(pod: &Value, container: &Value, mounts: &Mounts) -> Result<Vec<(String, String)>> {
    let variables = container["env"].as_array().map_or(&[][..], Vec::as_slice);
    let pair = |variable: &Value| {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let field = variable.pointer("/valueFrom/fieldRef/fieldPath").and_then(Value::as_str);
        let value = match field {
            Some(field) => {
                let pointer = format!("/{}", field.replace('.', "/"));
                let found = pod.pointer(&pointer).and_then(Value::as_str);
                found.with_context(|| format!("{name}: the pod has no {field}"))?.to_owned()
            }
            None if variable["valueFrom"].is_null() => {
                rebased(variable["value"].as_str().unwrap_or_default(), mounts)
            }
            None => bail!("{name}: only fieldRef is understood"),
        };
        Ok((name.to_owned(), value))
    };
    variables.iter().map(pair).collect()
}

async fn mounted(
    pod: &Value,
    container: &Value,
    api: &Api,
    place: &Place,
) -> Result<Option<Mounts>> {
    let uid = pod["metadata"]["uid"].as_str().context("a pod without a uid")?;
    let mut mounts = Mounts::new();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let path = mount["mountPath"].as_str().context("a mount without a path")?;
        let name = mount["name"].as_str().context("a mount without a name")?;
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let volume = volumes.clone().find(|volume| volume["name"] == name);
        let volume = volume.with_context(|| format!("the pod has no volume {name}"))?;
        if path.starts_with("/var/run/secrets/kubernetes.io/") {
            // The account's token, which admission mounts everywhere: nothing here asks the API.
            continue;
        }
        let Some(files) = files(pod, volume, api).await? else { return Ok(None) };
        let directory = place.path("pods").join(uid).join(name);
        fs::create_dir_all(&directory)?;
        for (file, content) in files {
            let path = directory.join(file);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        }
        mounts.insert(path.to_owned(), directory);
    }
    Ok(Some(mounts))
}

/// The files of a volume; `None` while its Secret or ConfigMap does not exist.
async fn files(
    pod: &Value,
    volume: &Value,
    api: &Api,
) -> Result<Option<BTreeMap<String, Vec<u8>>>> {
    let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str);
    let (plural, name, source) = match (text("/secret/secretName"), text("/configMap/name")) {
        (Some(name), _) => ("secrets", name, &volume["secret"]),
        (_, Some(name)) => ("configmaps", name, &volume["configMap"]),
        _ => bail!("only volumes of Secrets and ConfigMaps are understood: {volume}"),
    };
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or("default");
    let path = format!("/api/v1/namespaces/{namespace}/{plural}/{name}");
    let Some(object) = api.find(&path).await? else { return Ok(None) };
    let mut data = BTreeMap::new();
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let value = value.as_str().context("data that is no text")?;
        let content = match plural {
            "secrets" => STANDARD.decode(value).with_context(|| format!("decode {key}"))?,
            _ => value.as_bytes().to_vec(),
        };
        data.insert(key.clone(), content);
    }
    chosen(data, &source["items"]).map(Some)
}

/// The keys that a volume lists, under the names that it gives them; all without a list.
fn chosen(mut data: BTreeMap<String, Vec<u8>>, items: &Value) -> Result<BTreeMap<String, Vec<u8>>> {
    let Some(items) = items.as_array() else { return Ok(data) };
    let file = |item: &Value| {
        let key = item["key"].as_str().context("an item without a key")?;
        let path = item["path"].as_str().context("an item without a path")?;
        let content = data.remove(key).with_context(|| format!("there is no key {key}"))?;
        Ok((path.to_owned(), content))
    };
    items.iter().map(file).collect()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_below_a_mount_path_are_named_where_the_lab_has_them() {
        let mounts = Mounts::from([("/etc/tls".to_owned(), PathBuf::from("/run/x/tls"))]);
        assert_eq!(rebased("/etc/tls/crt", &mounts), "/run/x/tls/crt");
        assert_eq!(rebased("/etc/tls", &mounts), "/run/x/tls");
        assert_eq!(rebased("/etc/tlsx", &mounts), "/etc/tlsx");
    }

    #[test]
    fn variables_come_from_values_and_from_the_pods_own_fields() {
        let pod = json!({"metadata": {"name": "a-1", "namespace": "shop"}});
        let container = json!({"env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "CERT", "value": "/tls/crt"},
            {"name": "EMPTY"},
        ]});
        let mounts = Mounts::from([("/tls".to_owned(), PathBuf::from("/run/tls"))]);
        let pairs = environment(&pod, &container, &mounts).expect("variables");
        let wanted = [("POD", "a-1"), ("CERT", "/run/tls/crt"), ("EMPTY", "")];
        assert_eq!(pairs, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let other = json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {}}}]});
        assert!(environment(&pod, &other, &mounts).is_err());
    }

    #[test]
    fn listed_keys_get_the_names_of_the_list() {
        let data = || BTreeMap::from([("tls.crt".to_owned(), vec![1]), ("x".to_owned(), vec![2])]);
        assert_eq!(chosen(data(), &Value::Null).expect("all"), data());
        let items = json!([{"key": "tls.crt", "path": "crt"}]);
        let wanted = BTreeMap::from([("crt".to_owned(), vec![1])]);
        assert_eq!(chosen(data(), &items).expect("one"), wanted);
        assert!(chosen(data(), &json!([{"key": "y", "path": "y"}])).is_err());
    }
}
