//! How much of the machine's memory the process keeps for itself.
//!
//! Left alone, glibc's allocator has a heap for every thread that meets another in it, up to eight for each processor.
//! Whoever frees a buffer of a MiB teaches it to take such buffers from those heaps from then on, and to keep twice as
//! much free at the end of each: a thread that has hashed one piece leaves 1 to 2 MiB behind, for good.
//!
//! Entry type: [`bound_heap`].

/// Allocations of this size and above are mappings of their own: what is freed of them goes back to the system at once.
/// Pieces and the buffers that files are read with are four times as large; messages are smaller.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: i32 = 256 << 10;
/// What may stay free at the end of the first heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const FREE_BYTES_MAX: i32 = 128 << 10;
/// The runtime's thread, and those for disk and hashing together: they allocate little besides pooled buffers.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS_MAX: i32 = 2;

/// Bounds what the allocator keeps of memory that was freed. For programs with few threads that allocate at once: they
/// share two heaps. To be called before there are any threads; where the C library is not glibc, nothing is changed.
pub fn bound_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        set(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN);
        set(libc::M_TRIM_THRESHOLD, FREE_BYTES_MAX);
        set(libc::M_ARENA_MAX, HEAPS_MAX);
    }
}

/// Sets one of the allocator's parameters. It refuses values that it can't take; these it can.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no safe crate sets the allocator's parameters")]
fn set(parameter: libc::c_int, value: libc::c_int) {
    // SAFETY: it takes two numbers, refuses those that it does not know, and holds the allocator's lock meanwhile.
    let taken = unsafe { libc::mallopt(parameter, value) };
    debug_assert_eq!(taken, 1, "mallopt({parameter}, {value})");
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use std::{fs, hint::black_box, sync::Barrier, thread};

    /// Memory of the process that no file stands behind, in KiB.
    fn own_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("procfs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .expect("the kernel counts it");
        let number = line.trim().trim_end_matches(" kB");
        number.parse().expect("a number")
    }

    /// Threads that hash pieces each had a heap of their own, and it kept 1 to 2 MiB.
    #[test]
    fn threads_leave_no_buffers_behind() {
        const THREADS: usize = 8;
        const PIECE_BYTES: usize = 1 << 20;
        bound_heap();
        let before = own_kib();
        let all = Barrier::new(THREADS);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..2 {
                        black_box(vec![1u8; PIECE_BYTES]);
                        all.wait();
                    }
                });
            }
        });
        let kept = own_kib().saturating_sub(before);
        assert!(kept < 1 << 10, "{kept} KiB are kept");
    }
}
