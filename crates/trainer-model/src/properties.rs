//! How many cases property tests try.

use proptest::test_runner::Config;

/// As many as `PROPTEST_CASES` says; `usual` without it. What proptest's own `with_cases`
/// is given, the variable does not change.
pub(crate) fn cases(usual: u32) -> Config {
    let wanted = std::env::var("PROPTEST_CASES").ok();
    Config::with_cases(wanted.and_then(|n| n.parse().ok()).unwrap_or(usual))
}
