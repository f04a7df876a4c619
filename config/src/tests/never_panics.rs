use proptest::prelude::*;

use super::*;

/// A few words of the format, so that random texts come near to sound ones.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(DEFAULT.lines().collect::<Vec<_>>())
            .prop_map(|line| line.strip_prefix('#').unwrap_or(line).to_owned()),
        proptest::sample::select(vec![
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            "\"",
            "'''",
            "#",
            "\n",
            ".",
            ",",
            "-1",
            "1e9",
            "2026-01-01",
            "true",
            "0x",
            "é",
            "\u{0}",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

/// A sound line with one value replaced.
fn changed_line() -> impl Strategy<Value = String> {
    let lines: Vec<String> = DEFAULT
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.contains(" = ") || line.starts_with('['))
        .filter(|line| !line.starts_with(' '))
        .map(str::to_owned)
        .collect();
    let values = vec![
        "0",
        "-1",
        "\"\"",
        "\"::\"",
        "\"::1\"",
        "\"192.0.2.1\"",
        "[]",
        "[\"\"]",
        "[[]]",
        "{}",
        "true",
        "1.5",
        "\"a\"",
        "99999999999999999999",
        "[\"::/0\"]",
        "[\"192.0.2.0/24\", \"::-::1\"]",
        "nan",
    ];
    (proptest::sample::select(lines), proptest::option::of(proptest::sample::select(values)))
        .prop_map(|(line, value)| match (line.split_once(" = "), value) {
            (Some((key, _)), Some(value)) => format!("{key} = {value}"),
            _ => line,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn no_text_makes_it_panic(words in prop::collection::vec(word(), 0..30)) {
        let _ = load(&words.concat());
    }

    #[test]
    fn nearly_sound_files_are_accepted_or_refused_with_reasons(
        lines in prop::collection::vec(changed_line(), 0..12),
    ) {
        match load(&lines.join("\n")) {
            Ok(loaded) => prop_assert!(loaded.config.relay.connections_max > 0),
            Err(errors) => {
                let reasoned = errors
                    .problems()
                    .iter()
                    .all(|problem| !problem.what.is_empty() && !problem.remedy.is_empty());
                prop_assert!(reasoned);
            }
        }
    }

    #[test]
    fn no_variable_or_flag_makes_it_panic(
        name in "[A-Z_a-z.é]{0,20}",
        key in proptest::sample::select(vec!["POOL", "BGP__PEER", "HOST", "DNS__ZONE", "X"]),
        value in prop_oneof![".{0,40}", "[\\[\\]{}=,a-z0-9\":.']{0,60}"],
    ) {
        let mut sources = Sources::text("haflinger.toml", "");
        sources.environment = vec![
            (format!("HAFLINGER_{name}"), value.clone()),
            (format!("HAFLINGER_{key}"), value.clone()),
        ];
        sources.flags = vec![Flag::text("--set", &name, &value), Flag::new("--x", &name, &value)];
        let _ = Config::load(&sources);
    }

    #[test]
    fn pools_that_pass_are_disjoint(
        ranges in prop::collection::vec((0_u8..40, 0_u8..10), 1..6),
    ) {
        let mut text = String::new();
        for (index, (first, length)) in ranges.iter().enumerate() {
            let last = first + length;
            text += &format!("[[pool]]\nname = \"p{index}\"\naddresses = [\"192.0.2.{first}-192.0.2.{last}\"]\n");
        }
        let disjoint = ranges.iter().enumerate().all(|(index, (a, length))| {
            ranges[index + 1..].iter().all(|(b, other)| a + length < *b || b + other < *a)
        });
        prop_assert_eq!(load(&text).is_ok(), disjoint);
    }
}
