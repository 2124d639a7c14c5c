//! Plots in SVG, for light and dark pages.

use std::fmt::Write as _;

const WIDTH: f64 = 780.0;
/// Where the bars and the lines begin, and where they end.
const LEFT: f64 = 210.0;
const RIGHT: f64 = 700.0;

/// One bar for each, with a line from the lower to the upper quartile. In seconds. The caption names the
/// machine.
pub fn bars<'a>(title: &str, caption: &str, bars: impl Iterator<Item = (&'a str, [f64; 3])>) -> String {
    let bars: Vec<_> = bars.collect();
    let most = bars.iter().map(|(_, [_, _, high])| *high).fold(0.0, f64::max);
    let place = |time: f64| LEFT + (RIGHT - LEFT) * time / most;
    let mut body = String::new();
    for (number, (name, [low, middle, high])) in bars.iter().enumerate() {
        let top = 56.0 + 24.0 * number as f64;
        let class = if name.contains("bare") { "floor" } else { "bar" };
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"17\"/>\
             <path class=\"range\" d=\"M{:.1} {}H{:.1}\"/><text x=\"{:.1}\" y=\"{}\">{:.1}</text>",
            LEFT - 8.0,
            top + 13.0,
            escape(name),
            place(*middle) - LEFT,
            place(*low),
            top + 8.5,
            place(*high),
            place(*high) + 6.0,
            top + 13.0,
            middle * 1e3,
        );
    }
    page(title, caption, 66.0 + 24.0 * bars.len() as f64, &body)
}

/// One line for each series: times in seconds by counts, which are drawn by their logarithms.
pub fn lines(title: &str, caption: &str, series: &[(String, Vec<(u32, f64)>)]) -> String {
    let all = || series.iter().flat_map(|(_, points)| points);
    let most = all().map(|(_, time)| *time).fold(0.0, f64::max);
    let last = all().map(|(count, _)| f64::from(*count)).fold(10.0, f64::max);
    let (from, to) = (60.0, 560.0);
    let place = |(count, time): &(u32, f64)| {
        let x = from + (to - from) * f64::from(*count).max(1.0).ln() / last.ln();
        format!("{x:.1} {:.1}", 290.0 - 220.0 * time / most)
    };
    let mut body = format!("<path class=\"axis\" d=\"M{from} 290H{to}M{from} 70V290\"/>\n");
    let _ =
        writeln!(body, "<text x=\"{}\" y=\"74\" text-anchor=\"end\">{:.1}</text>", from - 6.0, most * 1e3);
    for (count, _) in series.first().map_or(&[][..], |(_, points)| points) {
        let x = from + (to - from) * f64::from(*count).max(1.0).ln() / last.ln();
        let _ = writeln!(body, "<text x=\"{x:.1}\" y=\"308\" text-anchor=\"middle\">{count}</text>");
    }
    for (number, (_, points)) in series.iter().enumerate() {
        let path = points.iter().map(place).collect::<Vec<_>>().join("L");
        let _ = writeln!(body, "<path class=\"line s{number}\" d=\"M{path}\"/>");
    }
    // From the topmost down; each at least a line below the one before.
    let mut ends: Vec<_> =
        series.iter().filter_map(|(name, points)| Some((points.last()?.1, name))).collect();
    ends.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut lowest = 0.0_f64;
    for (time, name) in ends {
        lowest = (294.0 - 220.0 * time / most).max(lowest + 16.0);
        let (x, name) = (to + 8.0, escape(name));
        let _ = writeln!(body, "<text x=\"{x}\" y=\"{lowest:.1}\">{name}: {:.1}</text>", time * 1e3);
    }
    page(title, caption, 325.0, &body)
}

fn page(title: &str, caption: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>{}</title>\n\
         <style>text{{font:13px sans-serif;fill:#1f2328}}.paper{{fill:#fff}}.bar{{fill:#4078c0}}\
         .floor{{fill:#9aa4ae}}.range,.axis{{stroke:#1f2328;fill:none}}.line{{fill:none;stroke-width:2}}\
         .s0{{stroke:#9aa4ae}}.s1{{stroke:#4078c0}}.s2{{stroke:#bf5700}}\n\
         @media (prefers-color-scheme: dark){{text{{fill:#e6edf3}}.paper{{fill:#161b22}}.bar{{fill:#6ea8fe}}\
         .floor{{fill:#6e7681}}.range,.axis{{stroke:#e6edf3}}.s0{{stroke:#8b949e}}.s1{{stroke:#6ea8fe}}\
         .s2{{stroke:#ffa657}}}}</style>\n\
         <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n\
         <text x=\"12\" y=\"22\" font-weight=\"bold\">{}</text>\n\
         <text x=\"12\" y=\"40\">{}</text>\n{body}</svg>\n",
        escape(title),
        escape(title),
        escape(caption),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_time() {
        let svg = bars("a < b", "c", [("one", [0.1, 0.1, 0.2]), ("two", [0.2, 0.2, 0.2])].into_iter());
        assert!(svg.contains("width=\"245.0\"") && svg.contains("width=\"490.0\""), "{svg}");
        assert!(svg.contains("prefers-color-scheme: dark") && svg.contains("a &lt; b"), "{svg}");
    }

    #[test]
    fn a_line_goes_from_the_first_to_the_last_count() {
        let svg = lines("x", "c", &[("one".to_owned(), vec![(1, 0.1), (1000, 0.2)])]);
        assert!(svg.contains("M60.0 180.0L560.0 70.0"), "{svg}");
    }
}
