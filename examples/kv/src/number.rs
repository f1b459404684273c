//! Numbers as text, as Redis reads and writes them.

/// As C's `%.17g` writes it; `inf` and `-inf`.
#[must_use]
pub fn seventeen(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let text = format!("{number:.16e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..17).contains(&exponent) {
        let decimals = usize::try_from(16 - exponent).unwrap_or(0);
        trim(&format!("{number:.decimals$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(digits), exponent.abs())
    }
}

/// A number with a fraction, as C's `strtod` reads the whole text; `None` for no number.
#[must_use]
pub fn float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix(['+', '-']).unwrap_or(text);
    if bare.get(..3).is_some_and(|begin| begin.eq_ignore_ascii_case("inf")) {
        let is_whole = bare.eq_ignore_ascii_case("inf") || bare.eq_ignore_ascii_case("infinity");
        return is_whole
            .then(|| if text.starts_with('-') { -f64::INFINITY } else { f64::INFINITY });
    }
    if !bare.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse().ok()
}

/// Digits after the point that sums have.
const PLACES: u32 = 17;

/// A decimal fraction in units of `10^-PLACES`, if it is exactly that.
fn exact(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, bare) = match text.strip_prefix('-') {
        Some(bare) => (-1, bare),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (bare, exponent) = bare.split_once(['e', 'E']).unwrap_or((bare, "0"));
    let (whole, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    let is_plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    // Beyond some nineteen digits Redis, too, computes with what its `long double` can hold.
    if !is_plain(whole) || !is_plain(fraction) || whole.len() + fraction.len() > 19 {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let exponent: i32 = exponent.parse().ok()?;
    let places = i32::try_from(PLACES).ok()? - i32::try_from(fraction.len()).ok()?;
    let missing = u32::try_from(places.checked_add(exponent)?).ok()?;
    digits.checked_mul(10_i128.checked_pow(missing)?)?.checked_mul(sign)
}

/// A number in units of `10^-PLACES`, as C's `long double` holds it: rounded to 64 binary digits.
fn rounded(number: i128) -> Option<i128> {
    let (size, unit) = (number.unsigned_abs(), 10_u128.pow(PLACES));
    if size == 0 {
        return Some(0);
    }
    // So many binary places that there are 64 digits with them; negative where the last ones are left out.
    let (mut numerator, mut denominator, mut places) = (size, unit.checked_shl(6)?, -6_i32);
    while numerator / denominator < 1 << 63 {
        if places < 0 {
            denominator >>= 1
        } else {
            numerator = numerator.checked_mul(2)?
        }
        places += 1;
    }
    let digits = nearest(numerator, denominator);
    let scaled = digits.checked_mul(unit)?;
    let back = if places < 0 {
        scaled.checked_mul(1 << -places)?
    } else {
        nearest(scaled, 1_u128.checked_shl(places.unsigned_abs())?)
    };
    i128::try_from(back).ok()?.checked_mul(number.signum())
}

/// A quotient, rounded to the nearest whole number, or to the even one of two.
fn nearest(numerator: u128, denominator: u128) -> u128 {
    let (quotient, rest) = (numerator / denominator, numerator % denominator);
    let is_up = rest > denominator / 2 || (rest * 2 == denominator && quotient % 2 == 1);
    quotient + u128::from(is_up)
}

/// The sum of two numbers as text: as if computed with C's `long double` for decimal fractions of some
/// nineteen digits, otherwise that of `f64`. `None` if it is no number.
#[must_use]
pub fn sum(one: &[u8], other: &[u8]) -> Option<String> {
    if let (Some(one), Some(other)) = (exact(one).and_then(rounded), exact(other).and_then(rounded))
        && let Some(sum) = one.checked_add(other).and_then(rounded)
    {
        let unit = 10_u128.pow(PLACES);
        let (whole, fraction) = (sum.unsigned_abs() / unit, sum.unsigned_abs() % unit);
        let sign = if sum < 0 { "-" } else { "" };
        let text = format!("{sign}{whole}.{fraction:017}");
        return Some(text.trim_end_matches('0').trim_end_matches('.').to_owned());
    }
    let sum = float(one)? + float(other)?;
    if !sum.is_finite() {
        return None;
    }
    let text = format!("{sum:.17}");
    Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_number_with_a_fraction_or_none_whatever_its_bytes_are() {
        for (text, number) in
            [("1.5", 1.5), ("-.5", -0.5), ("+Inf", f64::INFINITY), ("-infinity", -f64::INFINITY)]
        {
            assert_eq!(float(text.as_bytes()), Some(number), "{text}");
        }
        // The last but one has a character across its third byte.
        for text in ["", "-", "in", "infinit", "nan", "x1", "\u{10}\u{11}\u{763}", "\u{763}\u{763}"]
        {
            assert_eq!(float(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(float(b"1\xff"), None);
    }

    #[test]
    fn doubles_are_written_with_seventeen_digits() {
        for (number, text) in [
            (0.1, "0.10000000000000001"),
            (3.0, "3"),
            (-1.5, "-1.5"),
            (1e17, "1e+17"),
            (123456.0, "123456"),
            (1e16, "10000000000000000"),
            (1e-5, "1.0000000000000001e-05"),
            (f64::NEG_INFINITY, "-inf"),
            (1.0 / 3.0, "0.33333333333333331"),
        ] {
            assert_eq!(seventeen(number), text);
        }
    }

    #[test]
    fn sums_are_those_of_long_doubles() {
        for (one, other, text) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-3", "0"),
            ("-0.5", "0.25", "-0.25"),
            ("9223372036854775807", "0.25", "9223372036854775807"),
            ("9223372036854775807", "1.5", "9223372036854775808"),
            ("123456.789", "1", "123457.78900000000000148"),
            ("3000", "0.1", "3000.10000000000000009"),
        ] {
            assert_eq!(sum(one.as_bytes(), other.as_bytes()).as_deref(), Some(text));
        }
        assert_eq!(sum(b"1e308", b"inf"), None);
    }
}
