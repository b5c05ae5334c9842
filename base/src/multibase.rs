//! Self-describing text encodings: the first character names the base of the rest.

const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE32_HEX: &[u8] = b"0123456789abcdefghijklmnopqrstuv";
const BASE32_Z: &[u8] = b"ybndrfg8ejkmcpqxot1uwisza345h769";
const BASE36: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The base64 of I2P, which is not in the multibase table.
const BASE64_I2P: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-~";

/// Encodes as base32 in lower case without padding and without prefix.
pub(crate) fn base32(bytes: &[u8]) -> String {
    encode_bits(bytes, BASE32)
}

/// Decodes base32 of either case without padding and without prefix.
pub(crate) fn from_base32(text: &str) -> Option<Vec<u8>> {
    decode_bits(&text.to_ascii_lowercase(), BASE32)
}

/// Encodes as I2P writes destinations, with padding.
pub(crate) fn base64_i2p(bytes: &[u8]) -> String {
    let mut text = encode_bits(bytes, BASE64_I2P);
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Decodes what [`base64_i2p`] writes; the padding may be missing.
pub(crate) fn from_base64_i2p(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if digits.len() != text.len() && !is_padding(digits.len(), text.len(), 4) {
        return None;
    }
    decode_bits(digits, BASE64_I2P)
}

/// Encodes in multibase's base32, prefix `b`.
pub(crate) fn encode_base32(bytes: &[u8]) -> String {
    format!("b{}", base32(bytes))
}

/// Encodes in multibase's base64url without padding, prefix `u`.
pub(crate) fn encode_base64url(bytes: &[u8]) -> String {
    format!("u{}", encode_bits(bytes, BASE64_URL))
}

/// Decodes any base of the multibase table with ASCII digits (`0 7 9 f F b B c C v V t T h k K z Z
/// m M u U`), or returns `None`. Letters may be of either case where the base uses only one.
/// Base 10, 36 and 58 take time quadratic in the length, which the caller has to bound.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let base = text.chars().next()?;
    let digits = text.get(base.len_utf8()..)?;
    let lower = || digits.to_ascii_lowercase();
    match base {
        '0' => decode_bits(digits, b"01"),
        '7' => decode_bits(digits, b"01234567"),
        '9' => decode_positional(digits, b"0123456789"),
        'f' | 'F' => decode_bits(&lower(), b"0123456789abcdef"),
        'b' | 'B' => decode_bits(&lower(), BASE32),
        'c' | 'C' => decode_bits(unpad(&lower(), 8)?, BASE32),
        'v' | 'V' => decode_bits(&lower(), BASE32_HEX),
        't' | 'T' => decode_bits(unpad(&lower(), 8)?, BASE32_HEX),
        'h' => decode_bits(digits, BASE32_Z),
        'k' | 'K' => decode_positional(&lower(), BASE36),
        'z' => bs58::decode(digits).into_vec().ok(),
        'Z' => bs58::decode(digits)
            .with_alphabet(bs58::Alphabet::FLICKR)
            .into_vec()
            .ok(),
        'm' => decode_bits(digits, BASE64),
        'M' => decode_bits(unpad(digits, 4)?, BASE64),
        'u' => decode_bits(digits, BASE64_URL),
        'U' => decode_bits(unpad(digits, 4)?, BASE64_URL),
        _ => None,
    }
}

/// Bits a digit of this alphabet stands for; its length is a power of two.
const fn bits_per_digit(alphabet: &[u8]) -> u32 {
    alphabet.len().ilog2()
}

fn encode_bits(bytes: &[u8], alphabet: &[u8]) -> String {
    let bits = bits_per_digit(alphabet);
    let mask = alphabet.len() - 1;
    let mut text = String::with_capacity(bytes.len() * 8 / bits as usize + 1);
    let (mut buffer, mut held) = (0usize, 0u32);
    for &byte in bytes {
        buffer = (buffer << 8 | usize::from(byte)) & 0xffff;
        held += 8;
        while held >= bits {
            held -= bits;
            text.push(char::from(alphabet[(buffer >> held) & mask]));
        }
    }
    if held > 0 {
        text.push(char::from(alphabet[(buffer << (bits - held)) & mask]));
    }
    text
}

/// Reads digits of a whole number of bits, most significant first. What is left over must be
/// shorter than a digit and zero, so that each value has one text.
fn decode_bits(digits: &str, alphabet: &[u8]) -> Option<Vec<u8>> {
    let bits = bits_per_digit(alphabet);
    let mut bytes = Vec::with_capacity(digits.len() * bits as usize / 8);
    let (mut buffer, mut held) = (0usize, 0u32);
    for digit in digits.bytes() {
        let value = alphabet.iter().position(|candidate| *candidate == digit)?;
        buffer = (buffer << bits | value) & 0xffff;
        held += bits;
        if held >= 8 {
            held -= 8;
            bytes.push((buffer >> held) as u8);
        }
    }
    let left_over = buffer & ((1 << held) - 1);
    (held < bits && left_over == 0).then_some(bytes)
}

/// Reads a number in any base; leading zero digits are zero bytes, as in base58.
fn decode_positional(digits: &str, alphabet: &[u8]) -> Option<Vec<u8>> {
    let zeros = digits
        .bytes()
        .take_while(|digit| *digit == alphabet[0])
        .count();
    // Little-endian while it is built up.
    let mut bytes: Vec<u8> = Vec::new();
    for digit in digits.bytes() {
        let mut carry = alphabet.iter().position(|candidate| *candidate == digit)?;
        for byte in &mut bytes {
            carry += usize::from(*byte) * alphabet.len();
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            bytes.push(carry as u8);
        }
    }
    bytes.extend(std::iter::repeat_n(0, zeros));
    bytes.reverse();
    Some(bytes)
}

/// Takes the padding off digits that come in groups of `group`.
fn unpad(digits: &str, group: usize) -> Option<&str> {
    let bare = digits.trim_end_matches('=');
    is_padding(bare.len(), digits.len(), group).then_some(bare)
}

fn is_padding(bare: usize, padded: usize, group: usize) -> bool {
    padded.is_multiple_of(group) && padded - bare < group
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The multibase specification's test vectors for "yes mani !".
    #[test]
    fn specification_vectors() {
        for text in [
            "001111001011001010111001100100000011011010110000101101110011010010010000000100001",
            "7362625631006654133464440102",
            "9573277761329450583662625",
            "f796573206d616e692021",
            "F796573206D616E692021",
            "bpfsxgidnmfxgsibb",
            "BPFSXGIDNMFXGSIBB",
            "vf5in683dc5n6i811",
            "VF5IN683DC5N6I811",
            "cpfsxgidnmfxgsibb",
            "CPFSXGIDNMFXGSIBB",
            "tf5in683dc5n6i811",
            "TF5IN683DC5N6I811",
            "hxf1zgedpcfzg1ebb",
            "k2lcpzo5yikidynfl",
            "K2LCPZO5YIKIDYNFL",
            "z7paNL19xttacUY",
            "Z7Pznk19XTTzBtx",
            "meWVzIG1hbmkgIQ",
            "MeWVzIG1hbmkgIQ==",
            "ueWVzIG1hbmkgIQ",
            "UeWVzIG1hbmkgIQ==",
        ] {
            assert_eq!(decode(text).as_deref(), Some(&b"yes mani !"[..]), "{text}");
        }
        assert_eq!(encode_base32(b"yes mani !"), "bpfsxgidnmfxgsibb");
        assert_eq!(encode_base64url(b"yes mani !"), "ueWVzIG1hbmkgIQ");
    }

    #[test]
    fn leading_zeros_are_kept() {
        for text in [
            "900573277761329450583662625",
            "k002lcpzo5yikidynfl",
            "z117paNL19xttacUY",
        ] {
            assert_eq!(
                decode(text).as_deref(),
                Some(&b"\0\0yes mani !"[..]),
                "{text}"
            );
        }
        assert_eq!(decode("900"), Some(vec![0, 0]));
        assert_eq!(decode("9"), Some(vec![]));
    }

    #[test]
    fn refusals() {
        for text in [
            "",
            "é",
            "x00",
            "f7",
            "f7g",
            "b1",
            "bab",
            "MeWVzIG1hbmkgIQ",
            "MeWVzIG1hbmkgIQ=",
            "MeWVzIG1hbmkgIQ======",
            "ueWVz+",
            "z0OIl",
            "kA_",
            "01111",
            "M====",
        ] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn i2p_padding_is_optional_but_never_wrong() {
        let text = base64_i2p(&[0xff; 4]);
        assert_eq!(text, "~~~~~w==");
        assert_eq!(from_base64_i2p(&text), Some(vec![0xff; 4]));
        assert_eq!(from_base64_i2p("~~~~~w"), Some(vec![0xff; 4]));
        assert_eq!(from_base64_i2p("~~~~~w="), None);
    }
}
