//! What the tests of all grammars need.

use std::fmt::Debug;

use super::Invalid;

/// Asserts that `read` refuses each of the texts, with an error that begins so.
#[track_caller]
pub fn refused<'a, S: From<&'a str>, T: Debug>(
    read: impl Fn(S) -> Result<T, Invalid>,
    begins: &str,
    texts: &[&'a str],
) {
    for text in texts {
        let error = read(S::from(text)).expect_err(text).to_string();
        assert!(error.starts_with(begins), "{text:?}: {error}");
    }
}
