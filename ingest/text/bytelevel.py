"""Maps the 256 bytes to printable characters and back, as byte-level tokenizers (GPT-2) do."""

from functools import cache


@cache
def alphabet() -> dict[int, str]:
    """The character of each byte: itself where Latin-1 can be printed, else one from U+0100 on, in order."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printed)]
    return {byte: chr(byte) for byte in printed} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def byte_level(text: str) -> str:
    """The text as a byte-level tokenizer writes it in its pieces."""
    table = alphabet()
    return "".join(table[byte] for byte in text.encode())


@cache
def _bytes() -> dict[str, int]:
    return {character: byte for byte, character in alphabet().items()}


def bytes_of(piece: str) -> bytes | None:
    """The bytes that a piece stands for; None if it is not written in the alphabet."""
    table = _bytes()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else None
