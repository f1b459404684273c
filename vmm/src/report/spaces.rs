//! The address spaces involved in a fault: where the thread was, and in which VAS the address is
//! mapped.
#![forbid(unsafe_code)]

use crate::vas::report::SegmentAddress;

/// Attached VASes named for one address.
const PLACES_MAX: usize = 4;

/// What is at `address` for a thread in instance `here`, which is called `name`.
pub(super) fn describe(here: u32, name: &str, address: u64, places: &[SegmentAddress]) -> String {
    let at = |place: &SegmentAddress| {
        let end = if place.beyond_end { ", beyond its end" } else { "" };
        format!("segment `{}` (+{:#x}{end}) of VAS `{}`", place.segment, place.offset, place.vas.1)
    };
    let mut elsewhere: Vec<String> = Vec::new();
    for place in places {
        if place.vas.0 == here {
            return format!("{address:#x}: {}", at(place));
        }
        let text = at(place);
        if !elsewhere.contains(&text) {
            elsewhere.push(text);
        }
    }
    let more = elsewhere.len().saturating_sub(PLACES_MAX);
    elsewhere.truncate(PLACES_MAX);
    match elsewhere.as_slice() {
        [] => format!("{address:#x}: not mapped in `{name}` nor in any attached VAS"),
        some => {
            let list = some.join(" or ");
            let more = if more > 0 { format!(" or {more} more") } else { String::new() };
            format!("{address:#x}: not mapped in `{name}`; it lies in {list}{more}")
        }
    }
}

/// Why a program would touch an address that another attached VAS has.
pub(super) fn likely_cause(here: u32, places: &[SegmentAddress]) -> Option<&'static str> {
    match places.first() {
        Some(place) if place.vas.0 != here => Some("a pointer used before switching to its VAS?"),
        Some(place) if place.beyond_end => Some("an access beyond the end of a segment?"),
        Some(_) => Some("a write to a segment attached read-only?"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(vh: u32, vas: &str, segment: &str, beyond_end: bool) -> SegmentAddress {
        SegmentAddress {
            vas: (vh, vas.into()),
            segment: segment.into(),
            offset: 0x2040,
            beyond_end,
        }
    }

    #[test]
    fn an_address_of_another_vas_is_said_to_be_one() {
        let places = [place(2, "genome", "reads", false)];
        let text = describe(0, "home", 0x1000_0000_2040, &places);
        let expected = "0x100000002040: not mapped in `home`; it lies in segment `reads` \
            (+0x2040) of VAS `genome`";
        assert_eq!(text, expected);
        assert!(likely_cause(0, &places).unwrap().contains("before switching"));
    }

    #[test]
    fn the_current_vas_comes_before_others() {
        let places = [place(1, "a", "x", true), place(2, "b", "y", false)];
        assert_eq!(
            describe(1, "a", 16, &places),
            "0x10: segment `x` (+0x2040, beyond its end) of VAS `a`"
        );
        assert!(likely_cause(1, &places).unwrap().contains("beyond the end"));
        assert!(likely_cause(1, &[place(1, "a", "x", false)]).unwrap().contains("read-only"));
        assert_eq!(likely_cause(1, &[]), None);
    }

    #[test]
    fn a_list_is_bounded() {
        let places: Vec<SegmentAddress> =
            (1..100).map(|n| place(n, &format!("v{n}"), "s", false)).collect();
        let text = describe(0, "home", 16, &places);
        assert!(text.ends_with("or 95 more"), "{text}");
        assert_eq!(
            describe(0, "home", 16, &[]),
            "0x10: not mapped in `home` nor in any attached VAS"
        );
    }
}
