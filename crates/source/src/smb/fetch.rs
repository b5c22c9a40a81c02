//! Lists folders and reads files over a [`Link`].
//!
//! A small file is opened, read and closed in one round trip and handed on only when it is whole and did
//! not change, so it can be tried again unseen. A big file is handed on piece by piece, several reads in
//! flight; when the connection breaks it is reopened and, if it is still the same file, read on.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use crossbeam_channel::Sender;
use futures::{StreamExt, stream::FuturesOrdered};
use smb2::{
    CompoundOp, Frame,
    msg::{close::CloseResponse, create::CreateResponse, query_directory::QueryDirectoryResponse},
    pack::{ReadCursor, Unpack},
    types::{Command, FileId, status::NtStatus},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    link::{Failure, Link, Live, Slip, Trouble},
    names::Wide,
    wire::{self, Listed, Look},
};

/// Files up to this size are read whole before they are handed on.
pub(super) const SMALL: u64 = 1 << 20;
/// One read of a big file.
const PIECE: u32 = 1 << 20;
/// Reads of one big file that may be in flight or unread by the sink.
pub(super) const AHEAD: usize = 8;

/// One step of a file on its way to the sink.
#[derive(Debug)]
pub(super) enum Piece {
    /// The file as it was when it was opened.
    Opened(Look),
    /// The next bytes; the permit lets the next read go out once they are used up.
    Data(Bytes, Option<OwnedSemaphorePermit>),
    /// The file is whole and did not change.
    End,
    /// There is no more, and what there was is not to be trusted.
    Failed(Failure),
}

/// Reads one file and sends it in pieces; ends early if nobody listens any more.
pub(super) async fn file(link: Arc<Link>, path: Wide, size: u64, to: Sender<Piece>) {
    let mut size = size;
    // Servers of the oldest dialect give at most 64 KiB at once.
    let whole = match link.max_read().await {
        Ok(most) => SMALL.min(u64::from(most)),
        Err(failure) => return drop(to.send(Piece::Failed(failure))),
    };
    for left in (0..=link.config().retries).rev() {
        let outcome = if size > whole {
            match big(&link, &path, &to).await {
                Ok(()) => Ok(()),
                // Once bytes were handed on they cannot be taken back.
                Err((failure, true)) => return drop(to.send(Piece::Failed(failure))),
                Err((failure, false)) => Err(failure),
            }
        } else {
            small(&link, &path, &mut size, &to).await
        };
        match outcome {
            Ok(()) => return,
            Err(Failure::Item(trouble)) if left > 0 && trouble.may_pass() => {
                link.pause(link.config().retry_pause.0).await;
            }
            Err(failure) => return drop(to.send(Piece::Failed(failure))),
        }
    }
}

async fn small(link: &Link, path: &Wide, size: &mut u64, to: &Sender<Piece>) -> Result<(), Failure> {
    let asked = u32::try_from(*size).unwrap_or(u32::MAX);
    link.granted(u64::from(asked)).await;
    let (opened, content) = link.run(|live| read_whole(live, path, asked)).await?;
    *size = opened.size;
    let Some(content) = content else { return Err(Failure::Item(Trouble::Changed)) };
    let _ = to.send(Piece::Opened(opened));
    let _ = to.send(Piece::Data(content, None));
    let _ = to.send(Piece::End);
    Ok(())
}

/// Open, read and close in one round trip. No content if the file was not still for that long, or is
/// bigger than asked for.
async fn read_whole(live: Live, path: &Wide, asked: u32) -> Result<(Look, Option<Bytes>), Slip> {
    let (open, close) = (wire::Open { path, folder: false }, wire::close(FileId::SENTINEL));
    let read = wire::read(FileId::SENTINEL, 0, asked.max(1));
    let tree = Some(live.tree);
    let operations = [
        CompoundOp::new(Command::Create, &open, tree),
        CompoundOp { command: Command::Read, body: &read, tree_id: tree, credit_charge: wire::charge(asked) },
        CompoundOp::new(Command::Close, &close, tree),
    ];
    let [opened, content, closed] = three(live.connection.execute_compound(&operations).await?)?;
    let opened = created(&opened)?;
    let look = Look::from(&opened);
    let content = match content.header.status {
        NtStatus::END_OF_FILE => Bytes::new(),
        status if status.is_success() => read_data(content.body)
            .ok_or_else(|| Slip::Broken("a READ answer that does not hold together".into()))?,
        status => {
            // The failed read took the compound's CLOSE with it: the handle is still open.
            let _ = live.connection.execute(Command::Close, &wire::close(opened.file_id), tree).await;
            return Err(status.into());
        }
    };
    let still = closed.header.status.is_error()
        || CloseResponse::unpack(&mut ReadCursor::new(&closed.body))
            .is_ok_and(|closed| look.same_at_close(&closed));
    let whole = content.len() as u64 == look.size;
    Ok((look, (still && whole).then_some(content)))
}

/// Streams a big file. The flag in an error says whether anything was handed on.
async fn big(link: &Link, path: &Wide, to: &Sender<Piece>) -> Result<(), (Failure, bool)> {
    let room = Arc::new(Semaphore::new(AHEAD));
    let mut first: Option<Look> = None;
    let mut offset = 0;
    loop {
        let begun = |first: &Option<Look>| first.is_some();
        let outcome = link
            .run(|live| async move {
                let open = wire::Open { path, folder: false };
                let answer = live.connection.execute(Command::Create, &open, Some(live.tree)).await?;
                Ok((created(&answer)?, live))
            })
            .await;
        let (opened, live) = outcome.map_err(|failure| (failure, begun(&first)))?;
        let look = Look::from(&opened);
        match &first {
            None => {
                first = Some(look);
                let _ = to.send(Piece::Opened(look));
            }
            Some(before) if *before != look => return Err((Failure::Item(Trouble::Changed), true)),
            Some(_) => {}
        }
        let handle = opened.file_id;
        match stream(link, &live, handle, look.size, &mut offset, &room, to).await {
            Ok(()) => {
                let closed =
                    live.connection.execute(Command::Close, &wire::close(handle), Some(live.tree)).await;
                let still = closed.is_ok_and(|frame| {
                    frame.header.status.is_success()
                        && CloseResponse::unpack(&mut ReadCursor::new(&frame.body))
                            .is_ok_and(|closed| look.same_at_close(&closed))
                });
                if !still {
                    return Err((Failure::Item(Trouble::Changed), true));
                }
                let _ = to.send(Piece::End);
                return Ok(());
            }
            Err(Slip::Item(trouble)) => {
                let _ = live.connection.execute(Command::Close, &wire::close(handle), Some(live.tree)).await;
                return Err((Failure::Item(trouble), true));
            }
            // The next turn's `run` notices that this session is dead and makes a new one.
            Err(Slip::Broken(why)) => {
                let gone = live.connection.clone();
                gone.mark_dead();
                tracing::debug!(why, offset, "a big file is read on after a break");
            }
        }
    }
}

/// Keeps [`AHEAD`] reads in flight and hands their answers on in order.
async fn stream(
    link: &Link,
    live: &Live,
    handle: FileId,
    size: u64,
    offset: &mut u64,
    room: &Arc<Semaphore>,
    to: &Sender<Piece>,
) -> Result<(), Slip> {
    let piece = link.bucket.piece(PIECE.min(live.max_read));
    let mut asked = *offset;
    let mut flight = FuturesOrdered::new();
    let mut permits = VecDeque::new();
    loop {
        while asked < size && flight.len() < AHEAD {
            let permit = if flight.is_empty() {
                Arc::clone(room).acquire_owned().await.ok()
            } else {
                Arc::clone(room).try_acquire_owned().ok()
            };
            let Some(permit) = permit else { break };
            let length = u32::try_from((size - asked).min(u64::from(piece))).unwrap_or(piece);
            link.granted(u64::from(length)).await;
            permits.push_back(permit);
            let request = wire::read(handle, asked, length);
            let (connection, tree) = (live.connection.clone(), live.tree);
            flight.push_back(async move {
                let charge = wire::charge(length);
                let answer =
                    connection.execute_with_credits(Command::Read, &request, Some(tree), charge).await?;
                if answer.header.status == NtStatus::END_OF_FILE {
                    return Err(Slip::Item(Trouble::Changed));
                }
                if !answer.header.status.is_success() {
                    return Err(answer.header.status.into());
                }
                let data = read_data(answer.body)
                    .ok_or_else(|| Slip::Broken("a READ answer that does not hold together".into()))?;
                if data.len() == length as usize { Ok(data) } else { Err(Slip::Item(Trouble::Changed)) }
            });
            asked += u64::from(length);
        }
        let Some(data) = flight.next().await else { return Ok(()) };
        let data = data?;
        link.pulse.beat();
        *offset += data.len() as u64;
        if to.send(Piece::Data(data, permits.pop_front())).is_err() {
            return Err(Slip::Item(Trouble::Other("the reader stopped".into())));
        }
    }
}

/// All entries of a folder, in the order of their names.
pub(super) async fn list(link: &Link, path: &Wide) -> Result<Vec<Listed>, Failure> {
    let mut listed = link.run(|live| list_once(live, path)).await?;
    listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(listed)
}

async fn list_once(live: Live, path: &Wide) -> Result<Vec<Listed>, Slip> {
    const FIRST: u32 = 64 << 10;
    const MORE: u32 = 1 << 20;
    let tree = Some(live.tree);
    let open = wire::Open { path, folder: true };
    let first = wire::NextEntries { handle: FileId::SENTINEL, room: FIRST };
    let operations = [
        CompoundOp::new(Command::Create, &open, tree),
        CompoundOp::new(Command::QueryDirectory, &first, tree),
        CompoundOp::new(Command::QueryDirectory, &first, tree),
    ];
    let [opened, one, two] = three(live.connection.execute_compound(&operations).await?)?;
    let handle = created(&opened)?.file_id;
    let mut listed = Vec::new();
    let outcome = async {
        let mut more = take_entries(&one, &mut listed)? && take_entries(&two, &mut listed)?;
        while more {
            let ask = wire::NextEntries { handle, room: MORE };
            let answer = live
                .connection
                .execute_with_credits(Command::QueryDirectory, &ask, tree, wire::charge(MORE))
                .await?;
            more = take_entries(&answer, &mut listed)?;
        }
        Ok(())
    }
    .await;
    let _ = live.connection.execute(Command::Close, &wire::close(handle), tree).await;
    outcome.map(|()| listed)
}

/// Adds an answer's entries; false after the last.
fn take_entries(answer: &Frame, listed: &mut Vec<Listed>) -> Result<bool, Slip> {
    match answer.header.status {
        NtStatus::NO_MORE_FILES | NtStatus::NO_SUCH_FILE => Ok(false),
        status if status.is_success() => {
            let broken = || Slip::Broken("a listing that does not hold together".into());
            let answer =
                QueryDirectoryResponse::unpack(&mut ReadCursor::new(&answer.body)).map_err(|_| broken())?;
            listed.extend(wire::entries(&answer.output_buffer).ok_or_else(broken)?);
            Ok(true)
        }
        status => Err(status.into()),
    }
}

fn three(answers: Vec<smb2::Result<Frame>>) -> Result<[Frame; 3], Slip> {
    let frames = answers.into_iter().collect::<smb2::Result<Vec<Frame>>>()?;
    frames.try_into().map_err(|_| Slip::Broken("an answer is missing".into()))
}

fn created(answer: &Frame) -> Result<CreateResponse, Slip> {
    if !answer.header.status.is_success() {
        return Err(answer.header.status.into());
    }
    CreateResponse::unpack(&mut ReadCursor::new(&answer.body)).map_err(Slip::from)
}

/// The content of a READ answer (MS-SMB2 2.2.20) without copying it.
fn read_data(body: Vec<u8>) -> Option<Bytes> {
    const HEADER: usize = 64;
    let start = usize::from(*body.get(2)?).checked_sub(HEADER)?;
    let length = usize::try_from(u32::from_le_bytes(body.get(4..8)?.try_into().ok()?)).ok()?;
    let end = start.checked_add(length)?;
    (end <= body.len()).then(|| Bytes::from(body).slice(start..end))
}
