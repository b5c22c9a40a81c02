//! The hospital's staff as its directory knows it: people who do not exist, and their groups.

use serde::Serialize;

use super::{decide, names::patient, pick};

/// The hospital's departments: an organisational unit and a group each.
pub const DEPARTMENTS: [&str; 8] =
    ["眼科", "内科", "外科", "放射線科", "検査科", "薬剤部", "看護部", "医事課"];
/// What people do: a group each.
pub const TITLES: [&str; 4] = ["医師", "看護師", "技師", "事務"];

/// One member of the staff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    /// `test0001`.
    pub login: String,
    /// The whole name in kanji, marked: `TEST試験太郎`.
    pub name: String,
    /// One of [`DEPARTMENTS`].
    pub department: &'static str,
    /// One of [`TITLES`].
    pub title: &'static str,
}

/// A team across departments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Team {
    /// `チーム01`.
    pub name: String,
    /// Logins.
    pub members: Vec<String>,
}

/// `count` people.
pub fn people(seed: u64, count: u64) -> Vec<Person> {
    (1..=count)
        .map(|number| Person {
            login: format!("test{number:04}"),
            name: patient(seed ^ 0x57AF_F000, number).name,
            department: pick(&DEPARTMENTS, decide(seed, 71, number)),
            title: pick(&TITLES, decide(seed, 72, number)),
        })
        .collect()
}

/// One team for ten people, each with between three and twelve members.
pub fn teams(seed: u64, people: &[Person]) -> Vec<Team> {
    let all = people.len() as u64;
    (1..=all / 10)
        .map(|number| {
            let mut members: Vec<String> = (0..3 + decide(seed, 73, number) % 10)
                .filter_map(|n| people.get(usize::try_from(decide(seed, 1_000 + n, number) % all).ok()?))
                .map(|person| person.login.clone())
                .collect();
            members.sort_unstable();
            members.dedup();
            Team { name: format!("チーム{number:02}"), members }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_staff_is_marked_and_comes_again_with_the_seed() {
        let (one, again, other) = (people(7, 300), people(7, 300), people(8, 300));
        assert_eq!(one, again);
        assert_ne!(one, other);
        assert!(one.iter().all(|person| person.name.starts_with("TEST") && person.login.starts_with("test")));
        assert!(DEPARTMENTS.iter().all(|name| one.iter().any(|person| person.department == *name)));
        let teams = teams(7, &one);
        assert!(teams.len() == 30 && teams.iter().all(|team| !team.members.is_empty()));
    }
}
