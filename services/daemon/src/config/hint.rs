//! "Did you mean": the nearest of the words that exist.

/// The candidate that `word` was most likely meant to be.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.into_iter().map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

/// The end of a message: `, did you mean "x"?`, or the list where nothing is near.
#[must_use]
pub fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, candidates.clone()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known here: {}", candidates.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognised_and_strangers_are_not() {
        let keys = ["concurrent_requests", "connections", "message_bytes"];
        assert_eq!(nearest("concurent_request", keys), Some("concurrent_requests"));
        assert_eq!(nearest("mesage_bytes", keys), Some("message_bytes"));
        assert_eq!(nearest("zebra", keys), None);
        assert_eq!(suggestion("zebra", ["a", "b"]), "known here: a, b");
    }
}
