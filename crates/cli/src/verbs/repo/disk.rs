//! `kuramori repo backup-disk` and `kuramori repo nbd`: disks into a restore point, and out of it as a disk.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use kuramori_model::{
    blocks::Blocks,
    clock::{Clock, SystemClock},
    fault::Exit,
    tree::TreePath,
    units::Bytes,
};
use kuramori_nbd::{Address, BaseId, Client, Export, Limits, Overlay, Server, wire::QEMU_BITMAP};
use kuramori_repo::{
    Cancel,
    backup::{Draft, Options},
    chunk::Chunking,
    disk::{Dirty, DiskStored, Whole},
    lock::{LockGuard, LockMode},
    reading::{ReadOptions, Reader},
};

use super::open::{PATIENCE, Place, cancel_on_signal};
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

#[derive(Debug, clap::Args)]
pub(super) struct BackupDisk {
    #[command(flatten)]
    place: Place,
    /// The disk: nbd+unix:///EXPORT?socket=PATH or nbd://HOST[:PORT]/EXPORT
    #[arg(value_name = "URI")]
    from: String,
    /// The disk's name in the restore point
    #[arg(long, value_name = "NAME")]
    name: String,
    /// QEMU's bitmap of changed blocks; then only what it names is read
    #[arg(long, value_name = "BITMAP", requires = "since")]
    bitmap: Option<String>,
    /// The restore point since which the bitmap counts
    #[arg(long, value_name = "SNAPSHOT", requires = "bitmap")]
    since: Option<String>,
    /// A label; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The machine's name to record
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Nbd {
    #[command(flatten)]
    place: Place,
    /// What to serve: a restore point (the start of its id, or `latest`) and the disk or image file in it
    #[arg(required = true, value_name = "SNAPSHOT:PATH")]
    disks: Vec<String>,
    /// A unix socket to listen on
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    socket: Option<PathBuf>,
    /// Address and port to listen on; without encryption or login, so only this machine's own
    #[arg(long, default_value = "127.0.0.1:10809", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Listen also where others can connect, and read everything
    #[arg(long)]
    trust_network: bool,
    /// Take writes, and keep them in this file; the restore point never changes
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// Copy the whole disk into the overlay meanwhile, until the repository is not needed any more
    #[arg(long, requires = "overlay")]
    copy: bool,
    /// Memory for what was read, in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=65_536), value_name = "MIB")]
    cache: u32,
    /// Read without taking a lock: for a store that cannot be written
    #[arg(long)]
    no_lock: bool,
}

pub(super) fn backup_disk(args: &BackupDisk, ui: &Ui) -> Outcome {
    let name = TreePath::new(args.name.clone()).map_err(|error| CliError::Argument(error.to_string()))?;
    let (address, export) = Address::from_uri(&args.from)?;
    let context = args.bitmap.as_ref().map(|bitmap| format!("{QEMU_BITMAP}{bitmap}"));
    let contexts: Vec<&str> = context.iter().map(String::as_str).collect();
    let disk = Client::connect(&address, &export, &contexts)?;
    let repository = args.place.open()?;
    let since = match &args.since {
        Some(since) => Some(repository.find_snapshot(since)?),
        None => None,
    };
    let repository = repository.index()?;
    let mut options = Options {
        chunking: Chunking::Fixed,
        level: 3,
        patience: PATIENCE,
        cancel: cancel_on_signal(),
        ..Options::default()
    };
    let mut dirty = None;
    if let (Some(context), Some((id, snapshot))) = (&context, &since) {
        let mark = repository.disk_mark(&snapshot.tree, &name)?;
        dirty = Some(Dirty { since: mark, size: disk.size(), ranges: disk.marked(context)? });
        options.parent = Some(*id);
    }
    let mut backup = repository.backup(options)?;
    let stored = backup.put_disk(&name, &disk, dirty.as_ref())?;
    let context = repository.context();
    let committed = backup.commit(Draft {
        hostname: args.host.clone().unwrap_or_else(|| context.hostname.clone()),
        username: context.username.clone(),
        paths: vec![format!("/{name}")],
        tags: args.tag.clone(),
        ..Draft::default()
    })?;
    ui.data(&serde_json::json!({
        "message_type": "summary",
        "snapshot_id": committed.id.to_string(),
        "incomplete": committed.is_incomplete(),
        "disk": stored,
        "data_added": committed.summary.data_added,
        "data_added_packed": committed.summary.data_added_packed,
    }));
    ui.line(format!(
        "{} {}\n{} {}, {} {}, {} {}, {} {} ({})",
        ui.pick("復元点:", "restore point"),
        committed.id,
        ui.pick("ディスク", "disk"),
        Bytes(stored.size),
        ui.pick("読み取り", "read"),
        Bytes(stored.read),
        ui.pick("引き継ぎ", "kept"),
        Bytes(stored.kept),
        ui.pick("新しいデータ", "new data"),
        Bytes(committed.summary.data_added),
        Bytes(committed.summary.data_added_packed),
    ));
    if args.bitmap.is_some() {
        say_why_whole(&stored, ui);
    }
    Ok(Exit::Done)
}

fn say_why_whole(stored: &DiskStored, ui: &Ui) {
    let why = match stored.whole {
        None | Some(Whole::NoMap) => return,
        Some(Whole::NoParent | Whole::ParentUnreadable) => ui.pick(
            "前の復元点のディスクを読めないため、全体を読みました",
            "read all of it: the previous restore point's disk cannot be read",
        ),
        Some(Whole::OtherMark) => ui.pick(
            "ビットマップが別の復元点からのものなので、全体を読みました",
            "read all of it: the bitmap counts since another restore point",
        ),
        Some(Whole::OtherSize) => ui.pick(
            "ディスクの容量が変わったため、全体を読みました",
            "read all of it: the disk's size changed",
        ),
    };
    ui.note(why);
}

pub(super) fn nbd(args: &Nbd, ui: &Ui) -> Outcome {
    if args.overlay.is_some() && args.disks.len() > 1 {
        return Err(
            CliError::Argument("an overlay belongs to one disk: serve one at a time".to_owned()).into()
        );
    }
    if args.socket.is_none() && !args.listen.ip().is_loopback() && !args.trust_network {
        return Err(CliError::Argument(format!(
            "NBD has neither encryption nor a login, and {} can be reached by others; use this machine's own \
             address and a tunnel, or `--trust-network`",
            args.listen
        ))
        .into());
    }
    let cancel = cancel_on_signal();
    let repository = args.place.open()?;
    let mut lock = if args.no_lock { None } else { Some(repository.lock(LockMode::Shared, PATIENCE)?) };
    let mut found = Vec::new();
    for disk in &args.disks {
        let (snapshot, path) = disk
            .split_once(':')
            .ok_or_else(|| CliError::Argument(format!("`{disk}` is not of the form SNAPSHOT:PATH")))?;
        let path = TreePath::new(path.trim_matches('/').as_bytes())
            .map_err(|error| CliError::Argument(error.to_string()))?;
        let (id, snapshot) = repository.find_snapshot(snapshot)?;
        if snapshot.is_incomplete() {
            ui.note(ui.pick("注意: この復元点は不完全です", "note: this restore point is incomplete"));
        }
        found.push((id, snapshot, path));
    }
    let memory = usize::try_from(args.cache).unwrap_or(64) << 20;
    let reader = Reader::new(repository.index()?, ReadOptions { memory, ..ReadOptions::default() })?;
    let (mut exports, mut overlay) = (Vec::new(), None);
    for (id, snapshot, path) in found {
        let file = reader.open_path(&snapshot.tree, &path)?;
        let base = BaseId(file.fingerprint());
        let mut blocks: Arc<dyn Blocks> = Arc::new(file);
        if let Some(place) = &args.overlay {
            let over = Arc::new(Overlay::open(place, blocks, base)?);
            overlay = Some(Arc::clone(&over));
            blocks = over;
        }
        let last = path.parts().last().unwrap_or_default();
        let mut name = String::from_utf8_lossy(last).into_owned();
        if exports.iter().any(|export: &Export| export.name == name) {
            name = format!("{name}@{}", id.to_string().chars().take(8).collect::<String>());
        }
        let description = format!("{} {path} ({:.0})", snapshot.hostname, snapshot.time);
        exports.push(Export { name, description, blocks });
    }
    let address = args.socket.clone().map_or(Address::Tcp(args.listen), Address::Unix);
    let names: Vec<(String, u64)> =
        exports.iter().map(|export| (export.name.clone(), export.blocks.size())).collect();
    let server = Server::bind(&address, exports, Limits::default(), Arc::new(SystemClock))?.start()?;
    for (name, size) in names {
        let uri = server.address().uri(&name);
        ui.line(format!("{} {uri} ({})", ui.pick("待ち受けています:", "serving at"), Bytes(size)));
        ui.data(&serde_json::json!({"message_type": "status", "listening": uri, "name": name, "size": size}));
    }
    if let Some(overlay) = overlay.filter(|_| args.copy) {
        copy(&overlay, lock.as_ref(), &cancel, ui)?;
        if overlay.is_whole() {
            // The disk lies in the overlay: whatever happens to the repository does not touch it any more.
            lock = None;
            ui.line(ui.pick(
                "コピーが完了しました。以後、リポジトリは不要です",
                "the copy is whole: the repository is not needed any more",
            ));
            ui.data(&serde_json::json!({"message_type": "status", "copied": true}));
        }
    }
    while !cancel.is_cancelled() {
        if let Some(lock) = &lock {
            lock.check()?;
        }
        SystemClock.sleep(Duration::from_millis(200));
    }
    drop(server);
    Ok(Exit::Done)
}

/// Copies the disk into the overlay until it is whole or somebody stops it. A read that fails is tried again: the
/// guest goes on with what is there.
fn copy(overlay: &Overlay, lock: Option<&LockGuard>, cancel: &Cancel, ui: &Ui) -> Result<(), Failure> {
    const FLUSH_EVERY: u64 = 256 << 20;
    let bar = ui.bytes_bar(Some(overlay.size())).with_message(ui.pick("コピー中", "copying").to_owned());
    let (mut at, mut unflushed) = (0, 0);
    loop {
        if cancel.is_cancelled() {
            break;
        }
        if let Some(lock) = lock {
            lock.check()?;
        }
        bar.set_position(at);
        match overlay.fill(at) {
            Ok(Some(next)) => {
                unflushed += next - at;
                at = next;
                if unflushed >= FLUSH_EVERY {
                    unflushed = 0;
                    flush(overlay)?;
                }
            }
            Ok(None) => break,
            Err(error) => {
                ui.note(format!(
                    "{}: {}",
                    ui.pick("コピーを再試行します", "the copy is tried again"),
                    kuramori_model::fault::chain(&error)
                ));
                SystemClock.sleep(Duration::from_secs(5));
            }
        }
    }
    bar.finish_and_clear();
    flush(overlay)
}

fn flush(overlay: &Overlay) -> Result<(), Failure> {
    Ok(overlay.flush().map_err(|error| CliError::File(std::io::Error::other(error)))?)
}
