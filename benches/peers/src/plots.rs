//! Pictures: what a pair costs in queues of each depth, and what is held while a workload runs.

use std::fs;
use std::path::Path;

use clap::ValueEnum;
use pktalloc::workload::{Cycle, Pattern, Pinned, Sizes, Stream, drained_burst};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::cell::{Cell, QueueCell, Touch};
use crate::clock::resident_bytes;
use crate::driver::{Driver, Endless};
use crate::matrix::{Matrix, Row};
use crate::memory::live_bytes;
use crate::names::{Name, Visitor};
use crate::process::ask;
use crate::subject::{Plan, Subject};

const DEPTHS: [u32; 7] = [64, 256, 1024, 4096, 16_384, 65_536, 262_144];
const TIMED: [Name; 7] = [
    Name::Pktalloc,
    Name::Floor,
    Name::JemallocBest,
    Name::MimallocHeap,
    Name::RpmallocHeap,
    Name::Tcmalloc,
    Name::Malloc,
];
const WATCHED: [Name; 3] = [Name::Pktalloc, Name::JemallocBest, Name::Malloc];
/// How often a run is sampled.
const SAMPLES: usize = 200;
/// Nearly black: seen on pktalloc's own colour, where what it holds is what is resident.
const HELD: RGBColor = RGBColor(60, 20, 0);
const MEBIBYTE: f64 = (1 << 20) as f64;

/// A workload to watch while it runs, written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Story {
    /// 100,000 packets enter, all leave, memory is trimmed
    Burst,
    /// Of every 45 packets 12 stay
    Pinned,
}

impl Story {
    fn name(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::Pinned => "pinned",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Burst => "Memory in a burst: 100,000 packets of 1400 bytes enter, then leave in order",
            Self::Pinned => "Memory with pinned packets: queue of 1024, 1400 bytes, 12 of every 45 stay for ever",
        }
    }

    fn stream(self) -> Stream {
        match self {
            Self::Burst => drained_burst(&Sizes::Fixed(1400), 100_000, 1),
            Self::Pinned => Pinned::QUARTER.stream(),
        }
    }
}

/// What was there after some operations, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    ops: u64,
    /// Asked for and not freed.
    live: u64,
    /// Held from the system, if the subject knows.
    held: Option<u64>,
    /// By which the process grew.
    resident: u64,
}

/// Measures what the pictures show, and writes them into a directory, which is made if there is none.
pub(crate) fn draw(directory: &Path, rounds: usize) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    cost_of_depth(rounds)?.write(&directory.join("depth.svg"))?;
    for story in [Story::Burst, Story::Pinned] {
        memory_over_time(story)?.write(&directory.join(format!("{}.svg", story.name())))?;
    }
    Ok(())
}

fn cost_of_depth(rounds: usize) -> Result<Chart, String> {
    let cell = |depth| {
        Cell::Queue(QueueCell { pattern: Pattern::Fifo, sizes: Sizes::Fixed(1400), depth, touch: Touch::Untouched })
    };
    let mut matrix = Matrix::new(TIMED.to_vec(), rounds);
    let rows = matrix.measure_all(&DEPTHS.map(cell))?;
    for (name, reason) in matrix.absent() {
        println!("{name} is not in the picture: {reason}");
    }
    let points = |name| {
        let row = |(depth, row): (&u32, &Row)| Some((f64::from(*depth), row.get(name)?.median()));
        DEPTHS.iter().zip(&rows).filter_map(row).map(|(depth, ns)| (depth.log2(), ns.log2())).collect()
    };
    let lines: Vec<Line> = matrix.subjects().iter().map(|&name| Line::of(name, points(name))).collect();
    let least = least(lines.iter().flat_map(|line| &line.points).map(|point| point.1));
    Ok(Chart {
        title: "Cost of a pair of a free and an allocation: fifo, 1400 bytes, untouched".to_owned(),
        x: Axis { name: "packets in the queue (log scale)", from: 5.7, label: power_of_two, labels: 7 },
        y: Axis { name: "ns per pair, median (log scale)", from: least.floor(), label: power_of_two, labels: 7 },
        lines,
        dots: true,
        mark: None,
    })
}

fn memory_over_time(story: Story) -> Result<Chart, String> {
    let mut lines = Vec::new();
    let mut trimmed = None;
    for name in WATCHED {
        let samples = watch(name, story)?;
        let line = |bytes: fn(&Sample) -> Option<u64>| {
            let point = |sample: &Sample| Some((sample.ops as f64 / 1000.0, bytes(sample)? as f64 / MEBIBYTE));
            samples.iter().filter_map(point).collect()
        };
        if name == Name::Pktalloc {
            lines.push(Line {
                name: "live".to_owned(),
                color: BLACK,
                width: 1,
                dashed: false,
                points: line(|at| Some(at.live)),
            });
            let held = line(|at| at.held);
            lines.push(Line { name: "pktalloc, held".to_owned(), color: HELD, dashed: true, ..Line::of(name, held) });
            trimmed = (story == Story::Burst).then(|| samples[samples.len() - 2].ops as f64 / 1000.0);
        }
        let resident = line(|at| Some(at.resident));
        lines.push(Line { name: format!("{name}, resident"), ..Line::of(name, resident) });
    }
    Ok(Chart {
        title: story.title().to_owned(),
        x: Axis { name: "operations, in thousands", from: 0.0, label: plain, labels: 11 },
        y: Axis { name: "MiB", from: 0.0, label: plain, labels: 9 },
        lines,
        dots: false,
        mark: trimmed.map(|at| (at, "trim")),
    })
}

/// Watches a subject, in a process of its own.
fn watch(name: Name, story: Story) -> Result<Vec<Sample>, String> {
    let text = ask(name, &["watch", &name.to_string(), story.name()])?;
    text.lines().map(|line| Sample::parse(line).ok_or_else(|| format!("{name}, {}: {line:?}", story.name()))).collect()
}

/// The far side: prints a [`Sample`] in each line.
pub(crate) fn serve(name: Name, story: Story) -> Result<(), String> {
    for Sample { ops, live, held, resident } in name.visit(Watch(story))? {
        println!("{ops} {live} {} {resident}", held.map_or("unknown".to_owned(), |bytes| bytes.to_string()));
    }
    Ok(())
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let numbers: Vec<Option<u64>> = line.split_ascii_whitespace().map(|number| number.parse().ok()).collect();
        match numbers[..] {
            [Some(ops), Some(live), held, Some(resident)] => Some(Self { ops, live, held, resident }),
            _ => None,
        }
    }
}

struct Watch(Story);

impl Visitor for Watch {
    type Output = Result<Vec<Sample>, String>;

    fn visit<S: Subject>(self) -> Self::Output {
        let Stream { ops, slots } = self.0.stream();
        let step = ops.len() / SAMPLES;
        let count = ops.len();
        let mut moments = live_bytes(&ops, slots, step).into_iter().zip((1..).map(|steps| count.min(steps * step)));
        let cycle = Cycle { fill: ops, steady: Vec::new(), slots };
        let driver = Driver::new(S::new(&Plan::of(&cycle))?, slots, Touch::Written);
        // There is room for all samples before the first: nothing of our own grows meanwhile.
        let mut samples = Vec::with_capacity(SAMPLES + 3);
        let before = resident_bytes()?;
        let sample = |ops: usize, live, subject: &S| {
            let resident = resident_bytes()?.saturating_sub(before);
            Ok(Sample { ops: ops as u64, live, held: subject.allocated_bytes(), resident })
        };
        let mut endless = Endless::start_watched(driver, cycle, step, |subject| {
            let (live, ops) = moments.next().expect("there are as many moments as steps");
            samples.push(sample(ops, live, subject));
        });
        if self.0 == Story::Burst {
            endless.subject().trim();
            // What the trim left is drawn as a line of its own.
            samples.extend([count, count + count / 10].map(|ops| sample(ops, 0, endless.subject())));
        }
        samples.into_iter().collect()
    }
}

/// Lines over a plane.
struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    lines: Vec<Line>,
    /// Whether the points themselves are shown.
    dots: bool,
    /// A place on the x axis with something to say about it.
    mark: Option<(f64, &'static str)>,
}

struct Axis {
    name: &'static str,
    from: f64,
    /// What to write at a place.
    label: fn(&f64) -> String,
    /// How many labels at most.
    labels: usize,
}

struct Line {
    name: String,
    color: RGBColor,
    width: u32,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

impl Line {
    fn of(name: Name, points: Vec<(f64, f64)>) -> Self {
        let width = if name == Name::Pktalloc { 3 } else { 2 };
        Self { name: name.to_string(), color: color(name), width, dashed: false, points }
    }

    fn style(&self) -> ShapeStyle {
        self.color.stroke_width(self.width)
    }
}

/// Colours that people who see some colours alike can tell apart (after Okabe and Ito).
fn color(name: Name) -> RGBColor {
    match name {
        Name::Pktalloc => RGBColor(213, 94, 0),
        Name::JemallocBest => RGBColor(0, 114, 178),
        Name::MimallocHeap => RGBColor(0, 158, 115),
        Name::RpmallocHeap => RGBColor(204, 121, 167),
        Name::Tcmalloc => RGBColor(230, 159, 0),
        Name::Malloc => RGBColor(86, 180, 233),
        _ => RGBColor(120, 120, 120),
    }
}

/// On an axis of logarithms: the number itself.
fn power_of_two(exponent: &f64) -> String {
    plain(&exponent.exp2())
}

/// A number without decimals, its thousands set apart.
fn plain(number: &f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn least(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, f64::max)
}

const FONT: &str = "sans-serif";
const SIZE: (u32, u32) = (920, 480);
const LEGEND_WIDTH: u32 = 190;
const LEGEND_SPACING: i32 = 26;
const DASH: u32 = 6;

impl Chart {
    fn write(&self, path: &Path) -> Result<(), String> {
        self.paint(path).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("drew {}", path.display());
        Ok(())
    }

    fn paint(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.margin(10, 10, 10, 10).titled(&self.title, (FONT, 20))?;
        let width = root.dim_in_pixel().0;
        let (plane, legend) = root.split_horizontally(width - LEGEND_WIDTH);

        let end = |axis: &Axis, coordinate: fn(&(f64, f64)) -> f64| {
            let last = greatest(self.lines.iter().flat_map(|line| &line.points).map(coordinate));
            last + (last - axis.from) / 40.0
        };
        let (right, top) = (end(&self.x, |point| point.0), end(&self.y, |point| point.1));
        let mut chart = ChartBuilder::on(&plane)
            .margin(10)
            .x_label_area_size(50)
            .y_label_area_size(60)
            .build_cartesian_2d(self.x.from..right, self.y.from..top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(220, 220, 220))
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .x_labels(self.x.labels)
            .y_labels(self.y.labels)
            .x_label_formatter(&self.x.label)
            .y_label_formatter(&self.y.label)
            .axis_desc_style((FONT, 16))
            .label_style((FONT, 14))
            .draw()?;
        if let Some((at, text)) = self.mark {
            chart.draw_series(LineSeries::new([(at, self.y.from), (at, top)], &RGBColor(150, 150, 150)))?;
            chart.draw_series([Text::new(text, (at + right / 100.0, top * 0.97), (FONT, 14))])?;
        }
        // The first is the most important and goes on top.
        for line in self.lines.iter().rev() {
            if line.dashed {
                let points = line.points.iter().copied();
                chart.draw_series(DashedLineSeries::new(points, DASH, DASH, line.style()))?;
            } else {
                chart.draw_series(LineSeries::new(line.points.iter().copied(), line.style()))?;
            }
            if self.dots {
                chart.draw_series(line.points.iter().map(|&at| Circle::new(at, 3, line.color.filled())))?;
            }
        }
        for (index, line) in self.in_order_of_their_ends().into_iter().enumerate() {
            let y = 30 + LEGEND_SPACING * index as i32;
            let stroke = [(5, y), (35, y)];
            if line.dashed {
                legend.draw(&DashedPathElement::new(stroke, DASH, DASH, line.style()))?;
            } else {
                legend.draw(&PathElement::new(stroke, line.style()))?;
            }
            legend.draw(&Text::new(line.name.as_str(), (43, y - 7), (FONT, 15)))?;
        }
        root.present()?;
        Ok(())
    }

    /// The lines as they lie one above the other at the right edge, beside the legend.
    fn in_order_of_their_ends(&self) -> Vec<&Line> {
        let end = |line: &Line| line.points.last().map_or(f64::NEG_INFINITY, |point| point.1);
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by(|a, b| end(b).total_cmp(&end(a)));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_as_it_is_printed() {
        let sample = Sample::parse("1000 1400 131072 4096").unwrap();
        assert_eq!((sample.ops, sample.live, sample.held, sample.resident), (1000, 1400, Some(131_072), 4096));
        assert_eq!(Sample::parse("1000 1400 unknown 4096").unwrap().held, None);
        assert!(Sample::parse("no library").is_none());
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0.0, 64.0, 999.6, 262_144.0].map(|number| plain(&number)), ["0", "64", "1,000", "262,144"]);
        assert_eq!(power_of_two(&14.0), "16,384");
    }

    #[test]
    fn the_legend_has_the_highest_end_first() {
        let line = |name, end| Line::of(name, vec![(0.0, 9.0), (1.0, end)]);
        let axis = || Axis { name: "", from: 0.0, label: plain, labels: 2 };
        let lines = vec![line(Name::Floor, 1.0), line(Name::Malloc, 3.0), line(Name::Pktalloc, 2.0)];
        let chart = Chart { title: String::new(), x: axis(), y: axis(), lines, dots: false, mark: None };
        let names: Vec<&str> = chart.in_order_of_their_ends().iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["malloc", "pktalloc", "floor"]);
    }
}
