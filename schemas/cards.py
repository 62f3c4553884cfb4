"""What a card number is, and what else of a card nobody may keep.

A number begins and is as long as an issuer's are, and passes Luhn's check (ISO/IEC 7812-1).
"""

import re

SHORTEST, LONGEST = 13, 19
ISSUED = (
    rb"(?:4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    rb"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"  # Mastercard
    rb"|3[47][0-9]{13}"  # American Express
    rb"|3(?:0[0-59]|[689][0-9])[0-9]{11,16}"  # Diners Club
    rb"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # JCB
    rb"|(?:6011|64[4-9][0-9]|65[0-9]{2}|62[0-9]{2}|81[0-9]{2}|220[0-4])[0-9]{12,15}"  # Discover, UnionPay, RuPay, Mir
    rb"|(?:5018|5020|5038|5[68][0-9]{2}|6304|6759|676[1-3])[0-9]{9,15})"  # Maestro
)
"""A pattern of the numbers that issuers give out."""
_SECURITY_CODE = re.compile(r".*(?:cvv|cvc|securitycode|cardcode).*|pin|pincode|cid|track[12](?:data)?")
_ISSUED = re.compile(ISSUED)
_DOUBLED = bytes((2 * (byte - 48) - 9 * (byte > 52)) if 48 <= byte <= 57 else 0 for byte in range(256))


def is_card_number(digits: bytes) -> bool:
    """Whether these digits, and nothing else among them, may be the number of a card."""
    return is_issued(digits) and passes_luhn(digits)


def is_issued(digits: bytes) -> bool:
    """Whether an issuer's numbers begin like these digits and are as long."""
    return _ISSUED.fullmatch(digits) is not None


def is_security_code(name: str) -> bool:
    """Whether a field is called as those are that hold what PCI DSS 3.3.1 lets nobody keep, in any spelling."""
    return _SECURITY_CODE.fullmatch(plain_name(name)) is not None


def plain_name(name: str) -> str:
    """A field's name whatever its spelling: small letters and digits, without what is between them."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def passes_luhn(digits: bytes) -> bool:
    """Whether the last of these digits is the one that Luhn's check asks for."""
    simple = digits[-1::-2]
    return (sum(simple) - 48 * len(simple) + sum(digits[-2::-2].translate(_DOUBLED))) % 10 == 0
