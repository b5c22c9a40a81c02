//! Holds the table of rooms in `ARCHITECTURE.md`: a crate uses only those that it stands on, and the
//! privileged roles link nothing that listens to the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Each room and the rooms that it may name directly. What those stand on is reached through them.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("repo", &["model"]),
    ("serve", &["model"]),
    ("nbd", &["model"]),
    ("mount", &["model", "repo"]),
    ("report", &["model"]),
    ("drill", &["model", "repo", "judge", "report", "source"]),
    ("assess", &["model", "drill", "report"]),
    ("source", &["model"]),
    ("wire", &["model"]),
    ("agent", &["model", "repo", "source", "wire"]),
    ("audit", &["model"]),
    ("escrow", &["model"]),
    ("judge", &["model"]),
    ("notify", &["model"]),
    ("gate", &["model", "audit"]),
    ("inspect", &["model", "repo"]),
    ("lock", &["model"]),
    ("lockd", &["model", "lock"]),
    ("observe", &["model"]),
    ("gated", &["model", "audit", "gate"]),
    ("observed", &["model", "observe"]),
    ("catalog", &["model", "judge", "repo", "audit"]),
    ("vault", &["model", "repo", "audit", "escrow", "judge", "inspect"]),
    (
        "server",
        &[
            "model", "repo", "serve", "source", "audit", "escrow", "judge", "notify", "observe", "catalog",
            "drill", "report", "wire",
        ],
    ),
    (
        "cli",
        &[
            "model", "repo", "serve", "source", "audit", "escrow", "judge", "notify", "catalog", "vault",
            "server", "drill", "report", "assess", "agent", "wire", "nbd", "mount",
        ],
    ),
];

/// What a privileged or foreign role must never link, directly or through others.
const NEVER_PRIVILEGED: &[&str] = &["axum", "sqlx", "sqlx-core", "typst", "reqwest", "lettre", "askama"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        // Without the filter Cargo wants packages that only other systems use.
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The normal dependencies that each of our packages names.
fn named(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members: BTreeSet<&str> =
        list(metadata, "workspace_members").iter().filter_map(Value::as_str).collect();
    list(metadata, "packages")
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| members.contains(id)))
        .map(|package| {
            let names = list(package, "dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .filter_map(|dependency| dependency["name"].as_str())
                .map(str::to_owned)
                .collect();
            (package["name"].as_str().unwrap_or_default().to_owned(), names)
        })
        .collect()
}

/// Rule breaks in what the packages name, in words.
fn breaks(named: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut found = Vec::new();
    for (package, dependencies) in named {
        let room = package.trim_start_matches("kuramori-");
        // The lab may use everything and is linked by nobody.
        if room == "lab" {
            continue;
        }
        let Some(allowed) = rooms.get(room) else {
            found.push(format!("`{room}` is not in the table of rooms"));
            continue;
        };
        for other in dependencies.iter().filter_map(|name| name.strip_prefix("kuramori-")) {
            if !allowed.contains(&other) {
                found.push(format!("`{room}` may not use `{other}`"));
            }
        }
    }
    found
}

/// Every package that `root` links in the end, without build and dev dependencies.
fn linked(metadata: &Value, root: &str) -> BTreeSet<String> {
    let name_of = |id: &str| {
        list(metadata, "packages")
            .iter()
            .find(|package| package["id"] == id)
            .and_then(|package| package["name"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes")
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let Some(start) = nodes.keys().find(|id| name_of(id) == root) else { return BTreeSet::new() };
    let (mut open, mut seen) = (vec![*start], BTreeSet::from([*start]));
    while let Some(id) = open.pop() {
        for dependency in nodes.get(id).map_or(&[][..], |node| list(node, "deps")) {
            let normal = list(dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null());
            if let Some(next) = dependency["pkg"].as_str().filter(|_| normal)
                && seen.insert(next)
            {
                open.push(next);
            }
        }
    }
    seen.into_iter().map(name_of).collect()
}

#[test]
fn every_room_stands_only_on_those_that_the_table_allows() {
    let found = breaks(&named(&metadata()));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_check_would_notice_a_room_that_reaches_too_far() {
    let wrong = BTreeMap::from([("kuramori-gate".to_owned(), BTreeSet::from(["kuramori-repo".to_owned()]))]);
    assert_eq!(breaks(&wrong), ["`gate` may not use `repo`"]);
    let unknown = BTreeMap::from([("kuramori-attic".to_owned(), BTreeSet::new())]);
    assert_eq!(breaks(&unknown), ["`attic` is not in the table of rooms"]);
}

#[test]
fn the_privileged_roles_link_nothing_that_listens_to_the_world() {
    let metadata = metadata();
    let server = linked(&metadata, "kuramori-server");
    assert!(server.contains("axum"), "the walk must find what is there: the server links axum");
    for role in ["kuramori-gated", "kuramori-observed", "kuramori-lockd"] {
        let linked = linked(&metadata, role);
        assert!(linked.contains("kuramori-model"), "{role} is not in the workspace");
        let wrong: Vec<_> = NEVER_PRIVILEGED.iter().filter(|name| linked.contains(**name)).collect();
        assert!(wrong.is_empty(), "{role} links {wrong:?}");
    }
}
