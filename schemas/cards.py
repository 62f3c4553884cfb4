"""What a card number is: 13 to 19 digits that begin as an issuer's do and pass Luhn's check (ISO/IEC 7812-1)."""

import re

SHORTEST, LONGEST = 13, 19

ISSUER = (
    rb"(?:4|5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720|220[0-4]|3[47]|30[0-59]|3[689]|35(?:2[89]|[3-8])|6(?:011|4[4-9]|5|2)|81"
    rb"|50(?:18|20|38)|5[68]|6(?:304|759|76[1-3]))"
)
"""A pattern of how a number begins: Visa, Mastercard, Mir, American Express, Diners Club, JCB, Discover, UnionPay, Maestro."""
_WHOLE = re.compile(rb"(?=[0-9]{13,19}$)" + ISSUER)
_DOUBLED = bytes((2 * (byte - 48) - 9 * (byte > 52)) if 48 <= byte <= 57 else 0 for byte in range(256))


def is_card_number(digits: bytes) -> bool:
    """Whether these digits, and nothing else among them, may be the number of a card."""
    return _WHOLE.match(digits) is not None and passes_luhn(digits)


def passes_luhn(digits: bytes) -> bool:
    """Whether the last of these digits is the one that Luhn's check asks for."""
    backwards = digits[::-1]
    odd = backwards[::2]
    return (sum(odd) - 48 * len(odd) + sum(backwards[1::2].translate(_DOUBLED))) % 10 == 0
