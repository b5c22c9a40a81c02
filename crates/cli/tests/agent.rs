//! The agent through the binary: a real server, real agents, a line that is watched and cut, stock restic.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its hospital may stop")]

#[path = "support/agents.rs"]
mod agents;
#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::{
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
};

use agents::Ward;
use kuramori_model::clock::{Random, SeededRandom};
use serde_json::Value;
use support::hospital::{backup, restic};

fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SeededRandom::new(seed).fill(&mut bytes);
    bytes
}

fn tool(program: &str, arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("{program} of scripts/setup: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder with everything that a Linux server has.
fn fill(folder: &Path) {
    fs_err::create_dir_all(folder.join("病棟/2026/11")).unwrap();
    fs_err::write(folder.join("病棟/large.bin"), content(1, 12 << 20)).unwrap();
    fs_err::write(folder.join("病棟/again.bin"), content(1, 12 << 20)).unwrap();
    for n in 0..300 {
        fs_err::write(folder.join(format!("病棟/2026/11/{n:04}.txt")), content(100 + n, 700)).unwrap();
    }
    fs_err::write(folder.join("empty"), b"").unwrap();
    fs_err::write(folder.join(std::ffi::OsStr::from_bytes(b"\x8c\xb1\x8d\xb8.dat")), b"Shift_JIS").unwrap();
    fs_err::hard_link(folder.join("病棟/2026/11/0000.txt"), folder.join("second-name")).unwrap();
    symlink("病棟/large.bin", folder.join("link")).unwrap();
    let sparse = fs_err::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    fs_err::write(folder.join("mode"), b"x").unwrap();
    fs_err::set_permissions(folder.join("mode"), std::fs::Permissions::from_mode(0o2751)).unwrap();
    tool("chown", &["1234:5678", "mode"], folder);
    tool("mkfifo", &["pipe"], folder);
    tool("touch", &["-h", "-d", "2001-02-03 04:05:06.789012345", "mode", "link"], folder);
    tool("setfacl", &["-m", "u:65534:rw,g:12:r,m::rw", "empty"], folder);
    tool("setfacl", &["-d", "-m", "u:65534:rwx", "病棟"], folder);
    tool("setfattr", &["-n", "user.kuramori", "-v", "検査", "empty"], folder);
    tool("setfattr", &["-n", "user.on-folder", "-v", "1", "病棟"], folder);
}

/// All that a file system says about what is below a folder.
fn portrait(folder: &Path) -> String {
    let mut all =
        tool("find", &[".", "-mindepth", "1", "-printf", "%P %y %#m %U:%G %n %l %T@ %s\\n"], folder);
    let mut lines: Vec<&str> = all
        .lines()
        // A folder's size is the file system's own matter.
        .map(|line| if line.contains(" d ") { line.rsplit_once(' ').unwrap().0 } else { line })
        .collect();
    lines.sort_unstable();
    all = lines.join("\n");
    all.push_str(&tool("getfacl", &["-R", "-p", "-n", "."], folder));
    all.push_str(&tool("getfattr", &["-R", "-d", "-m", "-", "."], folder));
    all
}

fn sums(folder: &Path) -> String {
    tool("sh", &["-c", "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"], folder)
}

fn restored(ward: &Ward, system: &str, target: &Path) {
    let repository = ward.site.repository(system).display().to_string();
    let password = ward.site.recovered_password(system);
    let target = target.display().to_string();
    restic(&repository, &password, &[], &["check", "--no-lock", "--read-data"]);
    restic(&repository, &password, &[], &["restore", "latest", "--no-lock", "--target", &target]);
}

fn good(run: &Value) {
    assert_eq!(run["state"], "complete", "{run}");
}

#[test]
fn an_agents_files_come_back_with_acl_and_xattrs_and_an_unchanged_run_sends_almost_nothing() {
    let ward = Ward::start("");
    let data = ward.dir.path().join("data");
    fill(&data);
    let token = ward.add("files", "ward-1").expect("the agent is new");
    let unit = format!("[unit.files]\nkind = \"files\"\npaths = [\"{}\"]\n", data.display());
    let machine = ward.machine("ward-1", &unit);
    let early = machine.command(&["check"]).output().unwrap();
    assert_eq!(early.status.code(), Some(12), "not enrolled: {early:?}");
    let (code, said) = machine.enrol(&token);
    assert_eq!((code, said[0]["agent"].as_str()), (Some(0), Some("ward-1")), "{said:?}");
    let (code, said) = machine.enrol(&token);
    assert_eq!(code, Some(12), "a token is spent once: {said:?}");
    let agent = machine.start();
    ward.connected("ward-1");
    assert_eq!(ward.agent("ward-1")["seen"]["units"][0][0], "files");

    let client = ward.site.client();
    let before = ward.relay.up();
    let run = backup(&client, "files");
    good(&run);
    let first = ward.relay.up() - before;
    // Two equal files and a hole of 40 MiB: only what is different travels.
    assert!((12 << 20..14 << 20).contains(&first), "{first} bytes were sent");

    let before = ward.relay.up();
    good(&backup(&client, "files"));
    let second = ward.relay.up() - before;
    assert!(second < 32 << 10, "an unchanged run sent {second} bytes");

    fs_err::write(data.join("病棟/2026/11/0007.txt"), b"changed").unwrap();
    let before = ward.relay.up();
    good(&backup(&client, "files"));
    let third = ward.relay.up() - before;
    assert!(third < 48 << 10, "one changed file sent {third} bytes");
    println!("bytes sent by the agent: first {first}, unchanged {second}, one small change {third}");

    let target = ward.dir.path().join("back");
    restored(&ward, "files", &target);
    let back = target.join(data.strip_prefix("/").unwrap());
    assert_eq!(sums(&back), sums(&data));
    assert_eq!(portrait(&back), portrait(&data));
    assert!(tool("getfacl", &["empty"], &back).contains("user:nobody:rw-"), "the comparison sees ACLs");
    drop(agent);
    support::hospital::until("its goodbye", || (ward.agent("ward-1")["connected"] == false).then_some(()));
}

#[test]
fn a_run_that_is_cut_again_and_again_ends_whole_and_a_killed_agent_sends_only_the_rest() {
    let seed = std::env::var("KURAMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    println!("KURAMORI_SEED={seed}");
    let random = SeededRandom::new(seed);
    let long = std::env::var_os("KURAMORI_LONG").is_some();
    let ward = Ward::start("");
    let data = ward.dir.path().join("data");
    let size: usize = 24 << 20;
    for n in 0..8 {
        fs_err::create_dir_all(data.join(format!("{n}"))).unwrap();
        fs_err::write(data.join(format!("{n}/large")), content(seed + n, size / 8)).unwrap();
        for m in 0..40 {
            fs_err::write(data.join(format!("{n}/{m}")), content(seed * 7 + n * 100 + m, 500)).unwrap();
        }
    }
    let token = ward.add("cuts", "ward-1:data").unwrap();
    let units = format!(
        "[unit.data]\nkind = \"files\"\npaths = [\"{0}\"]\n[unit.slow]\nkind = \"gentle\"\n\
         limits = [{{ from = \"00:00\", until = \"00:00\", rate = \"8 MiB\" }}]\n\
         source = {{ kind = \"files\", paths = [\"{0}\"] }}\n",
        data.display()
    );
    let machine = ward.machine("ward-1", &units);
    assert_eq!(machine.enrol(&token).0, Some(0));
    let agent = machine.start();
    ward.connected("ward-1");

    // Cut at any byte: also in greetings, in the middle of frames, between an answer and its receipt.
    let client = ward.site.client();
    let queued: Value = client.post("/v1/runs", &serde_json::json!({ "system": "cuts" })).unwrap();
    let wanted = if long { 60 } else { 8 };
    let before = ward.relay.up();
    ward.relay.cut_after(1 + random.below(4 << 20));
    let run = support::hospital::until("the run's end", || {
        let run: Value = client.get(&format!("/v1/runs/{}", queued["run"])).unwrap();
        let cuts = ward.relay.cuts();
        if cuts < wanted && !ward.relay.pending() {
            ward.relay.cut_after(1 + random.below(if cuts.is_multiple_of(2) { 6000 } else { 4 << 20 }));
        }
        run["ended_at"].is_string().then_some(run)
    });
    good(&run);
    let (cuts, sent) = (ward.relay.cuts(), ward.relay.up() - before);
    assert!(cuts >= 3, "only {cuts} cuts met the run: the test proves little");
    println!("{cuts} cuts, {sent} bytes sent for {size}");
    let target = ward.dir.path().join("back");
    restored(&ward, "cuts", &target);
    assert_eq!(sums(&target.join(data.strip_prefix("/").unwrap())), sums(&data));

    // Killed in the middle: the run fails, nothing half done is visible, and the next one sends the rest.
    ward.add("kill", "ward-1:slow");
    let queued: Value = client.post("/v1/runs", &serde_json::json!({ "system": "kill" })).unwrap();
    let before = ward.relay.up();
    support::hospital::until("half of it", || (ward.relay.up() - before > size as u64 / 2).then_some(()));
    agent.kill();
    let killed_at = ward.relay.up() - before;
    let _agent = machine.start();
    let failed = support::hospital::until("the run's end", || {
        let run: Value = client.get(&format!("/v1/runs/{}", queued["run"])).unwrap();
        run["ended_at"].is_string().then_some(run)
    });
    assert_eq!(
        (&failed["state"], &failed["error_code"]),
        (&"failed".into(), &"agent.restarted".into()),
        "{failed}"
    );
    let points: Vec<Value> = client.get("/v1/points?system=kill&place=primary").unwrap();
    assert!(points.is_empty(), "nothing half done is visible");
    let before = ward.relay.up();
    good(&backup(&client, "kill"));
    let rest = ward.relay.up() - before;
    assert!(
        rest + killed_at < size as u64 + (6 << 20),
        "{killed_at} bytes were sent before the kill, {rest} after"
    );
    println!("killed after {killed_at} bytes, the next run sent {rest}");
}

#[test]
fn a_revoked_expired_or_late_agent_is_told_why_and_comes_back_with_its_name() {
    let ward = Ward::start("certificate = \"60d\"\n");
    let data = ward.dir.path().join("data");
    fs_err::create_dir_all(&data).unwrap();
    fs_err::write(data.join("a"), b"first").unwrap();
    let token = ward.add("files", "ward-1").unwrap();
    let unit = format!("[unit.files]\nkind = \"files\"\npaths = [\"{}\"]\n", data.display());
    let machine = ward.machine("ward-1", &unit);
    assert_eq!(machine.enrol(&token).0, Some(0));
    let mut agent = machine.start();
    ward.connected("ward-1");
    let client = ward.site.client();
    good(&backup(&client, "files"));
    let serial = |ward: &Ward| ward.agent("ward-1")["certificates"][0]["serial"].clone();
    let first = serial(&ward);

    // A clock that is far off: the agent's own is 100 days ahead and says so.
    drop(agent);
    let mut faked = Command::new("faketime");
    faked.args(["-f", "+100d", support::PROGRAM, "--json", "agent", "--config"]).arg(&machine.toml);
    let (output, said) = agents::run_to_end(&mut faked);
    assert_eq!(output.status.code(), Some(1), "{said}");
    // From, until and now, whatever year it is.
    let told = said.split_once("is valid from ").map_or("", |(_, told)| told);
    let words = told.split([' ', ';', '"']).take(10);
    let times = words.filter(|word| word.parse::<jiff::Timestamp>().is_ok()).count();
    assert!(said.contains("wire.clock") && times >= 3, "{said}");

    // Revoked: told at once, and refused from then on.
    agent = machine.start();
    ward.connected("ward-1");
    assert_eq!(ward.say(&["agent", "revoke", "ward-1"]).0, Some(1), "not without --yes");
    assert_eq!(ward.say(&["agent", "revoke", "ward-1", "--yes"]).0, Some(0));
    assert_eq!(agent.ended(), Some(12), "{}", agent.log());
    assert!(agent.log().contains("revoked"), "{}", agent.log());
    let away = ward.say(&["system", "edit", "files", "--set", "enabled=true"]);
    assert_eq!(away.0, Some(0), "{away:?}");

    // Enrolled again with a new token: the same name, the same system, its history.
    let (code, said) = ward.say(&["agent", "invite", "ward-1"]);
    assert_eq!(code, Some(0), "{said:?}");
    assert_eq!(machine.enrol(said[0]["token"].as_str().unwrap()).0, Some(0));
    assert_ne!(serial(&ward), first);
    let agent = machine.start();
    ward.connected("ward-1");
    good(&backup(&client, "files"));
    let points: Vec<Value> = client.get("/v1/points?system=files&place=primary").unwrap();
    assert_eq!(points.len(), 2, "one history");
    drop(agent);

    // A second authority beside the first: the agent learns it, moves to it, and the first one can go.
    let agent = machine.start();
    ward.connected("ward-1");
    let before = serial(&ward);
    assert_eq!(ward.say(&["agent", "retire-authority"]).1[0]["retired"], 0);
    assert_eq!(ward.say(&["agent", "rotate-authority"]).1[0]["authority"], 2);
    support::hospital::until("the move", || {
        let agent = ward.agent("ward-1");
        let all = agent["certificates"].as_array().unwrap().clone();
        (all.iter().any(|one| one["authority"] == "Kuramori agents CA 2")).then_some(())
    });
    support::hospital::until("its arrival", || agent.log().contains("a new certificate").then_some(()));
    drop(agent);
    let (code, said) = ward.say(&["agent", "retire-authority"]);
    if code == Some(5) {
        assert!(said.iter().any(|line| line["code"] == "agent.still-needed"), "{said:?}");
    }
    let agent = machine.start();
    ward.connected("ward-1");
    assert_ne!(serial(&ward), before);
    assert_eq!(
        ward.agent("ward-1")["certificates"].as_array().unwrap().len(),
        1,
        "the older one does not count"
    );
    assert_eq!(ward.say(&["agent", "retire-authority"]).1[0]["retired"], 1);
    ward.connected("ward-1");
    good(&backup(&client, "files"));
    drop(agent);
}

#[test]
fn a_hostile_server_reaches_nothing_that_the_agents_own_file_does_not_declare() {
    use hostile::{BadServer, begin};
    use kuramori_wire::{
        frame::Frame,
        message::{Known, Message},
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs_err::create_dir_all(&data).unwrap();
    fs_err::write(data.join("declared"), content(1, 100_000)).unwrap();
    let canary = dir.path().join("canary");
    fs_err::write(&canary, "secret").unwrap();
    let root = dir.path().join("ward-1");
    let server = BadServer::start(&root.join("state"));
    let unit = format!("[unit.files]\nkind = \"files\"\npaths = [\"{}\"]\n", data.display());
    let machine = agents::Machine::new(&root, &server.address.to_string(), &unit);
    let mut agent = machine.start();
    let mut control = server.control();

    // Names that are no declaration, also such as would be a path, a command or the name in other clothes.
    let long = "x".repeat(500_000);
    for (number, name) in [
        canary.to_str().unwrap(),
        "../../etc/shadow",
        "/etc/shadow",
        "",
        "files/..",
        "files\0",
        "FILES",
        " files",
        "; touch /tmp/x",
        "$(id)",
        "unit.files",
        &long,
    ]
    .into_iter()
    .enumerate()
    {
        control.say(&begin(u8::try_from(number).unwrap(), name));
        let Message::Declined { session, code, .. } = control.message() else { panic!("{name}") };
        assert_eq!((session, code.as_str()), ([u8::try_from(number).unwrap(); 16], "unknown-unit"), "{name}");
    }

    // On this line, too: what was never asked for, what belongs elsewhere, a version nobody speaks. The agent is
    // there again each time.
    for lie in [
        Message::Issued { certificate: "-".to_owned(), authorities: "-".to_owned() },
        Message::Applied { number: 7 },
    ] {
        control.say(&lie);
        while control.hear().is_ok() {}
        assert!(agent.child.try_wait().unwrap().is_none(), "the agent lives: {}", agent.log());
        control = server.control();
    }
    drop(control);
    let (mut strange, _) = server.accept();
    strange.say(&Message::Welcome(hostile::welcome(2)));
    while strange.hear().is_ok() {}
    let mut control = server.control();

    // In a session that is declared: every way to lie ends the session, none ends the agent.
    let logged = |agent: &agents::Agent, code: &str, times: usize| {
        support::hospital::until(code, || {
            let said = agent.log();
            (said.matches(&format!("\"code\":\"{code}\"")).count() >= times).then_some(())
        });
    };
    let known = |n: u32| Known {
        place: n,
        name: format!("{n:09}").into_bytes(),
        size: 0,
        mtime: (0, 0),
        ctime: (0, 0),
        inode: 0,
    };
    let mut broken = 3;
    let mut seen = Vec::new();
    for (number, lie) in [
        "endless listing",
        "listing unasked",
        "missing unasked",
        "too many bits",
        "wrong id",
        "id out of turn",
        "applied too far",
        "a huge frame",
        "an order on the main line",
    ]
    .into_iter()
    .enumerate()
    {
        let number = u8::try_from(100 + number).unwrap();
        // The session before is over when its threads have ended, a moment after its lines.
        support::hospital::until("an agent that is free", || {
            control.say(&begin(99, "nothing"));
            let Message::Declined { code, .. } = control.message() else { panic!("it began nothing") };
            (code == "unknown-unit").then_some(())
        });
        control.say(&begin(number, "files"));
        let (mut main, mut lane) = server.session();
        main.say(&Message::Applied { number: 0 });
        let mut wrong_hash = false;
        let mut lied = false;
        while !lied {
            let heard = match main.message() {
                Message::Folder { number, .. } if lie == "endless listing" => {
                    for round in 0.. {
                        let items = (0..2000).map(|n| known(round * 2000 + n)).collect();
                        let part = Message::Listing { number, items, more: true };
                        if kuramori_wire::frame::send(&mut main.writer, &part).is_err() {
                            break;
                        }
                        assert!(round < 20_000, "the agent takes a listing without end");
                    }
                    lied = true;
                    continue;
                }
                Message::Folder { number, .. } if lie == "listing unasked" => {
                    main.say(&Message::Listing { number: number + 7, items: Vec::new(), more: false });
                    lied = true;
                    continue;
                }
                Message::Folder { number, .. } => {
                    main.say(&Message::Listing { number, items: Vec::new(), more: false });
                    continue;
                }
                other => other,
            };
            if let Message::Event { event, .. } = &heard {
                seen.push(format!("{event:?}"));
            }
            let Message::Have { number, ids } = heard else { continue };
            let bits = vec![0xff; ids.len().div_ceil(8)];
            lied = true;
            match lie {
                "missing unasked" => main.say(&Message::Missing { number: number + 1, bits }),
                "too many bits" => main.say(&Message::Missing { number, bits: vec![0xff; 900_000] }),
                "applied too far" => main.say(&Message::Applied { number: 1_000_000 }),
                "an order on the main line" => main.say(&begin(9, "/etc/shadow")),
                "a huge frame" => {
                    use std::io::Write;
                    let mut frame = u32::MAX.to_le_bytes().to_vec();
                    frame.push(1);
                    main.writer.write_all(&frame).unwrap();
                }
                _ => {
                    main.say(&Message::Missing { number, bits });
                    let Ok(Frame::Chunk { number, .. }) = lane.hear() else { panic!("no chunk") };
                    wrong_hash = lie == "wrong id";
                    let number = if wrong_hash { number } else { number + 1 };
                    lane.say(&Message::Stored { number, id: [7; 32] });
                }
            }
        }
        if wrong_hash {
            logged(&agent, "agent.wrong-hash", 1);
        } else {
            broken += 1;
            logged(&agent, "wire.protocol", broken);
        }
        // Both lines end.
        while main.hear().is_ok() {}
        while lane.hear().is_ok() {}
    }
    assert!(agent.child.try_wait().unwrap().is_none(), "the agent lives: {}", agent.log());
    let seen = seen.join("\n");
    assert!(seen.contains("Item"), "the test would notice what is sent");
    let secret: Vec<String> = "canary".bytes().map(|byte| byte.to_string()).collect();
    assert!(!seen.contains(&secret.join(", ")), "nothing but what is declared is named");
    // What is not a server of ours is not even spoken to.
    drop((control, server));
    let other = BadServer::start(&dir.path().join("other"));
    let stranger = agents::Machine::new(&dir.path().join("ward-2"), &other.address.to_string(), &unit);
    let fresh = BadServer::start(&dir.path().join("ward-2/state"));
    drop(fresh);
    let untrusted = std::thread::spawn(move || {
        let (output, said) = agents::run_to_end(&mut stranger.command(&[]));
        (output.status.code(), said)
    });
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other.accept()));
    assert!(refused.is_err(), "an agent spoke to a server of another authority");
    let (code, said) = untrusted.join().unwrap();
    assert_eq!(code, Some(12), "{said}");
    assert!(said.contains("wire.untrusted"), "{said}");
}

#[test]
fn a_hostile_agent_gets_a_refusal_and_never_a_restore_point() {
    use std::io::Write;

    use hostile::{BadAgent, file_item};
    use kuramori_wire::{
        frame::{Frame, encode, send_chunk},
        message::{Event, Message},
    };
    let ward = Ward::start("wait = \"120s\"\n");
    let one = ward.add("files", "ward-1").unwrap();
    let two = ward.say(&["agent", "invite", "ward-2"]).1[0]["token"].as_str().unwrap().to_owned();
    let bad = BadAgent::enrol(ward.door, &one, &ward.dir.path().join("one"));
    let other = BadAgent::enrol(ward.door, &two, &ward.dir.path().join("two"));
    let client = ward.site.client();

    // Noise where a greeting should be; a greeting in the wrong place; a session that does not exist.
    let mut talk = bad.connect();
    talk.writer.write_all(&content(3, 4000)).unwrap();
    let refused = |frame: kuramori_wire::Result<Frame>, what: &str| match frame {
        Ok(Frame::Message(Message::Refused { code, .. })) => code,
        other => panic!("{what}: {other:?}"),
    };
    assert_eq!(refused(talk.hear(), "noise"), "wire.protocol");
    let mut talk = bad.open(&Message::Ping);
    assert_eq!(refused(talk.hear(), "no greeting"), "wire.protocol");
    let mut talk = bad.open(&Message::Lane { session: [0; 16] });
    assert_eq!(refused(talk.hear(), "no session"), "no-session");

    let id = kuramori_wire::identity::fingerprint(b"abc");
    let file = |id| Event::File { item: file_item("aa/bb"), content: vec![id], done: true };
    let event = |number, event| Message::Event { number, event };
    let patched = |path: &[u8; 5]| {
        let mut frame = encode(&event(1, file(id))).unwrap();
        let at = frame.windows(5).position(|part| part == b"aa/bb").unwrap();
        frame[at..at + 5].copy_from_slice(path);
        frame
    };
    // The other agent's repository holds a chunk that the bad one would like to hear about.
    assert_eq!(ward.add("second", "ward-2:files"), None);
    let mut control = other.hello(2);
    let queued: Value = client.post("/v1/runs", &serde_json::json!({ "system": "second" })).unwrap();
    let Message::Begin(early) = control.message() else { panic!() };
    // Not yet: its last session is not over. The order comes again, and the run does not fail.
    let busy = ("busy".to_owned(), "another session is under way here".to_owned());
    control.say(&Message::Declined { session: early.session, code: busy.0, why: busy.1 });
    let Message::Begin(begin) = control.message() else { panic!() };
    assert!(begin.unit == early.unit && begin.session != early.session);
    let mut main = other.open(&Message::Main { session: begin.session });
    assert_eq!(main.message(), Message::Applied { number: 0 });
    // No more lines than were asked for: each may hold a chunk. The newest counts.
    let mut first = other.open(&Message::Lane { session: begin.session });
    send_chunk(&mut first.writer, 0, b"a").unwrap();
    assert!(matches!(first.message(), Message::Stored { number: 0, .. }), "it stands");
    let mut more: Vec<_> =
        (1..begin.lanes).map(|_| other.open(&Message::Lane { session: begin.session })).collect();
    let mut lane = other.open(&Message::Lane { session: begin.session });
    send_chunk(&mut lane.writer, 0, b"xyz").unwrap();
    let foreign = kuramori_wire::identity::fingerprint(b"xyz");
    assert_eq!(lane.message(), Message::Stored { number: 0, id: foreign });
    let closed = |talk: &mut hostile::Talk| matches!(talk.hear(), Err(kuramori_wire::Error::Broken(_)));
    assert!(closed(&mut first), "one too many closes the oldest");
    for line in &mut more {
        send_chunk(&mut line.writer, 0, b"xyz").unwrap();
        assert!(matches!(line.message(), Message::Stored { number: 0, .. }), "and no other");
    }
    main.say(&Message::Have { number: 5, ids: vec![foreign] });
    assert_eq!(main.message(), Message::Missing { number: 5, bits: vec![0] }, "who sent it may leave it out");
    main.say(&event(1, Event::Failed { code: "x".to_owned(), why: "x".to_owned() }));
    support::hospital::until("its end", || {
        let run: Value = client.get(&format!("/v1/runs/{}", queued["run"])).unwrap();
        run["ended_at"].is_string().then_some(())
    });
    drop(control);

    let mut control = bad.hello(1);
    let bytes = |message: &Message| encode(message).unwrap();
    // Twenty thousand folders in forty kilobytes: whoever goes down by calling itself does not come back.
    let abyss = vec!["a"; 20_000].join("/").into_bytes();
    let end = |number| bytes(&event(number, Event::End { report: "{}".to_owned() }));
    let lies: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a chunk that was never sent", bytes(&event(1, file([9; 32]))), "wire.protocol"),
        ("a gap", bytes(&event(3, file(id))), "wire.protocol"),
        ("above the tree", patched(b"../bb"), "wire.protocol"),
        ("absolute", patched(b"/a/bb"), "wire.protocol"),
        ("a zero byte", patched(b"aa/b\0"), "wire.protocol"),
        (
            "what the parent never had",
            bytes(&event(1, Event::Keep { folder: vec![], places: vec![(0, 9)] })),
            "wire.store",
        ),
        (
            "content without a file",
            bytes(&event(1, Event::Content { content: vec![id], done: true })),
            "wire.protocol",
        ),
        ("nothing to drop", bytes(&event(1, Event::Drop)), "wire.protocol"),
        ("a report that is none", end(1), "wire.protocol"),
        ("an endless question", bytes(&Message::Have { number: 1, ids: vec![id; 5000] }), "wire.protocol"),
        ("a folder above", bytes(&Message::Folder { number: 1, path: b"../..".to_vec() }), "wire.protocol"),
        (
            "a folder without a bottom",
            bytes(&Message::Folder { number: 1, path: abyss.clone() }),
            "wire.protocol",
        ),
        ("a seal without a bottom", bytes(&event(1, Event::Seal { folder: abyss.clone() })), "wire.protocol"),
        (
            "places without a bottom",
            bytes(&event(1, Event::Keep { folder: abyss, places: vec![(0, 1)] })),
            "wire.protocol",
        ),
        ("an order", bytes(&Message::Cancel { session: [1; 16] }), "wire.protocol"),
        ("a huge frame", [u32::MAX.to_le_bytes().as_slice(), &[1]].concat(), "wire.protocol"),
        ("a chunk on the main line", [10_u32.to_le_bytes().as_slice(), &[2]].concat(), "wire.protocol"),
        (
            "a failed source",
            bytes(&event(1, Event::Failed { code: "source.command".into(), why: "no".into() })),
            "wire.source",
        ),
    ];
    for (what, lie, code) in lies {
        let queued: Value = client.post("/v1/runs", &serde_json::json!({ "system": "files" })).unwrap();
        let Message::Begin(begin) = (loop {
            match control.message() {
                Message::Cancel { .. } => {}
                other => break other,
            }
        }) else {
            panic!()
        };
        let session = begin.session;
        // Another agent's session is none.
        let mut stolen = other.open(&Message::Main { session });
        assert_eq!(refused(stolen.hear(), "foreign main"), "no-session");
        let mut stolen = other.open(&Message::Lane { session });
        assert_eq!(refused(stolen.hear(), "foreign lane"), "no-session");
        let mut main = bad.open(&Message::Main { session });
        assert_eq!(main.message(), Message::Applied { number: 0 });
        // Nothing is known of what another agent sent.
        main.say(&Message::Have { number: 5, ids: vec![foreign] });
        assert_eq!(main.message(), Message::Missing { number: 5, bits: vec![1] });
        if what == "above the tree" || what == "absolute" || what == "a zero byte" {
            let mut lane = bad.open(&Message::Lane { session });
            send_chunk(&mut lane.writer, 0, b"abc").unwrap();
            assert_eq!(lane.message(), Message::Stored { number: 0, id }, "the server computes the id");
            send_chunk(&mut lane.writer, 5, b"abc").unwrap();
            assert_eq!(refused(lane.hear(), "out of turn"), "wire.protocol");
        }
        main.writer.write_all(&lie).unwrap();
        let run = support::hospital::until(what, || {
            let run: Value = client.get(&format!("/v1/runs/{}", queued["run"])).unwrap();
            run["ended_at"].is_string().then_some(run)
        });
        assert_eq!(
            (run["state"].as_str(), run["error_code"].as_str()),
            (Some("failed"), Some(code)),
            "{what}: {run}"
        );
    }
    let points: Vec<Value> = client.get("/v1/points?system=files&place=primary").unwrap();
    assert!(points.is_empty(), "{points:?}");

    // A stranger may enrol and nothing else; a token that was never made opens nothing.
    let machine = ward.machine("ward-3", "");
    let token = kuramori_wire::token::Token::read(&one).unwrap();
    let forged = kuramori_wire::token::Token { secret: [1; 16], ..token };
    let (code, said) = machine.enrol(&forged.text());
    assert_eq!((code, said.last().unwrap()["code"].as_str()), (Some(12), Some("wire.refused")), "{said:?}");
    let elsewhere = kuramori_wire::token::Token { authority: [1; 32], ..forged };
    let (code, said) = machine.enrol(&elsewhere.text());
    assert_eq!((code, said.last().unwrap()["code"].as_str()), (Some(12), Some("wire.untrusted")), "{said:?}");
}

#[test]
fn a_certificate_is_renewed_in_time_and_one_that_ended_is_refused_with_both_times() {
    let ward = Ward::start("certificate = \"20s\"\ntolerance = \"0s\"\n");
    let data = ward.dir.path().join("data");
    fs_err::create_dir_all(&data).unwrap();
    fs_err::write(data.join("a"), b"first").unwrap();
    let token = ward.add("files", "ward-1").unwrap();
    let unit = format!("[unit.files]\nkind = \"files\"\npaths = [\"{}\"]\n", data.display());
    let machine = ward.machine("ward-1", &unit);
    assert_eq!(machine.enrol(&token).0, Some(0));
    let serial = |ward: &Ward| {
        ward.agent("ward-1")["certificates"].as_array().unwrap().last().unwrap()["serial"].clone()
    };
    let first = serial(&ward);
    let agent = machine.start();
    // After two thirds of its twenty seconds, without a new connection.
    support::hospital::until("the renewal", || (serial(&ward) != first).then_some(()));
    support::hospital::until("its arrival", || agent.log().contains("a new certificate").then_some(()));
    assert_eq!(ward.log().matches("an agent is connected").count(), 1);
    // Away for longer than the certificate is valid.
    drop(agent);
    let ended: jiff::Timestamp =
        ward.agent("ward-1")["certificates"].as_array().unwrap().last().unwrap()["until"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
    support::hospital::until("the certificate's end", || {
        let status: Value = ward.site.client().get("/v1/status").unwrap();
        let now: jiff::Timestamp = status["at"].as_str().unwrap().parse().unwrap();
        (now.as_second() > ended.as_second() + 1).then_some(())
    });
    let (output, said) = agents::run_to_end(&mut machine.command(&[]));
    assert_eq!(output.status.code(), Some(12), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("wire.refused") && last.contains("expired") && last.contains("server's clock says"),
        "{last}"
    );
    assert!(last.contains(&ended.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()), "both times are named: {last}");
    assert!(last.contains("invite"), "and what to do: {last}");
    let (code, said) = ward.say(&["agent", "invite", "ward-1"]);
    assert_eq!(code, Some(0), "{said:?}");
    assert_eq!(machine.enrol(said[0]["token"].as_str().unwrap()).0, Some(0));
    let _agent = machine.start();
    ward.connected("ward-1");
    good(&backup(&ward.site.client(), "files"));
}

/// A loop-mounted btrfs with a subvolume; unmounted when it goes out of sight.
struct Volume(std::path::PathBuf);

impl Volume {
    fn make(root: &Path) -> Self {
        let image = root.join("btrfs.img");
        fs_err::File::create(&image).unwrap().set_len(160 << 20).unwrap();
        let at = root.join("volume");
        fs_err::create_dir_all(&at).unwrap();
        tool("mkfs.btrfs", &["-q", image.to_str().unwrap()], root);
        tool("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()], root);
        tool("btrfs", &["-q", "subvolume", "create", "live"], &at);
        Self(at)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn commands_and_a_snapshot_are_only_what_the_agents_machine_declares() {
    let ward = Ward::start("");
    let volume = Volume::make(ward.dir.path());
    let (live, snap) = (volume.0.join("live"), volume.0.join("snap"));
    fs_err::create_dir_all(live.join("ward")).unwrap();
    for n in 0..20 {
        fs_err::write(live.join(format!("ward/{n:02}")), b"before").unwrap();
    }
    let commands = ward.dir.path().join("commands.toml");
    // The department goes on writing as soon as the snapshot stands: none of it may be in the restore point.
    let script = ward.dir.path().join("snapshot");
    fs_err::write(
        &script,
        format!(
            "#!/bin/sh\nset -e\ncase $1 in\nmake) btrfs -q subvolume snapshot -r {0} {1}\n  \
             for f in {0}/ward/*; do echo after > $f; done;;\nremove) btrfs -q subvolume delete {1};;\nesac\n",
            live.display(),
            snap.display()
        ),
    )
    .unwrap();
    fs_err::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.display();
    fs_err::write(
        &commands,
        format!(
            "[command.snapshot]\nbefore = [\"{script}\", \"make\"]\nafter = [\"{script}\", \"remove\"]\n\
             [command.none]\nbefore = [\"/bin/true\"]\n\
             [command.dump]\nrun = [\"/bin/sh\", \"-c\", \"seq 1 200000; echo -- end of dump\"]\nend = \"-- end of dump\"\n\
             [command.half]\nrun = [\"/bin/sh\", \"-c\", \"seq 1 200000; exit 3\"]\n"
        ),
    )
    .unwrap();
    // The tree shows what was read under the names that it has without the snapshot.
    let declared = commands.display();
    let files = format!("{{ kind = \"files\", paths = [\"/ward\"], snapshot = \"{}\" }}", snap.display());
    let around = |name: &str| {
        format!("kind = \"around\"\nname = \"{name}\"\ndeclared_in = \"{declared}\"\nsource = {files}\n")
    };
    let command = |name: &str| {
        format!("kind = \"command\"\nserver = \"ward\"\nname = \"{name}\"\ndeclared_in = \"{declared}\"\n")
    };
    let units = format!(
        "[unit.snap]\n{}[unit.bare]\n{}[unit.dump]\n{}[unit.half]\n{}",
        around("snapshot"),
        around("none"),
        command("dump"),
        command("half")
    );
    let token = ward.add("snap", "ward-1").unwrap();
    let machine = ward.machine("ward-1", &units);
    assert_eq!(machine.enrol(&token).0, Some(0));
    let agent = machine.start();
    ward.connected("ward-1");
    let client = ward.site.client();
    for id in ["bare", "dump", "half", "missing"] {
        assert_eq!(ward.add(id, "ward-1"), None, "it is enrolled");
    }
    good(&backup(&client, "snap"));
    let target = ward.dir.path().join("back");
    restored(&ward, "snap", &target);
    for n in 0..20 {
        assert_eq!(fs_err::read(target.join(format!("ward/{n:02}"))).unwrap(), b"before");
        assert_eq!(
            fs_err::read(live.join(format!("ward/{n:02}"))).unwrap(),
            b"after\n",
            "the test would notice"
        );
    }
    assert!(!snap.exists(), "the snapshot is gone");

    good(&backup(&client, "dump"));
    let target = ward.dir.path().join("dump");
    restored(&ward, "dump", &target);
    let dump = fs_err::read_to_string(target.join("output")).unwrap();
    assert!(dump.starts_with("1\n2\n") && dump.ends_with("200000\n-- end of dump\n"), "{} bytes", dump.len());

    let failed = |system: &str| {
        let run = backup(&client, system);
        assert_eq!(run["state"], "failed", "{run}");
        (run["error_code"].as_str().unwrap().to_owned(), run["error_text"].as_str().unwrap().to_owned())
    };
    let (code, text) = failed("bare");
    assert!(code == "wire.source" && text.contains("no snapshot is mounted"), "{code}: {text}");
    let (code, text) = failed("half");
    assert!(
        code == "wire.source" && text.contains("source.command") && text.contains("ended with 3"),
        "{code}: {text}"
    );
    assert_eq!(failed("missing").0, "agent.declined");
    for system in ["bare", "half", "missing"] {
        let points: Vec<Value> = client.get(&format!("/v1/points?system={system}&place=primary")).unwrap();
        assert!(points.is_empty(), "{system}");
    }
    // A subvolume inside is not in the snapshot: what is empty there is on record, and not taken for the data.
    tool("btrfs", &["-q", "subvolume", "create", "live/ward/.images"], &volume.0);
    fs_err::write(live.join("ward/.images/1"), b"an image").unwrap();
    let run = backup(&client, "snap");
    assert_eq!(run["state"], "complete_with_errors", "{run}");
    assert!(run["error_text"].as_str().unwrap().contains("subvolume"), "{run}");
    drop(agent);
    // A declaration that others could write starts nothing.
    fs_err::set_permissions(&machine.toml, std::fs::Permissions::from_mode(0o666)).unwrap();
    let (output, said) = agents::run_to_end(&mut machine.command(&[]));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("source.declaration"), "{said}");
}
