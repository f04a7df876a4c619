//! The manual page of the file, made from the shipped default.

/// `haflinger.toml(5)` in roff. Prose comes from the comments of [`crate::DEFAULT`], so that
/// the page can never say something else than the file.
pub fn manual() -> String {
    let mut page = String::from(concat!(
        ".TH HAFLINGER.TOML 5 \"\" \"haflinger ",
        env!("CARGO_PKG_VERSION"),
        "\" \"Haflinger\"\n",
        ".SH NAME\nhaflinger.toml \\- configuration of the haflinger load balancer\n",
        ".SH DESCRIPTION\n",
    ));
    let mut prose: Vec<&str> = Vec::new();
    for line in crate::DEFAULT.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            prose.push(text);
        } else if let Some(section) = section_of(line) {
            page.push_str(&format!(".SH \"{}\"\n", escaped(section)));
            push_prose(&mut page, &mut prose);
        } else if let Some((key, value)) = key_of(line) {
            page.push_str(&format!(".TP\n\\fB{}\\fR = {}\n", escaped(key), escaped(value)));
            push_prose(&mut page, &mut prose);
        } else if !prose.is_empty() {
            push_prose(&mut page, &mut prose);
            page.push_str(".PP\n");
        }
    }
    push_prose(&mut page, &mut prose);
    page.push_str(".SH SEE ALSO\n.BR haflinger (8)\n");
    page
}

fn push_prose(page: &mut String, prose: &mut Vec<&str>) {
    for line in prose.drain(..) {
        let line = escaped(line);
        // A leading dot or quote would be a request of roff.
        if line.starts_with(['.', '\'']) {
            page.push_str("\\&");
        }
        page.push_str(&line);
        page.push('\n');
    }
}

/// `[section]` or `[[section]]`, also when commented out.
fn section_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix('#').unwrap_or(line);
    (line.starts_with('[') && line.ends_with(']')).then_some(line)
}

/// Key and value, also when commented out.
fn key_of(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix('#').unwrap_or(line).split_once(" = ")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\(rs").replace('-', "\\-")
}
