//! The learner's `Cargo.toml` at the beginning of a step: other lines for the libraries, and all that the
//! learner has added stays.

use std::collections::BTreeMap;

/// The learner's manifest for a step. `course` are the manifests that the course writes, for any step, and
/// `wanted` is that of the step. Also returns the lines that the step needs, and that the learner has
/// written in another way: those stay as they are.
pub fn carried(text: &str, course: &[String], wanted: &str) -> (String, Vec<String>) {
    let course: Vec<_> = course.iter().map(|manifest| libraries(manifest)).collect();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut own = Vec::new();
    for (library, line) in libraries(wanted) {
        let is_of_course = |found: &String| course.iter().any(|of| of.get(library) == Some(&found.as_str()));
        let is_of_library = |found: &String| {
            let rest = found.strip_prefix(library).map(str::trim_start);
            found.trim_end() == format!("[dependencies.{library}]")
                || rest.is_some_and(|rest| rest.starts_with(['=', '.']))
        };
        if let Some(found) = lines.iter_mut().find(|found| is_of_course(found)) {
            line.clone_into(found);
        } else if lines.iter().any(is_of_library) {
            own.push(line.to_owned());
        } else {
            let header = |found: &String| found.trim_end() == "[dependencies]";
            let at = lines.iter().position(header).unwrap_or_else(|| {
                lines.push("[dependencies]".to_owned());
                lines.len() - 1
            });
            lines.insert(at + 1, line.to_owned());
        }
    }
    (lines.join("\n") + "\n", own)
}

/// The lines below `[dependencies]`, by the library's name.
fn libraries(manifest: &str) -> BTreeMap<&str, &str> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| Some((line.split_once(" = ")?.0, line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "[package]\nname = \"mine\"\n\n[dependencies]\ncommon = { path = \"/c\" }\n\
                       nix = { version = \"0.31\" }\n\n[profile.dev]\n";
    const NEW: &str = "[package]\nname = \"mine\"\n\n[dependencies]\nclap = { version = \"4\" }\n\
                       common = { path = \"/c\", features = [\"values\"] }\nnix = { version = \"0.31\" }\n\n\
                       [profile.dev]\n";

    fn carry(text: &str) -> (String, Vec<String>) {
        carried(text, &[OLD.to_owned(), NEW.to_owned()], NEW)
    }

    #[test]
    fn what_the_learner_has_added_stays() {
        let added = "# mine\nregex = \"1\"\n";
        let (text, own) = carry(&OLD.replace("nix =", &format!("{added}nix =")));
        assert!(own.is_empty());
        assert!(text.contains(added), "{text}");
        assert_eq!(libraries(&text.replace(added, "")), libraries(NEW));
        assert_eq!(carry(&text).0, text, "a second time it changes nothing");
    }

    #[test]
    fn a_line_that_the_learner_has_changed_is_told() {
        let changed = OLD.replace("common = { path = \"/c\" }", "common = { path = \"/elsewhere\" }");
        let (text, own) = carry(&changed);
        assert!(text.contains("/elsewhere"), "{text}");
        assert_eq!(own, ["common = { path = \"/c\", features = [\"values\"] }"]);
        let table = "[dependencies]\n\n[dependencies.common]\npath = \"/mine\"\n";
        assert_eq!(carry(table).1.len(), 1);
    }
}
