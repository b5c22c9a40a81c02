//! Logins in a TOML file that belongs to root.
//!
//! ```toml
//! [[login]]
//! name = "pacs"
//! password = "$scrypt$ln=14,r=8,p=1$…$…"
//! role = "append"
//! repository = "pacs"
//! quota = "2 TiB"
//!
//! [[login]]
//! name = "vault"
//! password = "$scrypt$ln=14,r=8,p=1$…$…"
//! role = "read"
//! repositories = "all"            # or ["billing", "pacs"]
//! ```
//!
//! The file is looked at once a second; a change takes effect for the next request. Replace it by a rename,
//! so that no half of it is ever read. A file that became
//! unreadable, wrong or writable for others changes nothing and is reported: backups go on with the logins
//! that were in force.

use std::{
    collections::HashMap,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use kuramori_model::units::Bytes;
use serde::Deserialize;

use super::{Login, Logins, Repositories, Role};
use crate::{RepositoryName, ServeError};

/// A login file is small; anything larger is a mistake.
const LARGEST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    login: Vec<WrittenLogin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLogin {
    name: String,
    password: String,
    role: WrittenRole,
    repository: Option<RepositoryName>,
    quota: Option<Bytes>,
    repositories: Option<WrittenRepositories>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum WrittenRole {
    Append,
    Read,
    Receive,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenRepositories {
    All(AllWord),
    Listed(Vec<RepositoryName>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AllWord {
    All,
}

/// What tells one state of the file from another: device, inode, size, modification and change time.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

#[derive(Debug)]
struct State {
    stamp: Option<Stamp>,
    logins: HashMap<String, Arc<Login>>,
}

/// Logins in a file.
#[derive(Debug)]
pub struct FileLogins {
    file: PathBuf,
    state: RwLock<State>,
}

impl FileLogins {
    /// Reads the file for the first time.
    pub fn open(file: &Path) -> Result<Self, ServeError> {
        let (stamp, logins) = load(file)?;
        let state = RwLock::new(State { stamp: Some(stamp), logins });
        Ok(Self { file: file.to_owned(), state })
    }
}

impl Logins for FileLogins {
    fn find(&self, name: &str) -> Option<Arc<Login>> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner).logins.get(name).cloned()
    }

    fn refresh(&self) -> Result<bool, ServeError> {
        let now = fs_err::metadata(&self.file).ok().map(|meta| stamp(&meta));
        if self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner).stamp == now {
            return Ok(false);
        }
        let loaded = load(&self.file);
        let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match loaded {
            Ok((stamp, logins)) => {
                *state = State { stamp: Some(stamp), logins };
                Ok(true)
            }
            Err(error) => {
                // Remembered, so that one bad state is reported once and not every second.
                state.stamp = now;
                Err(error)
            }
        }
    }
}

fn stamp(meta: &std::fs::Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

fn load(path: &Path) -> Result<(Stamp, HashMap<String, Arc<Login>>), ServeError> {
    let wrong = |why: String| ServeError::Logins { file: path.to_owned(), why };
    let file = fs_err::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let meta = file.metadata().map_err(|error| wrong(error.to_string()))?;
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(wrong(format!("it belongs to user {}, not to root", meta.uid())));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(wrong(format!("it is writable for others (mode {:o})", meta.mode() & 0o777)));
    }
    let mut text = String::new();
    let got = file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if got as u64 > LARGEST {
        return Err(wrong(format!("it is larger than {}", Bytes(LARGEST))));
    }
    Ok((stamp(&meta), parse(&text).map_err(wrong)?))
}

fn parse(text: &str) -> Result<HashMap<String, Arc<Login>>, String> {
    let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut logins = HashMap::new();
    for login in written.login {
        let login = check(login)?;
        if let Some(before) = logins.insert(login.name.clone(), Arc::new(login)) {
            return Err(format!("the login `{}` is there twice", before.name));
        }
    }
    Ok(logins)
}

fn check(written: WrittenLogin) -> Result<Login, String> {
    let WrittenLogin { name, password, role, repository, quota, repositories } = written;
    if !(1..=64).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
        return Err(format!("`{name}` cannot be a login: use 1 to 64 visible ASCII characters without `:`"));
    }
    let password = password.parse().map_err(|error| format!("login `{name}`: {error}"))?;
    let several = repositories.is_some();
    let seen = || match repositories {
        None => Err(format!("login `{name}`: say `repositories = \"all\"` or list them")),
        Some(WrittenRepositories::All(AllWord::All)) => Ok(Repositories::All),
        Some(WrittenRepositories::Listed(listed)) => Ok(Repositories::Listed(listed)),
    };
    let role = match (role, repository, quota) {
        (WrittenRole::Append, Some(_), _) if several => {
            return Err(format!("login `{name}`: `append` has one `repository`, not `repositories`"));
        }
        (WrittenRole::Append, Some(repository), quota) => Role::Append { repository, quota },
        (WrittenRole::Append, None, _) => return Err(format!("login `{name}`: `append` needs `repository`")),
        (WrittenRole::Read, None, None) => Role::Read { repositories: seen()? },
        (WrittenRole::Receive, None, None) => Role::Receive { repositories: seen()? },
        (WrittenRole::Read | WrittenRole::Receive, ..) => {
            return Err(format!("login `{name}`: `repository` and `quota` go with `append` only"));
        }
    };
    Ok(Login { name, password, role })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kuramori_model::clock::SeededRandom;

    use super::*;
    use crate::password::PasswordHash;

    fn entry(name: &str, rest: &str) -> String {
        let hash = PasswordHash::new("x", &SeededRandom::new(3));
        format!("[[login]]\nname = \"{name}\"\npassword = \"{hash}\"\n{rest}\n")
    }

    #[test]
    fn reads_the_three_roles() {
        let text = entry("pacs", "role = \"append\"\nrepository = \"pacs\"\nquota = \"2 TiB\"")
            + &entry("vault", "role = \"read\"\nrepositories = \"all\"")
            + &entry("site-b", "role = \"read\"\nrepositories = [\"billing\", \"_control\"]")
            + &entry("window", "role = \"receive\"\nrepositories = \"all\"");
        let logins = parse(&text).unwrap();
        let pacs = RepositoryName::new("pacs").unwrap();
        assert_eq!(
            logins["pacs"].role,
            Role::Append { repository: pacs.clone(), quota: Some(Bytes(2 << 40)) }
        );
        assert_eq!(logins["vault"].role, Role::Read { repositories: Repositories::All });
        let Role::Read { repositories } = &logins["site-b"].role else { panic!() };
        assert!(!repositories.contains(&pacs));
        assert!(matches!(logins["window"].role, Role::Receive { .. }));
    }

    #[test]
    fn refuses_what_could_be_meant_otherwise() {
        for bad in [
            "role = \"append\"",
            "role = \"append\"\nrepository = \"../x\"",
            "role = \"append\"\nrepository = \"x\"\nrepositories = \"all\"",
            "role = \"read\"",
            "role = \"read\"\nrepositories = \"some\"",
            "role = \"read\"\nrepositories = \"all\"\nquota = 5",
            "role = \"admin\"",
            "role = \"read\"\nrepositories = \"all\"\nsurprise = 1",
        ] {
            assert!(parse(&entry("x", bad)).is_err(), "{bad}");
        }
        assert!(parse(&entry("a:b", "role = \"read\"\nrepositories = \"all\"")).is_err());
        let twice = entry("a", "role = \"read\"\nrepositories = \"all\"").repeat(2);
        assert!(parse(&twice).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_change_takes_effect_and_a_bad_one_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logins.toml");
        fs_err::write(&file, entry("a", "role = \"read\"\nrepositories = \"all\"")).unwrap();
        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let logins = FileLogins::open(&file).unwrap();
        assert!(logins.find("a").is_some());
        assert!(!logins.refresh().unwrap());

        fs_err::write(&file, entry("bb", "role = \"read\"\nrepositories = \"all\"")).unwrap();
        assert!(logins.refresh().unwrap());
        assert!(logins.find("a").is_none() && logins.find("bb").is_some());

        fs_err::write(&file, "[[login]]\nname = 5").unwrap();
        assert!(logins.refresh().is_err());
        assert!(!logins.refresh().unwrap());
        assert!(logins.find("bb").is_some());

        fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(logins.refresh().unwrap_err().to_string().contains("writable"));
        fs_err::remove_file(&file).unwrap();
        assert!(logins.refresh().is_err());
        assert!(logins.find("bb").is_some());
    }
}
