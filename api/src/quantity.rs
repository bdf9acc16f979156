//! Kubernetes quantities: `64M`, `1.5Gi`, `100m`, `2e3`. Kept as written, read exactly, rounded up.
//!
//! The grammar is that of <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>. Our own type, because
//! `kube_quantity` reads `1.5Gi` as 1Gi and rejects `1Ei`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// The largest value that Kubernetes keeps, in units of the quantity.
const MAX: u128 = i64::MAX as u128;
/// More digits than this carry no meaning below [`MAX`] and above nano.
const MAX_DIGITS: usize = 28;
/// Longest exponent that can still be in range.
const MAX_EXPONENT: i32 = 27;

/// A quantity as the user wrote it. Its value is read by [`Quantity::to_units`] and [`Quantity::to_millis`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

/// A string that is no quantity that we can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not follow the grammar.
    #[error("{0:?} is not a quantity; write a number with an optional suffix, such as 64M, 1.5Gi or 500m")]
    Syntax(String),
    /// It is below zero.
    #[error("{0:?} is negative")]
    Negative(String),
    /// It is above 2^63-1.
    #[error("{0:?} is larger than 2^63-1")]
    TooLarge(String),
}

impl Quantity {
    /// The value in whole units (bytes, cores), rounded up.
    ///
    /// # Errors
    /// When the text is no quantity, is negative, or exceeds 2^63-1.
    pub fn to_units(&self) -> Result<u64, QuantityError> {
        self.scaled(1)
    }

    /// The value in thousandths of a unit (milli-cores), rounded up.
    ///
    /// # Errors
    /// As [`Quantity::to_units`].
    pub fn to_millis(&self) -> Result<u64, QuantityError> {
        self.scaled(1000)
    }

    fn scaled(&self, scale: u128) -> Result<u64, QuantityError> {
        let (number, fraction) = self.parse()?;
        let too_large = || QuantityError::TooLarge(self.0.clone());
        let value = number.checked_mul(scale).ok_or_else(too_large)?.div_ceil(fraction);
        if value > MAX {
            return Err(too_large());
        }
        u64::try_from(value).map_err(|_| too_large())
    }

    /// The value as numerator and denominator.
    fn parse(&self) -> Result<(u128, u128), QuantityError> {
        let syntax = || QuantityError::Syntax(self.0.clone());
        let too_large = || QuantityError::TooLarge(self.0.clone());
        let (negative, text) = match self.0.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, self.0.strip_prefix('+').unwrap_or(&self.0)),
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(syntax());
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let (numerator, denominator) = suffix_value(suffix).ok_or_else(syntax)?;
        if whole.is_empty() && fraction.is_empty() {
            return Ok((0, 1));
        }
        if negative {
            return Err(QuantityError::Negative(self.0.clone()));
        }
        if whole.len() > MAX_DIGITS {
            return Err(too_large());
        }
        // Digits past the limit only matter for rounding up: one more in the last place.
        let (kept, cut) = fraction.split_at(fraction.len().min(MAX_DIGITS - whole.len()));
        let mantissa: u128 = format!("{whole}{kept}").parse().unwrap_or(0);
        let mantissa = mantissa + u128::from(!cut.is_empty());
        let places = u32::try_from(kept.len()).map_err(|_| too_large())?;
        let top = mantissa.checked_mul(numerator).ok_or_else(too_large)?;
        let bottom = denominator.checked_mul(10_u128.pow(places)).ok_or_else(too_large)?;
        Ok((top, bottom))
    }
}

/// What a suffix multiplies by, as numerator and denominator.
fn suffix_value(suffix: &str) -> Option<(u128, u128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (10_u128.pow(3), 1),
        "M" => (10_u128.pow(6), 1),
        "G" => (10_u128.pow(9), 1),
        "T" => (10_u128.pow(12), 1),
        "P" => (10_u128.pow(15), 1),
        "E" => (10_u128.pow(18), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let exponent = exponent.parse::<i32>().unwrap_or(MAX_EXPONENT).clamp(-MAX_EXPONENT, MAX_EXPONENT);
            let power = 10_u128.pow(exponent.unsigned_abs());
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Text(String),
            Number(serde_json::Number),
        }
        Ok(match Wire::deserialize(deserializer)? {
            Wire::Text(text) => Self(text),
            Wire::Number(number) => Self(number.to_string()),
        })
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A quantity, such as 64M, 1.5Gi or 100m.",
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$",
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(text: &str) -> Result<u64, QuantityError> {
        Quantity::from(text).to_units()
    }

    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, value) in [
            ("0", 0),
            ("64M", 64_000_000),
            ("64Mi", 67_108_864),
            ("1.5Gi", 1_610_612_736),
            ("1Ei", 1 << 60),
            ("1E", 1_000_000_000_000_000_000),
            ("1e3", 1000),
            ("1E3", 1000),
            ("2.5e-1", 1),
            ("100m", 1),
            ("1n", 1),
            (".5", 1),
            ("5.", 5),
            ("+3k", 3000),
            ("0.000000000000000000000000000001", 1),
            ("00012", 12),
            ("-0", 0),
        ] {
            assert_eq!(units(text), Ok(value), "{text}");
        }
        assert_eq!(Quantity::from("100m").to_millis(), Ok(100));
        assert_eq!(Quantity::from("0.1").to_millis(), Ok(100));
        assert_eq!(Quantity::from("1.0005").to_millis(), Ok(1001));
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", ".", "x", "1 Mi", "1K", "1mi", "1e", "1e+", "1.2.3", "0x10", "1e1.5", "--1"] {
            assert!(matches!(units(text), Err(QuantityError::Syntax(_))), "{text}");
        }
        assert!(matches!(units("-1"), Err(QuantityError::Negative(_))));
        for text in ["9223372036854775808", "8Ei", "1e99", "99999999999999999999999999999999999999"] {
            assert!(matches!(units(text), Err(QuantityError::TooLarge(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = units(&text);
        }

        #[test]
        fn is_never_below_what_was_asked(value in 0_u64..1 << 40, mill in 0_u64..1000) {
            let text = format!("{value}.{mill:03}");
            prop_assert_eq!(units(&text), Ok(value + u64::from(mill > 0)));
            prop_assert_eq!(Quantity(text).to_millis(), Ok(value * 1000 + mill));
        }
    }
}
