//! The manual page haflinger(8), from the command line's own definition.

use std::fmt::Write as _;

use clap::Command;

/// What the command line does not say of itself.
const REST: &str = include_str!("manual.roff");

/// The page in roff, for man(1).
pub(crate) fn page(command: &Command) -> String {
    let version = command.get_version().unwrap_or_default();
    let mut out = String::new();
    // Writing into a string cannot fail.
    let _ = writeln!(out, ".TH HAFLINGER 8 \"\" \"haflinger {version}\" \"System administration\"");
    out.push_str(".SH NAME\nhaflinger \\- edge load balancer for Kubernetes on bare metal\n");
    out.push_str(".SH SYNOPSIS\n.B haflinger\n.I COMMAND\n[\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n");
    let about = command.get_long_about().or(command.get_about());
    let _ = writeln!(out, "{}.", escaped(&about.map(ToString::to_string).unwrap_or_default()));
    out.push_str(".SH COMMANDS\n");
    for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
        describe("haflinger", part, &mut out);
    }
    out.push_str(REST);
    out
}

/// One command with its arguments, or those below it.
fn describe(parent: &str, command: &Command, out: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    let mut below = command.get_subcommands().filter(|part| !part.is_hide_set()).peekable();
    if below.peek().is_some() {
        below.for_each(|part| describe(&name, part, out));
        return;
    }
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(out, ".SS \"{}\"\n{}.", escaped(&name), escaped(&about));
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
        let mut flags = Vec::new();
        flags.extend(argument.get_short().map(|short| format!("-{short}")));
        flags.extend(argument.get_long().map(|long| format!("--{long}")));
        let takes_value = argument.get_action().takes_values();
        let value = argument.get_value_names().filter(|_| takes_value);
        let value = value.and_then(<[_]>::first).map(ToString::to_string);
        let form = match (flags.is_empty(), value) {
            (false, Some(value)) => {
                format!("\\fB{}\\fR \\fI{value}\\fR", escaped(&flags.join(", ")))
            }
            (false, None) => format!("\\fB{}\\fR", escaped(&flags.join(", "))),
            (true, value) => format!("\\fI{}\\fR", escaped(&value.unwrap_or_default())),
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, ".TP\n{form}\n{}", escaped(&help));
    }
}

/// Text that roff prints as it stands.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq");
    let lines = text.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_command_and_flag_is_in_the_page() {
        let flag = clap::Arg::new("file").long("a-file").value_name("FILE").help("it's -x");
        let below = Command::new("below").about("does it").arg(flag);
        let command = Command::new("haflinger")
            .version("1")
            .about("about")
            .subcommand(Command::new("above").subcommand(below))
            .subcommand(Command::new("secret").hide(true));
        let page = page(&command);
        assert!(page.contains(".SS \"haflinger above below\"\ndoes it."), "{page}");
        assert!(page.contains("\\fB\\-\\-a\\-file\\fR \\fIFILE\\fR\nit's \\-x"), "{page}");
        assert!(!page.contains("secret"), "{page}");
    }
}
