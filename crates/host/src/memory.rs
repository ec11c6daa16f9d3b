//! Main memory, from `/proc/meminfo`.

use std::{fs, io};

const MEMINFO: &str = "/proc/meminfo";

/// Main memory of the machine, in bytes.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or does not say.
pub fn memory_total() -> io::Result<u64> {
    read("MemTotal")
}

/// Memory that new work can have without swapping, in bytes (the kernel's `MemAvailable`).
///
/// # Errors
/// When `/proc/meminfo` cannot be read or does not say.
pub fn memory_available() -> io::Result<u64> {
    read("MemAvailable")
}

fn read(key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(MEMINFO)
        .map_err(|error| io::Error::new(error.kind(), format!("{MEMINFO}: {error}")))?;
    field(&text, key).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{MEMINFO} has no {key} in kB"),
        )
    })
}

/// The value of a line such as `MemTotal:       16314912 kB`, in bytes.
fn field(text: &str, key: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_some_of_it_is_available() {
        let total = memory_total().unwrap();
        let available = memory_available().unwrap();
        assert!(total >= 16 << 20, "{total}");
        assert!(available <= total, "{available} of {total}");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalX:       1 kB\nMemTotal:       16314912 kB\nMemFree: 5\nHuge: 99999999999999999999 kB\n";
        assert_eq!(field(text, "MemTotal"), Some(16_314_912 * 1024));
        for missing in ["MemAvailable", "MemFree", "Huge", "Mem"] {
            assert_eq!(field(text, missing), None, "{missing}");
        }
    }
}
