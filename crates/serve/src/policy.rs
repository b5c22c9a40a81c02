//! May this login do that: the one table that decides it.

use hyper::Method;

use crate::{
    Kind, Mode, Role, Verb,
    name::{File, Target},
};

/// What a request asks for; [`Verb::Other`] if the protocol knows no such thing.
pub(crate) fn verb(method: &Method, target: &Target, query: Option<&str>) -> Verb {
    let create = query == Some("create=true");
    match (target, method) {
        (Target::Root, &Method::GET) => Verb::Repositories,
        (Target::Repository(_), &Method::POST) if create => Verb::Create,
        (Target::Folder(..), &Method::GET) => Verb::List,
        (Target::File(..), &Method::HEAD) => Verb::Head,
        (Target::File(..), &Method::GET) => Verb::Get,
        (Target::File(..), &Method::POST) => Verb::Put,
        (_, &Method::DELETE) => Verb::Delete,
        _ => Verb::Other,
    }
}

/// Whether a login of this role may do this here.
pub(crate) fn allowed(mode: Mode, role: &Role, verb: Verb, target: &Target) -> bool {
    let kind = match target {
        Target::File(_, file) => Some(file.kind()),
        Target::Folder(_, kind) => Some(*kind),
        _ => None,
    };
    let one_lock = matches!(target, Target::File(_, File::Named(Kind::Locks, _)));
    match (mode, role) {
        (Mode::Store, Role::Append { repository, .. }) => {
            target.repository() == Some(repository)
                && match verb {
                    Verb::Create | Verb::Head | Verb::Get | Verb::List | Verb::Put => true,
                    Verb::Delete => one_lock,
                    _ => false,
                }
        }
        (Mode::Store, Role::Read { repositories }) => match verb {
            Verb::Repositories => true,
            Verb::Head | Verb::Get | Verb::List => {
                target.repository().is_some_and(|r| repositories.contains(r))
            }
            _ => false,
        },
        (Mode::Receiver, Role::Receive { repositories }) => {
            target.repository().is_some_and(|r| repositories.contains(r))
                && match verb {
                    Verb::Create => true,
                    Verb::Put | Verb::Head => kind != Some(Kind::Locks),
                    _ => false,
                }
        }
        (Mode::Store, Role::Receive { .. }) | (Mode::Receiver, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileName, Repositories, RepositoryName};

    /// Every role, mode, verb and place. A new verb or kind changes this text, which is what it is for.
    #[test]
    fn the_whole_table() {
        let own = RepositoryName::new("own").unwrap();
        let roles = [
            (Mode::Store, "append", Role::Append { repository: own.clone(), quota: None }),
            (Mode::Store, "read", Role::Read { repositories: Repositories::Listed(vec![own.clone()]) }),
            (Mode::Store, "receive", Role::Receive { repositories: Repositories::All }),
            (Mode::Receiver, "append", Role::Append { repository: own.clone(), quota: None }),
            (Mode::Receiver, "read", Role::Read { repositories: Repositories::All }),
            (
                Mode::Receiver,
                "receive",
                Role::Receive { repositories: Repositories::Listed(vec![own.clone()]) },
            ),
        ];
        let named = |r: &str, kind| Target::File(r.parse().unwrap(), File::Named(kind, FileName([7; 32])));
        let mut targets = vec![
            ("/".to_owned(), Target::Root),
            ("/own/".to_owned(), Target::Repository(own.clone())),
            ("/own/config".to_owned(), Target::File(own.clone(), File::Config)),
        ];
        for kind in Kind::FOLDERS {
            targets.push((format!("/own/{kind}/"), Target::Folder(own.clone(), kind)));
            targets.push((format!("/own/{kind}/ID"), named("own", kind)));
        }
        targets.push(("/other/".to_owned(), Target::Repository("other".parse().unwrap())));
        targets.push(("/other/data/".to_owned(), Target::Folder("other".parse().unwrap(), Kind::Data)));
        targets.push(("/other/data/ID".to_owned(), named("other", Kind::Data)));
        targets.push(("/other/locks/ID".to_owned(), named("other", Kind::Locks)));

        let methods = [Method::GET, Method::HEAD, Method::POST, Method::DELETE, Method::PUT, Method::PATCH];
        let mut table = String::new();
        for (mode, name, role) in &roles {
            for (path, target) in &targets {
                let may: Vec<_> = methods
                    .iter()
                    .filter(|method| {
                        let query = matches!(target, Target::Repository(_)).then_some("create=true");
                        allowed(*mode, role, verb(method, target, query), target)
                    })
                    .map(Method::as_str)
                    .collect();
                if !may.is_empty() {
                    table.extend([format!("{mode:?} {name}: {path} {}\n", may.join(" "))]);
                }
            }
        }
        let expected = "\
Store append: /own/ POST
Store append: /own/config GET HEAD POST
Store append: /own/data/ GET
Store append: /own/data/ID GET HEAD POST
Store append: /own/index/ GET
Store append: /own/index/ID GET HEAD POST
Store append: /own/keys/ GET
Store append: /own/keys/ID GET HEAD POST
Store append: /own/locks/ GET
Store append: /own/locks/ID GET HEAD POST DELETE
Store append: /own/snapshots/ GET
Store append: /own/snapshots/ID GET HEAD POST
Store read: / GET
Store read: /own/config GET HEAD
Store read: /own/data/ GET
Store read: /own/data/ID GET HEAD
Store read: /own/index/ GET
Store read: /own/index/ID GET HEAD
Store read: /own/keys/ GET
Store read: /own/keys/ID GET HEAD
Store read: /own/locks/ GET
Store read: /own/locks/ID GET HEAD
Store read: /own/snapshots/ GET
Store read: /own/snapshots/ID GET HEAD
Receiver receive: /own/ POST
Receiver receive: /own/config HEAD POST
Receiver receive: /own/data/ID HEAD POST
Receiver receive: /own/index/ID HEAD POST
Receiver receive: /own/keys/ID HEAD POST
Receiver receive: /own/snapshots/ID HEAD POST
";
        assert_eq!(table, expected);
    }

    #[test]
    fn creating_needs_the_exact_query() {
        let target = Target::Repository(RepositoryName::new("own").unwrap());
        assert_eq!(verb(&Method::POST, &target, Some("create=true")), Verb::Create);
        for query in [None, Some(""), Some("create=false"), Some("create=true&x=1")] {
            assert_eq!(verb(&Method::POST, &target, query), Verb::Other);
        }
    }
}
