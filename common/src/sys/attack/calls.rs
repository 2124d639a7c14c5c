//! System calls that a container has no business to make.
//!
//! Each has arguments with which it does nothing wherever it is let through: NULL pointers, bad descriptors,
//! flags that do not exist. A call that could succeed makes something of this process only, which goes with
//! the process.
//! Man page: syscalls(2).

use nix::errno::Errno;

/// A bad descriptor, flag or command.
const BAD: u64 = u64::MAX;

/// Name, number, arguments.
type Call = (&'static str, libc::c_long, [u64; 5]);

const CALLS: &[Call] = &[
    ("mount", libc::SYS_mount, [0; 5]),
    ("umount2", libc::SYS_umount2, [0, BAD, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [0; 5]),
    ("fsopen", libc::SYS_fsopen, [0, BAD, 0, 0, 0]),
    ("fsconfig", libc::SYS_fsconfig, [BAD, BAD, 0, 0, 0]),
    ("fsmount", libc::SYS_fsmount, [BAD, BAD, 0, 0, 0]),
    ("fspick", libc::SYS_fspick, [BAD, 0, BAD, 0, 0]),
    ("open_tree", libc::SYS_open_tree, [BAD, 0, 0, 0, 0]),
    ("move_mount", libc::SYS_move_mount, [BAD, 0, BAD, 0, BAD]),
    ("mount_setattr", libc::SYS_mount_setattr, [BAD, 0, BAD, 0, 0]),
    ("unshare(CLONE_NEWUSER)", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0]),
    ("unshare(CLONE_NEWNS)", libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0, 0, 0]),
    ("setns", libc::SYS_setns, [BAD, 0, 0, 0, 0]),
    // A file system shared with a parent in another namespace: the kernel refuses the two together.
    ("clone(CLONE_NEWUSER)", libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::CLONE_FS) as u64, 0, 0, 0, 0]),
    ("clone(CLONE_NEWNS)", libc::SYS_clone, [(libc::CLONE_NEWNS | libc::CLONE_FS) as u64, 0, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, [0; 5]),
    ("bpf", libc::SYS_bpf, [BAD, 0, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [0, 0, BAD, BAD, 0]),
    // More segments than there may be, so that it cannot be the order to forget a kernel.
    ("kexec_load", libc::SYS_kexec_load, [0, 1 << 20, 0, BAD, 0]),
    ("kexec_file_load", libc::SYS_kexec_file_load, [BAD, BAD, 0, 0, BAD]),
    ("init_module", libc::SYS_init_module, [0; 5]),
    ("finit_module", libc::SYS_finit_module, [BAD, 0, BAD, 0, 0]),
    ("delete_module", libc::SYS_delete_module, [0; 5]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [BAD, 0, 0, 0, 0]),
    ("keyctl", libc::SYS_keyctl, [BAD, 0, 0, 0, 0]),
    ("add_key", libc::SYS_add_key, [0; 5]),
    ("request_key", libc::SYS_request_key, [0; 5]),
    // A type that does not exist: no module is loaded for it.
    ("socket(AF_ALG)", libc::SYS_socket, [libc::AF_ALG as u64, BAD, 0, 0, 0]),
    ("socket(AF_VSOCK)", libc::SYS_socket, [libc::AF_VSOCK as u64, BAD, 0, 0, 0]),
    ("socket(AF_INET, SOCK_RAW)", libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_RAW as u64, 1, 0, 0]),
    ("socket(AF_PACKET)", libc::SYS_socket, [libc::AF_PACKET as u64, libc::SOCK_RAW as u64, 0, 0, 0]),
];

/// Makes the call of this name, and returns what the kernel, or a filter before it, answers. `None` for
/// another name.
pub fn attempt(name: &str) -> Option<nix::Result<()>> {
    let &(_, number, [a, b, c, d, e]) = CALLS.iter().find(|(known, ..)| *known == name)?;
    // SAFETY: no call above has a pointer that is not NULL, shares memory with a new process, or changes this
    // one's.
    Some(Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) }).map(drop))
}

/// Makes the call getpid of the 32-bit ABI of this machine, which has the number of another call in the
/// 64-bit one. Where the kernel or a filter does not like it, a signal ends the process.
#[cfg(target_arch = "x86_64")]
pub fn call_32_bit() {
    // SAFETY: it has no arguments, and the kernel's entry keeps all registers but rax and these.
    unsafe {
        std::arch::asm!(
            "int 0x80", inlateout("rax") 20_u64 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _
        );
    }
}

/// The same on arm64. There a 64-bit program has no instruction for it, so a child becomes a 32-bit one. If a
/// signal ends the child, this process ends with the status of that signal: raise(3) does nothing in process
/// 1. It aborts where the kernel or the processor has no such programs, as Apple's have none.
#[cfg(target_arch = "aarch64")]
pub fn call_32_bit() {
    use nix::sys::wait::{WaitStatus, waitpid};
    match arm::start().and_then(|child| waitpid(child, None)) {
        Ok(WaitStatus::Exited(_, 0)) => {}
        Ok(WaitStatus::Signaled(_, signal, _)) => std::process::exit(128 + signal as i32),
        _ => std::process::abort(),
    }
}

/// A program for 32-bit ARM, which calls getpid and exits with status 0.
#[cfg(target_arch = "aarch64")]
mod arm {
    use std::fs::File;
    use std::io::Write;

    use nix::errno::Errno;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::{Pid, fexecve};

    /// An executable (2) of 32 bits for ARM (40), which begins at 0x20054, behind the two headers. A table of
    /// segments at 52. EABI version 5, without which the kernel refuses it. Source: elf(5).
    const FILE: [u32; 13] =
        [0x464c457f, 0x10101, 0, 0, 0x280002, 1, 0x20054, 52, 0, 0x5000000, 0x200034, 1, 0];

    /// PT_LOAD: the whole file, 104 bytes, at 0x20000, readable and executable.
    const SEGMENT: [u32; 8] = [1, 0, 0x20000, 0x20000, 104, 104, 5, 0x10000];

    /// mov r7, #20 (getpid); svc 0; mov r0, #0; mov r7, #1 (exit); svc 0. Source: the ARM Architecture
    /// Reference Manual; the kernel's arch/arm/tools/syscall.tbl.
    const CODE: [u32; 5] = [0xe3a07014, 0xef000000, 0xe3a00000, 0xe3a07001, 0xef000000];

    pub(super) fn start() -> nix::Result<Pid> {
        let mut file = File::from(memfd_create("arm", MFdFlags::MFD_CLOEXEC)?);
        let words = FILE.iter().chain(&SEGMENT).chain(&CODE);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        file.write_all(&bytes).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        match crate::sys::clone::fork() {
            Ok(Some(child)) => Ok(child),
            Ok(None) => {
                let _ = fexecve(&file, &[c"arm"], &[] as &[&std::ffi::CStr]);
                // SAFETY: _exit(2) ends the process and touches none of its memory.
                unsafe { libc::_exit(1) }
            }
            Err(_) => Err(Errno::EAGAIN),
        }
    }
}

/// Elsewhere none is known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn call_32_bit() {
    std::process::abort();
}

/// Becomes the tracer of a process, without stopping it, until this one ends: ptrace(2), `PTRACE_SEIZE`.
///
/// # Errors
/// EPERM for a process of somebody else, one that is not dumpable, or that has capabilities which the caller
/// has not; ESRCH.
pub fn trace(process: i32) -> nix::Result<()> {
    // SAFETY: neither address nor data is a pointer here: both are zero.
    Errno::result(unsafe { libc::ptrace(libc::PTRACE_SEIZE, process, 0_usize, 0_usize) }).map(drop)
}

/// Puts a key of the type `user` into this thread's session keyring: add_key(2).
///
/// # Errors
/// ENOSYS from a kernel without keyrings; EDQUOT.
pub fn add_key(name: &std::ffi::CStr, secret: &[u8]) -> nix::Result<()> {
    // SAFETY: both strings end in NUL, and the kernel reads no more of the secret than its length.
    let result = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            secret.as_ptr(),
            secret.len(),
            libc::KEY_SPEC_SESSION_KEYRING,
        )
    };
    Errno::result(result).map(drop)
}

/// Looks for such a key: keyctl(2), `KEYCTL_SEARCH`.
///
/// # Errors
/// ENOKEY when there is none; EPERM behind a filter.
pub fn find_key(name: &std::ffi::CStr) -> nix::Result<()> {
    // SAFETY: both strings end in NUL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_SEARCH,
            libc::KEY_SPEC_SESSION_KEYRING,
            c"user".as_ptr(),
            name.as_ptr(),
            0,
        )
    };
    Errno::result(result).map(drop)
}
