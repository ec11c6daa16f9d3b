//! "Did you mean …?"

/// The candidate that is nearest to a word, if one is near enough to be meant: at most one edit in three letters.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any key: nothing can be near, and the work below would grow with the square.
    if word.len() > 100 {
        return None;
    }
    let word: Vec<char> = word.to_lowercase().chars().collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// A key as it stands in TOML, for messages: quoted and escaped where it must be, cut after 80 characters.
pub fn shown_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut shown: String = key.chars().take(81).collect();
    if shown.chars().count() > 80 {
        shown.pop();
        shown.push('…');
    }
    match !key.is_empty() && key.chars().all(bare) {
        true => shown,
        false => format!("{shown:?}"),
    }
}

/// Levenshtein's distance, case ignored.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_shown_on_one_line() {
        assert_eq!(shown_key("download_mode"), "download_mode");
        assert_eq!(shown_key("a.b\n"), r#""a.b\n""#);
        assert_eq!(shown_key(""), "\"\"");
        assert_eq!(shown_key(&"x".repeat(200)).chars().count(), 81);
    }

    #[test]
    fn nearest_key_is_the_one_that_was_meant() {
        let keys = [
            "download_mode",
            "group_id",
            "group_id_source",
            "max_cache_age",
        ];
        for (word, meant) in [
            ("downlod_mode", Some("download_mode")),
            ("DownloadMode", Some("download_mode")),
            ("groupid", Some("group_id")),
            ("max_cache_agee", Some("max_cache_age")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(1 << 20), keys), None);
    }
}
