//! The learner's `Cargo.toml` at the beginning of a step: other values for the libraries. All that the
//! learner has added stays, comments, too.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result};
use toml::de::DeTable;
use toml::{Table, Value};

/// The table that lists the libraries.
const TABLE: &str = "dependencies";

/// A library in a manifest.
struct Library {
    value: Value,
    /// Where the value stands in the text.
    place: Range<usize>,
}

/// The learner's manifest for a step. `course` are the manifests that the course writes, for any step, and
/// `wanted` is that of the step. Also returns the lines that the step needs, and that the learner has
/// written in another way: those stay as they are.
///
/// # Errors
/// When one of the manifests is no TOML.
pub fn carried(text: &str, course: &[String], wanted: &str) -> Result<(String, Vec<String>)> {
    let course = course.iter().map(|manifest| libraries(manifest)).collect::<Result<Vec<_>>>()?;
    let (mut text, mut own) = (text.to_owned(), Vec::new());
    for (name, library) in libraries(wanted)? {
        let line = format!("{name} = {}", &wanted[library.place.clone()]);
        // Each edit moves what stands behind it, so the text is read again.
        let found = libraries(&text)?.remove(&name);
        let is_of_course =
            |found: &Library| course.iter().any(|of| of.get(&name).is_some_and(|of| of.value == found.value));
        let edited = match found {
            Some(found) if covers(&found.value, &library.value) && !is_of_course(&found) => continue,
            Some(found) if found.value == library.value => continue,
            Some(found) if is_of_course(&found) => {
                let (before, after) = (&text[..found.place.start], &text[found.place.end..]);
                Some(format!("{before}{}{after}", &wanted[library.place]))
            }
            Some(_) => None,
            None => Some(with_line(&text, &line)?),
        };
        // TOML has several ways to write a table. Where an edit does not say what it should, it is dropped.
        match edited.filter(|edited| says(edited, &text, &name, &library.value)) {
            Some(edited) => text = edited,
            None => own.push(line),
        }
    }
    Ok((text, own))
}

/// The text with a line more, below the header of the libraries, which is added where it is missing.
fn with_line(text: &str, line: &str) -> Result<String> {
    let manifest = DeTable::parse(text)?;
    let Some(table) = manifest.get_ref().get(TABLE) else {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{end}\n[{TABLE}]\n{line}\n"));
    };
    let header = table.span().start;
    Ok(match text[header..].find('\n') {
        Some(length) => {
            let (before, after) = text.split_at(header + length + 1);
            format!("{before}{line}\n{after}")
        }
        None => format!("{text}\n{line}\n"),
    })
}

/// Whether a text differs from the one before in this library alone, which has this value.
fn says(edited: &str, before: &str, library: &str, value: &Value) -> bool {
    let (Ok(edited), Ok(mut expected)) = (edited.parse::<Table>(), before.parse::<Table>()) else {
        return false;
    };
    let table = expected.entry(TABLE).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(table) = table {
        table.insert(library.to_owned(), value.clone());
    }
    edited == expected
}

/// Whether what a learner has written has all that is wanted, and at most more features.
fn covers(found: &Value, wanted: &Value) -> bool {
    let parts = |value: &Value| -> (Table, Vec<Value>) {
        let mut table = match value {
            Value::Table(table) => table.clone(),
            version => Table::from_iter([("version".to_owned(), version.clone())]),
        };
        let features = table.remove("features");
        (table, features.and_then(|list| list.as_array().cloned()).unwrap_or_default())
    };
    let ((found, has), (wanted, needs)) = (parts(found), parts(wanted));
    found == wanted && needs.iter().all(|feature| has.contains(feature))
}

/// The libraries of a manifest, by name.
fn libraries(manifest: &str) -> Result<BTreeMap<String, Library>> {
    let values: Table = manifest.parse().context("reading a Cargo.toml")?;
    let places = DeTable::parse(manifest)?;
    let places = places.get_ref().get(TABLE).and_then(|table| table.get_ref().as_table());
    let found = places.into_iter().flatten().filter_map(|(name, place)| {
        let name = name.get_ref().to_string();
        let value = values.get(TABLE)?.get(&name)?.clone();
        Some((name, Library { value, place: place.span() }))
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "[package]\nname = \"mine\"\n\n[dependencies]\ncommon = { path = \"/c\" }\n\
                       nix = { version = \"0.31\" }\n\n[profile.dev]\n";
    const NEW: &str = "[package]\nname = \"mine\"\n\n[dependencies]\nclap = { version = \"4\" }\n\
                       common = { path = \"/c\", features = [\"values\"] }\nnix = { version = \"0.31\" }\n\n\
                       [profile.dev]\n";
    const COMMON: &str = "common = { path = \"/c\", features = [\"values\"] }";

    fn carry(text: &str) -> (String, Vec<String>) {
        carried(text, &[OLD.to_owned(), NEW.to_owned()], NEW).unwrap()
    }

    fn read(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn what_the_learner_has_added_stays() {
        let added = "# mine\nregex = \"1\"\n";
        let (text, own) = carry(&OLD.replace("nix =", &format!("{added}nix =")));
        assert!(own.is_empty());
        assert!(text.contains(added), "{text}");
        assert_eq!(read(&text.replace(added, "")), read(NEW));
        assert_eq!(carry(&text).0, text, "a second time it changes nothing");
    }

    #[test]
    fn comments_stay_and_how_a_table_is_written_does_not_matter() {
        let text =
            OLD.replace("{ path = \"/c\" }", "{path='/c'} # ours").replace("[dep", "# libraries\n [dep");
        let (text, own) = carry(&text);
        assert!(own.is_empty(), "{own:?}");
        assert!(text.contains("# libraries\n [dependencies]\n") && text.contains(" # ours\n"), "{text}");
        assert_eq!(read(&text), read(NEW));
    }

    #[test]
    fn a_table_of_another_name_is_not_taken_for_the_libraries() {
        // In a text of several lines, and for tests: neither is a library of the runtime.
        let of_tests = "\n[dev-dependencies]\ncommon = { path = \"/c\" }\nclap = { version = \"4\" }\n";
        let in_text = "description = \"\"\"\n[dependencies]\nclap = { version = \"4\" }\n\"\"\"\n";
        let text = OLD.replace("\n[dependencies]", &format!("{in_text}\n[dependencies]")) + of_tests;
        let (text, own) = carry(&text);
        assert!(own.is_empty(), "{own:?}");
        assert!(text.contains(of_tests) && text.contains(in_text), "{text}");
        let table = read(&text);
        assert_eq!(table["dependencies"], read(NEW)["dependencies"]);
    }

    #[test]
    fn a_missing_table_is_added() {
        let (text, own) = carry("[package]\nname = \"mine\"\n\n[profile.dev]");
        assert!(own.is_empty(), "{own:?}");
        assert_eq!(read(&text), read(NEW));
    }

    #[test]
    fn a_line_that_the_learner_has_changed_is_told() {
        let changed = OLD.replace("common = { path = \"/c\" }", "common = { path = \"/elsewhere\" }");
        let (text, own) = carry(&changed);
        assert!(text.contains("/elsewhere"), "{text}");
        assert_eq!(own, [COMMON]);
        let (_, own) = carry(&NEW.replace("path = \"/c\"", "path = \"/elsewhere\""));
        assert_eq!(own, [COMMON], "the features alone do not do");
        for other in [
            "[dependencies]\nnix = \"0.31\"\n\n[dependencies.common]\npath = \"/mine\"\n",
            "dependencies.common.path = \"/c\"\n",
        ] {
            let (text, own) = carry(other);
            assert!(own.iter().any(|line| line == COMMON), "{own:?}");
            assert!(read(&text)["dependencies"]["common"].get("features").is_none(), "{text}");
        }
    }

    #[test]
    fn more_features_than_the_step_needs_are_no_other_line() {
        let more = OLD.replace("{ path = \"/c\" }", "{ path = \"/c\", features = [\"image\", \"values\"] }");
        let (text, own) = carry(&more);
        assert!(own.is_empty(), "{own:?}");
        assert!(text.contains("[\"image\", \"values\"]"), "{text}");
    }

    #[test]
    fn at_an_earlier_step_the_features_of_a_later_one_go() {
        let (text, own) = carried(NEW, &[OLD.to_owned(), NEW.to_owned()], OLD).unwrap();
        assert!(own.is_empty(), "{own:?}");
        assert_eq!(read(&text)["dependencies"]["common"], read(OLD)["dependencies"]["common"]);
    }
}
