//! The two sockets. Who speaks is what the kernel says (`SO_PEERCRED`), not what a line says.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use crossbeam_channel::Sender;
use kuramori_gate::{
    fault::Refusal,
    keeper::{Input, refused},
    machine::What,
};
use kuramori_model::gate::{LINE_LIMIT, Reply, Request, Seen};

/// More connections at once are turned away.
const CONNECTIONS: usize = 16;
/// A caller that does not read its answer is let go after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A caller that asks nothing is let go after this: idle ones must not keep `close` from getting in.
const IDLE: Duration = Duration::from_secs(15);

/// Serves the verbs.
pub(crate) fn control(path: &Path, uids: &[u32], input: Sender<Input>) -> anyhow::Result<()> {
    serve(path, uids, move |stream| talk(stream, &input))
}

/// Takes the observer's words.
pub(crate) fn observer(path: &Path, uids: &[u32], input: Sender<Input>) -> anyhow::Result<()> {
    serve(path, uids, move |stream| hear(stream, &input))
}

fn serve(
    path: &Path,
    uids: &[u32],
    act: impl Fn(UnixStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let listener = bind(path, uids)?;
    let (uids, act, count) = (uids.to_vec(), Arc::new(act), Arc::new(AtomicUsize::new(0)));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            match rustix::net::sockopt::socket_peercred(&stream) {
                Ok(peer) if uids.contains(&peer.uid.as_raw()) => {}
                Ok(peer) => {
                    let uid = peer.uid.as_raw();
                    tracing::warn!(uid, "a user who may not connect");
                    // A short line into an empty socket does not wait.
                    if let Ok(text) = serde_json::to_vec(&refused(&Refusal::Caller(uid))) {
                        let _ = stream
                            .set_nonblocking(true)
                            .and_then(|()| stream.write_all(&[text, b"\n".to_vec()].concat()));
                    }
                    continue;
                }
                Err(_) => continue,
            }
            if count.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
                count.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            if stream.set_read_timeout(Some(IDLE)).is_err() {
                count.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let (act, count) = (act.clone(), count.clone());
            std::thread::spawn(move || {
                if let Err(error) = act(stream) {
                    tracing::debug!(%error, "connection");
                }
                count.fetch_sub(1, Ordering::SeqCst);
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

/// The next line without its end; none at the end of the stream. A line that is too long ends the stream.
fn line(reader: &mut BufReader<UnixStream>) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(LINE_LIMIT).unwrap_or(u64::MAX);
    reader.by_ref().take(limit).read_until(b'\n', &mut bytes)?;
    if bytes.pop() == Some(b'\n') { Ok(Some(bytes)) } else { Ok(None) }
}

fn talk(stream: UnixStream, input: &Sender<Input>) -> std::io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(bytes) = line(&mut reader)? {
        let reply = match serde_json::from_slice::<Request>(&bytes) {
            Err(error) => refused(&Refusal::Request(error.to_string())),
            Ok(request) => ask(request, input),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        writer.write_all(&text)?;
    }
    Ok(())
}

fn ask(request: Request, input: &Sender<Input>) -> Reply {
    let (sender, answer) = crossbeam_channel::bounded(1);
    let busy = || Reply::Refused {
        code: "gate.busy".to_owned(),
        message: "the gate does not answer".to_owned(),
        hint: None,
    };
    if input.send_timeout(Input::Ask(request, sender), PATIENCE).is_err() {
        return busy();
    }
    answer.recv_timeout(PATIENCE).unwrap_or_else(|_| busy())
}

fn hear(stream: UnixStream, input: &Sender<Input>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(bytes) = line(&mut reader)? {
        match serde_json::from_slice::<Seen>(&bytes) {
            Ok(seen) => {
                if input.send(Input::Event(What::Seen(seen))).is_err() {
                    return Ok(());
                }
            }
            // What is not understood is not an "ok": silence closes.
            Err(error) => tracing::warn!(%error, "the observer's line"),
        }
    }
    Ok(())
}
