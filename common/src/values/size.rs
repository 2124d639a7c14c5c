//! Sizes in bytes: `--memory`, `--memory-swap`, `--shm-size`.
//!
//! They end in `memory.limit_in_bytes` and `memory.memsw.limit_in_bytes` (cgroup v1), in `memory.max` and
//! `memory.swap.max` (v2). `memory.memsw` is memory and swap together, as `--memory-swap`; `memory.swap.max`
//! is swap alone. So on v2 the runtime subtracts the memory, and [`check_swap`] first makes sure that it can.
//! The kernel rounds all of them down to whole pages. Docker's grammar: `RAMInBytes` of docker/go-units.

use super::{Invalid, Limit, decimal, scale};
use crate::sys::error::{Error, Result};

/// The units, each 1024 times the one before it. The empty one is the byte.
const UNITS: [&str; 6] = ["", "k", "m", "g", "t", "p"];

/// Docker keeps sizes in a signed number, and so does a cgroup v1 file, which takes `-1` for "no limit".
const LARGEST: u64 = i64::MAX as u64;

/// Docker's least `--memory`: not a limit of the kernel, but the room that the start takes and a program of
/// some use. The kernel charges page tables, stacks and the page cache to the container as well.
const LEAST_MEMORY: u64 = 6 << 20;

/// A page, of which most machines' memory consists. tmpfs(5) takes a size of 0 for "no limit".
const LEAST_SHM: u64 = 4 << 10;

/// Reads a size in bytes: `64m`, `1.5g`, `128 MiB`, `100000`.
///
/// A decimal number, perhaps a space, perhaps a unit: `b`, `k`, `m`, `g`, `t`, `p`. Each unit may have `b` or
/// `ib` behind it (`kb`, `KiB`), and any case. Units are powers of 1024. Parts of a byte are dropped.
///
/// # Errors
/// A text of another form (negative, with an exponent, empty), or more than 2^63-1 bytes.
pub fn size(text: &str) -> Result<u64, Invalid> {
    let expected = || "expected a size such as 64m, 1.5g, 128 MiB or a number of bytes".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = decimal(number).ok_or_else(expected)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    // `kib` and `kb` are `k`; `b` is the byte; but `ib`, of nothing, is not a unit.
    let prefix = unit.strip_suffix("ib").filter(|prefix| !prefix.is_empty());
    let prefix = prefix.or(unit.strip_suffix('b')).unwrap_or(&unit);
    let power = UNITS.iter().position(|unit| *unit == prefix).ok_or_else(expected)?;
    scale(number, 1 << (10 * power))
        .filter(|&bytes| bytes <= LARGEST)
        .ok_or_else(|| format!("too large: at most {LARGEST} bytes (8 EiB less one)").into())
}

/// Writes a size so that [`size`] reads the same number of bytes again: `64 MiB`, or `100000 B` where no
/// larger unit fits exactly.
pub fn format_size(bytes: u64) -> String {
    let power = (bytes.trailing_zeros() / 10).min(5);
    match power {
        _ if bytes == 0 => "0 B".into(),
        0 => format!("{bytes} B"),
        _ => {
            format!("{} {}iB", bytes >> (10 * power), UNITS[power as usize].to_uppercase())
        }
    }
}

/// Writes a limit of a size: as [`format_size`] does, or `unlimited`.
pub fn format_limit(limit: Limit) -> String {
    match limit {
        Limit::Unlimited => "unlimited".into(),
        Limit::AtMost(bytes) => format_size(bytes),
    }
}

/// Reads the value of `--memory`: a [`size`] of at least 6 MiB, or `0` for no limit, as in Docker.
///
/// # Errors
/// Not a size, or a smaller one.
pub fn memory(text: &str) -> Result<Limit, Invalid> {
    match size(text)? {
        0 => Ok(Limit::Unlimited),
        bytes if bytes < LEAST_MEMORY => {
            Err(format!("at least {} (6m) is needed, or 0 for no limit", format_size(LEAST_MEMORY)).into())
        }
        bytes => Ok(Limit::AtMost(bytes)),
    }
}

/// Reads the value of `--shm-size`: a [`size`] of at least one page, 4 KiB.
///
/// # Errors
/// Not a size, or a smaller one.
pub fn shm_size(text: &str) -> Result<u64, Invalid> {
    match size(text)? {
        bytes if bytes < LEAST_SHM => {
            Err(format!("at least a page is needed, {} (4k)", format_size(LEAST_SHM)).into())
        }
        bytes => Ok(bytes),
    }
}

/// Reads the value of `--memory-swap`: `-1` (as much swap as the host has), or a [`size`], which is that of
/// memory and swap *together*. What it must be in relation to `--memory` says [`check_swap`]. `None` is a
/// `0`: with Docker the same as no option.
///
/// # Errors
/// Neither `-1` nor a size.
pub fn memory_swap(text: &str) -> Result<Option<Limit>, Invalid> {
    if text == "-1" {
        return Ok(Some(Limit::Unlimited));
    }
    match size(text).map_err(|error| format!("{error}; or -1 for unlimited swap"))? {
        0 => Ok(None),
        bytes => Ok(Some(Limit::AtMost(bytes))),
    }
}

/// Checks `--memory-swap` against `--memory`, once both are known.
///
/// The sum leaves for swap the bytes beyond the memory. So a sum below the memory would be a negative amount
/// of swap: v1 refuses it with `EINVAL`, and v2 has no number to write. Nor has it one where the memory has
/// no limit.
///
/// # Errors
/// The sum is less than the memory, or it is a limit and the memory has none.
pub fn check_swap(memory: Limit, swap: Limit) -> Result<()> {
    match (memory, swap) {
        (Limit::Unlimited, Limit::AtMost(total)) => {
            let total = format_size(total);
            Err(Error::new(format!("--memory-swap {total}: --memory is unlimited"))
                .hint("it is memory and swap together, so --memory needs a limit as well"))
        }
        (Limit::AtMost(memory), Limit::AtMost(total)) if total < memory => {
            let (total, memory) = (format_size(total), format_size(memory));
            Err(Error::new(format!("--memory-swap {total}: less than --memory {memory}")).hint(format!(
                "it is memory and swap together: at least {memory} (then no swap), or -1 for unlimited swap"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("100000", 100_000),
            ("32b", 32),
            ("32 B", 32),
            ("32 ", 32),
            ("32k", 32 << 10),
            ("32Kb", 32 << 10),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("128 MiB", 128 << 20),
            ("128mIb", 128 << 20),
            ("1.5g", 3 << 29),
            (".5g", 1 << 29),
            ("2.g", 2 << 30),
            ("0.1k", 102),
            ("1t", 1 << 40),
            ("1p", 1 << 50),
            // The first whole number that a f64 cannot hold.
            ("9007199254740993", 9_007_199_254_740_993),
            ("9223372036854775807", i64::MAX as u64),
            ("8191.9999999999999999p", (8192 << 50) - 1),
            ("00000000000000000000000001k", 1024),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size() {
        let others = [
            "", " ", ".", "abc", "m", " 1m", "1  m", "1mm", "1mi", "1ib", "1i", "1e3", "1.2.3", "+1", "1,5g",
            "0x10", "inf", "NaN", "1_000", "٣m", "-5m", "-1", "1m\n", "1\0",
        ];
        refused(size, "expected a size such as 64m", &others);
        let large = ["8192p", "9223372036854775808", "99999999999999999999999999", "9999999999999999999k"];
        refused(size, "too large", &large);
    }

    #[test]
    fn sizes_with_a_least_value() {
        assert_eq!(memory("6m"), Ok(Limit::AtMost(6 << 20)));
        assert_eq!(["0", "0b", "0.0g"].map(memory), [(); 3].map(|()| Ok(Limit::Unlimited)));
        refused(memory, "at least 6 MiB (6m) is needed, or 0 for no limit", &["6291455", "1k", "1"]);
        assert_eq!(shm_size("64m"), Ok(64 << 20));
        assert_eq!(shm_size("4096"), Ok(4096));
        refused(shm_size, "at least a page is needed, 4 KiB (4k)", &["4095", "0"]);
        assert_eq!(memory_swap("-1"), Ok(Some(Limit::Unlimited)));
        assert_eq!(memory_swap("1g"), Ok(Some(Limit::AtMost(1 << 30))));
        assert_eq!(memory_swap("0"), Ok(None));
        let expected =
            "expected a size such as 64m, 1.5g, 128 MiB or a number of bytes; or -1 for unlimited swap";
        refused(memory_swap, expected, &["-2", "max"]);
    }

    #[test]
    fn swap_covers_the_memory() {
        let (half, all) = (Limit::AtMost(32 << 20), Limit::AtMost(64 << 20));
        for (memory, swap) in [(all, Limit::Unlimited), (all, all), (Limit::Unlimited, Limit::Unlimited)] {
            assert_eq!(check_swap(memory, swap), Ok(()), "{memory:?}, {swap:?}");
        }
        let error = check_swap(all, half).unwrap_err();
        assert_eq!(error.to_string(), "--memory-swap 32 MiB: less than --memory 64 MiB");
        assert_eq!(error.status(), 125);
        let error = check_swap(Limit::Unlimited, half).unwrap_err();
        assert_eq!(error.to_string(), "--memory-swap 32 MiB: --memory is unlimited");
    }

    #[test]
    fn sizes_are_written_in_the_largest_unit_that_is_exact() {
        let shown = [0, 1, 1023, 1024, 1536, 6 << 20, 3 << 29, 1 << 60].map(format_size);
        assert_eq!(shown, ["0 B", "1 B", "1023 B", "1 KiB", "1536 B", "6 MiB", "1536 MiB", "1024 PiB"]);
        assert_eq!(format_limit(Limit::AtMost(6 << 20)), "6 MiB");
        assert_eq!(format_limit(Limit::Unlimited), "unlimited");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in 0..=LARGEST, shift in 0u32..63) {
            for bytes in [bytes, bytes >> shift, bytes >> shift << shift] {
                prop_assert_eq!(size(&format_size(bytes)), Ok(bytes));
                prop_assert_eq!(size(&bytes.to_string()), Ok(bytes));
            }
        }

        #[test]
        fn case_space_and_the_long_unit_say_the_same(number in 0u32..4096, power in 1usize..6) {
            let unit = UNITS[power];
            let expected = Ok(u64::from(number) << (10 * power));
            let upper = unit.to_uppercase();
            for unit in [unit.to_owned(), format!(" {unit}iB"), format!(".0{upper}B")] {
                let text = format!("{number}{unit}");
                prop_assert_eq!(size(&text), expected.clone());
            }
        }
    }
}
