//! Durations of the Gateway API (GEP-2257).

/// Numbers with units in one duration.
const PARTS_MAX: usize = 4;

/// Digits of one number.
const DIGITS_MAX: usize = 5;

/// Milliseconds in a duration (`1h30m`, `500ms`, `0s`): up to four numbers of up to five digits,
/// each with `h`, `m`, `s` or `ms`. What takes more than 49 days takes 49 days, which is as good
/// as for ever.
pub(super) fn duration_ms(text: &str) -> Option<u32> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        parts += 1;
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_len);
        let unit_ms = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        if digits > DIGITS_MAX || parts > PARTS_MAX {
            return None;
        }
        // At most four times 99,999 hours, far from where 64 bits end.
        total += number.parse::<u64>().ok()? * unit_ms;
        rest = next;
    }
    (parts > 0).then(|| u32::try_from(total).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_enhancement_proposal() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("0ms", Some(0)),
            ("10ms", Some(10)),
            ("1h30m", Some(5_400_000)),
            ("1h30m10s5ms", Some(5_410_005)),
            ("30m1h", Some(5_400_000)),
            ("99999h", Some(u32::MAX)),
            ("", None),
            ("1", None),
            ("s", None),
            ("1.5s", None),
            ("-1s", None),
            ("1d", None),
            ("100000s", None),
            ("1h1m1s1ms1ms", None),
            ("1 s", None),
        ] {
            assert_eq!(duration_ms(text), expected, "{text}");
        }
    }
}
