//! Verbs that only look: `snapshots`, `ls`, `stats`.

use kuramori_model::{fault::Exit, units::Bytes};
use kuramori_repo::{
    Cancel,
    format::{blob::BlobKind, node::NodeKind},
    store::FileKind,
    walk::Descend,
};

use super::open::Place;
use crate::{Outcome, ui::Ui};

#[derive(Debug, clap::Args)]
pub(super) struct Snapshots {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    #[command(flatten)]
    place: Place,
    /// The restore point: the start of its id, or `latest`
    #[arg(default_value = "latest", value_name = "SNAPSHOT")]
    snapshot: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Stats {
    #[command(flatten)]
    place: Place,
}

pub(super) fn snapshots(args: &Snapshots, ui: &Ui) -> Outcome {
    let repository = args.place.open()?;
    let (mut readable, mut exit) = (Vec::new(), Exit::Done);
    for (id, snapshot) in repository.try_snapshots()? {
        match snapshot {
            Ok(snapshot) => readable.push((id, snapshot)),
            // One damaged file must not hide the others.
            Err(error) => {
                ui.note(kuramori_model::fault::chain(&error));
                exit = Exit::Damaged;
            }
        }
    }
    readable.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
    for (id, snapshot) in &readable {
        let state = if snapshot.is_incomplete() { ui.pick("不完全", "INCOMPLETE") } else { "" };
        let short: String = id.to_string().chars().take(8).collect();
        ui.line(format!(
            "{short}  {:.0}  {}  {}  {state}",
            snapshot.time,
            snapshot.hostname,
            snapshot.paths.join(" ")
        ));
        ui.data(&serde_json::json!({
            "id": id.to_string(), "time": snapshot.time, "hostname": snapshot.hostname, "paths": snapshot.paths,
            "tags": snapshot.tags, "tree": snapshot.tree.to_string(), "incomplete": snapshot.is_incomplete(),
        }));
    }
    Ok(exit)
}

pub(super) fn ls(args: &Ls, ui: &Ui) -> Outcome {
    let repository = args.place.open()?;
    let (_, snapshot) = repository.find_snapshot(&args.snapshot)?;
    let repository = repository.index()?;
    repository.walk(&snapshot.tree, &Cancel::default(), &mut |path, node| {
        let mark = if node.kind == NodeKind::Dir { "/" } else { "" };
        ui.line(format!("/{path}{mark}"));
        ui.data(&serde_json::json!({
            "path": format!("/{path}"), "type": node.kind.word(), "size": node.size,
            "mode": kuramori_repo::format::node::unix_mode(node.mode), "uid": node.uid, "gid": node.gid,
        }));
        Ok(Descend::Into)
    })?;
    Ok(Exit::Done)
}

pub(super) fn stats(args: &Stats, ui: &Ui) -> Outcome {
    let repository = args.place.open()?;
    let snapshots = repository.list(FileKind::Snapshot)?.len();
    let (mut packs, mut stored) = (0_u64, 0_u64);
    repository.store().list(FileKind::Pack, &mut |_, size| {
        packs += 1;
        stored += size;
        Ok(())
    })?;
    let repository = repository.index()?;
    let (data, trees, plain) = repository.with_index(|index| {
        let plain: u64 = [BlobKind::Data, BlobKind::Tree]
            .into_iter()
            .flat_map(|kind| index.entries(kind))
            .map(|entry| u64::from(entry.blob.plain_len().unwrap_or(0)))
            .sum();
        (index.len(BlobKind::Data), index.len(BlobKind::Tree), plain)
    });
    ui.line(format!("{}: {snapshots}", ui.pick("復元点", "restore points")));
    ui.line(format!("{}: {packs} ({})", ui.pick("パック", "packs"), Bytes(stored)));
    ui.line(format!("{}: {data} + {trees} ({})", ui.pick("データ片", "blobs"), Bytes(plain)));
    ui.data(&serde_json::json!({
        "snapshots": snapshots, "packs": packs, "stored_bytes": stored,
        "data_blobs": data, "tree_blobs": trees, "plain_bytes": plain,
    }));
    Ok(Exit::Done)
}
