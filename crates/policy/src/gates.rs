//! What keeps a device from using peers although its mode permits them.

use crate::Policies;
use dosvc_content::format_bytes;
use std::fmt;

/// What is known about the machine. What is not known closes no gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Device {
    /// Memory in all, as the kernel reports it, in bytes.
    pub ram_total: Option<u64>,
    /// Capacity of the disk that the cache lies on, in bytes.
    pub disk_total: Option<u64>,
}

/// A reason why no peers are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// `min_ram_allowed_to_peer`.
    Ram {
        /// What the machine has, in bytes.
        has: u64,
        /// What the policy wants, in bytes.
        wanted: u64,
    },
    /// `min_disk_size_allowed_to_peer`.
    Disk {
        /// What the cache's disk has, in bytes.
        has: u64,
        /// What the policy wants, in bytes.
        wanted: u64,
    },
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, has, policy, wanted) = match self {
            Self::Ram { has, wanted } => ("the machine's memory", has, "ram", wanted),
            Self::Disk { has, wanted } => ("the cache's disk", has, "disk_size", wanted),
        };
        write!(
            f,
            "{what} has {}, less than min_{policy}_allowed_to_peer ({}): no peers",
            format_bytes(*has),
            format_bytes(*wanted)
        )
    }
}

/// Part of the memory that firmware and kernel may keep for themselves: a machine sold with 4 GB reports between
/// 3.6 and 3.9 GiB and counts as one of 4 GB.
const RAM_RESERVED_DIVISOR: u64 = 8;

/// Every reason why this device uses no peers; empty: it may.
pub fn peering_gates(policies: &Policies, device: &Device) -> Vec<Gate> {
    let mut gates = Vec::new();
    let wanted = policies.min_ram_allowed_to_peer();
    if let Some(has) = device.ram_total
        && has < wanted - wanted / RAM_RESERVED_DIVISOR
    {
        gates.push(Gate::Ram { has, wanted });
    }
    let wanted = policies.min_disk_size_allowed_to_peer();
    if let Some(has) = device.disk_total
        && has < wanted
    {
        gates.push(Gate::Disk { has, wanted });
    }
    gates
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn gates_open_at_the_policys_value() {
        let policies = Policies::default();
        let device = |ram, disk| Device {
            ram_total: Some(ram),
            disk_total: Some(disk),
        };
        assert_eq!(peering_gates(&policies, &device(4 * GIB, 32 * GIB)), vec![]);
        // 4 GB less what the kernel keeps.
        assert_eq!(
            peering_gates(&policies, &device(3_800_000_000, 32 * GIB)),
            vec![]
        );
        let closed = peering_gates(&policies, &device(3 * GIB, 32 * GIB - 1));
        assert_eq!(
            closed.iter().map(Gate::to_string).collect::<Vec<_>>(),
            [
                "the machine's memory has 3.00 GiB, less than min_ram_allowed_to_peer (4.00 GiB): no peers",
                "the cache's disk has 32.0 GiB, less than min_disk_size_allowed_to_peer (32.0 GiB): no peers",
            ]
        );
    }

    #[test]
    fn what_is_not_known_closes_no_gate() {
        assert_eq!(
            peering_gates(&Policies::default(), &Device::default()),
            vec![]
        );
    }
}
