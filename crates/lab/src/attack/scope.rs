//! Where the attack may go.

use std::path::{Path, PathBuf};

use crate::{
    error::{LabError, Result},
    role::Role,
};

/// The hosts on which the attacker is root.
const OWNED: [Role; 8] =
    [Role::Dir, Role::Bil, Role::Pac, Role::Oph, Role::Lis, Role::Pat, Role::War, Role::Srv];

/// The real path of a target, if the attack may touch it: strictly inside the folder of an owned host of the
/// lab with that root, whatever links and dots the path was written with.
pub(super) fn allowed(root: &Path, target: &Path) -> Result<PathBuf> {
    let refuse = |why| LabError::Outside { path: target.to_owned(), why };
    let root = fs_err::canonicalize(root)?;
    if !root.join("lab.json").is_file() {
        return Err(refuse("there is no lab around it"));
    }
    let real = fs_err::canonicalize(target)?;
    let inside = OWNED
        .into_iter()
        .map(|role| root.join(role.name()))
        .any(|host| real != host && real.starts_with(host));
    if inside {
        Ok(real)
    } else {
        Err(refuse("it is no folder of a department or of the primary in this lab"))
    }
}

/// All plain files below a folder, in the order of their names. Links are neither followed nor listed.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut entries = fs_err::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_inside_an_owned_host_are_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs_err::canonicalize(folder.path()).unwrap().join("lab");
        let other = folder.path().join("other");
        for path in
            ["bil/data", "vlt/store", "truth", "srv/repos"].map(|p| root.join(p)).iter().chain([&other])
        {
            fs_err::create_dir_all(path).unwrap();
        }
        assert!(allowed(&root, &root.join("bil/data")).is_err(), "no lab.json, no lab");
        fs_err::write(root.join("lab.json"), "{}").unwrap();
        assert!(allowed(&root, &root.join("bil/data")).is_ok());
        assert!(allowed(&root, &root.join("srv/repos")).is_ok());
        std::os::unix::fs::symlink(&other, root.join("bil/link")).unwrap();
        std::os::unix::fs::symlink(root.join("vlt"), root.join("bil/vault")).unwrap();
        for bad in
            ["", "bil", "vlt/store", "truth", "bil/../vlt/store", "bil/link", "bil/vault/store", "../other"]
        {
            let error = allowed(&root, &root.join(bad)).unwrap_err();
            assert!(matches!(error, LabError::Outside { .. }), "{bad}: {error}");
        }
        for bad in ["/", "/etc", "/home"] {
            assert!(allowed(&root, Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link2")).unwrap();
        assert_eq!(files(folder.path()).unwrap(), [folder.path().join("file")]);
    }
}
