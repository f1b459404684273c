//! Numbers as htslib reads and writes them.

/// Appends a decimal number.
pub(crate) fn push(out: &mut Vec<u8>, number: i64) {
    if number < 0 {
        out.push(b'-');
    }
    let mut rest = number.unsigned_abs();
    let mut digits = [0; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[begin..]);
}

/// A decimal number without a sign.
pub(crate) fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'9' => Some(number * 10 + u64::from(digit - b'0')),
        _ => None,
    })
}

/// A decimal number, with a sign or without.
pub(crate) fn signed(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let number = i64::try_from(unsigned(digits)?).ok()?;
    Some(if is_negative { -number } else { number })
}

/// A number with a fraction. Names and digits only: no blanks.
pub(crate) fn float(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Appends a number with six digits, as `%g` of C does.
pub(crate) fn push_float(out: &mut Vec<u8>, number: f64) {
    push_rounded(out, number, false);
}

/// The same, but between 0.0001 and 999999 halves are rounded up, as htslib does it in arrays.
pub(crate) fn push_float_of_array(out: &mut Vec<u8>, number: f64) {
    push_rounded(out, number, true);
}

fn push_rounded(out: &mut Vec<u8>, number: f64, halves_up: bool) {
    if number.is_sign_negative() && !number.is_nan() {
        out.push(b'-');
    }
    let size = number.abs();
    if number.is_nan() {
        out.extend_from_slice(b"nan");
    } else if size.is_infinite() {
        out.extend_from_slice(b"inf");
    } else if size == 0.0 {
        out.push(b'0');
    } else if halves_up && (0.0001..=999_999.0).contains(&size) {
        push_decimal(out, size);
    } else {
        push_exponent(out, size);
    }
}

fn push_decimal(out: &mut Vec<u8>, size: f64) {
    const SCALE: u64 = 10_000_000_000;
    // Half of the sixth digit, in units of 1e-10.
    let mut half = 5;
    let mut limit = 0.001;
    while size >= limit {
        half *= 10;
        limit *= 10.0;
    }
    let scaled = (size * SCALE as f64) as u64 + half;
    let scaled = scaled - scaled % (2 * half);
    push(out, (scaled / SCALE) as i64);
    let fraction = format!("{:010}", scaled % SCALE);
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
}

fn push_exponent(out: &mut Vec<u8>, size: f64) {
    let text = format!("{size:.5e}");
    let (mantissa, exponent) = text.split_once('e').expect("that is how such numbers are written");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        let text = format!("{size:.decimals$}");
        let text = if text.contains('.') { text.trim_end_matches('0') } else { &text };
        out.extend_from_slice(text.trim_end_matches('.').as_bytes());
        return;
    }
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let sign = if exponent < 0 { '-' } else { '+' };
    out.extend_from_slice(format!("{mantissa}e{sign}{:02}", exponent.abs()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_have_six_digits() {
        for (number, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (4.141_592_65, "4.14159"),
            (0.000_123_456_7, "0.000123457"),
            (123_456.7, "123457"),
            (999_999.5, "1e+06"),
            (1e-5, "1e-05"),
            (1.5e20, "1.5e+20"),
            (f64::INFINITY, "inf"),
            (100_000.5, "100000"),
            (0.1f32 as f64, "0.1"),
        ] {
            let mut out = Vec::new();
            push_float(&mut out, number);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{number}");
        }
        for (number, expected) in
            [(100_000.5, "100001"), (0.1, "0.1"), (-2.5, "-2.5"), (1e20, "1e+20")]
        {
            let mut out = Vec::new();
            push_float_of_array(&mut out, number);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{number}");
        }
    }

    #[test]
    fn integers_are_read_with_their_signs_and_nothing_else() {
        assert_eq!(signed(b"-12"), Some(-12));
        assert_eq!(signed(b"+12"), Some(12));
        assert_eq!([signed(b""), signed(b"-"), signed(b"1x"), signed(b"+-1")], [None; 4]);
        let mut out = Vec::new();
        push(&mut out, i64::MIN);
        assert_eq!(out, i64::MIN.to_string().as_bytes());
    }
}
