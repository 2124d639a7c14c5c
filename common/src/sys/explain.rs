//! The narration of `--explain`: every action on the kernel, numbered in the order in which it happened.
//!
//! Parent and child are two processes that write to one stderr. A counter and a lock in a page that both
//! share keep the numbers in order. Off, it costs one load of a pointer for each action.

use std::fmt::Display;
use std::io::Write;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::sys::error::{Result, one_line};
use crate::sys::memory::share;

struct Page {
    taken: AtomicBool,
    lines: AtomicU32,
}

static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());
/// Which of [`ACTORS`] this process is.
static ACTOR: AtomicU8 = AtomicU8::new(0);
const ACTORS: [&str; 3] = ["parent", "child", "helper"];

/// In which variable a program that executes itself anew tells how many lines it has told.
const LINES: &str = "CONGO_EXPLAINED_LINES";

/// Begins to narrate. Call it before the clone, so that the child inherits the shared page. After
/// `hand_over` it goes on.
///
/// # Errors
/// When the kernel has no memory for one page.
pub fn start() -> Result<()> {
    // SAFETY: zeroes are a valid page, not taken and without lines, and all of it is atomics.
    let shared: &'static Page = unsafe { share() }?;
    PAGE.store(ptr::from_ref(shared).cast_mut(), Ordering::Release);
    let told = std::env::var(LINES).ok().and_then(|lines| lines.parse().ok());
    if let (Some(page), Some(told)) = (page(), told) {
        page.lines.store(told, Ordering::Relaxed);
    }
    Ok(())
}

/// For a program that executes itself anew, with one line more: the variable by which its narration goes on.
/// `None` when the narration is off.
#[cfg(feature = "idmap")]
pub(crate) fn hand_over() -> Option<(std::ffi::OsString, std::ffi::OsString)> {
    let lines = page()?.lines.load(Ordering::Relaxed) + 1;
    Some((LINES.into(), lines.to_string().into()))
}

/// From here on, lines of this process are the child's.
pub(crate) fn become_child() {
    ACTOR.store(1, Ordering::Relaxed);
}

/// From here on, lines of this process are a helper's.
pub(crate) fn become_helper() {
    ACTOR.store(2, Ordering::Relaxed);
}

/// From here on this process tells nothing: it is no part of the story.
#[cfg(feature = "network")]
pub(crate) fn be_silent() {
    PAGE.store(ptr::null_mut(), Ordering::Release);
}

/// Writes one line: its number, the acting process, the call with its arguments, the result, the man page.
pub fn line(call: impl Display, result: impl Display, man: &str) {
    if let Some(turn) = Turn::take() {
        turn.line(call, result, man);
    }
}

/// The right to write the next line. Whoever holds it across an action keeps the other process from telling
/// a consequence of the action before the action itself.
pub(crate) struct Turn(&'static Page);

impl Turn {
    /// Waits for the other process to finish its line; `None` when the narration is off.
    pub(crate) fn take() -> Option<Turn> {
        let page = page()?;
        // A holder that was killed cannot give the turn back: after a second its turn is over.
        let give_up = Instant::now() + Duration::from_secs(1);
        while page.taken.swap(true, Ordering::Acquire) && Instant::now() < give_up {
            std::thread::sleep(Duration::from_micros(20));
        }
        Some(Turn(page))
    }

    pub(crate) fn line(self, call: impl Display, result: impl Display, man: &str) {
        let number = self.0.lines.fetch_add(1, Ordering::Relaxed) + 1;
        let who = ACTORS[usize::from(ACTOR.load(Ordering::Relaxed))];
        // One write, so that the container's own output cannot land within a line. Nothing can be done when
        // stderr is closed.
        let text = one_line(&format!("{number:3} {who:6}  {call} = {result}  [{man}]")) + "\n";
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

fn page() -> Option<&'static Page> {
    let page = NonNull::new(PAGE.load(Ordering::Acquire))?;
    // SAFETY: a pointer that is not null was stored by `start`. It is a mapping of a `Page` that is never
    // unmapped. The fields of a `Page` are atomics, valid from all zeroes.
    Some(unsafe { page.cast::<Page>().as_ref() })
}
