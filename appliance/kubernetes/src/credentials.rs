//! What a client signs in with, as it is on disk now, and whether that has changed since.
//!
//! Everything that a kubeconfig leads to is read at once: the authority, the client's certificate
//! and key, the file of a token, the answer of a program. So a client is one state of all of them,
//! and whatever of it changes makes a new one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::access::{Access, ConnectError};
use crate::plugin;

/// Largest kubeconfig, certificate, key or token that is read, in bytes: one with hundreds of
/// clusters has some hundred thousand. It is read every few seconds.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Files by whose content credentials are recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files(Vec<PathBuf>);

impl Files {
    /// Changes when the content of one of them does, or one comes or goes.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for path in &self.0 {
            // A file that cannot be read is a state like any other.
            contents(path).ok().hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Everything that a client is built from.
pub(crate) struct Credentials {
    pub(crate) config: Config,
    pub(crate) files: Files,
    /// Of the files, taken before they were read.
    pub(crate) fingerprint: u64,
    /// They come from a program, which can be asked anew.
    pub(crate) from_program: bool,
    /// How long they are good for; `None`: until somebody changes them.
    pub(crate) lifetime: Option<Duration>,
}

/// Reads what the access leads to, and runs the program that it names.
pub(crate) async fn read(access: &Access) -> Result<Credentials, ConnectError> {
    let (from, refused) = (access.clone(), access.kubeconfig.clone());
    let refused = |source| ConnectError::Kubeconfig { path: refused, source: Box::new(source) };
    // Files may lie on a disk that is slow.
    let read = tokio::task::spawn_blocking(move || on_disk(&from)).await;
    let (files, fingerprint, kubeconfig) = match read {
        Ok(read) => read?,
        Err(error) => {
            let error = std::io::Error::other(error);
            return Err(refused(KubeconfigError::ReadConfig(error, access.kubeconfig.clone())));
        }
    };
    let options = KubeConfigOptions { context: access.context.clone(), ..Default::default() };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(refused)?;
    let mut credentials = Credentials {
        files,
        fingerprint,
        from_program: false,
        lifetime: None,
        config: Config::new(config.cluster_url.clone()),
    };
    credentials.resolve(&mut config.auth_info, access).await?;
    credentials.config = config;
    Ok(credentials)
}

/// The kubeconfig, the files that count, and what they hold.
fn on_disk(access: &Access) -> Result<(Files, u64, Kubeconfig), ConnectError> {
    let path = &access.kubeconfig;
    let refused =
        |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
    let unread = |error| refused(KubeconfigError::ReadConfig(error, path.clone()));
    contents(path).map_err(unread)?;
    let kubeconfig = Kubeconfig::read_from(path).map_err(refused)?;
    let mut files = vec![path.clone()];
    files.extend(named(&kubeconfig, access.context.as_deref()));
    let files = Files(files);
    let fingerprint = files.fingerprint();
    // Once more, in case it changed before the fingerprint was taken.
    let kubeconfig = Kubeconfig::read_from(path).map_err(refused)?;
    Ok((files, fingerprint, kubeconfig))
}

/// The files that a context leads to.
fn named(kubeconfig: &Kubeconfig, context: Option<&str>) -> Vec<PathBuf> {
    let context = context.or(kubeconfig.current_context.as_deref());
    let found = kubeconfig.contexts.iter().find(|found| Some(found.name.as_str()) == context);
    let Some(context) = found.and_then(|found| found.context.as_ref()) else { return Vec::new() };
    let cluster = kubeconfig.clusters.iter().find(|found| found.name == context.cluster);
    let authority = cluster.and_then(|found| found.cluster.as_ref()?.certificate_authority.clone());
    let user =
        kubeconfig.auth_infos.iter().find(|found| Some(&found.name) == context.user.as_ref());
    let user = user.and_then(|found| found.auth_info.as_ref());
    let of_user = user.into_iter().flat_map(|user| {
        [&user.client_certificate, &user.client_key, &user.token_file].map(Clone::clone)
    });
    authority.into_iter().chain(of_user.flatten()).map(PathBuf::from).collect()
}

impl Credentials {
    /// Replaces what leads to a token or certificate by these themselves, so that one client is
    /// one state of everything, and nobody reads a file or a clock behind our back.
    async fn resolve(&mut self, user: &mut AuthInfo, access: &Access) -> Result<(), ConnectError> {
        if user.token.is_none()
            && let Some(file) = user.token_file.take()
        {
            let token = contents(Path::new(&file))
                .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other));
            let token = token
                .map_err(|source| ConnectError::TokenFile { path: PathBuf::from(&file), source })?;
            // Editors and `echo` end a file with a line break, which no header can hold.
            user.token = Some(token.trim().to_owned().into());
        }
        // As kube orders them: a program counts where nothing simpler is written.
        let simpler = user.token.is_some() || user.username.is_some() && user.password.is_some();
        let Some(exec) = user.exec.take().filter(|_| !simpler && user.auth_provider.is_none())
        else {
            return Ok(());
        };
        let refused = |source| ConnectError::Plugin { path: access.kubeconfig.clone(), source };
        let credential = plugin::run(&exec).await.map_err(refused)?;
        user.token = credential.token.map(Into::into);
        if let Some((certificate, key)) = credential.certificate {
            user.client_certificate_data = Some(BASE64.encode(certificate));
            user.client_key_data = Some(BASE64.encode(key).into());
        }
        (self.from_program, self.lifetime) = (true, credential.lifetime);
        Ok(())
    }
}

/// The content of a file, unless it is too large to be what it should be.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        let text = format!("the file has more than {FILE_BYTES_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    /// A kubeconfig with a user of these fields, in a folder of its own.
    fn kubeconfig(user: &str) -> (tempfile::TempDir, Access) {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://192.0.2.1', \
             certificate-authority: ca.crt}}}}]\nusers: [{{name: u, user: {user}}}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
        std::fs::write(dir.path().join("ca.crt"), ca.cert.pem()).unwrap();
        (dir, Access { kubeconfig, context: None })
    }

    #[tokio::test]
    async fn every_file_that_a_context_leads_to_changes_the_fingerprint() {
        let user = "{client-certificate: c.crt, client-key: c.key, tokenFile: token}";
        let (dir, access) = kubeconfig(user);
        for file in ["c.crt", "c.key", "token"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        let files = read(&access).await.unwrap().files;
        for file in ["kubeconfig", "ca.crt", "c.crt", "c.key", "token"] {
            let before = files.fingerprint();
            let path = dir.path().join(file);
            let mut content = std::fs::read(&path).unwrap();
            content.push(b'\n');
            std::fs::write(&path, content).unwrap();
            let after = files.fingerprint();
            assert_ne!(before, after, "{file} changed");
            assert_eq!(after, files.fingerprint());
        }
        let before = files.fingerprint();
        std::fs::remove_file(dir.path().join("c.key")).unwrap();
        assert_ne!(before, files.fingerprint(), "a file is gone");
    }

    #[tokio::test]
    async fn a_token_is_read_from_its_file_without_the_line_break_behind_it() {
        let (dir, access) = kubeconfig("{tokenFile: token}");
        std::fs::write(dir.path().join("token"), "secret\n").unwrap();
        let read = read(&access).await.unwrap();
        let user = &read.config.auth_info;
        assert_eq!(user.token.as_ref().unwrap().expose_secret(), "secret");
        assert!(user.token_file.is_none() && !read.from_program);
    }

    #[tokio::test]
    async fn a_program_is_asked_once_and_counts_less_than_a_token() {
        let exec = "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, \
                    'echo run >> \"$0\"; echo {\\\"status\\\":{\\\"token\\\":\\\"t\\\"}}', COUNT]}";
        let (dir, access) = kubeconfig("{}");
        let count = dir.path().join("count");
        let exec = exec.replace("COUNT", count.to_str().unwrap());
        let text = std::fs::read_to_string(&access.kubeconfig).unwrap();
        let with = |user: &str| text.replace("user: {}", &format!("user: {{{user}}}"));
        std::fs::write(&access.kubeconfig, with(&format!("token: inline, {exec}"))).unwrap();
        assert!(!read(&access).await.unwrap().from_program);
        assert!(!count.exists());
        std::fs::write(&access.kubeconfig, with(&exec)).unwrap();
        let credentials = read(&access).await.unwrap();
        assert!(credentials.from_program && credentials.lifetime.is_none());
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "run\n");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_named() {
        let (dir, access) = kubeconfig("{tokenFile: token}");
        let text = read(&access).await.err().unwrap().to_string();
        assert!(text.contains(dir.path().join("token").to_str().unwrap()), "{text}");
        let large = std::fs::File::create(&access.kubeconfig).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = read(&access).await.err().unwrap();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("more than"), "{cause}");
    }
}
