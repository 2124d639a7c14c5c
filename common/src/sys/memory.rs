//! The memory of this process: as others see it in `/proc`, and what it shares with its copies.
//!
//! Man pages: proc_pid_stat(5), mmap(2).

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::{fs, ptr};

use nix::errno::Errno;
use nix::libc;

use super::error::{Context, Error, Result};

/// A value that this process shares with all copies of it that are made from here on, until their exec. It
/// begins as zeroes, and is never unmapped.
///
/// # Safety
/// Zeroes are a valid `T`, and it consists of atomics: other processes change it at any time.
///
/// # Errors
/// ENOMEM.
pub(super) unsafe fn share<T: Sync>() -> Result<&'static T> {
    // SAFETY: a new anonymous mapping at an address that the kernel chooses touches no memory of ours.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<T>(),
            libc::PROT_READ | libc::PROT_WRITE,
            // Shared, or each copy would write to a copy of its own.
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(Error::from_errno("mmap(MAP_SHARED|MAP_ANONYMOUS)", Errno::last()));
    }
    // SAFETY: the mapping is as large, begins at a page, holds what the caller calls valid, and stays.
    Ok(unsafe { &*address.cast::<T>() })
}

/// How long a note can be.
const ROOM: usize = 1 << 16;

struct Page {
    length: AtomicUsize,
    bytes: [AtomicU8; ROOM],
}

/// A note that a process leaves to those with which it shares its memory. That takes no system call, so no
/// filter can forbid it, and it stays when the process has ended.
#[derive(Clone, Copy)]
pub(crate) struct Note(&'static Page);

impl Note {
    /// An empty one.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn new() -> Result<Note> {
        // SAFETY: a page of zeroes is an empty note, and all of it is atomics.
        unsafe { share() }.map(Note)
    }

    /// Writes it: as much of it as there is room for.
    pub(crate) fn write(self, text: &[u8]) {
        for (place, &byte) in self.0.bytes.iter().zip(text) {
            place.store(byte, Ordering::Relaxed);
        }
        self.0.length.store(text.len().min(ROOM), Ordering::Release);
    }

    /// The written text, or nothing.
    pub(crate) fn read(self) -> Vec<u8> {
        let length = self.0.length.load(Ordering::Acquire).min(ROOM);
        self.0.bytes[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }
}

impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Note").finish()
    }
}

/// Writes zeroes over this process's arguments and variables, as they lie in its memory since its own exec.
/// Puts `name` in their place. `/proc/PID/cmdline` and `/proc/PID/environ` show that memory. For a process
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
        // all frames. This process has one thread, and nothing in it holds a reference into them.
        unsafe { ptr::write_bytes(range[0] as *mut u8, 0, range[1] - range[0]) };
        let length = name.len().min(range[1] - range[0] - 1);
        // SAFETY: within what was written just now.
        unsafe { ptr::copy_nonoverlapping(name.as_ptr(), range[0] as *mut u8, length) };
    }
    Ok(())
}
