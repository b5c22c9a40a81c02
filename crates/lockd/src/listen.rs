//! The socket. Who speaks is what the kernel says (`SO_PEERCRED`), not what a line says.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use kuramori_model::lock::{LINE_LIMIT, Reply, Request};

use crate::desk::Desk;

/// A caller that does not read its answer is let go after this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves the verbs, and lets the time go on when nobody asks.
pub(crate) fn serve(path: &Path, uids: &[u32], desk: Desk) -> anyhow::Result<()> {
    let listener = bind(path, uids)?;
    let (uids, desk) = (uids.to_vec(), Arc::new(Mutex::new(desk)));
    let ticking = desk.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(30));
            let mut desk = ticking.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = desk.tick(false) {
                tracing::error!("{}", kuramori_model::fault::chain(&error));
            }
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            match rustix::net::sockopt::socket_peercred(&stream) {
                Ok(peer) if uids.contains(&peer.uid.as_raw()) => {}
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid.as_raw(), "a user who may not connect");
                    continue;
                }
                Err(_) => continue,
            }
            let desk = desk.clone();
            std::thread::spawn(move || {
                if let Err(error) = talk(stream, &desk) {
                    tracing::debug!(%error, "connection");
                }
            });
        }
    });
    Ok(())
}

fn bind(path: &Path, uids: &[u32]) -> anyhow::Result<UnixListener> {
    // Bound under another name and moved into place, so that nobody connects before mode and owner are set.
    let early = path.with_extension("new");
    for old in [path, &early] {
        match fs_err::remove_file(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&early).with_context(|| format!("`{}`", early.display()))?;
    fs_err::set_permissions(&early, std::fs::Permissions::from_mode(0o600))?;
    if let Some(uid) = uids.first()
        && rustix::process::geteuid().is_root()
    {
        std::os::unix::fs::chown(&early, Some(*uid), None)
            .with_context(|| format!("`{}`", early.display()))?;
    }
    fs_err::rename(&early, path)?;
    Ok(listener)
}

fn talk(stream: UnixStream, desk: &Mutex<Desk>) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut bytes = Vec::new();
        let limit = u64::try_from(LINE_LIMIT).unwrap_or(u64::MAX);
        reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
        // The end, or a line that is too long.
        if bytes.pop() != Some(b'\n') {
            return Ok(());
        }
        let reply = match serde_json::from_slice::<Request>(&bytes) {
            Ok(request) => desk.lock().unwrap_or_else(PoisonError::into_inner).answer(request),
            Err(error) => {
                Reply::Refused { code: "lock.request".to_owned(), message: error.to_string(), hint: None }
            }
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        writer.write_all(&text)?;
    }
}
