//! Progress on stderr: a bar on a terminal, a line a minute otherwise. Never on stdout.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Count,
}

/// One stage of a long job.
pub(crate) struct Progress {
    what: &'static str,
    unit: Unit,
    total: u64,
    done: u64,
    bar: Option<ProgressBar>,
    line_last: Instant,
}

impl Progress {
    /// Starts a stage of `total` units.
    pub(crate) fn start(what: &'static str, unit: Unit, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = match unit {
                Unit::Bytes => "{msg:28} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                Unit::Count => "{msg:28} [{bar:30}] {pos}/{len} {eta}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what);
            bar
        });
        Self {
            what,
            unit,
            total,
            done: 0,
            bar,
            line_last: Instant::now(),
        }
    }

    /// `units` more are done.
    pub(crate) fn add(&mut self, units: u64) {
        self.done += units;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        } else if self.line_last.elapsed() >= LINE_INTERVAL {
            self.line_last = Instant::now();
            match self.unit {
                Unit::Bytes => {
                    info!(
                        "{}: {} of {}",
                        self.what,
                        crate::output::human(self.done),
                        crate::output::human(self.total)
                    );
                }
                Unit::Count => info!("{}: {} of {}", self.what, self.done, self.total),
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
