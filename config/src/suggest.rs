//! Near misses: which of the known words was probably meant.

/// The known word nearest to `word`, if it is near enough to be what was meant: at most a third
/// of its letters differ.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // No key is half as long; a longer word is no slip, and comparing it would only cost time.
    const WORD_CHARS_MAX: usize = 64;
    if word.chars().count() > WORD_CHARS_MAX {
        return None;
    }
    let lower = word.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.replace('-', "_")), *candidate))
        .min()
        .filter(|(far, candidate)| *far <= (candidate.chars().count() / 3).max(1))
        .map(|(_, candidate)| candidate)
        .or_else(|| beginning(&lower, known))
}

/// The only known word that begins with `word`: most often its unit was forgotten.
fn beginning<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    const LETTERS_MIN: usize = 3;
    let mut longer = known.iter().filter(|candidate| candidate.starts_with(word));
    let only = longer.next().filter(|_| longer.next().is_none() && word.len() >= LETTERS_MIN);
    only.copied()
}

/// Damerau-Levenshtein distance with adjacent transpositions.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, right) in b.iter().enumerate() {
            let change = above[j] + usize::from(left != right);
            row[j + 1] = change.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *left == b[j - 1] && a[i - 1] == *right {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_a_letter_is_recognised() {
        let known = ["local_as", "router_id", "hold_time_secs", "listen"];
        assert_eq!(nearest("local_sa", &known), Some("local_as"));
        assert_eq!(nearest("hold_time_sec", &known), Some("hold_time_secs"));
        assert_eq!(nearest("hold-time-secs", &known), Some("hold_time_secs"));
        assert_eq!(nearest("Listen", &known), Some("listen"));
        assert_eq!(nearest("hold_time", &known), Some("hold_time_secs"));
        assert_eq!(nearest("kubeconfig", &known), None);
        assert_eq!(nearest("", &known), None);
    }
}
