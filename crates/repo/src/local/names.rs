//! Names of owners and groups, from `/etc/passwd` and `/etc/group`.

use std::collections::HashMap;

/// Users and groups of this machine. Directory services are not asked: a number without a name stays one.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(super) fn load() -> Self {
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    pub(super) fn user(&self, id: u32) -> String {
        self.users.get(&id).cloned().unwrap_or_default()
    }

    pub(super) fn group(&self, id: u32) -> String {
        self.groups.get(&id).cloned().unwrap_or_default()
    }
}

/// Both files hold `name:password:number:…`; the first name of a number counts.
fn read(path: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in fs_err::read_to_string(path).unwrap_or_default().lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next(), fields.nth(1).and_then(|text| text.parse().ok()))
        {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}
