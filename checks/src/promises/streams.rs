//! stdin, stdout and stderr: the runtime stands in nobody's way. pipe(7).

use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::container::LIMIT;
use crate::kernel::eventually;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "stream.separate", "stdin reaches the command; stdout and stderr stay apart.", separate)
        .hint("The command inherits the three descriptors as they are."),
    Check::since(0, "stream.end", "The command reads the end of stdin.", end)
        .hint("Does the runtime hold the other end of the pipe open?"),
    Check::since(0, "stream.large", "100 MB pass through stdin and stdout unchanged.", large)
        .hint("Inherited descriptors need no copying, and so cannot go wrong."),
    Check::since(0, "stream.broken-pipe",
        "A writer ends when its reader has closed the pipe, inside the container and outside.", broken_pipe)
        .hint("SIGPIPE must have its default action in the child, and only the reader may hold the reading \
               end."),
];

fn separate(subject: &Subject) -> Checked {
    let mut container = subject.start(&[
        "sh",
        "-c",
        "read -r line; printf 'out %s' \"$line\"; printf 'err %s' \"$line\" >&2",
    ])?;
    container.say("a  b\\c")?;
    let output = container.output()?;
    expect("stdout", "out a  b\\c", output.ok()?)?;
    expect("stderr", "err a  b\\c", &output.stderr)
}

fn end(subject: &Subject) -> Checked {
    let mut container = subject.start(&["wc", "-c"])?;
    container.say("12345")?;
    expect("what `wc -c` counts on stdin, once it is closed", "6", container.output()?.ok()?)
}

fn large(subject: &Subject) -> Checked {
    const CHUNK: usize = 100_000;
    const CHUNKS: u64 = 1000;
    let noise = (0..CHUNK as u64).map(|number| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8);
    let noise: Vec<u8> = noise.collect();
    // Each piece has its number, so that a lost or doubled one cannot go unseen.
    let chunk = |number: u64| [&number.to_le_bytes(), &noise[8..]].concat();
    let mut child = subject
        .command(&["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let pid = Pid::from_raw(child.id().cast_signed());
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            // A reader that ends early is seen by the other side.
            let mut stdin = stdin;
            (0..CHUNKS)
                .all(|number| stdin.as_mut().is_some_and(|pipe| pipe.write_all(&chunk(number)).is_ok()))
        });
        let reading = scope.spawn(|| {
            let mut stdout = stdout;
            let mut got = vec![0; CHUNK];
            for number in 0..CHUNKS {
                let read = stdout.as_mut().map(|pipe| pipe.read_exact(&mut got));
                if !matches!(read, Some(Ok(()))) || got != chunk(number) {
                    return Err(Failure::new(
                        "100 MB unchanged",
                        format!("a difference after {number} × {CHUNK} bytes"),
                    ));
                }
            }
            let more = stdout.map_or(0, |mut pipe| pipe.read(&mut got).unwrap_or(0));
            expect("the number of bytes after the last", 0, more)
        });
        // An emulated processor needs most of it.
        if !eventually(5 * LIMIT, || reading.is_finished()) {
            // Ends both threads: their pipes break.
            let _ = kill(pid, Signal::SIGKILL);
        }
        reading.join().unwrap_or_else(|_| Err(Failure::new("100 MB unchanged", "the check itself failed")))
    });
    result?;
    expect("the exit status", Some(0), child.wait()?.code())
}

fn broken_pipe(subject: &Subject) -> Checked {
    let output = subject.sh(&[], "yes | head -n 1")?;
    expect("stdout of `yes | head -n 1`", "y", output.ok()?)?;
    expect("stderr", "", &output.stderr)?;
    let mut child = subject.command(&["yes"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut byte = [0];
    let read = child.stdout.take().map(|mut pipe| pipe.read_exact(&mut byte));
    let ended = eventually(Duration::from_secs(5), || !matches!(child.try_wait(), Ok(None)));
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait()?;
    ensure(ended && matches!(read, Some(Ok(()))), || {
        Failure::new("`yes` ends when nobody reads its output", status)
    })
}
