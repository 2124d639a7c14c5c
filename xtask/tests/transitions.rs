//! The diff from each step to the next is the lesson and nothing else.

use xtask::{diff, workspace};

#[test]
fn every_diff_is_its_lesson() {
    let steps = workspace::steps().unwrap();
    assert!(steps.len() > 1, "there is no pair of steps to compare");
    let mut drifted = false;
    for pair in steps.windows(2) {
        let folder = |step: &workspace::Step| workspace::root().join(&step.name);
        let transition = diff::measure(&folder(&pair[0]), &folder(&pair[1])).unwrap();
        println!("{transition}");
        drifted |= !transition.problems.is_empty();
    }
    assert!(!drifted, "a step's diff is more than its lesson: see the table above");
}
