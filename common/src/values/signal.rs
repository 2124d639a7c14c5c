//! How a container is asked to end: `--stop-signal`, `--stop-timeout`, and an image's `StopSignal`.
//!
//! Both end in kill(2). Man pages: signal(7), kill(2).

use nix::sys::signal::Signal;

use super::{Invalid, Limit, whole};
use crate::run::process::SignalNumber;

/// Other names of the same signals, as signal(7) has them.
const OTHER_NAMES: [(&str, Signal); 3] =
    [("IOT", Signal::SIGABRT), ("CLD", Signal::SIGCHLD), ("POLL", Signal::SIGIO)];

/// Reads the value of `--stop-signal`: a number, or a name in upper or lower case, with or without `SIG`.
/// Real-time signals are `RTMIN`, `RTMIN+1` and so on, or `RTMAX-1` and so on up to `RTMAX`.
///
/// # Errors
/// No signal of this system.
pub fn signal(text: &str) -> Result<SignalNumber, Invalid> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let by_number = || whole(text).filter(|_| !text.is_empty()).and_then(SignalNumber::new);
    let by_name = || format!("SIG{name}").parse::<Signal>().ok().map(SignalNumber::from);
    let by_other_name = || OTHER_NAMES.iter().find(|(other, _)| *other == name).map(|(_, it)| (*it).into());
    let found = by_number().or_else(by_name).or_else(by_other_name).or_else(|| real_time(name));
    found.ok_or_else(|| {
        let most = SignalNumber::real_time_above();
        format!("expected a signal's name or number, such as QUIT or 3; RTMIN+1 to RTMIN+{most} too").into()
    })
}

/// `RTMIN+3`, `RTMAX-1`.
fn real_time(name: &str) -> Option<SignalNumber> {
    let most = SignalNumber::real_time_above();
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let above =
            if rest.is_empty() { 0 } else { whole(rest.strip_prefix('+').filter(|it| !it.is_empty())?)? };
        return SignalNumber::real_time(above);
    }
    let rest = name.strip_prefix("RTMAX")?;
    let below = if rest.is_empty() { 0 } else { whole(rest.strip_prefix('-').filter(|it| !it.is_empty())?)? };
    SignalNumber::real_time(most.checked_sub(below)?)
}

/// Reads the value of `--stop-timeout`: seconds, or a negative number for no limit, as in Docker.
///
/// # Errors
/// Not a whole number.
pub fn stop_timeout(text: &str) -> Result<Limit, Invalid> {
    let expected = "expected a number of seconds, or -1 to wait for ever";
    match text.strip_prefix('-').unwrap_or(text) {
        "" => Err(expected.into()),
        digits => match whole(digits) {
            Some(1..) if text.starts_with('-') => Ok(Limit::Unlimited),
            Some(seconds) => Ok(Limit::AtMost(seconds)),
            None => Err(expected.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for text in ["SIGQUIT", "QUIT", "quit", "sigQuit", "3"] {
            assert_eq!(signal(text), Ok(Signal::SIGQUIT.into()), "{text}");
        }
        assert_eq!(signal("iot"), Ok(Signal::SIGABRT.into()));
        let most = SignalNumber::real_time_above();
        for (text, above) in
            [("RTMIN", 0), ("sigrtmin+3", 3), ("RTMAX", most), ("RTMAX-1", most - 1), ("SIGRTMAX-0", most)]
        {
            assert_eq!(signal(text).ok(), SignalNumber::real_time(above), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "+3",
            "32",
            "65",
            "x",
            "SIG",
            "SIGSIGINT",
            "RTMIN+",
            "RTMIN-1",
            "RTMIN+99",
            "RTMAX+1",
            "RTMAX-99",
            "RTMIN+ 1",
            "9999999999",
        ] {
            let error = signal(text).unwrap_err().to_string();
            assert!(error.contains("such as QUIT or 3"), "{text}: {error}");
        }
    }

    #[test]
    fn timeouts() {
        assert_eq!(stop_timeout("0"), Ok(Limit::AtMost(0)));
        assert_eq!(stop_timeout("10"), Ok(Limit::AtMost(10)));
        assert_eq!(stop_timeout("-1"), Ok(Limit::Unlimited));
        for text in ["", "-", "--1", "1.5", "1s", "+1", "abc", "99999999999999999999"] {
            assert!(stop_timeout(text).unwrap_err().to_string().contains("-1"), "{text}");
        }
    }
}
