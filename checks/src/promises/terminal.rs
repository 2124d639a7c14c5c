//! A shell at a real terminal: job control, and the terminal given back as it was. tty(4), pty(7),
//! credentials(7).

use std::thread;
use std::time::Duration;

use crate::container::LIMIT;
use crate::kernel::eventually;
use crate::terminal::Terminal;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "terminal.shell",
        "Without a command there is an interactive shell, and its exit status is the runtime's.", shell)
        .hint("The default command is /bin/sh: a shell is interactive when its stdin is a terminal."),
    Check::since(0, "terminal.interrupt",
        "Ctrl-C ends the command in the foreground, not the shell, not the runtime.", interrupt)
        .hint("The terminal sends SIGINT to the foreground process group, which is the group of the shell's \
               command. tcsetpgrp(3)."),
    Check::since(0, "terminal.job-control", "Ctrl-Z, jobs, bg, fg and kill %1 work.", job_control)
        .hint("The shell needs the terminal as its controlling terminal, and must be able to become a \
               process group's leader."),
    Check::since(0, "terminal.given-back",
        "After the run the caller can use the terminal as before.", given_back)
        .hint("Call tcsetpgrp(3) with the caller's process group, in a process that ignores SIGTTOU, and \
               tcsetattr(3) with the old settings."),
];

fn shell(subject: &Subject) -> Checked {
    // Nobody between the terminal and the runtime, which leads the session.
    let mut terminal = Terminal::start(subject, &subject.binary().to_string_lossy(), &[])?;
    terminal.prompt()?;
    let screen = terminal.screen.text();
    let complains = screen.contains("job control") || screen.contains("tty");
    ensure(!complains, || Failure::new("a shell that does not complain", format!("{screen:?}")))?;
    terminal.enter("test -t 0 && test -t 1 && echo terminal=$?")?;
    terminal.see("terminal=0")?;
    terminal.enter("exit 5")?;
    expect("the exit status", Some(5), terminal.exit_status()?)
}

fn interrupt(subject: &Subject) -> Checked {
    let mut terminal = Terminal::of(subject)?;
    terminal.enter("sleep 1000")?;
    let sleeping = terminal.until("sleep 1000", 'S')?;
    terminal.press("\x03")?;
    terminal.enter("echo status=$?")?;
    terminal.see("status=130")?;
    ensure(!sleeping.is_alive(), || Failure::new("Ctrl-C ends it", "it lives on"))?;
    // At the prompt there is nothing to interrupt. Keys that are typed before the signal arrives are lost
    // with the line.
    terminal.press("\x03")?;
    let lives = eventually(LIMIT, || {
        let _ = terminal.enter("echo still=$((1 + 1))");
        thread::sleep(Duration::from_millis(200));
        terminal.shows("still=2")
    });
    ensure(lives, || Failure::new("a shell that goes on after Ctrl-C at its prompt", "it does not answer"))?;
    terminal.enter("exit 0")?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn job_control(subject: &Subject) -> Checked {
    let mut terminal = Terminal::of(subject)?;
    terminal.enter("sleep 1000")?;
    terminal.until("sleep 1000", 'S')?;
    terminal.press("\x1a")?;
    terminal.until("sleep 1000", 'T')?;
    terminal.enter("jobs; echo listed=$((1 + 1))")?;
    terminal.see("sleep 1000")?;
    terminal.see("listed=2")?;
    terminal.enter("bg")?;
    terminal.until("sleep 1000", 'S')?;
    // Stopped again, as it goes on only when the shell has moved it to the foreground: then Ctrl-C reaches
    // it.
    terminal.enter("kill -STOP %1")?;
    terminal.until("sleep 1000", 'T')?;
    terminal.enter("fg; echo after=$?")?;
    terminal.until("sleep 1000", 'S')?;
    terminal.press("\x03")?;
    terminal.enter("echo after=$((1 + 1))")?;
    terminal.see("after=2")?;
    terminal.enter("sleep 1001 &")?;
    let background = terminal.until("sleep 1001", 'S')?;
    terminal.enter("kill %1; wait; echo killed=$((1 + 1))")?;
    terminal.see("killed=2")?;
    ensure(!background.is_alive(), || Failure::new("`kill %1` ends the job", "it lives on"))?;
    terminal.enter("exit 0")?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn given_back(subject: &Subject) -> Checked {
    // The shell itself asks for the settings. A check from outside could meet this shell, or the container's,
    // at its prompt. There a shell with line editing has settings of its own.
    let script = format!(
        "before=$(stty -g); '{}'; echo back=$?; [ \"$before\" = \"$(stty -g)\" ] && echo kept=1 || echo \
         kept=0\n",
        subject.binary().display()
    );
    let script = subject.write("with-terminal.sh", script)?;
    // Without job control, the host's shell and the runtime are one process group, which owns the terminal.
    let whole = format!(". {script}; read -r line; echo \"read=$line.\"; exit 6");
    let mut terminal = Terminal::start(subject, "sh", &["-c", &whole])?;
    given_back_to(&mut terminal)?;
    terminal.enter("and on")?;
    terminal.see("read=and on.")?;
    expect("the exit status", Some(6), terminal.exit_status()?)?;
    // With it, each has its own group, and the shell takes the terminal back itself.
    let mut terminal = Terminal::start(subject, "sh", &["-i"])?;
    terminal.prompt()?;
    terminal.enter(&format!(". {script}"))?;
    given_back_to(&mut terminal)?;
    terminal.prompt()?;
    terminal.enter("exit 6")?;
    expect("the exit status", Some(6), terminal.exit_status()?)
}

/// Lets the container's shell spoil the terminal and end; looks whether its settings are as before.
fn given_back_to(terminal: &mut Terminal) -> Checked {
    terminal.prompt()?;
    terminal.enter("stty -echo -icanon; exit 3")?;
    terminal.see("back=3")?;
    terminal.see("kept=1").map_err(|failure| Failure {
        expected: "the terminal's settings are as before the run".into(),
        ..failure
    })
}
