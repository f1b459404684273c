//! A flame graph: each frame is a box as wide as its weight, on the box of its caller.
//!
//! One SVG image without scripts, fonts or anything else from outside. A box that is too narrow to be seen is left
//! out, which also bounds the size of the file. The whole of a name is its box's tooltip.

use std::fmt::Write as _;

use super::Lines;

const WIDTH: f64 = 1200.0;
/// Of that, what is as wide as all stacks.
const SCALED: f64 = WIDTH - 20.0;
const FRAME: usize = 17;
const HEAD: usize = 30;
/// Narrower boxes are left out.
const NARROWEST: f64 = 0.2;
/// Of a character of the font that is asked for, whatever the viewer takes.
const CHARACTER: f64 = 7.2;

/// A box: how far from the outermost frame, from which to which weight.
#[derive(Debug, PartialEq, Eq)]
struct Frame<'a> {
    name: &'a str,
    depth: usize,
    from: u64,
    to: u64,
}

/// The picture.
#[must_use]
pub fn picture(lines: &Lines, title: &str) -> String {
    let (frames, all) = frames(lines);
    let rows = frames.iter().map(|frame| frame.depth + 1).max().unwrap_or(0);
    let height = HEAD + rows * FRAME + 10;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        svg,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"monospace\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fdfdf6\"/>\n<text x=\"10\" y=\"20\">"
    );
    escape(&mut svg, title);
    svg += "</text>\n";
    let scale = SCALED / all.max(1) as f64;
    for frame in &frames {
        let weight = frame.to - frame.from;
        let width = weight as f64 * scale;
        let (x, y) = (10.0 + frame.from as f64 * scale, HEAD + (rows - 1 - frame.depth) * FRAME);
        let percent = 100.0 * weight as f64 / all.max(1) as f64;
        svg += "<g><title>";
        escape(&mut svg, frame.name);
        let _ = write!(
            svg,
            " ({weight}, {percent:.1}%)</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" \
             rx=\"2\" fill=\"{}\"/>",
            FRAME - 1,
            colour(frame.name)
        );
        let fits = ((width - 6.0) / CHARACTER) as usize;
        if fits >= 3 {
            let _ = write!(svg, "<text x=\"{:.1}\" y=\"{}\">", x + 3.0, y + 12);
            match frame.name.char_indices().nth(fits) {
                None => escape(&mut svg, frame.name),
                Some(_) => {
                    let cut = frame.name.char_indices().nth(fits - 2).map_or(0, |(at, _)| at);
                    escape(&mut svg, frame.name.get(..cut).unwrap_or_default());
                    svg += "..";
                }
            }
            svg += "</text>";
        }
        svg += "</g>\n";
    }
    svg += "</svg>\n";
    svg
}

/// The boxes that can be seen, and the weight of all stacks.
fn frames(lines: &Lines) -> (Vec<Frame<'_>>, u64) {
    let all = lines.values().fold(0, |all: u64, weight| all.saturating_add(*weight));
    let mut stacks: Vec<_> = lines.iter().collect();
    // Frame by frame: as texts, `a`, `a b` and `a;b` would not be neighbours.
    stacks.sort_unstable_by(|(one, _), (other, _)| one.split(';').cmp(other.split(';')));
    let mut done = Done { frames: Vec::new(), least: all as f64 * NARROWEST / SCALED };
    let mut open = Vec::new();
    let mut at = 0_u64;
    for (stack, weight) in stacks {
        let frames = stack.split(';');
        let same = open.iter().zip(frames.clone()).take_while(|((name, _), other)| name == other);
        let same = same.count();
        done.close(&mut open, same, at);
        open.extend(frames.skip(same).map(|name| (name, at)));
        at = at.saturating_add(*weight);
    }
    done.close(&mut open, 0, at);
    (done.frames, all)
}

/// Boxes that have ended.
struct Done<'a> {
    frames: Vec<Frame<'a>>,
    /// Those of less weight are left out.
    least: f64,
}

impl<'a> Done<'a> {
    /// Ends all boxes but the outermost `keep`; with each is where it begins.
    fn close(&mut self, open: &mut Vec<(&'a str, u64)>, keep: usize, to: u64) {
        while open.len() > keep {
            let Some((name, from)) = open.pop() else { break };
            if to > from && (to - from) as f64 >= self.least {
                self.frames.push(Frame { name, depth: open.len(), from, to });
            }
        }
    }
}

fn escape(svg: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => svg.push_str("&lt;"),
            '>' => svg.push_str("&gt;"),
            '&' => svg.push_str("&amp;"),
            '"' => svg.push_str("&quot;"),
            character => svg.push(character),
        }
    }
}

/// Functions are warm, what the VMM does is cold; the same name has the same colour.
fn colour(name: &str) -> String {
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [first, second, third, _] = hash.to_le_bytes().map(|byte| byte % 64);
    if name.starts_with('[') {
        format!("#{:02x}{:02x}{:02x}", 110 + first, 160 + second, 190 + third)
    } else {
        format!("#{:02x}{:02x}{:02x}", 191 + first, 110 + second, 40 + third)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lines;
    use super::{Frame, frames, picture};

    fn lines(stacks: &[(&str, u64)]) -> Lines {
        stacks.iter().map(|(stack, weight)| ((*stack).to_owned(), *weight)).collect()
    }

    #[test]
    fn a_frame_is_as_wide_as_all_that_is_on_it() {
        let lines = lines(&[("m;a", 2), ("m", 1), ("m;a;x", 3), ("m a", 5), ("m;b", 4)]);
        let (mut frames, all) = frames(&lines);
        frames.sort_by_key(|frame| (frame.depth, frame.from));
        let frame = |name, depth, from, to| Frame { name, depth, from, to };
        let expected = [
            frame("m", 0, 0, 10),
            frame("m a", 0, 10, 15),
            frame("a", 1, 1, 6),
            frame("b", 1, 6, 10),
            frame("x", 2, 3, 6),
        ];
        assert_eq!((frames.as_slice(), all), (&expected[..], 15));
    }

    #[test]
    fn a_picture_has_each_name_once_and_nothing_that_a_name_could_bring() {
        let lines = lines(&[("main;<T as \"A&B\">::f", 75), ("main;[read]", 24), ("main;thin", 1)]);
        let svg = picture(&lines, "100 samples of <x>");
        assert!(svg.contains("<title>&lt;T as &quot;A&amp;B&quot;&gt;::f (75, 75.0%)</title>"));
        assert!(svg.contains("<title>[read] (24, 24.0%)</title>"), "{svg}");
        assert!(svg.contains(">100 samples of &lt;x&gt;</text>"));
        assert_eq!(svg.matches("<title>").count(), 4);
        for element in ["<svg", "<g>"] {
            let end = element.replace('<', "</").trim_end_matches('>').to_owned();
            assert_eq!(svg.matches(element).count(), svg.matches(&end).count(), "{svg}");
        }
        assert!(!svg.contains("<T"));
    }

    #[test]
    fn no_stacks_and_very_many_and_very_heavy_ones_are_pictures_too() {
        assert!(picture(&Lines::new(), "none").ends_with("</svg>\n"));
        let many: Lines = (0..50_000).map(|index| (format!("main;f{index}"), 1)).collect();
        assert!(picture(&many, "many").len() < 10_000, "what nobody can see is left out");
        let heavy = lines(&[("a", u64::MAX), ("b", u64::MAX)]);
        assert!(picture(&heavy, "heavy").contains("<title>a ("));
    }
}
