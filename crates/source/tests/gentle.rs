//! How gently a real share is read while the department's service answers well, slowly, and too slowly. The
//! service is a small HTTP server of this test, because its answers have to take as long as the test says.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Folder, control, digests, samba::Samba};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::Fault,
    units::Bytes,
};
use kuramori_source::{
    Config, Control, Error, Report, Source,
    config::{GentleConfig, HourLimit, Probe, ProbeBounds, Span},
    gentle::GentleSource,
};

const MIB: u64 = 1 << 20;

/// A service whose answers take as long as it is told.
struct Service {
    url: String,
    delay_ms: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (delay_ms, over) = (Arc::new(AtomicU64::new(3)), Arc::new(AtomicBool::new(false)));
        let (delay, ended) = (Arc::clone(&delay_ms), Arc::clone(&over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (mut stream, delay) = (stream.unwrap(), Arc::clone(&delay));
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 2000]);
                    std::thread::sleep(Duration::from_millis(delay.load(Ordering::Acquire)));
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                });
            }
        });
        Self { url: format!("http://{address}/patients"), delay_ms, over }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = std::net::TcpStream::connect(
            self.url.trim_start_matches("http://").trim_end_matches("/patients"),
        );
    }
}

fn config(samba: &Samba, rate: u64, service: Option<&Service>) -> GentleConfig {
    let millis = |millis| Span(Duration::from_millis(millis));
    // A service that answers at once stays below the first on the busiest machine.
    let bounds =
        ProbeBounds { every: millis(50), slow: millis(300), limit: millis(2000), give_up: millis(2500) };
    GentleConfig {
        limits: vec![HourLimit {
            from: "00:00".parse().unwrap(),
            until: "00:00".parse().unwrap(),
            rate: Bytes(rate),
        }],
        zone: Some("Asia/Tokyo".into()),
        probe: service.map(|service| Probe::Http { url: service.url.clone(), bounds }),
        source: Box::new(Config::Smb(samba.config())),
    }
}

/// Reads, and notes when how much was read.
fn read(
    config: GentleConfig,
    sink: &mut Folder,
    at: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Report, Error> {
    let control = Control { progress: Arc::new(move |progress| at(progress.bytes)), ..control() };
    GentleSource::new(config).read(sink, &control)
}

#[test]
fn reading_keeps_to_the_hours_limit_backs_off_while_the_department_is_slow_and_stops_before_its_limit() {
    let samba = Samba::start();
    for n in 0..64 {
        fs_err::write(samba.dump().join(format!("{n:02}")), vec![n; 256 << 10]).unwrap();
    }
    let temp = tempfile::tempdir().unwrap();
    let folder = |name: &str| Folder::new(&temp.path().join(name));

    // By the clock alone.
    let report = read(config(&samba, 6 * MIB, None), &mut folder("a"), |_| ()).unwrap();
    assert!(report.seconds >= 2.0, "16 MiB at 6 MiB/s took {:.2} s", report.seconds);
    assert!(report.felt.is_none());

    // The department gets slow after 3 MiB, for six seconds.
    let service = Service::start();
    let (seen, slow_at) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    let note = {
        let (seen, slow_at, delay) = (Arc::clone(&seen), Arc::clone(&slow_at), Arc::clone(&service.delay_ms));
        move |bytes: u64| {
            let now = SystemClock.boot();
            seen.lock().unwrap().push((now, bytes));
            let mut slow_at = slow_at.lock().unwrap();
            if bytes >= 3 * MIB && slow_at.is_none() {
                *slow_at = Some(now);
                delay.store(500, Ordering::Release);
                let delay = Arc::clone(&delay);
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(6));
                    delay.store(3, Ordering::Release);
                });
            }
        }
    };
    let mut sink = folder("b");
    let report = read(config(&samba, 6 * MIB, Some(&service)), &mut sink, note).unwrap();
    assert_eq!(digests(&samba.dump()), digests(&sink.root), "slow, but whole");
    let slow_at = slow_at.lock().unwrap().unwrap();
    let between = |from: f64, until: f64| {
        let seen = seen.lock().unwrap();
        let at = |seconds: f64| {
            let time = slow_at + Duration::from_secs_f64(seconds);
            seen.iter().take_while(|(when, _)| *when <= time).last().map_or(0, |(_, bytes)| *bytes)
        };
        at(until) - at(from)
    };
    let held = between(3.5, 5.5);
    println!("{:.1} KiB/s while it was slow, 6144 allowed", held as f64 / 1024.0 / 2.0);
    assert!(held < 3 * MIB, "it read {held} bytes in 2 s while the department was slow");
    let felt = report.felt.unwrap();
    println!("{felt:?}");
    assert!(felt.before_p50_ms < 300.0 && felt.during_p99_ms >= 500.0, "{felt:?}");
    assert!(felt.asked >= 5, "{felt:?}");

    // It does not recover: the run ends by itself and leaves the department alone.
    let service = Service::start();
    let delay = Arc::clone(&service.delay_ms);
    let begun = SystemClock.boot();
    let error = read(config(&samba, MIB, Some(&service)), &mut folder("c"), move |bytes| {
        if bytes >= MIB {
            delay.store(2600, Ordering::Release);
        }
    })
    .unwrap_err();
    assert_eq!(error.code(), "source.burden", "{error}");
    assert!(SystemClock.boot().saturating_sub(begun) < Duration::from_mins(1), "and soon");

    // A department whose service does not answer at all is not read.
    let gone = Service::start();
    let mut config = config(&samba, MIB, Some(&gone));
    drop(gone);
    config.probe = config.probe.map(|probe| match probe {
        Probe::Http { bounds, .. } => {
            Probe::Tcp { address: format!("127.0.0.1:{}", common::free_port()), bounds }
        }
        tcp @ Probe::Tcp { .. } => tcp,
    });
    let mut sink = folder("d");
    let error = read(config, &mut sink, |_| ()).unwrap_err();
    assert!(error.code() == "source.unreachable" && sink.put.is_empty(), "{error}");
}
