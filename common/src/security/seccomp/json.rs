//! Docker's JSON format of a seccomp profile, which containerd, podman and Kubernetes read, too.
//!
//! An unknown field or an unknown name of a system call is ignored, as in Docker. An unknown action, operator
//! or flag is an error: without it the profile would mean something else.
//! Source: Docker's documentation, "Seccomp security profiles for Docker"; seccomp_rule_add(3).

use nix::errno::Errno;
use nix::libc;
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
use serde::Deserialize;

use super::architecture::Calls;
use super::rules::{Condition, Rule, Scope};
use super::{Action, FLAGS, Profile, fails_with, kills};
use crate::sys::error::{Error, Result};
use crate::sys::kernel::parse_version;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u32>,
    arch_map: Option<Vec<ArchMap>>,
    architectures: Option<Vec<String>>,
    flags: Option<Vec<String>>,
    listener_path: Option<String>,
    syscalls: Option<Vec<Syscalls>>,
}

/// Which ABIs the profile is for. Congo's filter is for one, the machine's own, so this is only looked at for
/// errors.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    /// The older form, for one.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile; `name` is what an error calls it.
pub(super) fn read(text: &str, name: &str) -> Result<Profile> {
    let file: File =
        serde_json::from_str(text).map_err(|error| Error::new(format!("{name}: {error}")).hint(FORM))?;
    profile(file).map_err(|(field, problem)| Error::new(format!("{name}: {field}: {problem}")))
}

const FORM: &str = "it needs Docker's JSON format: an object with defaultAction and syscalls";

/// A field and what is wrong with it.
type Problem = (String, String);

fn at(field: &'static str) -> impl Fn(String) -> Problem {
    move |problem| (field.to_owned(), problem)
}

fn profile(file: File) -> Result<Profile, Problem> {
    if file.arch_map.as_ref().is_some_and(|list| !list.is_empty())
        && file.architectures.as_ref().is_some_and(|list| !list.is_empty())
    {
        return Err(at("architectures")("there is an archMap, too; expected one of the two".into()));
    }
    if file.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(at("listenerPath")(NO_SUPERVISOR.into()));
    }
    let mapped = file.arch_map.iter().flatten();
    let mapped = mapped.flat_map(|map| map.sub_architectures.iter().flatten().chain([&map.architecture]));
    for abi in mapped.chain(file.architectures.iter().flatten()) {
        if !abi.starts_with("SCMP_ARCH_") {
            return Err(at("architectures")(format!(
                "unknown {abi:?}; expected a name such as SCMP_ARCH_X86_64"
            )));
        }
    }
    let flags = file
        .flags
        .iter()
        .flatten()
        .try_fold(0, |flags, name| Ok(flags | flag(name)?))
        .map_err(at("flags"))?;
    let default = action(&file.default_action, file.default_errno_ret).map_err(at("defaultAction"))?;
    let rules = file.syscalls.into_iter().flatten().enumerate();
    let rules = rules.map(|(index, rule)| {
        self::rule(rule).map_err(|(field, problem)| (format!("syscalls[{index}].{field}"), problem))
    });
    let rules = rules.collect::<Result<_, _>>()?;
    Ok(Profile { foreign: kills(), newer: newer(&default), default, flags, rules })
}

/// The action for calls with greater numbers than the profile knows, the same as in runc. These calls are
/// newer. A C library must find them missing, and then it makes older calls.
fn newer(default: &Action) -> Action {
    match default {
        Action::Allow | Action::Log | Action::Trace(_) => default.clone(),
        _ => fails_with(Errno::ENOSYS),
    }
}

fn rule(given: Syscalls) -> Result<Rule, Problem> {
    let names = match (given.name, given.names) {
        (Some(_), Some(names)) if !names.is_empty() => {
            return Err(at("names")("there is a name, too; expected one of the two".into()));
        }
        (Some(name), _) => vec![name],
        (None, names) => names.unwrap_or_default(),
    };
    let action = action(&given.action, given.errno_ret).map_err(at("action"))?;
    let conditions = given.args.unwrap_or_default().into_iter().enumerate();
    let conditions = conditions.map(|(index, arg)| {
        condition(&arg).map_err(|(field, problem)| (format!("args[{index}].{field}"), problem))
    });
    let mut calls = Calls::none();
    for name in &names {
        calls.add(name.as_bytes());
    }
    Ok(Rule {
        calls,
        action,
        conditions: conditions.collect::<Result<_, _>>()?,
        includes: scope(given.includes.unwrap_or_default()).map_err(at("includes.minKernel"))?,
        excludes: scope(given.excludes.unwrap_or_default()).map_err(at("excludes.minKernel"))?,
    })
}

const NO_SUPERVISOR: &str = "it asks for a supervisor of system calls, which Congo does not have";

fn action(name: &str, errno_ret: Option<u32>) -> Result<Action, String> {
    // The kernel's greatest errno; it would cut a greater number.
    const MAX_ERRNO: u32 = 4095;
    let number = errno_ret.unwrap_or(libc::EPERM.cast_unsigned());
    if number > MAX_ERRNO {
        return Err(format!("an errno of {number}; expected at most {MAX_ERRNO}"));
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => Action::Errno(number),
        "SCMP_ACT_TRACE" => Action::Trace(number),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_NOTIFY" => return Err(NO_SUPERVISOR.into()),
        _ => {
            return Err(format!(
                "unknown {name:?}; expected SCMP_ACT_ followed by one of ALLOW, LOG, ERRNO, TRACE, TRAP, \
                 KILL, KILL_THREAD, KILL_PROCESS"
            ));
        }
    })
}

fn condition(arg: &Arg) -> Result<Condition, Problem> {
    let (op, value) = match arg.op.as_str() {
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, arg.value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, arg.value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, arg.value),
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, arg.value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, arg.value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, arg.value),
        // The mask comes first.
        "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(arg.value), arg.value_two),
        name => {
            let problem = format!(
                "unknown {name:?}; expected SCMP_CMP_ followed by one of NE, LT, LE, EQ, GE, GT, MASKED_EQ"
            );
            return Err(("op".into(), problem));
        }
    };
    // All 64 bits, as libseccomp and so Docker and crun compare them. The profile's author has to know that
    // many calls take an argument of 32 bits: there, a value with higher bits passes for another one here.
    let test = SeccompCondition::new(arg.index, SeccompCmpArgLen::Qword, op, value)
        .map_err(|_| ("index".to_owned(), format!("{} is none; expected 0 to 5", arg.index)))?;
    Ok(Condition { argument: arg.index, test })
}

fn scope(given: Filter) -> Result<Scope, String> {
    let kernel = given.min_kernel.filter(|text| !text.is_empty()).map(|text| {
        parse_version(&text)
            .ok_or_else(|| format!("{text:?} is no version; expected two numbers such as 4.8"))
    });
    Ok(Scope {
        capabilities: given.caps.unwrap_or_default(),
        machines: given.arches.unwrap_or_default(),
        kernel: kernel.transpose()?,
    })
}

fn flag(name: &str) -> Result<u32, String> {
    let known = FLAGS.iter().find(|(known, _)| *known == name).map(|(_, flag)| *flag);
    known.ok_or_else(|| {
        let names = FLAGS.map(|(name, _)| name).join(", ");
        format!("unknown {name:?}; expected some of {names}")
    })
}
