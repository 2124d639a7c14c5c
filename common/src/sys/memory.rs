//! The memory of this process, as others see it in `/proc`.
//!
//! Man page: proc_pid_stat(5).

use std::{fs, ptr};

use super::error::{Context, Error, Result};

/// Writes zeroes over this process's arguments and variables, as they lie in its memory since its own exec,
/// and `name` in their place: `/proc/PID/cmdline` and `/proc/PID/environ` show that memory. For a process
/// that needs none of them any more.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn wipe_arguments_and_environment(name: &str) -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat").at("reading", "/proc/self/stat")?;
    // After the name in brackets, which may hold anything: fields 48 to 51 of proc_pid_stat(5).
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(45);
    let addresses: Vec<usize> = fields.take(4).filter_map(|field| field.parse().ok()).collect();
    if addresses.len() != 4 || addresses.contains(&0) {
        // Others in the container would see them.
        return Err(Error::new("/proc/self/stat: it does not tell where the arguments and variables are"));
    }
    // As much of it as the first argument has room for; of the variables nothing is left.
    for (range, name) in addresses.chunks_exact(2).zip([name, ""]) {
        if range[1] <= range[0] {
            continue;
        }
        // SAFETY: the kernel put the arguments, or the variables, between these addresses, on the stack above
        // all frames; nobody in this process, which has one thread, holds a reference into them.
        unsafe { ptr::write_bytes(range[0] as *mut u8, 0, range[1] - range[0]) };
        let length = name.len().min(range[1] - range[0] - 1);
        // SAFETY: within what was written just now.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), range[0] as *mut u8, length) };
    }
    Ok(())
}
