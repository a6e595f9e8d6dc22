//! The run as an SVG: a panel for each thing that was watched, one above the other over the same time, with what was wrong
//! as shades behind them. By hand, because nothing of a plotting library would be left but its lines.

use std::fmt::Write as _;

use super::{
    judge::Verdict,
    sample::Sample,
    schedule::{Fault, Planned},
};

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 1056.0;
const TOP: f64 = 136.0;
const PANEL: f64 = 108.0;
const PANEL_STEP: f64 = 152.0;
const BELOW: f64 = 56.0;

/// Points of a line; beyond, of neighbours only the lowest and the highest are drawn.
pub const POINTS_MAX: usize = 900;
/// Lines of a panel's grid, about.
const GRID_LINES: f64 = 4.0;
const TIME_LINES: f64 = 12.0;
/// Steps of the time that people count in, in seconds; beyond, whole days.
const TIME_STEPS: [f64; 17] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0,
    21_600.0, 43_200.0,
];
/// More shades than this would be one grey: none of them is drawn.
const SHADES_MAX: usize = 300;

const MIB: f64 = 1024.0 * 1024.0;

/// What the plot is of.
#[derive(Debug, Clone, Copy)]
pub struct Plot<'a> {
    /// In large letters.
    pub title: &'a str,
    /// Below it: how it was run.
    pub subtitle: &'a str,
    /// What came of it, and whether that is good.
    pub outcome: (&'a str, bool),
    /// All looks.
    pub samples: &'a [Sample],
    /// What went wrong on purpose.
    pub faults: &'a [Planned],
    /// By the name of its panel: what was judged.
    pub verdicts: &'a [(Panel, Verdict)],
}

/// One of the panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Panel {
    /// Acknowledged and delivered.
    Throughput,
    /// What the destination does not have yet.
    Lag,
    /// Resident memory.
    Rss,
    /// The data directory.
    Disk,
    /// Files and sockets.
    Files,
}

type Value = fn(&Sample) -> f64;

// === impl Panel ===

impl Panel {
    const ALL: [Self; 5] = [Self::Throughput, Self::Lag, Self::Rss, Self::Disk, Self::Files];

    /// What it shows, and in which unit.
    pub const fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Throughput => ("Throughput", "thousand events/s"),
            Self::Lag => ("Lag of the destination", "thousand events"),
            Self::Rss => ("Resident memory", "MiB"),
            Self::Disk => ("Data directory on disk", "MiB"),
            Self::Files => ("Open files and sockets", "files"),
        }
    }

    /// How many of what is measured are one of what is shown.
    pub const fn unit(self) -> f64 {
        match self {
            Self::Throughput | Self::Lag => 1e3,
            Self::Rss | Self::Disk => MIB,
            Self::Files => 1.0,
        }
    }

    fn lines(self) -> &'static [(&'static str, &'static str, Value)] {
        match self {
            Self::Throughput => &[
                ("delivered", "#d55e00", |sample| sample.delivered_per_s),
                ("acknowledged", "#0072b2", |sample| sample.acknowledged_per_s),
            ],
            Self::Lag => &[("lag", "#7b3fa0", |sample| sample.lag_events)],
            Self::Rss => &[("rss", "#0072b2", |sample| sample.rss_bytes)],
            Self::Disk => &[("disk", "#00795c", |sample| sample.disk_bytes)],
            Self::Files => &[("files", "#8a5a00", |sample| sample.open_files)],
        }
    }
}

/// The colour of what goes wrong.
pub fn shade(fault: Fault) -> &'static str {
    match fault {
        Fault::Unavailable => "#f6c7b6",
        Fault::Slow => "#f8e6a0",
        Fault::Hung => "#d9cdea",
        Fault::Cut => "#c6e2f2",
        Fault::Closed => "#d3d7db",
        Fault::Reload => "#009e73",
        Fault::Kill => "#c00000",
    }
}

// === impl Plot ===

impl Plot<'_> {
    /// The whole document.
    pub fn svg(&self) -> String {
        let height = TOP + PANEL_STEP * Panel::ALL.len() as f64 + BELOW - (PANEL_STEP - PANEL);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        text(&mut out, (24.0, 34.0), "font-size=\"20\" font-weight=\"bold\" fill=\"#111\"", self.title);
        text(&mut out, (24.0, 55.0), "fill=\"#555\"", self.subtitle);
        let colour = if self.outcome.1 { "#00795c" } else { "#c00000" };
        let style = format!("font-weight=\"bold\" fill=\"{colour}\"");
        text(&mut out, (24.0, 75.0), &style, self.outcome.0);
        self.legend(&mut out);
        for (index, panel) in Panel::ALL.into_iter().enumerate() {
            self.panel(&mut out, panel, TOP + PANEL_STEP * index as f64);
        }
        let bottom = height - BELOW;
        for at in time_grid(self.seconds()) {
            let style = "text-anchor=\"middle\" fill=\"#555\"";
            text(&mut out, (self.x(at), bottom + 18.0), style, &clock(at, self.seconds()));
        }
        let middle = (LEFT + RIGHT) / 2.0;
        let unit = if self.seconds() < 120.0 { "time (seconds)" } else { "time (hours:minutes:seconds)" };
        text(&mut out, (middle, bottom + 40.0), "text-anchor=\"middle\" fill=\"#555\"", unit);
        out.push_str("</svg>\n");
        out
    }

    /// Only of the faults that there were.
    fn legend(&self, out: &mut String) {
        let mut kinds: Vec<Fault> = self.faults.iter().map(|planned| planned.fault).collect();
        kinds.sort();
        kinds.dedup();
        let mut x = 24.0;
        if self.drawn_faults().len() < self.faults.len() {
            let said = format!("on purpose: {} faults, too many to be drawn", self.faults.len());
            return text(out, (x, 97.0), "fill=\"#555\"", &said);
        }
        text(out, (x, 97.0), "fill=\"#555\"", "on purpose:");
        x += 84.0;
        for kind in kinds {
            let colour = shade(kind);
            if matches!(kind, Fault::Reload | Fault::Kill) {
                let _ = write!(
                    out,
                    "<line x1=\"{0}\" x2=\"{0}\" y1=\"86\" y2=\"99\" stroke=\"{colour}\" stroke-width=\"1.5\" \
                     stroke-dasharray=\"3 2\"/>",
                    x + 7.0
                );
            } else {
                let _ =
                    write!(out, "<rect x=\"{x}\" y=\"87\" width=\"14\" height=\"12\" fill=\"{colour}\"/>");
            }
            text(out, (x + 20.0, 97.0), "", kind.as_str());
            x += 36.0 + 7.0 * kind.as_str().len() as f64;
        }
    }

    fn panel(&self, out: &mut String, panel: Panel, top: f64) {
        let bottom = top + PANEL;
        let lines = panel.lines();
        let shown = |value: f64| value / panel.unit();
        let values = lines.iter().flat_map(|(_, _, value)| self.samples.iter().map(value));
        let highest = values.map(shown).fold(0.0, f64::max);
        let ticks = grid(highest.max(1.0) * 1.05, GRID_LINES);
        let scale = (highest * 1.05).max(ticks.last().copied().unwrap_or(1.0)).max(1.0);
        let y = |value: f64| bottom - PANEL * (value / scale).clamp(0.0, 1.0);

        self.shades(out, top);
        for tick in ticks {
            let at = y(tick);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#000\" stroke-opacity=\"0.1\"/>"
            );
            text(out, (LEFT - 8.0, at + 4.0), "text-anchor=\"end\" fill=\"#555\"", &number(tick));
        }
        for at in time_grid(self.seconds()) {
            let x = self.x(at);
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\" stroke=\"#999\"/>",
                bottom + 4.0
            );
        }
        let _ = writeln!(
            out,
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{}\" height=\"{PANEL}\" fill=\"none\" stroke=\"#999\"/>",
            RIGHT - LEFT
        );
        for (_, colour, value) in lines {
            let points: Vec<(f64, f64)> =
                self.samples.iter().map(|sample| (sample.seconds, shown(value(sample)))).collect();
            let drawn = thinned(&points).iter().fold(String::new(), |mut drawn, (at, value)| {
                let _ = write!(drawn, "{:.1},{:.1} ", self.x(*at), y(*value));
                drawn
            });
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" \
                 stroke-linejoin=\"round\"/>",
                drawn.trim_end()
            );
        }
        self.captions(out, panel, top, &y);
    }

    /// What was wrong, behind the panel.
    fn shades(&self, out: &mut String, top: f64) {
        let bottom = top + PANEL;
        for planned in self.drawn_faults() {
            let (from, until) = (self.x(planned.at.as_secs_f64()), self.x(planned.until.as_secs_f64()));
            let colour = shade(planned.fault);
            let _ = if until > from {
                writeln!(
                    out,
                    "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\" fill=\"{colour}\" \
                     fill-opacity=\"0.75\"/>",
                    until - from
                )
            } else {
                writeln!(
                    out,
                    "<line x1=\"{from:.1}\" x2=\"{from:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"{colour}\" \
                     stroke-width=\"1.2\" stroke-dasharray=\"3 2\"/>"
                )
            };
        }
    }

    /// What the panel shows, in which unit, and what was judged.
    fn captions(&self, out: &mut String, panel: Panel, top: f64, y: &dyn Fn(f64) -> f64) {
        let (title, unit) = panel.title();
        text(out, (LEFT, top - 8.0), "font-weight=\"bold\" fill=\"#111\"", title);
        let middle = top + PANEL / 2.0;
        let turned = format!("text-anchor=\"middle\" fill=\"#555\" transform=\"rotate(-90 30 {middle})\"");
        text(out, (30.0, middle), &turned, unit);
        if panel.lines().len() > 1 {
            let mut x = RIGHT;
            for (name, colour, _) in panel.lines() {
                let style = format!("text-anchor=\"end\" font-weight=\"bold\" fill=\"{colour}\"");
                text(out, (x, top - 8.0), &style, name);
                x -= 14.0 + 7.0 * name.len() as f64;
            }
        }
        let Some((_, verdict)) = self.verdicts.iter().find(|(judged, _)| *judged == panel) else { return };
        let colour = if verdict.holds() { "#333" } else { "#c00000" };
        let (from, to) = (verdict.line.from, verdict.line.to);
        let _ = writeln!(
            out,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\" \
             stroke-dasharray=\"6 3\"/>",
            self.x(from.0),
            y(from.1 / panel.unit()),
            self.x(to.0),
            y(to.1 / panel.unit())
        );
        let shown = |value: f64| value / panel.unit();
        let said = format!(
            "floor of the second half: {:+.1} {unit}, {:.1} allowed",
            shown(verdict.line.growth()),
            shown(verdict.allowed)
        );
        let style = format!("text-anchor=\"end\" fill=\"{colour}\"");
        text(out, (RIGHT, top - 8.0), &style, &said);
    }

    fn drawn_faults(&self) -> &[Planned] {
        if self.faults.len() <= SHADES_MAX { self.faults } else { &[] }
    }

    fn seconds(&self) -> f64 {
        self.samples.last().map_or(1.0, |last| last.seconds.max(1.0))
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (seconds / self.seconds()).clamp(0.0, 1.0)
    }
}

fn text(out: &mut String, at: (f64, f64), style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" {style}>{text}</text>", at.0, at.1);
}

/// Round numbers from 0 up to `highest`, about `wanted` of them.
fn grid(highest: f64, wanted: f64) -> Vec<f64> {
    let rough = highest / wanted;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (0..).map(|index| step * f64::from(index)).take_while(|at| *at <= highest * 1.0001).collect()
}

/// The same for times.
fn time_grid(seconds: f64) -> Vec<f64> {
    let step = TIME_STEPS.into_iter().find(|step| seconds / step <= TIME_LINES);
    let step = step.unwrap_or(86_400.0 * (seconds / 86_400.0 / TIME_LINES).ceil());
    (0..).map(|index| step * f64::from(index)).take_while(|at| *at <= seconds * 1.0001).collect()
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A time on the axis of a run that long.
fn clock(seconds: f64, total: f64) -> String {
    if total < 120.0 {
        return number(seconds);
    }
    let whole = seconds.round() as u64;
    format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

/// The points, or of each run of neighbours the lowest and the highest: no peak is lost.
pub fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let extremes = |run: &[(f64, f64)]| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (*run.iter().min_by(by_value)?, *run.iter().max_by(by_value)?);
        Some(if low.0 <= high.0 { [low, high] } else { [high, low] })
    };
    points.chunks(points.len().div_ceil(POINTS_MAX / 2)).filter_map(extremes).flatten().collect()
}
