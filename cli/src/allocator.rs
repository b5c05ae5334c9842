//! When the allocator gives freed memory back to the system.

use tikv_jemalloc_ctl::{Access as _, AsName as _, background_thread};

/// How long freed pages wait for somebody who needs them, in milliseconds. jemalloc waits 10 s; a
/// node that has closed connections for want of memory should have it back sooner.
const DECAY: isize = 500;

/// Lets threads of the allocator give memory back, also while the node is idle.
pub(crate) fn start() {
    // Where the allocator has no such threads, memory is given back when it is used the next time.
    let _ = background_thread::write(true);
    set_decay(DECAY);
}

/// Gives back at once what is free.
pub(crate) fn give_back() {
    set_decay(0);
    set_decay(DECAY);
}

fn set_decay(milliseconds: isize) {
    // For arenas to come, and for each there is; some numbers have not been used yet and fail.
    let _ = "arenas.dirty_decay_ms\0".name().write(milliseconds);
    let arenas: u32 = "arenas.narenas\0".name().read().unwrap_or(0);
    for arena in 0..arenas {
        let key = format!("arena.{arena}.dirty_decay_ms\0");
        let _ = key.name().write(milliseconds);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{fs, time::Instant};

    fn resident() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kilobytes = line.unwrap().trim().trim_end_matches("kB").trim();
        kilobytes.parse::<usize>().unwrap() / 1024
    }

    #[test]
    fn freed_memory_is_given_back_when_asked_for_and_by_itself() {
        let fill = || {
            let blocks: Vec<_> = (0..2_000).map(|_| vec![1_u8; 32 * 1024]).collect();
            assert!(blocks.iter().all(|block| block.contains(&1)));
        };
        super::start();
        let before = resident();
        // Long enough to see that it keeps them.
        super::set_decay(60_000);
        fill();
        let freed = resident();
        super::give_back();
        let after = resident();
        println!("{before} MiB before, {freed} after 62 MiB were freed, {after} when given back");
        assert!(freed > before + 20, "the allocator keeps them");
        // The tests beside this one take and keep some MiB too.
        assert!(after + 40 < freed);
        fill();
        let began = Instant::now();
        while resident() + 40 > freed {
            assert!(began.elapsed().as_secs() < 20, "{} MiB", resident());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        println!("given back by itself {:.1?} after", began.elapsed());
    }
}
