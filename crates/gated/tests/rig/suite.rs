//! What every layer must do, by what its driver declares.

use std::time::Duration;

use kuramori_gate::{Actuator, Lease};
use kuramori_model::gate::LayerState;

use super::{PRIMARY, PULLER, now_ms};

pub(crate) fn lease() -> Lease {
    Lease { source: PULLER, peer: PRIMARY, window_s: 60, ttl_s: 3 }
}

pub(crate) fn reads(driver: &mut dyn Actuator, wanted: LayerState) -> Result<u64, String> {
    reads_looked_at(driver, wanted, 100)
}

fn reads_looked_at(driver: &mut dyn Actuator, wanted: LayerState, pause: u64) -> Result<u64, String> {
    let start = now_ms();
    loop {
        let reading = driver.observe();
        if reading.state == wanted {
            return Ok(now_ms() - start);
        }
        if now_ms() - start > 60_000 {
            return Err(format!("{wanted:?} wanted, {reading:?}"));
        }
        std::thread::sleep(Duration::from_millis(pause));
    }
}

/// What every layer must do. `kill` makes its device unreachable.
pub(crate) fn conforms(driver: &mut dyn Actuator, kill: impl FnOnce()) {
    conforms_looked_at(driver, 100, kill);
}

/// The same with so many milliseconds between two read-backs: a device may look at its timer only while nobody asks.
pub(crate) fn conforms_looked_at(driver: &mut dyn Actuator, pause: u64, kill: impl FnOnce()) {
    let name = driver.source();
    driver.expect(&lease());
    // From whatever it was: closed, twice, and closed it stays.
    driver.close().unwrap();
    reads(driver, LayerState::Closed).unwrap();
    driver.close().unwrap();
    reads(driver, LayerState::Closed).unwrap();
    // Open, and open for longer than any lease while it is renewed.
    driver.open(&lease()).unwrap();
    reads(driver, LayerState::Open).unwrap();
    let hold = driver.deadman().map_or(3600, |within| u64::try_from(within.as_millis()).unwrap() + 600);
    let start = now_ms();
    while now_ms() - start < hold {
        driver.renew(&lease()).unwrap();
        assert_eq!(driver.observe().state, LayerState::Open, "{name}");
        std::thread::sleep(Duration::from_millis(500));
    }
    // Without a renewal it does what it declares.
    let start = now_ms();
    match driver.deadman() {
        Some(within) => {
            reads_looked_at(driver, LayerState::Closed, pause).unwrap();
            let took = now_ms() - start;
            assert!(
                took <= u64::try_from(within.as_millis()).unwrap() + 3000 + 2 * pause,
                "{name}: {took} ms"
            );
        }
        None => {
            std::thread::sleep(Duration::from_millis(3600));
            assert_eq!(driver.observe().state, LayerState::Open, "{name} closes by itself undeclared");
        }
    }
    driver.close().unwrap();
    reads(driver, LayerState::Closed).unwrap();
    // A device that does not answer is never closed.
    kill();
    let start = now_ms();
    assert_eq!(driver.observe().state, LayerState::Unknown, "{name}");
    let took = now_ms() - start;
    assert!(took < 30_000, "{name}: {took} ms for no answer");
}
