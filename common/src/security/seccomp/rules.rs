//! The rules of a profile: which of them hold here, and what they come to for each system call.
//!
//! All of this is as in Docker, containerd and runc, where the rules come from.

use seccompiler::SeccompCondition;

use super::Action;
use super::architecture::{Architecture, Calls};
use crate::security::capability::{Capabilities, by_name};

/// One rule: the action for these calls, if all of its conditions and scopes hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) calls: Calls,
    pub(super) action: Action,
    pub(super) conditions: Vec<Condition>,
    pub(super) includes: Scope,
    pub(super) excludes: Scope,
}

/// A condition on one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    pub(super) test: SeccompCondition,
}

/// The processes and machines for which a rule holds, or does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) capabilities: Vec<String>,
    pub(super) machines: Vec<String>,
    pub(super) kernel: Option<(u32, u32)>,
}

impl Rule {
    /// One that holds for everybody.
    pub(super) fn new(calls: Calls, action: Action, conditions: Vec<Condition>) -> Rule {
        Rule { calls, action, conditions, includes: Scope::default(), excludes: Scope::default() }
    }

    /// Whether it holds for a process that has these capabilities, on this machine and kernel.
    pub(super) fn holds(&self, machine: Architecture, kernel: (u32, u32), has: &Capabilities) -> bool {
        // A capability that Congo does not know, nobody has.
        let held = |name: &String| by_name(name).is_some_and(|it| has.contains(&it));
        let here = |name: &String| name == machine.name();
        let Rule { includes, excludes, .. } = self;
        includes.capabilities.iter().all(held)
            && !excludes.capabilities.iter().any(held)
            && (includes.machines.is_empty() || includes.machines.iter().any(here))
            && !excludes.machines.iter().any(here)
            && includes.kernel.is_none_or(|least| kernel >= least)
            && excludes.kernel.is_none_or(|least| kernel < least)
    }

    /// The conditions, as alternatives: in each, all must be so. Two on one argument can only be meant as
    /// alternatives, and then runc takes all of them so.
    fn alternatives(&self) -> Vec<Vec<SeccompCondition>> {
        let twice =
            |it: &Condition| self.conditions.iter().filter(|other| other.argument == it.argument).count() > 1;
        let tests = self.conditions.iter().map(|it| it.test.clone());
        if self.conditions.iter().any(twice) {
            tests.map(|test| vec![test]).collect()
        } else {
            vec![tests.collect()]
        }
    }
}

/// What happens to one system call.
#[derive(Debug, Clone, Default)]
pub(super) struct Call {
    /// Whatever its arguments are.
    pub(super) always: Option<Action>,
    /// If all of the conditions hold: the first that matches counts.
    pub(super) conditional: Vec<(Vec<SeccompCondition>, Action)>,
}

/// What happens to each call, by number, up to the last one that a rule is about. Of two rules about one
/// call, the one without conditions counts, else the first, as in libseccomp. If a rule gives a call only the
/// default action, the call is listed without an action.
pub(super) fn by_number<'a>(
    rules: impl Iterator<Item = &'a Rule>,
    machine: Architecture,
    default: &Action,
) -> Vec<Call> {
    let mut calls = Vec::new();
    for rule in rules {
        let alternatives = rule.alternatives();
        for number in rule.calls.on(machine) {
            let number = number as usize;
            if calls.len() <= number {
                calls.resize(number + 1, Call::default());
            }
            let call = &mut calls[number];
            if rule.action == *default {
                continue;
            }
            if rule.conditions.is_empty() {
                call.always.get_or_insert_with(|| rule.action.clone());
            } else {
                call.conditional
                    .extend(alternatives.iter().map(|tests| (tests.clone(), rule.action.clone())));
            }
        }
    }
    calls
}
