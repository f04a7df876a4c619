//! `haflinger top`: which routes are asked most, or which pods; again and again, until it is enough.
//!
//! The daemon is asked for its counts at the beginning and at the end of each interval, and the
//! difference is shown, so that the daemon keeps nothing for who looks on.

mod rates;
mod screen;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use haflinger_proxy::TallyViews;

use self::rates::{Rate, rates, table};
use self::screen::Screen;
use super::{AskArgs, Output};
use crate::admin::{self, Target};

#[derive(Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Show pods instead of routes
    #[arg(long)]
    pods: bool,
    /// What comes first
    #[arg(long, value_enum, value_name = "BY", default_value = "requests")]
    by: By,
    /// Show one interval and end
    #[arg(long)]
    once: bool,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value = "2",
          value_parser = clap::value_parser!(u32).range(1..=INTERVAL_SECS_MAX))]
    every: u32,
    /// How many are shown at most
    #[arg(long, value_name = "N", default_value = "20",
          value_parser = clap::value_parser!(u32).range(1..=ROWS_MAX))]
    limit: u32,
}

/// Longest interval: an hour.
const INTERVAL_SECS_MAX: i64 = 3_600;

/// Most rows: as many as there are routes and pods with counts of their own.
const ROWS_MAX: i64 = 5_000;

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Requests,
    Errors,
    P99,
    Bytes,
    InFlight,
}

pub(super) async fn run(args: &TopArgs) -> anyhow::Result<ExitCode> {
    let every = Duration::from_secs(args.every.into());
    // The screen is cleared for people alone; what is read by something else goes on line by line.
    let mut screen = Screen::open(args.once || matches!(args.ask.output, Output::Json));
    let mut before = fetch(&args.ask).await?;
    loop {
        if !screen.wait(every).await {
            return Ok(ExitCode::SUCCESS);
        }
        let now = fetch(&args.ask).await?;
        let rows = chosen(args, &before, &now);
        let picture = match args.ask.output {
            Output::Text => text(args, &rows, &now),
            Output::Json => serde_json::to_string(&rows)? + "\n",
        };
        if !screen.draw(&picture)? || args.once {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

async fn fetch(ask: &AskArgs) -> anyhow::Result<TallyViews> {
    let answer = admin::fetch(&ask.socket()?, &Target::new("/tallies").to_string()).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The rows to show, the greatest first.
fn chosen(args: &TopArgs, before: &TallyViews, now: &TallyViews) -> Vec<Rate> {
    let mut rows = rates(before, now, args.pods);
    let key = |rate: &Rate| match args.by {
        By::Requests => rate.requests_per_sec,
        By::Errors => rate.errors_per_sec,
        By::P99 => rate.p99_ms.or(rate.mean_ms).unwrap_or(0.0),
        By::Bytes => rate.bytes_in_per_sec + rate.bytes_out_per_sec,
        // Of a count below 2^53, which no host reaches.
        By::InFlight => f64::from(i32::try_from(rate.in_flight).unwrap_or(i32::MAX)),
    };
    // What is equal stays in the order of names.
    rows.sort_by(|one, other| key(other).total_cmp(&key(one)));
    rows.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    rows
}

fn text(args: &TopArgs, rows: &[Rate], now: &TallyViews) -> String {
    let (what, all) = match args.pods {
        false => ("routes", now.routes.len()),
        true => ("pods", now.pods.len()),
    };
    let by = args.by.to_possible_value();
    let by = by.as_ref().map_or("", |by| by.get_name());
    let mut out = format!("{} of {all} {what}, by {by}, of {} s\n", rows.len(), args.every);
    table(rows, args.pods).print_rows("", &mut out);
    if !args.once {
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use haflinger_proxy::TallyView;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        top: TopArgs,
    }

    fn args(line: &[&str]) -> TopArgs {
        Line::parse_from([&["top"], line].concat()).top
    }

    fn views(at_ms: u64, requests: &[(&str, u64, u64)]) -> TallyViews {
        let route = |(name, good, bad): &(&str, u64, u64)| TallyView {
            name: (*name).into(),
            classes: [0, 0, *good, 0, 0, *bad],
            within: vec![good + bad],
            ..TallyView::default()
        };
        let routes = requests.iter().map(route).collect();
        TallyViews { at_ms, bounds_secs: vec![0.001], routes, pods: Vec::new() }
    }

    fn names(line: &[&str]) -> Vec<String> {
        let before = views(0, &[("a", 0, 0), ("b", 0, 0), ("c", 0, 0)]);
        let now = views(1_000, &[("a", 5, 5), ("b", 20, 0), ("c", 1, 1)]);
        chosen(&args(line), &before, &now).iter().map(|rate| rate.name.to_string()).collect()
    }

    #[test]
    fn what_is_asked_for_comes_first_and_no_more_than_is_asked_for() {
        assert_eq!(names(&[]), ["b", "a", "c"]);
        assert_eq!(names(&["--by", "errors"]), ["a", "c", "b"]);
        assert_eq!(names(&["--limit", "1"]), ["b"]);
        assert!(names(&["--pods"]).is_empty());
    }

    #[test]
    fn the_first_line_says_what_is_shown_of_what() {
        let now = views(1_000, &[("a", 1, 0), ("b", 2, 0)]);
        let args = args(&["--limit", "1"]);
        let rows = chosen(&args, &views(0, &[]), &now);
        let text = text(&args, &rows, &now);
        assert!(text.starts_with("1 of 2 routes, by requests, of 2 s\n"), "{text}");
        assert_eq!(text.trim_end().lines().count(), 3);
    }
}
