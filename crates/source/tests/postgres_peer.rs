//! A scripted PostgreSQL that says what real ones say only on bad days, and what versions 13 and 14 say.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use common::{Folder, control};
use kuramori_model::fault::Fault;
use kuramori_source::{
    Error, Report, Source,
    config::{Checkpoint, PostgresConfig, PostgresExpect, Span},
    postgres::PostgresSource,
    report::Origin,
};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn row(fields: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for field in fields {
        match field {
            Some(text) => {
                body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                body.extend(text.as_bytes());
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    message(b'D', &body)
}

fn rows(all: &[&[Option<&str>]]) -> Vec<u8> {
    let rows: Vec<u8> = all.iter().flat_map(|fields| row(fields)).collect();
    [message(b'T', &[0, 0]), rows, message(b'C', b"SELECT\0")].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn error(code: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0C{code}\0M{text}\0\0").as_bytes())
}

fn tar(items: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, kind, content) in items {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(if *kind == b'5' { b"0000700" } else { b"0000600" });
        let size = if *kind == b'2' { 0 } else { content.len() };
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[136..147].copy_from_slice(b"14000000000");
        block[156] = *kind;
        if *kind == b'2' {
            block[157..157 + content.len()].copy_from_slice(content);
        }
        block[257..263].copy_from_slice(b"ustar\0");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(block);
        if *kind != b'2' {
            archive.extend(*content);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
    }
    archive
}

fn manifest(files: &[(&str, usize)]) -> Vec<u8> {
    let lines: Vec<String> =
        files.iter().map(|(path, size)| format!("{{ \"Path\": \"{path}\", \"Size\": {size} }}")).collect();
    let head = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n],\n",
        lines.join(",\n")
    );
    let hash = hex::encode(digest(&SHA256, head.as_bytes()));
    format!("{head}\"Manifest-Checksum\": \"{hash}\"}}\n").into_bytes()
}

const OLD: &[u8] = &[7; 3000];

fn base() -> Vec<u8> {
    tar(&[
        ("backup_label", b'0', b"START WAL"),
        ("base/", b'5', b""),
        ("base/1/", b'5', b""),
        ("base/1/1259", b'0', OLD),
        ("pg_tblspc/", b'5', b""),
        ("pg_tblspc/16400", b'2', b"/mnt/space"),
        ("pg_wal/", b'5', b""),
        ("./pg_wal/archive_status/", b'5', b""),
        ("global/pg_control", b'0', b"control"),
        ("pg_wal/000000010000000000000002", b'0', b"log"),
    ])
}

fn space() -> Vec<u8> {
    tar(&[("PG_15_1/", b'5', b""), ("PG_15_1/5/", b'5', b""), ("PG_15_1/5/77", b'0', b"seventy-seven")])
}

fn listed() -> Vec<u8> {
    manifest(&[
        ("backup_label", 9),
        ("base/1/1259", 3000),
        ("pg_tblspc/16400/PG_15_1/5/77", 13),
        ("global/pg_control", 7),
    ])
}

/// What each part of an answer is made of.
struct Script {
    version: &'static str,
    spaces: Vec<(&'static str, Vec<u8>)>,
    base: Vec<u8>,
    manifest: Option<Vec<u8>>,
    end: Vec<u8>,
}

impl Script {
    fn good(version: &'static str) -> Self {
        Self {
            version,
            spaces: vec![("16400", space())],
            base: base(),
            manifest: Some(listed()),
            end: [rows(&[&[Some("0/2000100"), Some("1")]]), message(b'C', b"BASE_BACKUP\0"), ready()]
                .concat(),
        }
    }

    fn answer(&self) -> Vec<u8> {
        let mut out = rows(&[&[Some("0/2000028"), Some("1")]]);
        let mut list: Vec<Vec<Option<&str>>> =
            self.spaces.iter().map(|(oid, _)| vec![Some(*oid), Some("/mnt/space"), Some("12")]).collect();
        list.push(vec![None, None, Some("4000")]);
        out.extend(rows(&list.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        let begin = message(b'H', &[0, 0, 0]);
        let new = self.version >= "15";
        let pieces = |archive: &[u8]| -> Vec<u8> {
            // Odd pieces, so that headers and contents are torn.
            let tag: &[u8] = if new { b"d" } else { b"" };
            archive.chunks(333).flat_map(|piece| message(b'd', &[tag, piece].concat())).collect()
        };
        let archives = self
            .spaces
            .iter()
            .map(|(oid, tar)| (format!("{oid}.tar"), tar))
            .chain([("base.tar".into(), &self.base)]);
        if new {
            out.extend(begin);
            for (name, archive) in archives {
                out.extend(message(b'd', format!("n{name}\0/mnt/space\0").as_bytes()));
                out.extend(pieces(archive));
                out.extend(message(b'd', &[&b"d"[..], &[0; 1024]].concat()));
                out.extend(message(b'd', b"p\0\0\0\0\0\0\0\x01"));
            }
            if let Some(manifest) = &self.manifest {
                out.extend(message(b'd', b"m"));
                out.extend(pieces(manifest));
            }
            out.extend(message(b'c', b""));
        } else {
            for archive in archives.map(|(_, tar)| tar).chain(&self.manifest) {
                out.extend([begin.clone(), pieces(archive), message(b'c', b"")].concat());
            }
        }
        out.extend(&self.end);
        out
    }
}

/// Serves one client: the login, the small commands, and then `backup` and the end of the connection.
fn serve(mut client: TcpStream, version: &str, backup: &[u8]) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let mut startup = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
    client.read_exact(&mut startup)?;
    let hello = [
        message(b'R', &[0; 4]),
        message(b'S', format!("server_version\0{version}\0").as_bytes()),
        message(b'K', &[0, 0, 0, 9, 1, 2, 3, 4]),
        ready(),
    ];
    client.write_all(&hello.concat())?;
    loop {
        let mut head = [0; 5];
        client.read_exact(&mut head)?;
        let size = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(size).unwrap() - 4];
        client.read_exact(&mut body)?;
        let command = String::from_utf8_lossy(&body).into_owned();
        let answer = match command.split(' ').next().unwrap_or_default().trim_end_matches('\0') {
            "IDENTIFY_SYSTEM" => [rows(&[&[Some("4711"), Some("1"), Some("0/2"), None]]), ready()].concat(),
            "SHOW" => [rows(&[&[Some("off")]]), ready()].concat(),
            "CREATE_REPLICATION_SLOT" => [rows(&[&[Some("x"), Some("0/2"), None, None]]), ready()].concat(),
            "BASE_BACKUP" => {
                let parentheses = command.contains('(');
                assert_eq!(parentheses, version >= "15", "{command}");
                return client.write_all(backup);
            }
            _ => return Ok(()),
        };
        client.write_all(&answer)?;
    }
}

fn read(version: &'static str, backup: Vec<u8>) -> (Result<Report, Error>, Folder, tempfile::TempDir) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        // The client may leave in the middle, when it saw enough.
        let _ = serve(client, version, &backup);
    });
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(temp.path());
    let config = PostgresConfig {
        server: "127.0.0.1".into(),
        port,
        user: "u".into(),
        password_file: None,
        tls: None,
        checkpoint: Checkpoint::Fast,
        max_rate: None,
        hold_wal: true,
        wal: None,
        connect_within: Span(Duration::from_secs(5)),
        expect: PostgresExpect::default(),
    };
    let outcome = PostgresSource::new(config).read(&mut sink, &control());
    server.join().unwrap();
    (outcome, sink, temp)
}

#[test]
fn all_supported_versions_give_the_same_tree() {
    for version in ["13.4", "14.11", "15.18", "17.2"] {
        let (outcome, sink, _temp) = read(version, Script::good(version).answer());
        let report = outcome.unwrap();
        let Origin::Postgres(origin) = &report.origin else { panic!() };
        assert_eq!((origin.lsn_end.as_str(), origin.database_bytes), ("0/2000100", 4012 << 10));
        assert_eq!(origin.manifest_files, 4);
        assert_eq!(origin.start_options.is_empty(), version < "15");
        assert_eq!(fs_err::read(sink.root.join("pg_tblspc/16400/PG_15_1/5/77")).unwrap(), b"seventy-seven");
        assert_eq!(fs_err::read(sink.root.join("base/1/1259")).unwrap(), OLD);
        assert!(sink.root.join("pg_wal/archive_status").is_dir());
        let sealed: Vec<String> = sink.sealed.iter().map(ToString::to_string).collect();
        assert_eq!(sealed, ["base/1", "pg_tblspc/16400/PG_15_1", "pg_tblspc/16400/PG_15_1/5"]);
    }
    let (outcome, _, _temp) = read("12.22", Vec::new());
    assert_eq!(outcome.unwrap_err().code(), "source.version");
}

#[test]
fn a_connection_cut_anywhere_is_never_a_backup() {
    for version in ["14.11", "15.18"] {
        let whole = Script::good(version).answer();
        assert!(read(version, whole.clone()).0.is_ok());
        let step = if std::env::var_os("KURAMORI_LONG").is_some() { 1 } else { 61 };
        let last = whole.len() - 64..whole.len();
        let mut cuts = 0;
        for cut in (0..last.start).step_by(step).chain(last) {
            let (outcome, _, _temp) = read(version, whole[..cut].to_vec());
            let error = outcome.expect_err("a cut backup");
            assert_eq!(error.code(), "source.connection-lost", "cut at {cut} of {}: {error}", whole.len());
            cuts += 1;
        }
        println!("{version}: {cuts} cuts");
    }
}

#[test]
fn what_does_not_add_up_is_refused() {
    let refused = |version: &'static str, change: &dyn Fn(&mut Script)| {
        let mut script = Script::good(version);
        change(&mut script);
        let (outcome, _, _temp) = read(version, script.answer());
        let error = outcome.unwrap_err();
        println!("{error}");
        error.code()
    };
    for version in ["14.11", "15.18"] {
        let more = |name: &'static str, kind: u8, content: &'static [u8]| {
            move |script: &mut Script| script.base.extend(tar(&[(name, kind, content)]))
        };
        assert_eq!(refused(version, &more("extra", b'0', b"not listed")), "source.manifest");
        assert_eq!(refused(version, &more("base/1/late", b'0', b"after its folder")), "source.protocol");
        assert_eq!(refused(version, &more("base/1", b'5', b"")), "source.protocol");
        assert_eq!(refused(version, &more("../../etc/passwd", b'0', b"x")), "source.protocol");
        assert_eq!(refused(version, &more("/etc/passwd", b'0', b"x")), "source.protocol");
        assert_eq!(refused(version, &more("base/1/link", b'2', b"/etc")), "source.protocol");
        assert_eq!(refused(version, &more("base/1/dev", b'3', b"")), "source.protocol");
        assert_eq!(refused(version, &|s| s.base.truncate(1600)), "source.protocol");
        assert_eq!(
            refused(version, &|s| s.manifest = Some(manifest(&[("backup_label", 9)]))),
            "source.manifest"
        );
        assert_eq!(refused(version, &|s| s.manifest.as_mut().unwrap()[60] ^= 1), "source.manifest");
        let bad_page = error("XX001", "checksum verification failure during base backup");
        assert_eq!(refused(version, &|s| s.end.clone_from(&bad_page)), "source.database-damaged");
        let recycled = error("58P01", "requested WAL segment has already been removed");
        assert_eq!(refused(version, &|s| s.end.clone_from(&recycled)), "source.server");
        assert_eq!(refused(version, &|s| s.end = message(b'd', b"more")), "source.protocol");
    }
    assert_eq!(refused("15.18", &|s| s.manifest = None), "source.manifest");
    assert_eq!(refused("15.18", &|s| s.spaces.push(("1.tar/..", Vec::new()))), "source.protocol");
    let endless = [b"d".as_slice(), &u32::MAX.to_be_bytes()].concat();
    let (outcome, _, _temp) = read("15.18", endless);
    assert_eq!(outcome.unwrap_err().code(), "source.protocol");
}
