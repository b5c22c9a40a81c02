//! The kernel's requests, answered.

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyXattr, Request,
};
use jiff::tz::TimeZone;
use kuramori_repo::reading::{OpenFile, Reader};

use crate::{
    GROWING, STORED,
    browse::{Browser, Facts, Item},
    inodes::{Inodes, ROOT},
};

/// A number for names that nobody asked for yet; libfuse uses the same.
const UNKNOWN: INodeNo = INodeNo(0xffff_ffff);

/// A folder that is being listed: the list stays as it was when it was opened.
type Listing = Arc<Vec<(std::ffi::OsString, FileType)>>;

#[derive(Debug)]
pub(crate) struct View {
    browser: Browser,
    inodes: Mutex<Inodes>,
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    folders: Mutex<HashMap<u64, Listing>>,
    next: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the kernel gets for an error, which the log names.
fn failed(error: &kuramori_repo::Error) -> Errno {
    tracing::error!(
        "a request to the mounted restore points failed: {}",
        kuramori_model::fault::chain(error)
    );
    Errno::EIO
}

fn attributes(number: u64, facts: &Facts) -> FileAttr {
    let [atime, mtime, ctime] = facts.times;
    FileAttr {
        ino: INodeNo(number),
        size: facts.size,
        blocks: facts.size.div_ceil(512),
        atime,
        mtime,
        ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: facts.kind,
        perm: facts.perm,
        nlink: facts.links,
        uid: facts.owner.0,
        gid: facts.owner.1,
        rdev: facts.device,
        blksize: 128 << 10,
        flags: 0,
    }
}

impl View {
    pub(crate) fn new(reader: Reader, zone: TimeZone) -> kuramori_repo::Result<Self> {
        Ok(Self {
            browser: Browser::new(reader, zone)?,
            inodes: Mutex::new(Inodes::new(Facts::folder(SystemTime::UNIX_EPOCH))),
            files: Mutex::default(),
            folders: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    fn item(&self, number: INodeNo) -> Result<(Item, Facts), Errno> {
        lock(&self.inodes).get(u64::from(number)).ok_or(Errno::ENOENT)
    }

    fn open_item(&self, number: INodeNo) -> Result<FileHandle, Errno> {
        let reader = &self.browser.reader;
        let file = match self.item(number)?.0 {
            Item::File(node) => reader.open(&node),
            Item::Disk(segments) => reader.open_disk(&segments),
            _ => return Err(Errno::EISDIR),
        };
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.files).insert(handle, Arc::new(file.map_err(|error| failed(&error))?));
        Ok(FileHandle(handle))
    }

    fn read_item(&self, handle: FileHandle, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = lock(&self.files).get(&u64::from(handle)).cloned().ok_or(Errno::EBADF)?;
        // The kernel asks for a MiB at most.
        let mut bytes = vec![0; (size as usize).min(4 << 20)];
        let count = file.read_at(offset, &mut bytes).map_err(|error| failed(&error))?;
        bytes.truncate(count);
        Ok(bytes)
    }
}

fn answer_xattr(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for View {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.item(parent).and_then(|(folder, _)| {
            Ok((self.browser.child(&folder, name).map_err(|error| failed(&error))?, folder))
        });
        match found {
            Ok((Some((item, facts)), folder)) => {
                let time = if matches!(folder, Item::Folder(_)) { STORED } else { GROWING };
                let number = lock(&self.inodes).give(u64::from(parent), name, item, facts.clone());
                reply.entry(&time, &attributes(number, &facts), Generation(0));
            }
            Ok((None, _)) => reply.error(Errno::ENOENT),
            Err(error) => reply.error(error),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        lock(&self.inodes).forget(u64::from(number), times);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.item(number) {
            Ok((_, facts)) => reply.attr(&STORED, &attributes(u64::from(number), &facts)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.item(number) {
            Ok((Item::Link(target), _)) => reply.data(&target),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_item(number) {
            // What is stored never changes: the kernel may keep what it read.
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_item(handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.files).remove(&u64::from(handle));
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let names =
            self.item(number).and_then(|(item, _)| self.browser.names(&item).map_err(|error| failed(&error)));
        match names {
            Ok(names) => {
                let handle = self.next.fetch_add(1, Ordering::Relaxed);
                lock(&self.folders).insert(handle, Arc::new(names));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(names) = lock(&self.folders).get(&u64::from(handle)).cloned() else {
            return reply.error(Errno::EBADF);
        };
        // The first two are the folder itself and the one above, whose number the kernel knows better.
        let above = if u64::from(number) == ROOT { number } else { UNKNOWN };
        let dots = [(number, OsStr::new(".")), (above, OsStr::new(".."))];
        let all = dots
            .into_iter()
            .map(|(number, name)| (number, FileType::Directory, name))
            .chain(names.iter().map(|(name, kind)| (UNKNOWN, *kind, name.as_os_str())));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (position, (number, kind, name)) in (1_u64..).zip(all).skip(skip) {
            if reply.add(number, position, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        lock(&self.folders).remove(&u64::from(handle));
        reply.ok();
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.item(number) {
            Ok((_, facts)) => {
                let value = facts.xattrs.iter().find(|(known, _)| known == name.as_bytes());
                match value {
                    Some((_, value)) => answer_xattr(value, size, reply),
                    None => reply.error(Errno::ENODATA),
                }
            }
            Err(error) => reply.error(error),
        }
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        match self.item(number) {
            Ok((_, facts)) => {
                let names: Vec<u8> =
                    facts.xattrs.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect();
                answer_xattr(&names, size, reply);
            }
            Err(error) => reply.error(error),
        }
    }
}
