//! The kernel's byte counters of an interface.

use std::path::Path;

use crate::fault::ObserveFault;

/// Bytes since the interface exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Received.
    pub rx_bytes: u64,
    /// Sent.
    pub tx_bytes: u64,
}

/// Reads `<root>/<interface>/statistics/{rx,tx}_bytes`; `root` is `/sys/class/net`.
pub fn read(root: &Path, interface: &str) -> Result<Counters, ObserveFault> {
    let one = |name: &str| {
        fs_err::read_to_string(root.join(interface).join("statistics").join(name))
            .and_then(|text| text.trim().parse().map_err(std::io::Error::other))
            .map_err(|source| ObserveFault::Counters { interface: interface.to_owned(), source })
    };
    Ok(Counters { rx_bytes: one("rx_bytes")?, tx_bytes: one("tx_bytes")? })
}
