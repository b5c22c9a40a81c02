//! Files that other people's programs made: their encoders are the reference, not ours.

use std::path::Path;

use super::dicom::Archive;
use crate::{error::Result, program::Program};

/// Made once, then dealt out.
#[derive(Debug, Default)]
pub struct Pool {
    /// JPEG, by dcmtk.
    pub jpeg: Vec<Vec<u8>>,
    /// JPEG 2000 codestreams, by `OpenJPEG`.
    pub jpeg2000: Vec<Vec<u8>>,
    /// DICOM with JPEG inside, by dcmtk.
    pub dicom_jpeg: Vec<Vec<u8>>,
    /// DICOM with JPEG-LS inside, by dcmtk.
    pub dicom_jpeg_ls: Vec<Vec<u8>>,
    /// `SQLite` databases, by `SQLite`.
    pub sqlite: Vec<Vec<u8>>,
    /// xz, by liblzma.
    pub xz: Vec<Vec<u8>>,
    /// Relations of a cluster with checksums, by PostgreSQL's initdb.
    pub pages: Vec<Vec<u8>>,
    /// Files encrypted to a recipient, by age.
    pub sealed: Vec<Vec<u8>>,
}

const DATABASES: &str = r"
import sqlite3, sys, random, lzma, os
seed, count, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
r = random.Random(seed)
for n in range(count):
    path = f'{folder}/{n:03}.sqlite'
    db = sqlite3.connect(path)
    db.execute('create table visit (id integer primary key, patient text, note text, picture blob)')
    db.execute('create index visit_patient on visit (patient)')
    for i in range(r.randrange(80, 400)):
        blob = r.randbytes(r.randrange(0, 9000)) if i % 40 == 0 else None
        db.execute('insert into visit (patient, note, picture) values (?, ?, ?)', (f'TEST{r.randrange(10**6):06}', '視力 0.%d 異常なし' % r.randrange(99), blob))
    db.execute('delete from visit where id % 7 = 0')
    db.commit(); db.close()
    text = ''.join(f'{i},TEST{r.randrange(10**6):06},{r.randrange(300)}\n' for i in range(r.randrange(2000, 6000)))
    open(f'{folder}/{n:03}.xz', 'wb').write(lzma.compress(text.encode()))
";

impl Pool {
    /// Makes `count` of each kind below `folder`.
    ///
    /// # Errors
    /// [`crate::LabError::Start`] if a program is missing.
    pub fn make(folder: &Path, seed: u64, count: u64) -> Result<Self> {
        let folder = folder.join("pool");
        fs_err::create_dir_all(&folder)?;
        let at = |name: String| folder.join(name);
        let archive = Archive { seed, studies: count.max(1), slices: 1, side: 256 };
        for number in 0..count {
            let plain = at(format!("{number:03}.dcm"));
            fs_err::write(&plain, archive.file(number))?;
            let to = |ending: &str| at(format!("{number:03}.{ending}"));
            Program::new("dcmj2pnm").args(["+oj", "+Wi", "1"]).arg(&plain).arg(to("jpg")).run()?;
            Program::new("dcmj2pnm").args(["+op", "+Wi", "1"]).arg(&plain).arg(to("pgm")).run()?;
            Program::new("opj_compress")
                .arg("-i")
                .arg(to("pgm"))
                .args(["-r", "6,1", "-o"])
                .arg(to("j2k"))
                .run()?;
            Program::new("dcmcjpeg").args(["+e1"]).arg(&plain).arg(to("jpegdcm")).run()?;
            Program::new("dcmcjpls").arg(&plain).arg(to("jlsdcm")).run()?;
        }
        let script = at("make.py".to_owned());
        fs_err::write(&script, DATABASES)?;
        Program::new("python3")
            .arg(&script)
            .args([seed.to_string(), count.to_string()])
            .arg(&folder)
            .run()?;
        let identity = at("key.txt".to_owned());
        Program::new("age-keygen").arg("-o").arg(&identity).run()?;
        for number in 0..count {
            let age = Program::new("age")
                .args(["-e", "-i"])
                .arg(&identity)
                .arg("-o")
                .arg(at(format!("{number:03}.age")));
            age.arg(at(format!("{number:03}.sqlite"))).run()?;
        }
        Ok(Self {
            jpeg: read(&folder, "jpg")?,
            jpeg2000: read(&folder, "j2k")?,
            dicom_jpeg: read(&folder, "jpegdcm")?,
            dicom_jpeg_ls: read(&folder, "jlsdcm")?,
            sqlite: read(&folder, "sqlite")?,
            xz: read(&folder, "xz")?,
            pages: pages(&folder, usize::try_from(count).unwrap_or(0))?,
            sealed: read(&folder, "age")?,
        })
    }
}

fn read(folder: &Path, ending: &str) -> Result<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == ending) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok(fs_err::read(path)?)).collect()
}

/// Relations of a fresh cluster. initdb refuses to run as root, so another user runs it.
fn pages(folder: &Path, count: usize) -> Result<Vec<Vec<u8>>> {
    use std::os::unix::fs::PermissionsExt;
    let data = folder.join("cluster");
    fs_err::create_dir_all(&data)?;
    let initdb = "/usr/lib/postgresql/15/bin/initdb";
    let arguments = ["-k", "-N", "--no-instructions", "-A", "peer", "-D"];
    if rustix::process::geteuid().is_root() {
        for part in data.ancestors().take_while(|part| *part != Path::new("/")) {
            let mode = fs_err::metadata(part)?.permissions().mode();
            if part.starts_with(std::env::temp_dir()) && part != std::env::temp_dir() {
                fs_err::set_permissions(part, std::fs::Permissions::from_mode(mode | 0o711))?;
            }
        }
        Program::new("chown").arg("postgres").arg(&data).run()?;
        Program::new(initdb).args(arguments).arg(&data).user("postgres").folder(&data).run()?;
    } else {
        Program::new(initdb).args(arguments).arg(&data).run()?;
    }
    let mut found = Vec::new();
    for database in ["base/1", "global"] {
        for entry in fs_err::read_dir(data.join(database))? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let size = fs_err::metadata(&path)?.len();
            if name.bytes().all(|byte| byte.is_ascii_digit()) && (8192..=131_072).contains(&size) {
                found.push(path);
            }
        }
    }
    found.sort();
    found.truncate(count);
    found.iter().map(|path| Ok(fs_err::read(path)?)).collect()
}
