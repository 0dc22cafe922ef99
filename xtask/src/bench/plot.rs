//! A chart of what recording costs: by work and arm, how many times the time of the bare arm, with its interval. Pure: what is drawn is text.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::figure::{interval, median};

const WIDTH: u32 = 960;
const ROW_HEIGHT: u32 = 22;
/// Title and axis.
const REST_HEIGHT: u32 = 150;
/// The scale goes at least from here to there, so that a tenth more does not look like much.
const LOW: f64 = 0.9;
const HIGH: f64 = 1.5;
/// Of colour-blind people, too (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// A work.
pub(super) struct Row {
    pub(super) name: String,
    /// By arm: ratios of the turns.
    pub(super) ratios: Vec<(String, Vec<f64>)>,
    /// What it should be at most when it is recorded.
    pub(super) limit: Option<f64>,
}

/// An arm's median and interval, with where it stands.
struct Bar {
    arm: usize,
    y: f64,
    low: f64,
    median: f64,
    high: f64,
}

/// Draws it as SVG, with logarithmic scale.
///
/// # Errors
/// When the library cannot.
pub(super) fn chart(title: &str, rows: &[Row]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, title, rows).map_err(|error| anyhow!("draw a chart: {error}"))?;
    Ok(svg)
}

fn draw(svg: &mut String, title: &str, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let mut arms: Vec<&str> = Vec::new();
    for (arm, _) in rows.iter().flat_map(|row| &row.ratios) {
        if !arms.contains(&arm.as_str()) {
            arms.push(arm);
        }
    }
    let bars = bars(rows, &arms);
    let low = bars.iter().map(|bar| bar.low).fold(LOW, f64::min) * 0.98;
    let high = bars.iter().map(|bar| bar.high).fold(HIGH, f64::max) * 1.02;
    // One row more, for the legend.
    let lines = (rows.len() as u32 + 1) * (arms.len() as u32 + 1);
    let root = SVGBackend::with_string(svg, (WIDTH, REST_HEIGHT + ROW_HEIGHT * lines)).into_drawing_area();
    root.fill(&WHITE)?;
    let count = rows.len() as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(120)
        // The first one stands at the top.
        .build_cartesian_2d((low..high).log_scale(), (count + 1.0)..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(16)
        .x_label_formatter(&|x| format!("{x:.2}"))
        .x_desc("times as long as bare; dot: median, line: its 95 % interval; red: the limit for what is recorded")
        .label_style(("sans-serif", 14))
        .draw()?;
    chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, count)], BLACK)])?;
    for (number, row) in rows.iter().enumerate() {
        let (top, x) = (number as f64, row.limit);
        let style = ("sans-serif", 15)
            .into_font()
            .color(&BLACK)
            .pos(Pos::new(HPos::Right, VPos::Center));
        let name = Text::new(row.name.clone(), (-8, 0), style);
        chart.draw_series([EmptyElement::at((low, top + 0.5)) + name])?;
        let line = x.map(|x| PathElement::new([(x, top + 0.05), (x, top + 0.95)], RED.stroke_width(2)));
        chart.draw_series(line)?;
    }
    for (number, arm) in arms.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let of = || bars.iter().filter(move |bar| bar.arm == number);
        let line =
            |bar: &Bar| PathElement::new([(bar.low, bar.y), (bar.high, bar.y)], colour.stroke_width(3));
        chart
            .draw_series(of().map(line))?
            .label(*arm)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        chart.draw_series(of().map(|bar| Circle::new((bar.median, bar.y), 5, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

fn bars(rows: &[Row], arms: &[&str]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        for (arm, ratios) in &row.ratios {
            let arm = arms.iter().position(|name| name == arm).unwrap_or(0);
            let (low, high) = interval(ratios).unwrap_or_else(|| {
                // Too few for an interval: what there is.
                let all = || ratios.iter().copied();
                (
                    all().fold(f64::INFINITY, f64::min),
                    all().fold(f64::NEG_INFINITY, f64::max),
                )
            });
            bars.push(Bar {
                arm,
                y: number as f64 + (arm as f64 + 1.0) / (arms.len() as f64 + 1.0),
                low,
                median: median(ratios),
                high,
            });
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_and_arm_is_drawn() {
        let row = |name: &str, ratio: f64| Row {
            name: name.to_owned(),
            ratios: vec![
                ("filtered".to_owned(), vec![1.0, 1.01]),
                ("recorded".to_owned(), vec![ratio; 6]),
            ],
            limit: Some(1.15),
        };
        let svg = chart("a title", &[row("untar", 1.2), row("build", 3.0)]).unwrap();
        for text in ["<svg", "a title", "untar", "build", "filtered", "recorded"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
    }
}
