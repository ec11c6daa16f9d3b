//! Main memory, from `/proc/meminfo`.

use crate::Root;
use std::io;

const MEMINFO: &str = "proc/meminfo";

/// Main memory of the machine, in bytes.
///
/// # Errors
/// When `/proc/meminfo` cannot be read or does not say.
pub fn memory_total(root: &Root) -> io::Result<u64> {
    read(root, "MemTotal")
}

/// Memory that new work can have without swapping, in bytes (the kernel's `MemAvailable`).
///
/// # Errors
/// When `/proc/meminfo` cannot be read or does not say.
pub fn memory_available(root: &Root) -> io::Result<u64> {
    read(root, "MemAvailable")
}

fn read(root: &Root, key: &str) -> io::Result<u64> {
    let text = root.read(MEMINFO).unwrap_or_default();
    field(&text, key).ok_or_else(|| {
        let path = root.path(MEMINFO);
        let message = format!("{} has no {key} in kB", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
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
        let root = Root::default();
        let total = memory_total(&root).unwrap();
        let available = memory_available(&root).unwrap();
        assert!(total >= 16 << 20, "{total}");
        assert!(available <= total, "{available} of {total}");
        let error = memory_total(&Root::new("/no/such/folder")).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
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
